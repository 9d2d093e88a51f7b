#!/bin/sh
# Builds the extension for the interpreters at hand, into build/NAME/.
cd "$(dirname "$0")"
unset PYTHONDONTWRITEBYTECODE
for name in ${*:-v3.11.7 v3.12.1 v3.13.0 vpgo}; do
  /var/tmp/lab/$name/bin/python setup.py -q build_ext --build-lib ${BUILD:-build}/$name --build-temp ${BUILD:-build}/tmp-$name || echo "FAILED $name"
done
