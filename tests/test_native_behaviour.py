"""Code from a native archive behaves as unmarshalled code does: real processes, compared with PYCDS_DISABLE=1."""

import ast
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from native_programs import HEAD, LIBRARY, PROGRAMS
from support import PROBE, User, Venv, age, compile_extension, end_all_with, hand_made_venv, run, same, write

IMMORTAL = 1 << 28  # references; a code object of the archive has more (native_layout.h)

# Imports lib.subject again, which goes the ordinary way: times that a hit's module is not there at the end any more.
DROPPED = {"again": 1}
ANY_NUMBER_DROPPED = {"deletion"}

# Imported while something looks on, and therefore the ordinary way.
LOOKED_ON = {"settrace": {"lib.part1", "lib.part2"}, "setprofile": {"lib.part1"}, "monitoring": {"lib.part3"}}

NOTHING = "import probe\n"


@dataclass
class Stock:
    """The programs, and a user whose archive has all that they import."""

    user: User
    programs: Path
    dropped_at_start: int  # hits of modules that no longer are in sys.modules when a program that does nothing ends

    def program(self, name: str) -> Path:
        return self.programs / f"{name}.py"

    def compare(self, name: str, *options: str, **env: str) -> None:
        """The program's output is plain Python's, and all that it imported came from the archive."""
        plain = self.user.run(*options, self.program(name), plain=True, quiet=False, code=None, env=env)
        if plain.stdout == "came with 3.12\n":
            pytest.skip("sys.monitoring came with 3.12")
        observed = self.user.observe(*options, self.program(name), readonly=True, quiet=False, code=None, env=env)
        same(observed.result, plain)
        assert plain.returncode == (name == "tracebacks") and plain.stdout
        assert observed.reason is None and (observed.misses, observed.stale) == (0, 0)
        unserved = {name for name in observed.unserved() if name.startswith("lib.")}
        assert "lib.subject" in observed.served() and unserved == LOOKED_ON.get(name, set())
        if name not in ANY_NUMBER_DROPPED:
            assert observed.hits == len(observed.served()) + self.dropped_at_start + DROPPED.get(name, 0)

    def own(self, folder: Path, code: str) -> Path:
        """A program of a test's own beside the others."""
        path = folder / "own.py"
        path.write_text(HEAD + code)
        return path


def make_stock(python: Path, root: Path) -> Stock:
    programs = root / "programs"
    write(programs, LIBRARY | {f"{name}.py": text for name, text in PROGRAMS.items()})
    write(programs, {"probe.py": PROBE.read_text(), "nothing.py": NOTHING})
    age(programs)
    # Sets of strings are printed; where this is set, strings hash alike in both.
    user = User(python, root / "home", {"PYTHONHASHSEED": "0", "PYTHONPATH": str(programs)})
    user.home.mkdir()
    for name in PROGRAMS:
        user.run(programs / f"{name}.py", quiet=False, code=None)
    user.run("-X", "dev", "-c", "import probe, tracemalloc", quiet=False)
    user.build()
    end_all_with(str(root))
    status = user.status()
    assert status["reason"] is None and status["image"]["encoding"] == "native"
    observed = user.observe(programs / "nothing.py", readonly=True)
    assert observed.misses == 0 and "probe" in observed.served()
    return Stock(user, programs, observed.hits - len(observed.served()))


