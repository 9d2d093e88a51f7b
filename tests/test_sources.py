"""Source texts (csrc/sources.c, src/pycds_auto/sources.py): as plain Python compiles and runs them.

Each program runs with the archive and without; what it prints must be the same, and what should come from the archive did.
"""

import os
import signal
import textwrap

import pytest

from pycds_auto import sources, spool
from support import User, age, end_all_with, same, write

# What an import compiles: through each function, of every kind of code, in each way of calling.
LIBRARY = {
    "lib/__init__.py": "",
    "lib/texts.py": r'''
import sys
EXPRESSIONS = [
    "1 + 2", "x", "[i * x for i in range(3)]", "lambda a, *b, c=(1, 2), **d: (a, b, c, d, x)", "(i for i in 'abc')", "{1: 'a', 'b': (2.5, -0.0, 1j)}",
    "{x for x in (1, 2)}", "f'{x!r:>{10}} {x=}'", "x if x else 'other'", "'\u00e9' '\U0001f600' b'bytes'", "(y := x)", "not x or x and x is x", "...",
    "[lambda: i for i in range(2)]", "{k: v for k, v in [(1, 2)]}", "1e400 * 0", "x.real", "  \t x", "(\n1,\n)", "'%s' % x", "0x" + "f" * 50, "'name' 'like'", "__debug__",
]
MODULES = [
    "", "pass", "a = 1\nb = a + x\n", "def f(a, /, b: int = 2, *c: str, d, **e) -> 'list[int]':\n    'doc'\n    nonlocal_ = a\n    def g():\n        return nonlocal_\n    return g\n",
    "class A:\n    'doc'\n    y: int = 3\n    def m(self):\n        return __class__, super().__init__()\n", "import os.path as p, sys\nfrom os import *\n", "async def co():\n    async with x as y:\n        await y\n    return [i async for i in y]\n",
    "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    caught = str(e)\nfinally:\n    done = True\n", "for i in range(3):\n    if i == 1: continue\nelse:\n    i = 'else'\n", "assert x, 'message'\n'docstring after'\n", "match x:\n    case [1, *rest]: pass\n    case {'k': v}: pass\n    case _: v = 3\n",
    "global x\n", "if __debug__:\n    debugging = 1\n", "def many(" + ", ".join(f"a{i}" for i in range(300)) + "): return a299\n", "\n\n\n\ndef late(): raise ValueError('late')\n", "def \u00e9t\u00e9(): return '\u4e2d'\n", "with x: pass\n" * 30, "lines = (1,\n 2)\r\nmore = 3\r", "x = 1; del x",
    "def annotated(a: undefined_name) -> also.undefined: pass\n", "def gen():\n    yield (yield from x)\n", "z = [lambda q=i: q for i in range(3)]\nw = z[1]()\n",
]
LEFT_ALONE = ["x in {'a', 'b', 'c'}", "for i in {1, 2, 3}: pass", "n = " + "7" * 700]
codes = []
def note(function, *arguments, **keywords):
    try:
        codes.append(function(*arguments, **keywords))
    except Exception as error:
        codes.append((type(error).__name__, str(error)))
for text in EXPRESSIONS:
    note(compile, text.strip(), "<expression>", "eval")
    note(compile, source=text.strip(), filename="a\u00e9b", mode="eval", dont_inherit=True)
    note(eval, text, {"x": 5})
    note(eval, text, {"x": 5}, {})
for text in MODULES:
    note(compile, text, "module.py", "exec")
    for optimise in (-1, 0, 1, 2):
        note(compile, text, "module.py", "exec", 0, True, optimise)
    note(compile, text, "", "exec", flags=1 << 24, optimize=0)
    space = {"x": 5}
    note(exec, text, space)
    codes.append(sorted((k, repr(type(v))) for k, v in space.items() if k != "__builtins__"))
for text in LEFT_ALONE:
    note(compile, text, "alone.py", "exec")
    note(compile, text, "alone.py", "exec", 0, True)
''',
    "lib/future.py": "from __future__ import annotations\ndef f(a: undefined) -> int: pass\ncode = compile('def g(a: undefined) -> int: pass', 'inherits', 'exec')\nexec('def h(a: undefined): pass')\nother = compile('def g(a: int) -> int: pass', 'inherits not', 'exec', dont_inherit=True)\ndef inner():\n    exec('def i(a: undefined): pass', globals())\ninner()\nvalue = eval('lambda: [i for i in range(3)]')\n",
    "lib/generators.py": '''
from collections import namedtuple
from dataclasses import dataclass, field
import typing, enum, functools
Point = namedtuple("Point", "x y z", defaults=(3,))
@dataclass(order=True, frozen=True)
class Item:
    name: str
    price: float = 1.5
    tags: list = field(default_factory=list, compare=False)
@dataclass
class Child:
    a: "int"
    b: typing.ClassVar[int] = 3
    def __post_init__(self): self.c = self.a
@dataclass(slots=True, kw_only=True)
class Slotted:
    one: int
    two: "typing.Optional[int]" = None
class Typed(typing.NamedTuple):
    first: "int"
    second: str = "s"
hints = typing.get_type_hints(Typed), typing.get_type_hints(Slotted), typing.get_type_hints(Child)
''',
    "lib/sets.py": '''
import dataclasses
NAMES = [f"field_{i}_{'x' * (i % 5)}" for i in range(60)]
class Known: pass
for name in NAMES: setattr(Known, name, 1)  # interns it
CHOICES = [NAMES[:count] for count in (1, 2, 3, 4, 5, 8, 13, 21, 34, 60)] + [NAMES[i:i + 3][::-1] for i in range(40)]
def literal(names): return "{" + ", ".join(map(repr, names)) + "}"
TEXTS = [f"def f(name):\\n if name in {literal(names)}:\\n  return [g for g in {literal(names[:2])}]\\n" for names in CHOICES]
TEXTS += [f"[x for x in y if x in {literal(names)}], z not in {literal(names)}" for names in CHOICES]
TEXTS.append(f"a in {literal(NAMES[:9])}, a in {literal(NAMES[8::-1])}, a in {literal(NAMES[9:20])}")  # one set in two orders
TEXTS.append(f"a in {literal(NAMES[:9])}, {NAMES[0]!r}")  # a constant elsewhere
TEXTS.append(f"a in {literal(NAMES[:9])}, f({NAMES[0]}=1, {NAMES[1]}=2)")  # names of keywords
TEXTS.append(f"a in {literal(NAMES[:9])}, a.{NAMES[0]}, {NAMES[1]}")
for count in (1, 2, 3, 5, 9, 20, 60):  # as in 3.13's dataclasses
    annotated = ", ".join(f"{name}: 'T' = 1" for name in NAMES[:count])
    TEXTS.append(f"def make(T):\\n def f(self, {annotated}): g(self, {NAMES[0]!r})\\n def h(name): return name in {literal(NAMES[:count])} or f'{{name}} {NAMES[1]}'\\n return f, h\\n")
    TEXTS.append(f"def make(T):\\n def h(name): return name in {literal(NAMES[:count])}\\n def f(self, {annotated}): g(self, {NAMES[0]!r})\\n return f, h\\n")
    TEXTS.append(f"def f(*, {NAMES[0]}=1, more=2): return {literal(NAMES[:count])} < name in {literal(NAMES[:count])}, g({NAMES[1]}=2)\\n")
TEXTS.append(f"def make(T):\\n def f(a) -> 'T': pass\\n return lambda name: name in {literal(['return', *NAMES[:8]])}")
TEXTS.append(f"class C:\\n def f(self, __ab: 1): return self in {literal(['_C__ab', *NAMES[:8]])}")
TEXTS.append("def f(\\ufb01eld_0_: 1, b): return b in {" + ", ".join(map(repr, NAMES[:9])) + "}")
TEXTS.append("a in {'" + "', '".join(f"not{i}known" for i in range(9)) + "'}")  # interned by nobody
TEXTS.append("a in {'" + "', '".join(f"not {i} a name" for i in range(9)) + "'}, b in {1, 2, 'c'}, c in {'c', 'd'}, d in {('e', frozenset()), 'ee'}")
TEXTS.append(f"a in {{{NAMES[0]!r}, 'b', 'c'}}, a in {{*{NAMES[:3]!r}}}")
codes = [compile(text, "sets.py", "exec") for text in TEXTS]
@dataclasses.dataclass(frozen=True)
class Frozen:
    field_one: int = 1
    field_two: int = 2
    another: int = 3
    and_another: str = "x"
    the_last: str = "y"
@dataclasses.dataclass(frozen=True, slots=True)
class Below(Frozen):
    more: int = 4
''',
    "lib/wrong.py": r'''
import warnings, ast
results = []
class Text(str): pass
def attempt(function, *arguments, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*arguments, **keywords)
            if hasattr(result, "co_code"): result = (result.co_filename, result.co_consts)
        except BaseException as error:
            result = (type(error).__name__, str(error), getattr(error, "lineno", None), getattr(error, "offset", None), getattr(error, "text", None), error.__cause__, error.__context__)
    results.append((result if not isinstance(result, ast.AST) else ast.dump(result), [(str(w.message), w.category.__name__, w.filename, w.lineno) for w in caught]))
for _ in range(2):
    for text in ("(", "1 +", "def f(:", "  x = 1", "return 1", "x = '\\q'", "1 is 1", "assert (1, 'x')", "\ud800", "a\0b", "'\ud800'", "'\\ud800'", "x" * 70000, "(" * 150 + ")" * 150, "-" * 300 + "1", "1" * 5000, "await x", "from __future__ import nothing"):
        attempt(compile, text, "wrong.py", "exec")
        attempt(compile, text, "wrong.py", "eval")
        attempt(exec, text, {})
        attempt(eval, text, {})
    for text in (Text("1 + 1"), b"1 + 1", bytearray(b"2"), memoryview(b"3"), ast.parse("4"), ast.parse("5", mode="eval"), None, 6, ["7"]):
        attempt(compile, text, "kinds.py", "exec")
        attempt(compile, text, "kinds.py", "eval")
        attempt(exec, text, {})
        attempt(eval, text, {})
    for arguments in ((), ("1",), ("1", "f"), ("1", "f", "single"), ("1", "f", "func_type"), ("1", "f", "other"), ("1", "f", 5), ("1", None, "exec"), ("1", b"bytes.py", "exec"), ("1", Text("t"), "exec"), ("1", "nul\0", "exec"),
                      ("1", "\udc80", "exec"), ("1", "f", "exec", -1), ("1", "f", "exec", 1 << 40), ("1", "f", "exec", 16), ("1", "f", "exec", 0x400), ("1", "f", "exec", 1 << 29), ("1", "f", "exec", True), ("1", "f", "exec", 0, 0, 3), ("1", "f", "exec", 0, 0, -2),
                      ("1", "f", "exec", 0, "yes"), ("1", "f", "exec", 0, [], 1), ("1", "f", "exec", 0, 1, True), ("1", "f", "exec", 0, 1, 1, 1), ("1", "f", "exec", None), ("1", "f", Text("exec"))):
        attempt(compile, *arguments)
    for keywords in ({"source": "1"}, {"source": "1", "filename": "k", "mode": "exec", "nothing": 1}, {"source": "1", "filename": "k", "mode": "exec", "_feature_version": 5}, {"source": "1", "filename": "k", "mode": "exec", "flags": 0, "dont_inherit": 1, "optimize": 1}):
        attempt(compile, **keywords)
        attempt(compile, "1", **keywords)
    class Mapping(dict):
        def __missing__(self, key): return key
        def __getitem__(self, key): return dict.get(self, key, "missing " + key)
    import collections, types
    for function in (exec, eval):
        for arguments in (("1", 5), ("1", []), ("1", {}, 5), ("1", {}, []), ("1", None, None), ("1", {}, {}, {}), (), ("some_name", {}, Mapping()), ("some_name", Mapping()), ("a_name", {}, collections.ChainMap({"a_name": 3})), ("1", types.MappingProxyType({})), ("__builtins__", {"__builtins__": {}}), ("len", {"__builtins__": {}})):
            attempt(function, *arguments)
        for keywords in ({"closure": None}, {"closure": ()}, {"closure": 5}, {"globals": {}}, {"globals": {}, "locals": {}}, {"locals": {"q": 1}}, {"globals": 5}, {"locals": 5}, {"nothing": 5}, {"globals": None}):
            attempt(function, "1", **keywords)
            attempt(function, "1", {}, **keywords)
''',
    "lib/files.py": "names = ['-'.join(['made', 'up']) for _ in range(2)]\ncodes = [compile('def f(): pass', name, 'exec') for name in names]\n",
    "lib/raises.py": "def run():\n    exec('def f():\\n    return 1 / zero\\n', space)\n    space['f']()\nspace = {'zero': 0}\ncode = compile('\\n\\nraise KeyError(name)', 'made up.py', 'exec')\n",
    "lib/interrupted.py": "def attempt(text):\n    try: exec(text)\n    except KeyboardInterrupt as error: return error\nimport sys\nfor text in sys.argv[1:]: print(repr(attempt(text)))\n",
    "lib/recursive.py": "import sys\ndef down(n):\n    try:\n        return down(n + 1)\n    except RecursionError:\n        return n\ndef nested(n, text):\n    return eval(text, {'nested': nested, 'n': n, 'text': text}) if n else 'bottom'\nresult = nested(50, 'nested(n - 1, text)')\ndef deep(n):\n    try:\n        exec('deep(n + 1)', {'deep': deep, 'n': n})\n    except RecursionError as error:\n        depth.append(n)\n        if len(depth) == 1: messages.append(str(error))\ndepth, messages = [], []\ndeep(0)\n",
    "lib/endless.py": "import sys\nfor i in range(3000): eval(f'{i} + {sys.argv[1]}')\n",
}  # fmt: skip

