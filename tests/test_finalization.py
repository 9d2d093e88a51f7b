"""The end of a process (csrc/finalization.c): what plain Python shows then, and only what it doesn't show is left out.

Each program ends with the archive and without: output, exit status and files must be the same. The summary of PYCDS_LOG says
whether objects were left to the system.
"""

import re
import shutil
import textwrap
from pathlib import Path

import pytest

from support import Result, User, end_all_with, same, write

LOUD = "class Loud:\n    def __init__(self, name='loud'): self.name = name\n    def __del__(self): print('end of', self.name)\n"
# What the archive has: enough for its decoder to be in use, and what the programs import.
LIBRARY = (
    "json, logging, logging.handlers, decimal, dataclasses, threading, weakref, tempfile, subprocess, socket, asyncio, contextlib, functools, "
    "concurrent.futures, multiprocessing, sqlite3, ctypes, abc, enum, typing, re, datetime, collections, string, inspect, faulthandler, trace, shutil, random, csv"
)

# Nothing of their end can be seen: it must be left out.
SILENT = {
    "imports": f"import {LIBRARY}\n",
    "classes": "import abc, enum, dataclasses\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): pass\nclass B(A):\n    def f(self): return 1\n@dataclasses.dataclass\nclass C:\n    x: int = 1\nclass E(enum.Enum):\n    A = 1\nkept = [B(), C(), E.A, isinstance(3, A)]\nkept.append(kept)\n",
    "weak": "import weakref, json\nclass A: pass\na = A()\nw = weakref.WeakSet([a]); k = weakref.WeakKeyDictionary({a: 1}); v = weakref.WeakValueDictionary(a=a); r = weakref.ref(a)\n",
    "logging": "import logging, sys\nlogging.basicConfig(stream=sys.stdout)\nlogging.warning('hello')\nlogging.getLogger('a.b').addHandler(logging.StreamHandler())\n",
    "written": "import json, sys\nsys.stdout.write('no end of line')\nsys.stderr.write('nor here')\n",
    "mark": "import json, weakref\nclass S:\n    def mark(self, reference=None):\n        self.dead = True\ns = S()\ndef f(): pass\nr = weakref.ref(f, s.mark)\n",
    "exit": "import json, sys\nsys.exit('said at exit')\n",
    "status": "import json, sys\nsys.exit(7)\n",
    "raises": "import json\nclass E(Exception): pass\nraise E('raised') from ValueError('first')\n",
    "atexit": "import json, atexit\natexit.register(print, 'at exit')\n",
    "closed": "import json\nf = open(__file__); f.close()\n",
    "finished": "import json\ng = (i for i in range(2)); print(list(g))\n",
    "threads": "import json, threading, concurrent.futures as c\nwith c.ThreadPoolExecutor(2) as p: print(list(p.map(str, range(3))))\nt = threading.Thread(target=print, args=('thread',)); t.start()\nlocal = threading.local(); local.x = [1]\n",
    "fork": "import json, os, sys\nif os.fork():\n    os.wait(); print('parent')\nelse:\n    print('child')\n",
    "finalizer": "import json, weakref\nclass A: pass\na = A()\nf = weakref.finalize(a, print, 'finalized')\n",
}

