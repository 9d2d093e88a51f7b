"""Runs in the measured interpreter: `probe_exit.py STATEMENT` runs the statement, then says when it comes to its end.

On stdout: hits, nanoseconds of CPU time so far, and the time by CLOCK_MONOTONIC. Nothing is imported here but what
every start imports.
"""

import os
import sys
import time

exec(compile(sys.argv[1], "<statement>", "exec"))
hits = sys.modules["pycds_auto._loader"].stats()["hits"] if "pycds_auto._loader" in sys.modules else 0
os.write(1, b"%d %d %d" % (hits, time.process_time_ns(), time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