TOLD = """
import types
FIELDS = [name for name in dir(types.CodeType) if name.startswith("co_") and name != "co_lnotab"]
def told(code):
    if isinstance(code, types.FunctionType): code = code.__code__
    if isinstance(code, types.GeneratorType): code = code.gi_code
    if isinstance(code, tuple): return repr(tuple(map(told, code)))
    if not isinstance(code, types.CodeType): return repr(code) if not isinstance(code, (list, dict)) else str([told(c) for c in code])
    values = [getattr(code, name) for name in FIELDS if name not in ("co_consts", "co_positions", "co_lines", "co_branches")]
    sizes = code.__sizeof__(), code.co_name is code.co_qualname
    return repr((values, sizes, list(map(told, code.co_consts)), list(code.co_positions()), list(code.co_lines())))
"""

PROGRAMS = {
    "sets": ("""
        import lib.sets as m, marshal, sys
        def constants(code):
            for constant in code.co_consts:
                if isinstance(constant, types.CodeType): yield from constants(constant)
                else: yield constant
        frozen = [method.__code__ for cls in (m.Frozen, m.Below) for method in (cls.__setattr__, cls.__delattr__)]
        for code in m.codes + frozen:
            print([(list(c), [x is sys.intern("".join(x)) for x in c if isinstance(x, str)]) if isinstance(c, frozenset) else c for c in constants(code)])
            print([c.__sizeof__() for c in constants(code) if isinstance(c, frozenset)], marshal.dumps(code), [sys.getrefcount(c) for c in constants(code) if isinstance(c, frozenset)])
        names = list({id(x): x for code in m.codes for c in constants(code) if isinstance(c, frozenset) for x in c})
        print(len(names))
    """, 100),
    "every field": ("""
        import lib.texts
        for code in lib.texts.codes: print(told(code))
        print(sum(isinstance(code, types.CodeType) for code in lib.texts.codes))
    """, 230),
    "objects": ("""
        import lib.texts, sys
        texts = lib.texts
        one = [c for c in texts.codes if isinstance(c, types.CodeType)]
        print(len({id(c) for c in one}) == len(one), len({id(c.co_name) for c in one if c.co_name == "<module>"}))
        nested = [k for c in one for k in c.co_consts if isinstance(k, types.CodeType)]
        print(sorted({(k.co_name, len({id(q.co_name) for q in nested if q.co_name == k.co_name})) for k in nested}))
        print([(k.co_filename is c.co_filename) for c in one for k in c.co_consts if isinstance(k, types.CodeType)])
        fresh = compile("x", "<expression>", "eval")
        print([c.co_name is fresh.co_name for c in one if c.co_name == "<module>"].count(False))
        lambdas = [c.__code__ for c in texts.codes if isinstance(c, types.FunctionType)]
        print([f.co_filename is eval("lambda: 0").__code__.co_filename for f in lambdas], [f.co_name is eval("lambda: 0").__code__.co_name for f in lambdas])
        print([sys.getrefcount(c) for c in one[:40]])
    """, 230),
    "file names": ("""
        import lib.files, marshal
        for name, code in zip(lib.files.names, lib.files.codes):
            inner = code.co_consts[0]
            print(code.co_filename is name, inner.co_filename is code.co_filename, code.co_filename is lib.files.names[0])
            print(getattr(sys, "_is_interned", len)(code.co_filename), getattr(sys, "_is_interned", len)(name), marshal.dumps(code))
    """, 2),
    "weak and freed": ("""
        import importlib.abc, importlib.util, sys, weakref, gc
        import lib
        finder = type("Finder", (), {"find_spec": staticmethod(lambda name, path=None, target=None: importlib.util.spec_from_loader(name, Loader()) if name == "made" else None)})
        class Loader(importlib.abc.Loader):
            def exec_module(self, module):
                name = "".join(["modu", "le.py"])
                codes = [compile("a = 1\\nb = a + x\\n", name, "exec") for _ in range(3)]
                print(codes[0] is codes[1], codes[0] == codes[1], hash(codes[0]) == hash(codes[1]), all(c.co_filename is name for c in codes), sys.getrefcount(name))
                references = [weakref.ref(c) for c in codes]
                codes.clear()
                print([r() for r in references], sys.getrefcount(name))
                name2 = "mod\\u00e9.py"; compile("pass", name2, "exec"); print(sys.getsizeof(name2))
                text = "def \\u00e9t\\u00e9(): return '\\u4e2d'\\n"[:]; compile(text, "module.py", "exec"); print(sys.getsizeof(text))
        sys.meta_path.insert(0, finder)
        import made
    """, 4),
    "future": ("""
        import lib.future as m
        print(told(m.code), told(m.other), m.h.__annotations__, m.i.__annotations__, m.f.__annotations__, told(m.value))
        print(m.h.__code__.co_flags, m.i.__code__.co_flags, m.value.__code__.co_flags)
    """, 5),
    "generators": ("""
        import lib.generators as m, inspect, linecache
        print(m.Point(1, 2), m.Point.__new__.__doc__, inspect.signature(m.Point), m.Item("n"), m.Item("a") < m.Item("b"), hash(m.Item("a")) == hash(m.Item("a")), m.hints)
        for cls in (m.Point, m.Item, m.Child, m.Slotted, m.Typed):
            for name, value in sorted(vars(cls).items()):
                if isinstance(value, types.FunctionType): print(cls.__name__, name, value.__module__, value.__qualname__, inspect.signature(value), told(value))
        print(sorted(linecache.cache), m.Item.__init__.__code__.co_filename)
        try: m.Item(1, 2, 3, 4)
        except TypeError as error: print(error)
    """, 12),
    "wrong": ("""
        import lib.wrong
        for result in lib.wrong.results: print(ascii(result))
    """, 10),
    "tracebacks": ("""
        import lib.raises as m, traceback
        for call in (m.run, lambda: exec(m.code), lambda: exec(m.code, {"name": "n"})):
            try: call()
            except Exception: traceback.print_exc(file=__import__("sys").stdout)
        print(told(m.code))
    """, 1),
    "recursion": ("""
        import lib.recursive as m
        print(m.result, len(m.depth), max(m.depth), m.messages)
    """, 1),
    "threads": ("""
        import threading, importlib, lib
        names = ["texts", "future", "generators", "raises"]
        def work(start):
            for i in range(4): importlib.import_module("lib." + names[(start + i) % 4])
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
        print([told(c) for c in lib.texts.codes], told(lib.future.code), told(lib.future.value), told(lib.raises.code), told(lib.generators.Item.__init__))
    """, 240),
    "the functions": ("""
        import builtins, inspect, pickle, copy, lib
        for f in (exec, eval, compile):
            print(repr(f), f.__doc__, f.__text_signature__, inspect.signature(f), f.__name__, f.__qualname__, f.__module__, f.__self__ is builtins, type(f), pickle.dumps(f), copy.copy(f) is f, pickle.loads(pickle.dumps(f)) is f)
            print(hash(f) == hash(f), f == f, {f: 1}[f], f is getattr(builtins, f.__name__), callable(f), f.__reduce__(), dir(f), f.__sizeof__())
    """, 0),
    "a program replaces exec": ("""
        import builtins
        plain = builtins.exec
        seen = []
        def other(*arguments, **keywords):
            seen.append(arguments[0] if isinstance(arguments[0], str) else type(arguments[0]).__name__)
            return plain(*arguments, **keywords)
        builtins.exec = other
        import lib.texts
        builtins.exec = plain
        print(seen)
        for code in lib.texts.codes: print(told(code))
    """, 200),
    "audit": ("""
        import sys
        events = []
        on = True
        def hook(event, arguments):
            if on and event in ("compile", "exec", "code.__new__", "marshal.loads", "object.__getattr__"):
                events.append((event, [a if isinstance(a, (str, bytes)) else getattr(a, "co_filename", type(a).__name__) for a in arguments]))
        sys.addaudithook(hook)
        import lib.texts, lib.future
        on = False
        wanted = [e for e in events if "lib/" not in str(e[1]) and "importlib" not in str(e)]
        print(len(wanted)); print(wanted)
    """, 0),
    "profile": ("""
        import sys
        import lib.raises, collections, dataclasses, typing
        calls = []
        def profile(frame, event, argument):
            if event.startswith("c_") and argument in (exec, eval, compile) or frame.f_code.co_filename == "<string>": calls.append((event, frame.f_code.co_filename.rpartition("/")[2], frame.f_lineno, frame.f_code.co_name))
        sys.setprofile(profile)
        import lib.texts
        sys.setprofile(None)
        print(len(calls)); print(calls)
    """, 0),
    "trace": ("""
        import sys
        import lib.raises
        lines = []
        def trace(frame, event, argument):
            if frame.f_code.co_filename in ("<string>", "module.py", "<expression>"):
                lines.append((event, frame.f_lineno, frame.f_code.co_name))
            return trace
        sys.settrace(trace)
        import lib.texts
        sys.settrace(None)
        print(len(lines)); print(lines)
    """, 0),
    "classes of ast": ("""
        import sys
        print([c.__name__ for c in object.__subclasses__() if c.__name__ == "AST"])
        exec("import lib.future as m")
        print([c.__name__ for c in object.__subclasses__() if c.__name__ == "AST"])
    """, 5),
    "no classes of ast": ("""
        import lib.recursive
        print([c.__name__ for c in object.__subclasses__() if c.__name__ == "AST"])
    """, 1),
    "subinterpreters": ("""
        import sys
        try: import _xxsubinterpreters as interpreters
        except ImportError: import _interpreters as interpreters
        import lib.future
        other = interpreters.create()
        interpreters.run_string(other, "import sys; sys.path[:0] = %r; import lib.future, lib.raises; exec('print(1 + 1)'); print(eval('[2]'), lib.future.h.__annotations__)" % [p for p in sys.path if p.endswith("programs")])
        interpreters.destroy(other)
        import lib.raises
        print(lib.future.h.__annotations__, eval("5"))
    """, 5),
    "reloaded": ("""
        import importlib, lib.generators as m
        for _ in range(3): importlib.reload(m); print(m.Point(1, 2), m.Item("x"), told(m.Item.__init__))
    """, 40),
    "the extension is unloaded": ("""
        import sys, gc, lib.future
        sys.modules.pop("pycds_auto._loader", None); sys.meta_path[:] = [f for f in sys.meta_path if "pycds" not in repr(f)]
        sys.modules.pop("importlib.util", None); gc.collect()
        import lib.texts
        print(eval("1 + 1"), exec("x = 5"), compile("x", "y", "eval").co_filename, len(lib.texts.codes))
    """, 0),
}  # fmt: skip