# Each shows something at its end: plain Python must show it. With what must be in its output, so that the program is one.
VISIBLE = {
    "global": (f"import json\n{LOUD}kept = Loud()\n", "end of loud"),
    "cycle": (f"import json\n{LOUD}kept = Loud(); kept.me = kept\n", "end of loud"),
    "lost_cycle": (f"import json, gc\ngc.disable()\n{LOUD}x = Loud(); x.me = x; del x\n", "end of loud"),
    "default": (f"import json\n{LOUD}def f(x=Loud('default')): pass\n", "end of default"),
    "keyword_default": (f"import json\n{LOUD}def f(*, x=Loud('keyword')): pass\n", "end of keyword"),
    "closure": (f"import json\n{LOUD}def g():\n    x = Loud('cell')\n    return lambda: x\nf = g()\n", "end of cell"),
    "class_attribute": (f"import json\n{LOUD}class C:\n    x = Loud('attribute')\n", "end of attribute"),
    "metaclass": ("import json\nclass M(type):\n    def __del__(cls): print('end of class', cls.__name__)\nclass C(metaclass=M): pass\n", "end of class C"),
    "slots": ("import json\nclass L:\n    __slots__ = ()\n    def __del__(self): print('end of slots')\nkept = {'a': (1, (L(), 2))}\n", "end of slots"),
    "constants": ("import json\nclass L:\n    __slots__ = ()\n    def __del__(self): print('end of constant')\ndef f(): return 5\nf.__code__ = f.__code__.replace(co_consts=(None, L()))\n", ""),
    "subclass": ("import json\nclass S(str):\n    __slots__ = ()\n    def __del__(self): print('end of text')\nkept = S('x')\n", "end of text"),
    "late_del": ("import json\nclass A: pass\na = A()\nA.__del__ = lambda self: print('end, added later')\n", "end, added later"),
    "inherited": (f"import json\n{LOUD}class D(dict, Loud): pass\nd = D(); d.name = 'dict'\n", "end of dict"),
    "partial": (f"import json, functools\n{LOUD}p = functools.partial(print, Loud('partial'))\n", "end of partial"),
    "default_dictionary": (f"import json, collections\n{LOUD}p = collections.defaultdict(list, a=Loud('entry'))\n", "end of entry"),
    "context": (f"import json, contextvars\n{LOUD}v = contextvars.ContextVar('v'); v.set(Loud('context'))\n", ""),
    "local": (f"import json, threading\n{LOUD}x = threading.local(); x.a = Loud('local')\n", "end of local"),
    "traceback": (f"import json\n{LOUD}def f():\n    x = Loud('frame')\n    1 / 0\ntry: f()\nexcept Exception as e: kept = e\n", "end of frame"),
    "builtin": (f"import json, builtins\n{LOUD}builtins.kept = Loud('builtin')\n", "end of builtin"),
    "sys": (f"import json, sys\n{LOUD}sys._kept = Loud('sys')\n", "end of sys"),
    "meta_path": (f"import json, sys\n{LOUD}Loud.find_spec = lambda *a: None\nsys.meta_path.insert(0, Loud('finder'))\n", "end of finder"),
    "meta_path_slots": ("import json, sys\nclass L:\n    __slots__ = ()\n    def __del__(self): import decimal; print('end of finder')\n    def find_spec(self, *a): pass\nsys.meta_path.insert(0, L())\ndel L\n", "end of finder"),
    "modules": (f"import json, sys\n{LOUD}sys.modules['other'] = Loud('module')\n", "end of module"),
    "atexit_late": (f"import json, atexit\n{LOUD}atexit.register(lambda: globals().update(x=Loud('late')))\n", "end of late"),
    "text_file": ("import json\nf = open('out', 'w'); f.write('kept back')\nprint('text')\n", "text"),
    "binary_file": ("import json\nf = open('out', 'wb'); f.write(b'kept back')\nprint('binary')\n", "binary"),
    "file_in_closure": ("import json\ndef g():\n    f = open('out', 'w')\n    def h(x): f.write(x)\n    return h\nh = g(); h('kept back')\nprint('closure')\n", "closure"),
    "file_in_class": ("import json\nclass C:\n    f = open('out', 'w')\nC.f.write('kept back')\nprint('class')\n", "class"),
    "std_replaced": ("import json, sys, io\nsys.stdout = io.TextIOWrapper(open('out', 'wb')); print('kept back'); sys.stderr.write('replaced')\n", "replaced"),
    "std_wrapped": ("import json, sys, io\nw = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False))); w.write('wrapped')\n", "wrapped"),
    "std_method": ("import json, sys\nsys.__stdout__.close = lambda: sys.__stderr__.write('closing')\nkept = sys.stdout\n", ""),
    "generator": ("import json\ndef g():\n    try: yield 1\n    finally: print('finally')\nx = g(); next(x)\n", "finally"),
    "coroutine": ("import json\nasync def c(): pass\nx = c()\n", "never awaited"),
    "async_generator": ("import json\nasync def c():\n    try: yield 1\n    finally: print('finally')\nx = c(); a = x.asend(None)\ntry: a.send(None)\nexcept StopIteration: print('started')\n", "started"),
    "reference": ("import json, sys, weakref\nclass A: pass\na = A(); r = weakref.ref(a, lambda r: print('dead'))\nsys.kept = r\nsys._kept = a; del a\n", "dead"),
    "proxy": ("import json, sys, weakref\nclass A: pass\na = A(); r = weakref.proxy(a, lambda r: print('dead'))\nsys.kept = r\nsys._kept = a; del a\n", "dead"),
    "method_reference": ("import json, sys, weakref\nclass A: pass\nclass B:\n    def m(self, r): print('dead')\na = A(); b = B(); r = weakref.ref(a, b.m)\nsys.kept = r\nsys._kept = a; del a\n", "dead"),
    "mark_property": ("import json, sys, weakref\nclass S:\n    def mark(self, reference=None):\n        self.dead = True\n    dead = property(lambda s: 1, lambda s, v: print('marked'))\ns = S()\ndef f(): pass\nr = weakref.ref(f, s.mark)\nsys.kept = r\nsys._kept = f; del f\n", "marked"),
    "mark_setattr": ("import json, sys, weakref\nclass S:\n    def mark(self, reference=None):\n        self.dead = True\n    def __setattr__(self, *a): print('marked')\ns = S()\ndef f(): pass\nr = weakref.ref(f, s.mark)\nsys.kept = r\nsys._kept = f; del f\n", "marked"),
    "weak_subclass": ("import json, sys, weakref\nclass W(weakref.WeakSet):\n    @property\n    def _iterating(self): print('asked'); return False\n    @_iterating.setter\n    def _iterating(self, v): pass\nclass A: pass\na = A(); w = W(); w.add(a)\nsys.kept = w\nsys._kept = a; del a\n", "asked"),
    "weak_key": ("import json, sys, weakref\nclass K:\n    def __hash__(self): print('hashed'); return 1\nclass A: pass\na = A(); w = weakref.WeakValueDictionary(); w[K()] = a\nsys.kept = w\nsys._kept = a; del a\n", "hashed"),
    "finalizer_off": ("import json, weakref\nclass A: pass\na = A(); f = weakref.finalize(a, print, 'finalized'); f.atexit = False\nprint('off')\n", "off"),
    "named_temporary": ("import json, tempfile\nt = tempfile.NamedTemporaryFile(dir='.')\nprint('temporary')\n", "temporary"),
    "socket": ("import json, socket\nt = socket.socket()\nprint('socket')\n", "socket"),
    "raw_socket": ("import json, _socket\nt = {'a': _socket.socket()}\nprint('socket')\n", "socket"),
    "scandir": ("import json, os\nt = (os.scandir('.'),); next(t[0])\nprint('scandir')\n", "scandir"),
    "sqlite": ("import json, sqlite3\nc = sqlite3.connect('data'); c.execute('create table t(x)'); c.commit(); c.execute('insert into t values (1)')\nprint('database')\n", "database"),
    "popen": ("import json, subprocess\np = subprocess.Popen(['sleep', '0.3'])\nprint('process')\n", "process"),
    "collector_callbacks": ("import json, gc\ngc.callbacks.append(lambda phase, info: print(phase, info['generation']))\n", "start"),
    "collector_debug": ("import json, gc\ngc.set_debug(gc.DEBUG_UNCOLLECTABLE)\nprint('debug')\n", "debug"),
    "garbage": ("import json, gc\ngc.garbage.append(1)\n", ""),
    "frozen": (f"import json, gc\n{LOUD}x = Loud('frozen'); x.me = x\ngc.freeze()\n", ""),
    "profile": ("import json, sys, weakref\nclass A: pass\na = A(); w = weakref.WeakSet([a])\nout = open(1, 'w', closefd=False, buffering=1)\nsys.setprofile(lambda f, e, a, w=out.write: w(f'{e} {f.f_code.co_name}\\n'))\n", ""),
    "flush_fails": ("import json, os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('lost')\n", ""),
    "finalizer_prints": (f"import json, sys\n{LOUD}x = Loud('garbage'); x.me = x; del x\nkept = sys.stdout\n", "end of garbage"),
    "capsule": ("import json, ctypes\napi = ctypes.pythonapi\napi.PyCapsule_New.restype = ctypes.py_object\napi.PyCapsule_New.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p\nlibc = ctypes.CDLL(None)\nc = api.PyCapsule_New(5, None, ctypes.cast(libc.rand, ctypes.c_void_p))\nprint('capsule', flush=True)\n", "capsule"),
    "daemon": ("import json, threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nprint('daemon')\n", "daemon"),
}
# Their ends are plain Python's whatever happens, or they don't come to it; or (some versions) the moment is late.
EITHER = {
    "file_handler": "import logging\nlogging.basicConfig(filename='out'); logging.warning('to a file')\nprint('file')\n",
    "memory_handler": "import logging.handlers, sys\nh = logging.handlers.MemoryHandler(99, target=logging.StreamHandler(sys.stdout))\nlogging.getLogger().addHandler(h); logging.warning('kept back')\n",
    "temporary": "import json, tempfile\nt = tempfile.TemporaryDirectory(dir='.')\nprint('temporary')\n",
    "os_exit": "import json, os\nprint('out', flush=True); os._exit(3)\n",
    "interrupted": "import json\nraise KeyboardInterrupt\n",
    "killed": "import json, os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n",
    "exec": "import json, os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'print(1)'])\n",
    "multiprocessing": "import multiprocessing as m, sys\nc = m.get_context('fork')\nif __name__ == '__main__':\n    p = c.Process(target=print, args=('child',)); p.start(); p.join()\n    with c.Pool(2) as pool: print(pool.map(abs, [-1, 2]))\n",
    "asyncio": "import asyncio\nasync def f(): await asyncio.sleep(0); print('ran')\nasyncio.run(f())\n",
    "list_held": "import json, sys\nkept = sys.meta_path\n",
    "finder_gone": "import json, sys\nsys.meta_path[:] = sys.meta_path[-1:]\n",
    "finder_freed_late": "import json, sys\nclass L:\n    def __del__(self): sys.meta_path.clear(); sys.meta_path = sys.path = None; print('cleared')\nx = L(); x.me = x; del x\n",
    "modules_replaced": "import json, sys\nsys.modules = dict(sys.modules)\n",
    "c_output": "import json, ctypes\nctypes.CDLL(None).puts(b'from C')\n",
    "faulthandler": "import json, faulthandler\nf = open('out', 'w'); faulthandler.enable(f)\n",
    "recursive_tuple": "import json\nt = ()\nfor i in range(60): t = (t, t)\nprint('made')\n",
    "host": "import json, ctypes, sys\nprint('before', flush=True)\napi = ctypes.PyDLL(None)\napi.Py_AtExit.argtypes = [ctypes.c_void_p]\n",
}
PROGRAMS = {
    **{name: (text, True) for name, text in SILENT.items()},
    **{name: (text, False) for name, (text, _) in VISIBLE.items()},
    **{name: (text, None) for name, text in EITHER.items()},
}


