"""Runs in the measured interpreter, with PYCDS_LOG=1: `probe_load.py STATEMENT` runs the statement.

On stdout: seconds spent in making code objects of hits since the interpreter's start, and the number of hits.
"""

import sys

exec(compile(sys.argv[1], "<statement>", "exec"), {"__name__": "__main__"})
loader = sys.modules.get("pycds_auto._loader")
if loader is None:
    sys.exit("pycds-auto is not active")
print(loader.state()["load_seconds"], loader.stats()["hits"])