COUNT = """
import atexit, os, sys
loader = sys.modules.get("pycds_auto._loader")
def count(loader=loader):
    if loader and "COUNT" in os.environ:
        with open(os.environ["COUNT"], "w") as file: file.write(str(loader.state()["source_hits"]))
atexit.register(count)
del loader
"""


def program(text: str) -> str:
    return COUNT + TOLD + textwrap.dedent(text)


@pytest.fixture(scope="module")
def primed(venv, tmp_path_factory) -> User:
    """An archive with the library and the texts that its import compiled."""
    root = tmp_path_factory.mktemp("sources")
    names = (
        "texts, lib.future, lib.generators, lib.wrong, lib.raises, lib.recursive, lib.interrupted, lib.files, lib.sets"
    )
    write(root / "programs", LIBRARY)
    write(
        root / "programs",
        {
            "all.py": f"import lib.{names}, linecache, traceback, inspect, pickle, copy, threading, importlib.util, importlib.abc\n"
        },
    )
    age(root / "programs")
    user = User(venv.python, root / "home", {"PYTHONPATH": str(root / "programs")})
    user.home.mkdir()
    user.run(root / "programs/all.py", "pass", "raise KeyboardInterrupt", quiet=False)
    user.build()
    end_all_with(str(root))
    return user