@pytest.fixture(scope="module")
def primed(venv, tmp_path_factory) -> User:
    root = tmp_path_factory.mktemp("finalization")
    user = User(venv.python, root / "home")
    user.home.mkdir()
    user.run("-c", f"import {LIBRARY}, pickle, queue, selectors, traceback, linecache, contextvars", quiet=False)
    user.build()
    end_all_with(str(root))
    return user


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}


def end(user: User, folder: Path, text: str, *options: str, **keywords) -> tuple[Result, dict[str, bytes]]:
    """Runs a program in a new folder, the same each time, so that nothing in its output depends on that."""
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, {"program.py": text})
    result = user.run(*options, "program.py", cwd=folder, readonly=True, code=None, quiet=False, **keywords)
    return result._replace(stderr=re.sub(r"0x[0-9a-f]+|(?<=subprocess )\d+|(?<=/tmp)\w{8}", "...", result.stderr)), files(folder)


def shortened(result: Result) -> tuple[Result, bool]:
    """A run with PYCDS_LOG=1, without its summaries; and whether the last of them says that objects were left."""
    lines = result.stderr.split("pycds-auto: ")
    summary = [line.split("\n", 1) for line in lines[1:]]
    rest = lines[0] + "".join(line[1] for line in summary)
    return result._replace(stderr=rest), bool(summary) and summary[-1][0].endswith("; objects left to the system")


