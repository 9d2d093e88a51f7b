"""Runs in the measured interpreter, without pycds-auto: `probe_unmarshal.py STATEMENT` runs the statement.

On stdout: seconds that importlib spent in marshal.loads meanwhile, and how often it called it.
"""

import sys
import time
import types

external = sys.modules["_frozen_importlib_external"]
marshal = external.marshal
spent = []


def loads(data, clock=time.perf_counter, plain=marshal.loads):
    begin = clock()
    code = plain(data)
    spent.append(clock() - begin)
    return code


external.marshal = types.SimpleNamespace(**{**vars(marshal), "loads": loads})
exec(compile(sys.argv[1], "<statement>", "exec"), {"__name__": "__main__"})
print(sum(spent), len(spent))