def at_least(user: User, version: str) -> bool:
    return user.run("-c", f"import sys; print(sys.version_info >= {version})", plain=True).stdout == "True\n"


@pytest.mark.parametrize(
    "name, seed", [(name, seed) for name in PROGRAMS for seed in "01"] + [("sets", "2"), ("sets", "3")]
)
def test_program(primed: User, tmp_path, name: str, seed: str) -> None:
    text, least = PROGRAMS[name]
    script = tmp_path / "program.py"
    script.write_text(program(text))
    env = {"PYTHONHASHSEED": seed}
    plain = primed.run(script, plain=True, quiet=False, env=env)
    same(primed.run(script, readonly=True, env={"COUNT": str(tmp_path / "count"), **env}, quiet=False), plain)
    assert plain.stdout and "Traceback" not in plain.stderr
    if least:
        assert int((tmp_path / "count").read_text()) >= least


@pytest.mark.parametrize("texts", [
    ["pass"], ["raise KeyboardInterrupt"], ["raise KeyboardInterrupt", "pass"], ["pass", "raise KeyboardInterrupt", "raise KeyboardInterrupt"],
    ["raise KeyboardInterrupt()"], ["raise KeyboardInterrupt()", "pass"],
])  # fmt: skip
def test_the_mark_of_an_interrupt(primed: User, tmp_path, texts: list[str]) -> None:
    """A text that ends with KeyboardInterrupt has the process end by SIGINT, even if the exception is caught."""
    script = tmp_path / "program.py"
    script.write_text("import lib.interrupted\n")
    plain = primed.run(script, *texts, plain=True, code=None, quiet=False)
    same(primed.run(script, *texts, readonly=True, code=None, quiet=False), plain)
    is_forgotten = texts[-1] == "pass" or at_least(primed, "(3, 14)")  # 3.14 forgets it if it is caught
    assert plain.returncode == (0 if is_forgotten else -signal.SIGINT)


