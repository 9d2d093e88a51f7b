"""The end of a process (csrc/finalization.c): what plain Python shows then, and only what it doesn't show is left out.

Each program ends with the archive and without: output, exit status and files must be the same. The summary of PYCDS_LOG says
whether objects were left to the system.
"""

import re
import shutil
import textwrap
from pathlib import Path

import pytest

from support import Result, User, compiled_library, end_all_with, same, write

LOUD = "class Loud:\n    def __init__(self, name='loud'): self.name = name\n    def __del__(self): print('end of', self.name)\n"
# What the archive has: enough for its decoder to be in use, and what the programs import.
LIBRARY = (
    "json, logging, logging.handlers, decimal, dataclasses, threading, weakref, tempfile, subprocess, socket, asyncio, contextlib, functools, "
    "concurrent.futures, multiprocessing, sqlite3, ctypes, abc, enum, typing, re, datetime, collections, string, inspect, faulthandler, trace, shutil, random, csv, "
    "gzip, zipfile, dbm.dumb, http.client, ssl, hashlib, mmap, zoneinfo, queue, io, codecs"
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
    "times": "import json, datetime\nt = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=1), 'x')); d = (t, (t.date(), (t.time(),)))\n",
    "values": "import json, threading, contextvars\nl = threading.local(); l.x = 1; v = contextvars.ContextVar('v'); v.set({'a': (1, (2,))})\n",
    "hooks": "import json, sys\nsys.excepthook = lambda *a: print('hook', a[1])\nsys.unraisablehook = lambda a: print('unraisable', a)\n1 / 0\n",
    "atexit_raises": "import json, atexit\natexit.register(print, 'last')\natexit.register(lambda: 1 / 0)\natexit.register(print, 'first')\n",
    "threads_raise": "import json, threading\nt = threading.Thread(target=lambda: 1 / 0, name='thread'); t.start(); t.join()\n",
    "names_of_others": "import json\nglobals()[1] = 2; globals()[(1, 'x')] = 3\ndel globals()[1], globals()[(1, 'x')]\n",
    "none": "import json, sys\nprint('out', flush=True)\nsys.stdout = sys.stderr = None\n",
    "hashes": "import json, hashlib, zlib\nh = 5\n",
    "lost_objects": "import json, gc\ngc.disable()\nclass A: pass\nfor i in range(100):\n    a = A(); a.me = a; a.others = [a, (a,), {'a': a}]\n",
    "lost_generator": "import json, gc\ngc.disable()\ndef g():\n    me = yield\n    yield me\nx = g(); next(x); x.send(x); del x; gc.enable()\n",
    "lost_file": "import json, gc\ngc.disable()\nclass A: pass\na = A(); a.me = a; a.file = open(__file__); del a\nimport warnings; warnings.simplefilter('ignore'); gc.enable()\n",
    "other_output": "import io, json, sys\nclass Out:\n    def write(self, text): return sys.__stdout__.write(text)\n    def flush(self): sys.__stdout__.flush()\nsys.stdout = Out(); print('through ours')\n",
    "flushes": "import json, sys, atexit, threading\natexit.register(sys.stderr.flush)\nt = threading.Thread(target=sys.stderr.flush); t.start(); t.join()\nprint(sys.stderr.flush(), type(sys.stderr).flush.__name__, type(sys.stderr).flush.__doc__, type(sys.stderr).__dict__['flush'])\n",
}

