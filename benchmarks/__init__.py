"""pycds-auto against plain Python; run with `python -m benchmarks` from the repository's root."""