@pytest.mark.parametrize(
    "options", [("-O",), ("-OO",), ("-X", "no_debug_ranges"), ("-X", "dev"), ("-W", "error"), ("-bb",)]
)
def test_options(primed: User, tmp_path, options: tuple[str, ...]) -> None:
    script = tmp_path / "program.py"
    script.write_text(program(PROGRAMS["every field"][0] + "\n" + PROGRAMS["wrong"][0]))
    env = {"PYTHONHASHSEED": "1", "COUNT": str(tmp_path / "count")}
    user = User(primed.python, tmp_path / "home", primed.extra)  # an environment has three variants at most
    user.home.mkdir()
    plain = user.run(*options, script, plain=True, env=env, quiet=False)
    same(user.run(*options, script, env=env, quiet=False), plain)
    user.build()
    same(user.run(*options, script, readonly=True, env=env, quiet=False), plain)
    assert int((tmp_path / "count").read_text()) >= 230


def test_skipped(primed: User, tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program("import lib.texts"))
    for skip in "", "source":
        primed.run(script, readonly=True, env={"PYCDS_SKIP": skip, "COUNT": str(tmp_path / "count")})
        assert (int((tmp_path / "count").read_text()) > 0) == (not skip)


def notes(user: User) -> list[spool.Miss]:
    return [miss for miss in spool.read(str(user.folder())) if miss.kind in (spool.SOURCE, spool.DOUBTFUL)]