@pytest.fixture(scope="session")
def stock(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return make_stock(venv.python, tmp_path_factory.mktemp("native-behaviour"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(stock: Stock, name: str) -> None:
    stock.compare(name)


COUNTS = "import lib.subject as s\nprint(min(sys.getrefcount(code) for f in s.FUNCTIONS for code in codes(f)))\n"


def test_the_code_is_native(stock: Stock, tmp_path: Path) -> None:
    """The other tests would show nothing if it came from a pyc."""
    program = stock.own(tmp_path, COUNTS)
    assert (
        int(stock.user.run(program, readonly=True).stdout) > IMMORTAL > int(stock.user.run(program, plain=True).stdout)
    )


@pytest.mark.parametrize("name", ["deletion", "threads", "fork"])
@pytest.mark.parametrize("environment", ["PYTHONMALLOC=debug", "PYTHONMALLOC=malloc_debug", "PYTHONDEVMODE=1"])
def test_clean_exit(stock: Stock, name: str, environment: str) -> None:
    stock.compare(name, **dict([environment.split("=")]))


# ---- where the ordinary way is taken ----

STATS = """
def hits():
    loader = sys.modules.get("pycds_auto._loader")
    return loader.stats()["hits"] if loader else 0
def native(function):
    return sys.getrefcount(function.__code__) > 1 << 28
def tell(*words):
    if "pycds_auto._loader" in sys.modules and not sys.modules["os"].environ.get("PYCDS_DISABLE"):
        print(*words, file=sys.stderr)
"""

TRACED = """
import gc, tracemalloc
tracemalloc.start()
before = hits(), tracemalloc.get_traced_memory()[0]
import lib.subject, lib.part1, lib.part2
gc.collect()
print(tracemalloc.get_traced_memory()[0] - before[1])
tell(hits() - before[0], native(lib.subject.loop))
print(lib.subject.run(), lib.part1.value(), file=sys.stderr)
tracemalloc.stop()
import lib.part3, lib.part4
tell(hits() - before[0], native(lib.part3.value), lib.part4.value())
"""


@pytest.mark.parametrize("at_start", [False, True])
def test_tracemalloc(stock: Stock, tmp_path: Path, at_start: bool) -> None:
    """It would not see what is in the archive: what is imported while it traces comes the ordinary way, and is seen."""
    program = stock.own(tmp_path, STATS + TRACED)
    options = ["-X", "tracemalloc"] if at_start else []
    plain = stock.user.run(*options, program, plain=True, quiet=False)
    ours = stock.user.run(*options, program, readonly=True, quiet=False)
    traced, traced_plain = int(ours.stdout), int(plain.stdout)
    assert (
        0.95 * traced_plain < traced < 1.05 * traced_plain + 32768
    )  # folders that plain Python listed before are listed
    first, results, last = ours.stderr.splitlines()
    assert first == "0 False" and last.startswith("2 True (")
    assert results == plain.stderr.strip()


RELOADED = """
import importlib, lib.subject as s
before = hits()
tell(native(s.loop))
importlib.reload(s)
tell(native(s.loop), hits() - before)
del sys.modules["lib.subject"]
import lib.subject as again
tell(native(again.loop), hits() - before)
print(again.__loader__.get_code("lib.subject") == again.__loader__.get_code("lib.subject"), again.run() == s.run())
tell(hits() - before)
"""


def test_a_second_import_takes_the_ordinary_way(stock: Stock, tmp_path: Path) -> None:
    program = stock.own(tmp_path, STATS + RELOADED)
    plain, ours = stock.user.run(program, plain=True), stock.user.run(program, readonly=True, quiet=False)
    assert ours.stderr.splitlines() == ["True", "False 0", "False 0", "0"]
    assert ours.stdout == plain.stdout == "True True\n"


REPEATED = """
import gc
def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) << 12  # data: allocated, touched or not
def again():
    for name in [name for name in sys.modules if name.startswith("lib")]:
        del sys.modules[name]
    import lib.subject, lib.part1, lib.part2
    lib.subject.run()
for _ in range(40):
    again()
before = memory()
for _ in range(200):
    again()
print(memory() - before)
"""


def test_a_second_import_leaks_nothing(stock: Stock, tmp_path: Path) -> None:
    """One load of lib.subject takes some 40 KB of the arena; the allocator takes a megabyte at a time."""
    program = stock.own(tmp_path, REPEATED)
    ours, plain = int(stock.user.run(program, readonly=True).stdout), int(stock.user.run(program, plain=True).stdout)
    assert ours < max(plain, 0) + (3 << 20)


WATCHED = """
try:
    import _testcapi
    _testcapi.add_code_watcher
except (ImportError, AttributeError):
    print("no code watchers")
    sys.exit()
import email.message  # some modules were decoded before
def created():
    return _testcapi.get_code_watcher_num_created_events(watcher)
for name, next_name in ("part1", "part2"), ("part3", "part4"):
    watcher = _testcapi.add_code_watcher(0)
    before, seen = hits(), created()
    module = __import__("lib." + name, fromlist=["value"])
    print(module.value(), created() - seen)
    tell(hits() - before, native(module.value))
    _testcapi.clear_code_watcher(watcher)
    before = hits()
    module = __import__("lib." + next_name, fromlist=["value"])
    print(module.value())
    tell(hits() - before, native(module.value))
"""


@pytest.mark.parametrize("from_the_start", [False, True])
def test_code_watchers(stock: Stock, tmp_path: Path, from_the_start: bool) -> None:
    """Someone who watches code objects being made sees all of them: the ordinary way while there is a watcher."""
    code = WATCHED
    if from_the_start:  # before the first module of all is decoded
        code = code.replace("import email.message  # some modules were decoded before\n", "")
        code = code.replace("import probe\n", "")
        program = tmp_path / "own.py"
        program.write_text("import sys\n" + STATS + code)
    else:
        program = stock.own(tmp_path, STATS + code)
    plain = stock.user.run(program, plain=True)
    if plain.stdout == "no code watchers\n":
        pytest.skip("no _testcapi, or before 3.12")
    ours = stock.user.run(program, readonly=True, quiet=False)
    assert ours.stdout == plain.stdout
    assert ours.stderr.splitlines() == ["0 False", "1 True"] * 2


INTERPRETERS = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
run = getattr(interpreters, "exec", None) or interpreters.run_string
import lib.subject as s, lib.part1
tell(native(s.loop))
before = s.run()
script = '''
import sys
sys.path.insert(0, %r)
import lib.subject as s, lib.part1, lib.part2, json
print(s.run() == eval(%r), lib.part1.value()[1], json.dumps(1), flush=True)
loader = sys.modules.get("pycds_auto._loader")
if loader:
    print(loader.stats()["reason"], loader.stats()["hits"], sys.getrefcount(s.loop.__code__) > 1 << 28, file=sys.stderr, flush=True)
''' % (__import__("os").path.dirname(probe.__file__), repr(before))
for _ in range(3):
    one = interpreters.create()
    run(one, script)
    interpreters.destroy(one)
    print(s.run() == before)
import lib.part5
print(lib.part5.value(), s.run() == before)
tell(native(lib.part5.value))
"""


def test_subinterpreters(stock: Stock, tmp_path: Path) -> None:
    """They do without; what the main interpreter has from the archive outlives them."""
    program = stock.own(tmp_path, STATS + INTERPRETERS)
    plain = stock.user.run("-W", "ignore", program, plain=True, quiet=False)
    ours = stock.user.run("-W", "ignore", program, readonly=True, quiet=False)
    assert ours.stdout == plain.stdout and plain.stdout.count("True\n") >= 4
    told = ours.stderr.splitlines()
    assert told[0] == told[-1] == "True"
    assert all(line.startswith(("subinterpreter 0 False", "True")) for line in told), told


# ---- embedding ----

HOST = """
#include <Python.h>
int main(int count, char **arguments)
{
    for (int i = 0; i < 3; i++) {
        PyConfig config;
        PyConfig_InitPythonConfig(&config);
        PyConfig_SetBytesString(&config, &config.program_name, arguments[1]);
        PyStatus status = Py_InitializeFromConfig(&config);
        PyConfig_Clear(&config);
        if (PyStatus_Exception(status)) {
            Py_ExitStatusException(status);
        }
        FILE *file = fopen(arguments[2], "r");
        if (file == NULL || PyRun_SimpleFileEx(file, arguments[2], 1) != 0 || Py_FinalizeEx() != 0) {
            return 3;
        }
    }
    return 0;
}
"""

EMBEDDED = """
import gc, lib.subject as s, lib.part1, json, html.parser, argparse  # not datetime: 3.12.1 itself crashes at the second start
print(s.run() == s.run(), lib.part1.value(), json.dumps([1]), sorted(map(str, s.NUMBERS)))
print(len(s.run()), [s.TEXTS, s.NESTED], s.loop.__name__ is sys.intern("loop"))
gc.collect()
tell(native(s.loop), hits() > 20)
sys.stdout.flush()
"""


@pytest.mark.parametrize("allocator", ["default", "debug"])
def test_embedded_and_started_again(stock: Stock, tmp_path: Path, allocator: str) -> None:
    """A program that starts, ends and starts the interpreter anew in one process."""
    ask = "import sysconfig as s; print({name: s.get_config_var(name) for name in ('LIBDIR', 'LDLIBRARY', 'INCLUDEPY', 'Py_ENABLE_SHARED')})"
    settings = ast.literal_eval(stock.user.run("-c", ask, plain=True).stdout)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not settings["Py_ENABLE_SHARED"] or compiler is None or not Path(settings["INCLUDEPY"], "Python.h").exists():
        pytest.skip("no shared libpython, no compiler or no headers")
    write(tmp_path, {"host.c": HOST})
    host, library = tmp_path / "host", Path(settings["LIBDIR"], settings["LDLIBRARY"])
    command = [
        compiler,
        tmp_path / "host.c",
        f"-I{settings['INCLUDEPY']}",
        library,
        f"-Wl,-rpath,{settings['LIBDIR']}",
        "-o",
        host,
    ]
    subprocess.run(command, check=True)
    program = stock.own(tmp_path, STATS + EMBEDDED)
    results = [
        run(
            host,
            stock.user.python,
            program,
            env=stock.user.env(PYTHONMALLOC=allocator, plain=plain, readonly=not plain),
            quiet=plain,
        )
        for plain in (True, False)
    ]
    assert results[0].stdout == results[1].stdout and results[0].stdout.count("True") >= 3
    assert results[1].stderr == "True True\n" * 3


# ---- interpreters that are not among those of the other tests ----


@pytest.fixture(scope="session")
def debug_stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    for version in ("3.15", "3.14", "3.13", "3.12", "3.11"):
        interpreter = Path(f"/usr/bin/python{version}d")
        if interpreter.exists():
            root = tmp_path_factory.mktemp("debug")
            return make_stock(hand_made_venv(interpreter, root / "venv", "Py_DEBUG"), root)
    pytest.skip("no debug interpreter in /usr/bin")


@pytest.mark.parametrize("name", PROGRAMS)
def test_debug_interpreter(debug_stock: Stock, name: str) -> None:
    debug_stock.compare(name)


def test_debug_interpreter_counts_references(debug_stock: Stock) -> None:
    """At the end it gives everything back, and looks at what is left."""
    done = debug_stock.user.run("-X", "showrefcount", debug_stock.program("deletion"), readonly=True, quiet=False)
    assert re.fullmatch(r"\[-?\d+ refs, \d+ blocks\]\n", done.stderr)


# ---- the second encoding ----


def replace_extension(python: Path, *macros: str) -> None:
    """Installs the extension anew, as built with these macros."""
    ask = "import sysconfig as s, pycds_auto._loader as l; print([s.get_path('include'), l.__file__])"
    include, target = ast.literal_eval(run(python, "-c", ask, env={"PYCDS_DISABLE": "1"}).stdout)
    compile_extension(shutil.which("gcc") or shutil.which("cc"), include, Path(target + ".new"), *macros)
    os.replace(target + ".new", target)


@pytest.mark.one_interpreter
@pytest.mark.one_interpreter
def test_marshal_only_build_and_back(interpreter: Path, tmp_path: Path) -> None:
    """An interpreter whose layout a release doesn't know uses marshal; installations that follow each other in one
    environment replace each other's images, and nothing breaks in between."""
    python = hand_made_venv(interpreter, tmp_path / "venv")
    programs = tmp_path / "programs"
    write(
        programs,
        LIBRARY
        | {
            "probe.py": PROBE.read_text(),
            "own.py": HEAD + STATS + "import lib.subject as s, json\nprint(s.run())\ntell(native(s.loop))\n",
        },
    )
    age(programs, tmp_path / "venv")
    user = User(python, tmp_path / "home", {"PYTHONHASHSEED": "0", "PYTHONPATH": str(programs)})
    user.home.mkdir()
    program = programs / "own.py"
    plain = user.run(program, plain=True)

    def served(native: bool) -> bool:
        """Is all of it from the archive? Whether or not, the output is right."""
        observed = user.observe(program, quiet=False)
        assert observed.result.stdout == plain.stdout
        complete = "lib.subject" in observed.served() and observed.misses == 0 and observed.reason is None
        assert observed.result.stderr == f"{native and complete}\n"
        return complete and observed.hits >= len(observed.served())

    assert not served(native=True)
    user.build()
    assert served(native=True) and user.status()["image"]["encoding"] == "native"

    replace_extension(python, "PYCDS_MARSHAL_ONLY")
    why = "how this interpreter lays out code objects is not known to this release"
    assert not served(native=False)
    assert user.observe(program, quiet=False).reason == why
    user.build()
    status = user.status()
    assert status["image"]["encoding"] == "marshal" and status["reason"] is None
    assert f"marshal encoding (not native: {why})" in user.command("status", readonly=True).stdout
    assert served(native=False)
    modules = status["image"]["modules"]

    replace_extension(python)
    assert served(native=False)  # marshal's form is as good as ever
    user.build()
    status = user.status()
    assert status["image"]["encoding"] == "native" and status["reason"] is None
    assert abs(status["image"]["modules"] - modules) < 10
    assert served(native=True)
