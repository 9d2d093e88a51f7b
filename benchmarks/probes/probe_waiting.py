"""Runs in the measured interpreter: `probe_waiting.py STATEMENT` runs the statement, writes its hits, and waits.

It ends when its stdin does.
"""

import os
import sys

exec(compile(sys.argv[1], "<statement>", "exec"))
hits = sys.modules["pycds_auto._loader"].stats()["hits"] if "pycds_auto._loader" in sys.modules else 0
os.write(1, b"%d\n" % hits)
os.read(0, 1)