def test_only_imports_are_recorded(user: User, tmp_path) -> None:
    """What a program compiles as it runs is its own, and may be without end."""
    write(tmp_path, {
        "code/imported.py": "eval('1 + 1')\nexec('a = 3')\n",
        "code/program.py": "import imported\nfor i in range(500): eval(f'{i} + 12345')\nexec('b = 3')\n",
    })  # fmt: skip
    age(tmp_path / "code")
    env = {"PYTHONPATH": str(tmp_path / "code")}
    user.run(tmp_path / "code/program.py", env=env)
    texts = [miss.path.partition("\0")[2] for miss in notes(user)]
    assert "1 + 1" in texts and "a = 3" in texts and not any("12345" in text or text == "b = 3" for text in texts)
    user.build()
    user.run(tmp_path / "code/program.py", env=env)
    assert not notes(user)


def test_others_in_each_run(user: User, tmp_path) -> None:
    """Texts that differ from run to run neither fill the spool nor the archive; what comes again is taken in."""
    write(
        tmp_path,
        {
            "code/lib.py": "import sys\nfor i in range(40): eval(f'{i} + {sys.argv[1]}')\n",
            "code/program.py": COUNT + "import lib\n",
        },
    )
    age(tmp_path / "code")
    env = {"PYTHONPATH": str(tmp_path / "code"), "COUNT": str(tmp_path / "count")}

    def run(argument: str) -> int:
        user.run(tmp_path / "code/program.py", argument, env=env)
        return int((tmp_path / "count").read_text())

    def held() -> int:
        return sum(f" + {number}" in key for key in image_keys(user) for number in range(1000, 1100))

    run("1000")
    user.build()
    assert run("1000") >= 40 and not notes(user) and held() == 40
    for argument in range(1001, 1006):
        run(str(argument))
        assert {miss.kind for miss in notes(user)} == {spool.DOUBTFUL}
        user.build()
        assert held() == 40, "a doubtful text was taken in at once"
    run("1003")
    user.build()
    assert held() == 80
    assert run("1003") >= 40 and not notes(user)