def at_late_moment(user: User) -> bool:
    """3.11 holds sys.meta_path once more, and lets go of it when the modules are gone, and what they show with them; some of
    these programs show nothing there."""
    return user.run("-c", "import sys; print(sys.version_info[1])").stdout == "11\n"


@pytest.mark.parametrize("options", [(), ("-X", "dev"), ("-W", "always")], ids=lambda options: "".join(options) or "usual")
@pytest.mark.parametrize("name", PROGRAMS)
def test_program(primed: User, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    text, silent = PROGRAMS[name]
    plain = end(primed, tmp_path / "run", text, *options, plain=True)
    if name in VISIBLE and not at_late_moment(primed):
        assert VISIBLE[name][1] in plain[0].stdout + plain[0].stderr
    ours = end(primed, tmp_path / "run", text, *options)
    same(ours[0], plain[0])
    assert ours[1] == plain[1]
    logged, left = shortened(end(primed, tmp_path / "run", text, *options, env={"PYCDS_LOG": "1"})[0])
    same(logged, plain[0])
    if silent or (silent is not None and not at_late_moment(primed)):
        assert left == (silent and options != ("-X", "dev"))


@pytest.mark.parametrize("name", [*SILENT, "global", "text_file"])
def test_skipped(primed: User, tmp_path: Path, name: str) -> None:
    result = end(primed, tmp_path / "run", PROGRAMS[name][0], env={"PYCDS_SKIP": "exit", "PYCDS_LOG": "1"})[0]
    logged, left = shortened(result)
    assert not left
    same(logged, end(primed, tmp_path / "run", PROGRAMS[name][0], plain=True)[0])


@pytest.mark.parametrize(
    ("options", "env"),
    [
        (("-X", "tracemalloc"), {}),
        (("-X", "importtime"), {}),
        (("-X", "showrefcount"), {}),
        ((), {"PYTHONMALLOC": "debug"}),
        ((), {"PYTHONMALLOC": "malloc"}),
        ((), {"PYTHONMALLOCSTATS": "1"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "".join(f"{key}={item}" for key, item in value.items()),
)
def test_debugging_aids(primed: User, tmp_path: Path, options: tuple[str, ...], env: dict[str, str]) -> None:
    """What reports at the end of the process, or watches the memory of objects."""
    result = end(primed, tmp_path / "run", SILENT["imports"], *options, env={**env, "PYCDS_LOG": "1"})[0]
    assert not shortened(result)[1]


def test_other_interpreters(primed: User, tmp_path: Path) -> None:
    """One that is still there when the process ends has an end of its own."""
    text = textwrap.dedent(
        f"""
        import json
        try: import _interpreters as interpreters; run = interpreters.exec
        except ImportError: import _xxsubinterpreters as interpreters; run = interpreters.run_string
        one = interpreters.create()
        run(one, {"import sys" + chr(10) + LOUD + "sys.kept = Loud('other')"!r})
        print('made', flush=True)
        """
    )
    plain = end(primed, tmp_path / "run", text, plain=True)
    same(end(primed, tmp_path / "run", text)[0], plain[0])
    assert "made" in plain[0].stdout
