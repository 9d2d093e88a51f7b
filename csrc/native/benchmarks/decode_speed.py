"""Time to get the code objects of all modules of a program out of memory: marshal.loads against the native decoder.

    PYTHONPATH=build/NAME:. python benchmarks/decode_speed.py SET [RUNS]

Fresh processes, alternating; each does one load of every module, in import order. Prints milliseconds (minimum and
median) and the sizes."""

import json
import os
import statistics
import subprocess
import sys
import tempfile

SETS = {
    "django": "import django.core.management, django.db.models, django.http, django.urls, django.template",
    "sympy": "import sympy",
    "requests": "import requests",
}

COLLECT = """
import sys, json
{statement}
files = []
for module in list(sys.modules.values()):
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        files.append([spec.name, spec.origin])
json.dump(files, sys.stdout)
"""

ENCODE = """
import sys, json, importlib.util, importlib.machinery, marshal, struct
import native, _native
folder = sys.argv[1]
marshalled = []
for name, path in json.load(open(folder + "/files")):
    pyc = importlib.util.cache_from_source(path)
    try:
        marshalled.append(open(pyc, "rb").read()[16:])
    except OSError:
        marshalled.append(marshal.dumps(importlib.machinery.SourceFileLoader(name, path).get_code(name)))
table, streams = native.encode(marshalled)
_native.open(table)
for fault in native.verify(streams, marshalled):
    assert fault is None, fault
index = {"table": [0, len(table)], "marshal": [], "native": []}
with open(folder + "/data", "wb") as file:
    file.write(table)
    for key, parts in (("marshal", marshalled), ("native", streams)):
        for part in parts:
            file.write(bytes(-file.tell() % 16))
            index[key].append([file.tell(), len(part)])
            file.write(part)
json.dump(index, open(folder + "/index", "w"))
"""

LOAD = """
import sys, json, mmap, marshal, time, gc
import _native
folder, kind = sys.argv[1:]
index = json.load(open(folder + "/index"))
file = open(folder + "/data", "rb")
view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
parts = [view[start : start + size] for start, size in index[kind]]
table = view[: index["table"][1]]
loads = marshal.loads if kind == "marshal" else _native.decode
gc.disable() if {disable} else None
clock = time.perf_counter
start = clock()
if kind == "native":
    _native.open(table)
codes = [loads(part) for part in parts]
end = clock()
import resource
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([(end - start) * 1000, usage.ru_maxrss, usage.ru_minflt, _native.arena_bytes()]))
"""


def main() -> None:
    name = sys.argv[1]
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 25
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYCDS_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(
            [sys.executable, "-c", COLLECT.format(statement=SETS[name])],
            env=environment, check=True, capture_output=True,
        ).stdout  # fmt: skip
        with open(folder + "/files", "wb") as file:
            file.write(files)
        subprocess.run([sys.executable, "-c", ENCODE, folder], env=environment, check=True)
        with open(folder + "/index") as file:
            index = json.load(file)
        results = {"marshal": [], "native": []}
        for _ in range(runs):
            for kind, rows in results.items():
                script = LOAD.format(disable=0)
                output = subprocess.run(
                    [sys.executable, "-c", script, folder, kind], env=environment, check=True, capture_output=True
                ).stdout
                rows.append(json.loads(output))
    times = {kind: [row[0] for row in rows] for kind, rows in results.items()}
    sizes = {kind: sum(size for _, size in index[kind]) for kind in results}
    total = sizes["native"] + index["table"][1]
    print(f"{sys.version.split()[0]} {name}: {len(index['native'])} modules")
    for kind, row in times.items():
        print(f"  {kind:8} min {min(row):7.2f} ms  median {statistics.median(row):7.2f} ms")
    ratio = [f(times["native"]) / f(times["marshal"]) for f in (min, statistics.median)]
    print(f"  ratio    min {ratio[0]:7.3f}     median {ratio[1]:7.3f}")
    print(f"  bytes    {total} native (table {index['table'][1]}), {sizes['marshal']} marshal: {total / sizes['marshal']:.3f}")
    rows = results["native"][-1], results["marshal"][-1]
    print(f"  max rss  {rows[0][1]} kB native, {rows[1][1]} kB marshal; faults {rows[0][2]}, {rows[1][2]}; arena {rows[0][3]}")


main()