# Each shows something at its end: plain Python must show it. With what must be in its output, so that the program is one.
VISIBLE = {
    "global": (f"import json\n{LOUD}kept = Loud()\n", "end of loud"),
    "buffer_closes": (
        "import json, io\nout = print\ns = io.StringIO(); s.write('precious')\ns.close = lambda: out('closing', s.getvalue(), flush=True)\n",
        "closing precious",
    ),
    "bytes_close": (
        "import json, io, os\ns = io.BytesIO(); s.close = lambda write=os.write: write(1, b'closing bytes\\n'); s.me = s\n",
        "closing bytes",
    ),
    "cycle": (f"import json\n{LOUD}kept = Loud(); kept.me = kept\n", "end of loud"),
    "lost_cycle": (f"import json, gc\ngc.disable()\n{LOUD}x = Loud(); x.me = x; del x\n", "end of loud"),
    "default": (f"import json\n{LOUD}def f(x=Loud('default')): pass\n", "end of default"),
    "keyword_default": (f"import json\n{LOUD}def f(*, x=Loud('keyword')): pass\n", "end of keyword"),
    "closure": (f"import json\n{LOUD}def g():\n    x = Loud('cell')\n    return lambda: x\nf = g()\n", "end of cell"),
    "class_attribute": (f"import json\n{LOUD}class C:\n    x = Loud('attribute')\n", "end of attribute"),
    "metaclass": (
        "import json\nclass M(type):\n    def __del__(cls): print('end of class', cls.__name__)\nclass C(metaclass=M): pass\n",
        "end of class C",
    ),
    "slots": (
        "import json\nclass L:\n    __slots__ = ()\n    def __del__(self): print('end of slots')\nkept = {'a': (1, (L(), 2))}\n",
        "end of slots",
    ),
    "constants": (
        "import json\nclass L:\n    __slots__ = ()\n    def __del__(self): print('end of constant')\ndef f(): return 5\nf.__code__ = f.__code__.replace(co_consts=(None, L()))\n",
        "",
    ),
    "subclass": (
        "import json\nclass S(str):\n    __slots__ = ()\n    def __del__(self): print('end of text')\nkept = S('x')\n",
        "end of text",
    ),
    "late_del": (
        "import json\nclass A: pass\na = A()\nA.__del__ = lambda self: print('end, added later')\n",
        "end, added later",
    ),
    "inherited": (f"import json\n{LOUD}class D(dict, Loud): pass\nd = D(); d.name = 'dict'\n", "end of dict"),
    "partial": (f"import json, functools\n{LOUD}p = functools.partial(print, Loud('partial'))\n", "end of partial"),
    "default_dictionary": (
        f"import json, collections\n{LOUD}p = collections.defaultdict(list, a=Loud('entry'))\n",
        "end of entry",
    ),
    "context": (f"import json, contextvars\n{LOUD}v = contextvars.ContextVar('v'); v.set(Loud('context'))\n", ""),
    "local": (f"import json, threading\n{LOUD}x = threading.local(); x.a = Loud('local')\n", "end of local"),
    "traceback": (
        f"import json\n{LOUD}def f():\n    x = Loud('frame')\n    1 / 0\ntry: f()\nexcept Exception as e: kept = e\n",
        "end of frame",
    ),
    "lost_finally": (
        "import json, gc\ngc.disable()\ndef g():\n    me = yield\n    try: yield me\n    finally: print('finally')\nx = g(); next(x); x.send(x); del x; gc.enable()\n",
        "finally",
    ),
    "lost_reference": (
        "import json, gc, weakref\ngc.disable()\nclass A: pass\na = A(); a.me = a; r = weakref.ref(a, lambda r: print('lost')); del a; gc.enable()\n",
        "lost",
    ),
    "flush_makes": (
        f"import json, sys\n{LOUD}class Out:\n    def __init__(self, out): self.out = out\n    def write(self, text): return self.out.write(text)\n    def flush(self):\n        self.out.flush(); sys.stderr.flush(); globals().update(late=Loud('flushed'))\nsys.stdout = Out(sys.stdout); print('x')\n",
        "end of flushed",
    ),
    "stderr_makes": (
        f"import json, sys\n{LOUD}class Err:\n    def __init__(self, out): self.out = out\n    def write(self, text): return self.out.write(text)\n    def flush(self): self.out.flush(); globals().update(late=Loud('made by stderr'))\nsys.stderr = Err(sys.stderr)\n",
        "end of made by stderr",
    ),
    "flush_in_c": (
        f"import json, sys, operator, functools\n{LOUD}def f(*a): globals().update(late=Loud('made in C'), seen=len(sys.modules) > 20); sys.__stdout__.write(f'modules: {{seen}}\\n')\nclass Out:\n    flush = staticmethod(functools.partial(sorted, [sys.stderr.flush, f], key=lambda g: g() or 0) if not hasattr(operator, 'call') else functools.partial(sorted, [sys.stderr.flush, f], key=operator.call))\n    write = sys.stdout.write\nsys.stdout = Out()\n",
        "end of made in C",
    ),
    "buffer_flush": (
        f"import io, json, sys, operator, functools\n{LOUD}def f(*a): globals().update(late=Loud('made in buffer')); return None\nclass Raw(io.RawIOBase):\n    def writable(self): return True\n    def write(self, b): sys.__stdout__.write(bytes(b).decode()); return len(b)\n    def flush(self): sys.stderr.flush(); f()\nsys.stdout = io.TextIOWrapper(io.BufferedWriter(Raw())); print('x')\n",
        "end of made in buffer",
    ),
    "signal": (
        f"import json, signal\n{LOUD}class H(Loud):\n    def __call__(self, *a): pass\nsignal.signal(signal.SIGUSR1, H('handler'))\n",
        "end of handler",
    ),
    "builtin": (f"import json, builtins\n{LOUD}builtins.kept = Loud('builtin')\n", "end of builtin"),
    "sys": (f"import json, sys\n{LOUD}sys._kept = Loud('sys')\n", "end of sys"),
    "meta_path": (
        "import json, os, sys\nclass L:\n    def __del__(self, w=os.write): w(1, b'end of finder')\n    def find_spec(self, *a): pass\nsys.meta_path.insert(0, L())\n",
        "end of finder",
    ),
    "meta_path_slots": (
        "import json, os, sys\nclass L:\n    __slots__ = ()\n    def __del__(self, w=os.write): w(1, b'end of finder')\n    def find_spec(self, *a): pass\nsys.meta_path.insert(0, L())\ndel L\n",
        "end of finder",
    ),
    "modules": (f"import json, sys\n{LOUD}sys.modules['other'] = Loud('module')\n", "end of module"),
    "atexit_late": (
        f"import json, atexit\n{LOUD}atexit.register(lambda: globals().update(x=Loud('late')))\n",
        "end of late",
    ),
    "text_file": ("import json\nf = open('out', 'w'); f.write('kept back')\nprint('text')\n", "text"),
    "binary_file": ("import json\nf = open('out', 'wb'); f.write(b'kept back')\nprint('binary')\n", "binary"),
    "file_in_closure": (
        "import json\ndef g():\n    f = open('out', 'w')\n    def h(x): f.write(x)\n    return h\nh = g(); h('kept back')\nprint('closure')\n",
        "closure",
    ),
    "file_in_class": (
        "import json\nclass C:\n    f = open('out', 'w')\nC.f.write('kept back')\nprint('class')\n",
        "class",
    ),
    "std_replaced": (
        "import json, sys, io\nsys.stdout = io.TextIOWrapper(open('out', 'wb')); print('kept back'); sys.stderr.write('replaced')\n",
        "replaced",
    ),
    "std_wrapped": (
        "import json, sys, io\nw = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, 'w', closefd=False))); w.write('wrapped')\n",
        "wrapped",
    ),
    "std_method": (
        "import json, sys\nsys.__stdout__.close = lambda: sys.__stderr__.write('closing')\nkept = sys.stdout\n",
        "",
    ),
    "generator": (
        "import json\ndef g():\n    try: yield 1\n    finally: print('finally')\nx = g(); next(x)\n",
        "finally",
    ),
    "coroutine": ("import json\nasync def c(): pass\nx = c()\n", "never awaited"),
    "async_generator": (
        "import json\nasync def c():\n    try: yield 1\n    finally: print('finally')\nx = c(); a = x.asend(None)\ntry: a.send(None)\nexcept StopIteration: print('started')\n",
        "started",
    ),
    "reference": (
        "import json, sys, weakref\nclass A: pass\na = A(); r = weakref.ref(a, lambda r: print('dead'))\nsys.kept = r\nsys._kept = a; del a\n",
        "dead",
    ),
    "proxy": (
        "import json, sys, weakref\nclass A: pass\na = A(); r = weakref.proxy(a, lambda r: print('dead'))\nsys.kept = r\nsys._kept = a; del a\n",
        "dead",
    ),
    "method_reference": (
        "import json, sys, weakref\nclass A: pass\nclass B:\n    def m(self, r): print('dead')\na = A(); b = B(); r = weakref.ref(a, b.m)\nsys.kept = r\nsys._kept = a; del a\n",
        "dead",
    ),
    "mark_property": (
        "import json, sys, weakref\nclass S:\n    def mark(self, reference=None):\n        self.dead = True\n    dead = property(lambda s: 1, lambda s, v: print('marked'))\ns = S()\ndef f(): pass\nr = weakref.ref(f, s.mark)\nsys.kept = r\nsys._kept = f; del f\n",
        "marked",
    ),
    "mark_setattr": (
        "import json, sys, weakref\nclass S:\n    def mark(self, reference=None):\n        self.dead = True\n    def __setattr__(self, *a): print('marked')\ns = S()\ndef f(): pass\nr = weakref.ref(f, s.mark)\nsys.kept = r\nsys._kept = f; del f\n",
        "marked",
    ),
    "weak_subclass": (
        "import json, sys, weakref\nclass W(weakref.WeakSet):\n    @property\n    def data(self, ending=sys.is_finalizing): print('asked' if ending() else 'used'); return self.kept\n    @data.setter\n    def data(self, v): self.kept = v\nclass A: pass\na = A(); w = W(); w.add(a)\nsys.kept = w\nsys._kept = a; del a\n",
        "asked",
    ),
    "weak_key": (
        "import json, sys, weakref\nclass K:\n    def __hash__(self): print('hashed'); return 1\nclass A: pass\na = A(); w = weakref.WeakValueDictionary(); w[K()] = a\nsys.kept = w\nsys._kept = a; del a\n",
        "hashed",
    ),
    "finalizer_off": (
        "import json, weakref\nclass A: pass\na = A(); f = weakref.finalize(a, print, 'finalized'); f.atexit = False\nprint('off')\n",
        "off",
    ),
    "named_temporary": (
        "import json, tempfile\nt = tempfile.NamedTemporaryFile(dir='.')\nprint('temporary')\n",
        "temporary",
    ),
    "socket": ("import json, socket\nt = socket.socket()\nprint('socket')\n", "socket"),
    "raw_socket": ("import json, _socket\nt = {'a': _socket.socket()}\nprint('socket')\n", "socket"),
    "scandir": ("import json, os\nt = (os.scandir('.'),); next(t[0])\nprint('scandir')\n", "scandir"),
    "sqlite": (
        "import json, sqlite3\nc = sqlite3.connect('data'); c.execute('create table t(x)'); c.commit(); c.execute('insert into t values (1)')\nprint('database')\n",
        "database",
    ),
    "popen": ("import json, subprocess\np = subprocess.Popen(['sleep', '0.3'])\nprint('process')\n", "process"),
    "collector_callbacks": (
        "import json, gc\ngc.callbacks.append(lambda phase, info: print(phase, info['generation']))\n",
        "start",
    ),
    "collector_debug": ("import json, gc\ngc.set_debug(gc.DEBUG_UNCOLLECTABLE)\nprint('debug')\n", "debug"),
    "garbage": ("import json, gc\ngc.garbage.append(1)\n", ""),
    "frozen": (f"import json, gc\n{LOUD}x = Loud('frozen'); x.me = x\ngc.freeze()\n", ""),
    "profile": (
        "import json, sys, weakref\nclass A: pass\na = A(); w = weakref.WeakSet([a])\nout = open(1, 'w', closefd=False, buffering=1)\nsys.setprofile(lambda f, e, a, w=out.write: w(f'{e} {f.f_code.co_name}\\n'))\n",
        "",
    ),
    "flush_fails": ("import json, os, sys\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nprint('lost')\n", ""),
    "finalizer_prints": (
        f"import json, sys\n{LOUD}x = Loud('garbage'); x.me = x; del x\nkept = sys.stdout\n",
        "end of garbage",
    ),
    "capsule": (
        "import json, ctypes\napi = ctypes.pythonapi\napi.PyCapsule_New.restype = ctypes.py_object\napi.PyCapsule_New.argtypes = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p\nlibc = ctypes.CDLL(None)\nc = api.PyCapsule_New(5, None, ctypes.cast(libc.rand, ctypes.c_void_p))\nprint('capsule', flush=True)\n",
        "capsule",
    ),
    "broken_pipe": (
        "import json, os\nr, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)\nprint('lost')\n",
        "BrokenPipe",
    ),
    "audit": (
        "import json, os, sys\nsys.addaudithook(lambda e, a, w=os.write: e.startswith('cpython.') and w(1, e.encode()))\n",
        "cpython.",
    ),
    "names": (
        "import json, sys\nclass K(str):\n    def __hash__(self): print('hashed'); return 1\nglobals()[K('x')] = 1\nsys.kept = sys.modules['__main__']\n",
        "hashed",
    ),
    "module_names": (
        "import json, sys, types\nclass K(str):\n    def __hash__(self): print('hashed'); return 1\nsys.modules[K('x')] = types.ModuleType('x')\n",
        "hashed",
    ),
    "raises_at_end": ("import json\nclass L:\n    def __del__(self): 1 / 0\nkept = L()\n", "ZeroDivisionError"),
    "hook_at_end": (
        "import json, sys\nclass L:\n    def __del__(self): 1 / 0\nkept = L()\nsys.unraisablehook = lambda a, w=__import__('os').write: w(1, b'unraisable')\n",
        "",
    ),
    "std_subclass": (
        "import json, io, os, sys\nclass W(io.TextIOWrapper):\n    def close(self, w=os.write): w(2, b'closing')\nsys.stdout = W(sys.stdout.buffer)\nsys.kept = sys.stdout\nprint('out')\n",
        "out",
    ),
    "std_closed": ("import json, os\nprint('lost'); os.close(1)\n", "Bad file descriptor"),
    "std_not_stream": (
        "import json, os, sys\nclass O:\n    def write(self, t): return os.write(1, t.encode())\n    def flush(self, w=os.write): w(1, b'flushed')\n    def __del__(self, w=os.write): w(1, b'end')\nsys.stdout = O(); print('out')\n",
        "end",
    ),
    "forked": (f"import json, os\n{LOUD}kept = Loud('both')\nif os.fork(): os.wait()\n", "end of both"),
    "structure": (
        "import json, ctypes\nclass S(ctypes.Structure):\n    def __del__(self): print('end of structure')\nkept = S()\n",
        "end of structure",
    ),
    "callback": ("import json, ctypes\nc = ctypes.CFUNCTYPE(None)(lambda: None)\nprint('callback')\n", "callback"),
    "compressed": (
        "import json, gzip\nf = gzip.open('out', 'wt', mtime=0) if False else gzip.GzipFile('out', 'wb', mtime=0); f.write(b'kept back')\nprint('compressed')\n",
        "compressed",
    ),
    "archive": (
        "import json, zipfile\nz = zipfile.ZipFile('out', 'w'); z.writestr(zipfile.ZipInfo('name'), 'text')\nprint('archive')\n",
        "archive",
    ),
    "database": ("import json, dbm.dumb\nd = dbm.dumb.open('out'); d['a'] = b'b'\nprint('database')\n", "database"),
    "pending_task": (
        "import json, asyncio\nasync def f(): pass\nloop = asyncio.new_event_loop(); t = loop.create_task(f())\n",
        "never awaited",
    ),
    "unread_exception": (
        "import json, asyncio\nloop = asyncio.new_event_loop(); f = loop.create_future(); f.set_exception(ValueError('unread')); loop.close()\n",
        "unread",
    ),
    "daemon": (
        "import json, threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nprint('daemon')\n",
        "daemon",
    ),
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
    "std_detached": "import json, sys\nprint('out'); b = sys.stdout.detach()\n",
    "std_closes": "import json, sys\nprint('out'); sys.stdout.close()\n",
    "std_reopened": "import json, sys\nsys.stdout = open(1, 'w', closefd=False); print('kept back')\n",
    "std_wrapper": "import json, codecs, sys\nsys.stdout = codecs.getwriter('utf-8')(sys.stdout.buffer); print('wrapped')\n",
    "mapping": "import json, mmap\nf = open('out', 'w+b'); f.write(b'12345'); f.flush(); m = mmap.mmap(f.fileno(), 5); m[0:1] = b'X'; f.close()\n",
    "semaphore": "import multiprocessing as m\ns = m.get_context('fork').Semaphore()\nprint('made')\n",
    "not_started": "import json\ng = (print('ran') for i in [1]); m = memoryview(b'abc')\n",
    "logging_lock": "import logging, sys\nh = logging.StreamHandler(sys.stdout); sys.kept = h\nlogging._acquireLock = lambda: print('locked')\n",
    "forked_in_thread": "import json, os, threading\ndef f():\n    if os.fork(): os.wait()\nt = threading.Thread(target=f); t.start(); t.join()\nprint('end', flush=True)\n",
    "interactive_hook": "import json, sys\nsys.__interactivehook__ = print\n",
    "sys_removed": "import json, sys\nfor name in 'meta_path', 'path', '__interactivehook__': delattr(sys, name)\n",
    "handlers": "import json, signal, sys\nsignal.signal(signal.SIGTERM, lambda *a: None)\nsys.settrace(None); sys.setprofile(None)\n",
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
    return result._replace(
        stderr=re.sub(r"0x[0-9a-f]+|(?<=subprocess )\d+|(?<=pid=)\d+|(?<=/tmp)\w{8}", "...", result.stderr)
    ), files(folder)


def shortened(result: Result) -> tuple[Result, bool]:
    """A run with PYCDS_LOG=1, without its summaries; and whether the last of them says that objects were left."""
    lines = result.stderr.split("pycds-auto: ")
    summary = [line.split("\n", 1) for line in lines[1:]]
    rest = lines[0] + "".join(line[1] for line in summary)
    return result._replace(stderr=rest), bool(summary) and summary[-1][0].endswith("; objects left to the system")


def check(user: User, folder: Path, name: str, *options: str) -> None:
    text, silent = PROGRAMS[name]
    plain = end(user, folder, text, *options, plain=True)
    if name in VISIBLE:
        assert VISIBLE[name][1] in plain[0].stdout + plain[0].stderr
    logged, left = shortened(end(user, folder, text, *options, env={"PYCDS_LOG": "1"})[0])
    same(logged, plain[0])
    assert files(folder) == plain[1]
    assert silent is None or left == (silent and options != ("-X", "dev"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(primed: User, tmp_path: Path, name: str) -> None:
    """With the warnings that tell of what was left open."""
    check(primed, tmp_path / "run", name, "-W", "always")


@pytest.mark.parametrize("name", ["imports", "written", "global", "text_file", "socket", "coroutine"])
def test_development_mode(primed: User, tmp_path: Path, name: str) -> None:
    check(primed, tmp_path / "run", name, "-X", "dev")


# Objects of this type aren't known to the collector, and warn at their end if something was left in them.
HIDDEN = {
    "tuple": "(1, (x,))",
    "dictionary": "{'a': {'b': x}}",
    "partial": "functools.partial(print, x)",
    "deque": "collections.deque([x])",
    "ordered": "collections.OrderedDict(a=x)",
    "slice": "slice(x)",
    "namespace": "types.SimpleNamespace(a=x)",
    "proxy": "types.MappingProxyType({'a': x})",
    "queue": "(queue.SimpleQueue(),); kept[0].put(x)",
    "local": "threading.local(); kept.a = x",
    "context": "contextvars.ContextVar('v'); kept.set(x)",
    "iterator": "itertools.chain([x])",
    "property": "property(x)",
    "alias": "types.GenericAlias(list, x)",
    "exception": "ValueError(x)",
    "cell": "types.CellType(x)",
    "default": "lambda a=x: a",
    "keyword": "lambda *, a=x: a",
    "globals": "types.FunctionType((lambda: 1).__code__, {'a': x})",
    "attribute": "lambda: 1; kept.a = x",
    "documentation": "lambda: 1; kept.__doc__ = x",
    "module": "lambda: 1; kept.__module__ = x",
    "annotation": "lambda: 1; kept.__annotations__ = {'a': x}",
    "cached": "functools.lru_cache(lambda a: 1); kept(x)",
    "constant": "lambda: 1; kept.__code__ = kept.__code__.replace(co_consts=(None, (x,)))",
    "list": "[1, x]",
    "set": "{x}",
    "key": "{x: 1}",
    "class": "type('C', (), {'a': x})",
    "slots": "type('C', (), {'__slots__': ('a',)})(); kept.a = x",
    "instance": "type('C', (), {})(); kept.a = x",
    "reference": "weakref.ref(print, functools.partial(print, x))",
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden(primed: User, tmp_path: Path, name: str) -> None:
    """Wherever an object with an end to see is held, it is found."""
    text = (
        "import json, collections, contextvars, functools, itertools, os, queue, threading, types, weakref\n"
        f"x = os.scandir('.'); next(x)\nkept = {HIDDEN[name]}\ndel x\nprint('made')\n"
    )
    result = end(primed, tmp_path / "run", text, env={"PYCDS_LOG": "1"})[0]
    assert result.stdout == "made\n"
    assert result.stderr.startswith("pycds-auto: active") and not shortened(result)[1]


# An extension module that isn't CPython's: an object of each kind says so when it ends.
FOREIGN = """
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <unistd.h>
#define SAY(text) if (write(1, text, sizeof(text) - 1)) {}
typedef struct { PyObject_HEAD PyObject *x; } thing;
static PyMemberDef members[] = {{"x", T_OBJECT, offsetof(thing, x), 0, NULL}, {0}};
static void module_free(void *module) { SAY("end of module") }
static void capsule_end(PyObject *capsule) { SAY("end of capsule") }
static void dealloc(PyObject *self) { PyTypeObject *type = Py_TYPE(self); SAY("end of thing") type->tp_free(self); Py_DECREF(type); }
static void static_dealloc(PyObject *self) { SAY("end of static") PyObject_Free(self); }
static void finalize(PyObject *self) { SAY("finalized") }
static int traverse(PyObject *self, visitproc visit, void *arg) { Py_VISIT(((thing *)self)->x); Py_VISIT(Py_TYPE(self)); return 0; }
static int clear(PyObject *self) { SAY("cleared") Py_CLEAR(((thing *)self)->x); return 0; }
static PyObject *make(PyType_Slot *slots, unsigned int flags)
{
    PyType_Spec spec = {"foreign.thing", sizeof(thing), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | flags, slots};
    PyObject *type = PyType_FromSpec(&spec), *object = PyObject_CallNoArgs(type);
    Py_DECREF(type);
    return object;
}
static PyTypeObject static_type = {PyVarObject_HEAD_INIT(NULL, 0) .tp_name = "dict", .tp_basicsize = sizeof(thing),
                                   .tp_flags = Py_TPFLAGS_DEFAULT, .tp_dealloc = static_dealloc};
static PyObject *of_kind(PyObject *module, PyObject *kind)
{
    PyType_Slot silent[] = {{0, NULL}}, loud[] = {{Py_tp_dealloc, dealloc}, {0, NULL}},
        last[] = {{Py_tp_finalize, finalize}, {Py_tp_members, members}, {Py_tp_traverse, traverse}, {0, NULL}},
        cycle[] = {{Py_tp_clear, clear}, {Py_tp_members, members}, {Py_tp_traverse, traverse}, {0, NULL}};
    switch (PyLong_AsLong(kind)) {
    case 1: return make(loud, 0);
    case 2: return make(last, Py_TPFLAGS_HAVE_GC);
    case 3: return make(cycle, Py_TPFLAGS_HAVE_GC);
    case 4: return PyCapsule_New(members, "foreign", capsule_end);
    case 5: return PyType_Ready(&static_type) < 0 ? NULL : (PyObject *)PyObject_New(thing, &static_type);
    default: return make(silent, 0);
    }
}
static PyMethodDef methods[] = {{"of_kind", of_kind, METH_O, NULL}, {0}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "foreign", NULL, 8, methods, NULL, NULL, NULL, module_free},
                          plain = {PyModuleDef_HEAD_INIT, "quiet", NULL, 0, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_foreign(void) { return PyModuleDef_Init(&definition); }
PyMODINIT_FUNC PyInit_quiet(void) { return PyModuleDef_Init(&plain); }
"""


def test_foreign_extension(primed: User, tmp_path: Path) -> None:
    include = primed.run("-c", "import sysconfig; print(sysconfig.get_path('include'))").stdout.strip()
    if not Path(include, "Python.h").exists():
        pytest.skip("no headers")
    for name in ("foreign", "quiet"):
        compiled_library(tmp_path / f"{name}.so", FOREIGN, f"-I{include}")
    start = f"import json, sys, threading\nsys.path.append({str(tmp_path)!r})\n"
    visible = {
        "import foreign": "end of module",
        "from quiet import of_kind as o; kept = o(1)": "end of thing",
        "from quiet import of_kind as o; kept = type('C', (type(o(1)),), {})()": "end of thing",
        "from quiet import of_kind as o; kept = o(2)": "finalized",
        "from quiet import of_kind as o; kept = o(3); kept.x = kept": "cleared",
        "from quiet import of_kind as o; kept = type('C', (type(o(3)),), {})(); kept.x = kept": "cleared",
        "from quiet import of_kind as o; kept = o(4)": "end of capsule",
        "from quiet import of_kind as o; kept = o(5)": "end of static",
        "from quiet import of_kind as o; kept = threading.local(); kept.x = o(5)": "end of static",
        "from quiet import of_kind as o; kept = o(5).__str__": "end of static",
    }
    for text, expected in {"import quiet": "", **visible}.items():
        plain = end(primed, tmp_path / "run", start + text, plain=True)[0]
        assert plain.returncode == 0 and expected in plain.stdout
        logged, left = shortened(end(primed, tmp_path / "run", start + text, env={"PYCDS_LOG": "1"})[0])
        same(logged, plain)
        assert left == (text == "import quiet"), text


@pytest.mark.parametrize("name", ["imports", "classes", "weak", "written", "global"])
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
        ((), {"LD_PRELOAD": "libm.so.6"}),
    ],
    ids=lambda value: (
        "-".join(value) if isinstance(value, tuple) else "".join(f"{key}={item}" for key, item in value.items())
    ),
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
