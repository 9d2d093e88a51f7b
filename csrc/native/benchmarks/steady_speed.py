"""Speed of decoded code against unmarshalled code, in pure-Python work: PYTHONPATH=build/NAME:. python benchmarks/steady_speed.py

Two copies of each module, alternating; prints seconds for each (minimum of the rounds) and the ratio."""

import importlib.util
import marshal
import sys
import time
import types

import _native
import native

NAMES = ["difflib", "fractions", "textwrap", "tokenize", "copy", "json.encoder", "heapq"]


def load(decoded: bool) -> dict[str, types.ModuleType]:
    modules = {}
    marshalled = []
    for name in NAMES:
        spec = importlib.util.find_spec(name)
        marshalled.append(marshal.dumps(compile(open(spec.origin, encoding="utf-8").read(), spec.origin, "exec")))
    table, streams = native.encode(marshalled)
    _native.open(table)
    for name, data, stream in zip(NAMES, marshalled, streams):
        module = types.ModuleType(name)
        module.__package__ = name.rpartition(".")[0]
        sys.modules[name + str(decoded)] = module
        code = _native.decode(stream) if decoded else marshal.loads(data)
        exec(code, module.__dict__)
        modules[name] = module
    return modules


TEXT = open(importlib.util.find_spec("argparse").origin, encoding="utf-8").read()


SOURCE = open(importlib.util.find_spec("textwrap").origin, encoding="utf-8").read()


def work(modules: dict[str, types.ModuleType]) -> dict[str, float]:
    def difflib():
        lines = TEXT.splitlines()
        list(modules["difflib"].unified_diff(lines[:600], lines[100:700]))

    def fractions():
        F = modules["fractions"].Fraction
        total = F(0)
        for i in range(1, 400):
            total += F(1, i)

    def textwrap():
        for width in range(20, 80, 10):
            modules["textwrap"].wrap(TEXT[:8000], width)

    def tokenize():
        list(modules["tokenize"].generate_tokens(iter(SOURCE.splitlines(True)).__next__))

    def copy():
        data = {i: [i, (i, str(i)), {"a": [i]}] for i in range(400)}
        modules["copy"].deepcopy(data)

    def encoder():
        encode = modules["json.encoder"]
        encode.c_make_encoder = None
        encode.JSONEncoder(indent=1).encode({str(i): [i, 1.5, None, "x" * i] for i in range(300)})

    def heapq():
        list(modules["heapq"].merge(*[range(i, 3000, 7) for i in range(7)], key=lambda x: -x))

    times = {}
    for task in (difflib, fractions, textwrap, tokenize, copy, encoder, heapq):
        start = time.perf_counter()
        task()
        times[task.__name__] = time.perf_counter() - start
    return times


plain, decoded = load(False), load(True)
best: dict[str, list[float]] = {}
for round_number in range(40):
    order = [(0, plain), (1, decoded)]
    for kind, modules in order if round_number % 2 else order[::-1]:
        for name, seconds in work(modules).items():
            row = best.setdefault(name, [9.0, 9.0])
            row[kind] = min(row[kind], seconds)
product = 1.0
for name, (one, other) in best.items():
    product *= one / other
    print(f"{name:10} plain {one * 1000:7.2f} ms  decoded {other * 1000:7.2f} ms  speed {one / other:.3f}")
print(f"geometric mean of speed: {product ** (1 / len(best)):.3f}")
