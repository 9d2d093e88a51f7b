"""Runs in the measured interpreter: `probe_steady.py TASK` times pure-Python work in modules of the standard library.

As JSON on stdout: seconds, the fastest of some repetitions after warming up, by both clocks, and how many of
the modules Python's own loader loaded.
"""

import copy
import difflib
import fractions
import heapq
import importlib.machinery
import json.encoder
import sys
import textwrap
import time
import tokenize

MODULES = [copy, difflib, fractions, heapq, json.encoder, textwrap, tokenize]
WARM_UP = 0.15  # seconds: bytecode is specialised after some calls
REPETITIONS = 15

with open(textwrap.__file__, encoding="utf-8") as file:
    TEXT = file.read()
LINES = TEXT.splitlines(keepends=True)
NESTED = {i: [i, (i, str(i)), {"a": [i]}] for i in range(1000)}
RECORDS = {str(i): {"number": i, "values": [i, 1.5, None, True], "text": "x" * (i % 20)} for i in range(1000)}

json.encoder.c_make_encoder = None
json.encoder.encode_basestring_ascii = json.encoder.py_encode_basestring_ascii


def do_copy():
    copy.deepcopy(NESTED)


def do_difflib():
    difflib.SequenceMatcher(None, TEXT[:800], TEXT[400:1200], autojunk=False).ratio()


def do_fractions():
    total = fractions.Fraction(0)
    for i in range(1, 1500):
        total += fractions.Fraction(1, i)


def do_heapq():
    list(heapq.merge(*[range(i, 20000, 7) for i in range(7)], key=lambda number: -number))


def do_json():
    json.encoder.JSONEncoder(indent=1).encode(RECORDS)


def do_textwrap():
    for width in range(20, 80, 10):
        textwrap.wrap(TEXT, width)


def do_tokenize():
    tokenize.untokenize(list(tokenize.generate_tokens(iter(LINES).__next__)))


task = globals()["do_" + sys.argv[1]]
warm = time.perf_counter() + WARM_UP
while time.perf_counter() < warm:
    task()
wall, cpu = [], []
for _ in range(REPETITIONS):
    cpu_begin = time.process_time()
    begin = time.perf_counter()
    task()
    wall.append(time.perf_counter() - begin)
    cpu.append(time.process_time() - cpu_begin)

loaders = [type(module.__spec__.loader) for module in MODULES]
ordinary = sum(loader is importlib.machinery.SourceFileLoader for loader in loaders)
print(json.dumps({"wall": min(wall), "cpu": min(cpu), "modules": len(loaders), "ordinary": ordinary}))
