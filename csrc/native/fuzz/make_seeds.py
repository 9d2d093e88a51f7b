"""Seeds for the fuzz target out of the standard library: fuzz/make_seeds.py FOLDER. Writes FOLDER/table and FOLDER/seeds/."""

import marshal
import os
import struct
import sys
import sysconfig

import _native
import native

folder = sys.argv[1]
os.makedirs(f"{folder}/seeds", exist_ok=True)
stdlib = sysconfig.get_paths()["stdlib"]
sources = ["x = 1\n", "def f(a, *b, c=1.5, **d):\n    return {1, 'é', b'x'} and a in {1, 2, 'a'} and (1, (2, frozenset()))\n",
           "a = 1e308j; b = 1 << 200; c = -1 << 70; d = '\\ud800', '\\U0001f600', 'ŵ' * 3, '', 'q', ...\n",
           "class A:\n    def f(self):\n        def g():\n            nonlocal self\n            return __class__, lambda: self\n"]
names = ["abc", "stat", "keyword", "bisect", "heapq", "token", "this", "types", "copyreg", "struct", "sched", "colorsys", "contextvars", "queue"]
for name in names:
    try:
        with open(f"{stdlib}/{name}.py", encoding="utf-8") as file:
            sources.append(file.read())
    except OSError:
        pass
marshalled = [marshal.dumps(compile(source, "/x.py", "exec")) for source in sources]
table, streams = native.encode(marshalled)
_native.open(table)
for fault in native.verify(streams, marshalled):
    assert fault is None, fault
with open(f"{folder}/table", "wb") as file:
    file.write(table)
with open(f"{folder}/seeds/table", "wb") as file:
    file.write(b"\x01" + native.encode(marshalled[:4] * 2)[0])
for number, stream in enumerate(streams):
    with open(f"{folder}/seeds/{number}", "wb") as file:
        file.write(b"\0" + stream)
# every function's own stream as well: small inputs are changed to more effect
inner = [const for data in marshalled for const in marshal.loads(data).co_consts if hasattr(const, "co_code")][:150]
for number, stream in enumerate(native.encode([marshal.dumps(code) for code in inner])[1]):
    with open(f"{folder}/seeds/inner{number}", "wb") as file:
        file.write(b"\0" + stream)