def image_keys(user: User) -> list[str]:
    identity = user.run(
        "-c", "from pycds_auto import _loader; print(_loader.state()['identity'], end='')", plain=True
    ).stdout
    held = user.run(
        "-c",
        "import sys; from pycds_auto import image; print(ascii(list(image.read(sys.argv[1], sys.argv[2]).results)))",
        user.image(),
        identity,
        plain=True,
    )
    return [key for key in eval(held.stdout)]


def test_an_endless_import(user: User, tmp_path) -> None:
    """An import that never returns, and makes different texts all the time: bounded."""
    write(tmp_path / "code", LIBRARY)
    age(tmp_path / "code")
    env = {"PYTHONPATH": str(tmp_path / "code")}
    user.run("-c", "import lib.endless", "1", env=env)
    assert len(notes(user)) == 1000
    user.build()
    user.run("-c", "import lib.endless", "2", env=env)
    assert len(notes(user)) == 1000


def test_long_texts_leave_room_in_the_spool(user: User, tmp_path) -> None:
    """For modules, which are worth more."""
    write(tmp_path, {"code/lib.py": "for i in range(100): eval(f'{i}, ' + '0, ' * 13000)\n", "code/late.py": ""})
    age(tmp_path / "code")
    user.run("-c", "import lib, late", env={"PYTHONPATH": str(tmp_path / "code")})
    assert (user.folder() / spool.SPOOL).stat().st_size < 1.1 * 2**20
    assert 10 < len(notes(user)) < 60
    assert str(tmp_path / "code/late.py") in {miss.path for miss in spool.read(str(user.folder()))}


OLDER = """
import sys
from pycds_auto import _loader, image, rebuild
state = _loader.state()
held = image.read(state["image"], state["identity"])
content = image.build(
    state["identity"], [*held.modules.values(), *held.results.values()], held.directories.values(),
    held.aged_ns - 31 * 24 * 3600 * 10**9, held.encoding)
rebuild._write(state["image"], content)
"""


