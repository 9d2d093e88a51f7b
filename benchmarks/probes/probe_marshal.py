"""Runs in the measured interpreter: `probe_marshal.py LIST` unmarshals the pycs whose paths are the lines of a file.

On stdout: seconds for all of them, read into memory before, and their number. Code objects stay, as most of what a
program imports does; the garbage collector is at work, as ever.
"""

import marshal
import sys
import time

HEADER = 16  # bytes in front of a pyc's code

with open(sys.argv[1]) as file:
    paths = file.read().splitlines()
contents = []
for path in paths:
    with open(path, "rb") as file:
        contents.append(file.read()[HEADER:])
codes = []
begin = time.perf_counter()
for content in contents:
    codes.append(marshal.loads(content))
print(time.perf_counter() - begin, len(codes))