def test_unused_ones_leave_the_archive(user: User, tmp_path) -> None:
    """By age, as modules do (test_rebuild.py)."""
    write(tmp_path, {"code/lib.py": "import sys\nfor text in sys.argv[1:]: eval(text)\n"})
    age(tmp_path / "code")
    user.extra["PYTHONPATH"] = str(tmp_path / "code")

    def held() -> set[str]:
        return {key.partition("\0")[2] for key in image_keys(user)} & {"'used'", "'unused'"}

    user.run("-c", "import lib", "'used'", "'unused'")
    user.build()
    user.run("-c", OLDER, plain=True)
    user.build()  # marks all
    user.run("-c", "import lib", "'used'")
    assert held() == {"'used'", "'unused'"} and [miss.kind for miss in notes(user) if "used" in miss.path] == [
        spool.SOURCE
    ]
    user.build()
    user.run("-c", OLDER, plain=True)
    user.build()
    user.run("-c", OLDER, plain=True)
    assert held() == {"'used'"}


def test_damage(primed: User, tmp_path, venv) -> None:
    """Flipped bits in entries: plain Python's answer."""
    script = tmp_path / "program.py"
    script.write_text(
        program("import lib.texts, lib.future\nfor code in lib.texts.codes + [lib.future.h]: print(told(code))")
    )
    env = {"PYTHONHASHSEED": "1"}
    plain = primed.run(script, plain=True, env=env, quiet=False)
    path = primed.image()
    content = path.read_bytes()
    try:
        for marker, shift in (
            (b"inherits not", 0),
            (b"inherits not", 30),
            (b"module.py\0a = 1", 2),
            (b"<expression>\0", 5),
            (b"late", 1),
            (b"also", 1),
        ):
            damaged = bytearray(content)
            at = damaged.find(marker)
            assert at > 0
            while at >= 0:
                damaged[at + shift] ^= 1 << (shift % 8)
                at = damaged.find(marker, at + 40)
            path.write_bytes(damaged)
            os.chmod(path, 0o600)
            same(primed.run(script, readonly=True, env=env, quiet=False), plain)
    finally:
        path.write_bytes(content)


def test_status_counts_them(primed: User) -> None:
    assert " sources, " in primed.command("status", readonly=True).stdout


def test_keys_and_entries() -> None:
    """In this interpreter."""
    assert (
        sources.is_key("xm-0:f\0a\nb")
        and sources.is_key("xe216777216:\0")
        and not sources.is_key("/xm-0:f\0a")
        and not sources.is_key("xm-0:f")
    )
    for text in (
        "(",
        "'\\q'",
        "1 is 1",
        "x in {'a', 'b'}",
        "x in {'a b', 'c'}",
        "x in {'ab', 2}",
        "x in {'ab', 'cd'}, y in {'cd', 'ab'}",
        "def f() -> 'int': return x in {'return', 'ab'}",
        "class A:\n def f(self, __ab: 1): return x in {'_A__ab', 'cd'}",
        "def f(\ufb01: 1): return x in {'fi', 'ab'}",
        "9" * 700,
        "9_9" * 300,
        "-" * 200 + "1",
        "[" * 95 + "]" * 95 + "[0]" * 20,
    ):
        assert not sources.entry(f"xm-0:f\0{text}").payload, text
    for text in ("", "x", "def f(): return [lambda: i for i in x]", "x in {'ab', 'cd'}"):
        assert sources.entry(f"xm-0:f\0{text}").payload, text


def test_comparison_of_code() -> None:
    def changed(code, **fields):
        return sources.is_same_code(code, code.replace(**fields))

    code = compile("def f(a, b=(1, 2.0)):\n    c = a\n    return lambda: c\n", "f", "exec")
    assert sources.is_same_code(code, compile("def f(a, b=(1, 2.0)):\n    c = a\n    return lambda: c\n", "f", "exec"))
    inner = code.co_consts[0] if hasattr(code.co_consts[0], "co_code") else code.co_consts[1]
    assert (
        not changed(code, co_firstlineno=2)
        and not changed(code, co_stacksize=9)
        and not changed(code, co_linetable=b"")
    )
    assert not changed(inner, co_name="g") and not changed(inner, co_flags=inner.co_flags ^ 1)
    zero = compile("x = 0.0", "f", "exec")
    assert not changed(
        zero, co_consts=tuple(-0.0 if value == 0.0 and isinstance(value, float) else value for value in zero.co_consts)
    )


def test_escapes_in_the_spool() -> None:
    misses = spool.parse(
        b"S 0 xm-0:f%00a%0a%25\nS 0 no key\ns 0 xe-0:f%00twice\nr 0 s0:once\ns 0 xe-0:f%00twice\ns x xe-0:f%00\n"
    )
    assert misses == [
        spool.Miss("S", "0", "xm-0:f\0a\n%"),
        spool.Miss("S", "0", "xe-0:f\0twice"),
        spool.Miss(spool.DOUBTFUL, "0", "s0:once"),
    ]
