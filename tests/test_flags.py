"""Interpreter options: the output is plain Python's with every one of them, and most of them use the image."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from support import PROBE, User, age, same, write

PROGRAM = '''\
"""The program's docstring."""
import probe
import csv, decimal, email.message, sys
import lib.checked, lib.m
probe.describe(lib.checked)
probe.describe(lib.m)
probe.attempt("import lib.m; lib.m.function(0)")
probe.attempt("import lib.faulty")
print(__doc__, lib.checked.asserted, lib.checked.function.__doc__, csv.__doc__ is None, sys.flags)
print(sys.path[0] == "", [entry for entry in sys.path if "programs" in entry])
'''
LIBRARY = {
    "lib/__init__.py": '"""A package."""\n',
    "lib/m.py": "def function(divisor):\n    return (1 +\n            2 / divisor)\n",
    "lib/faulty.py": "import lib.m\nlib.m.function(divisor=0)\n",
    "lib/checked.py": (
        '"""Asserts."""\nasserted = False\ntry:\n    assert False\nexcept AssertionError:\n    asserted = True\n'
        'def function():\n    """Documented."""\n'
    ),
}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests that don't change it: once its files are two seconds old, no build waits for them."""
    folder = tmp_path_factory.mktemp("flags") / "programs"
    write(folder, LIBRARY | {"app.py": PROGRAM, "probe.py": PROBE.read_text()})
    age(folder)
    time.sleep(2.1)
    return folder / "app.py"


@pytest.fixture
def own_program(programs: Path) -> Path:
    write(programs, LIBRARY | {"app.py": PROGRAM})
    age(programs)
    return programs / "app.py"


# Options that leave the program's folder out of sys.path need it put there.
BOOT = """\
import sys
sys.path.insert(0, {folder!r})
with open({file!r}) as file:
    text = file.read()
exec(compile(text, {file!r}, "exec"))
"""

# option -> does the image serve such a process?
OPTIONS = {
    (): True,
    ("-O",): True,
    ("-OO",): True,
    ("-S",): False,  # no site, no .pth
    ("-I",): True,
    ("-E",): True,
    ("-s",): True,
    ("-P",): True,
    ("-B",): True,
    ("-b",): True,
    ("-q",): True,
    ("-u",): True,
    ("-X", "no_debug_ranges"): True,
    ("-X", "utf8"): True,
    ("-X", "dev"): True,
    ("-X", "frozen_modules=off"): True,
    ("-W", "error"): True,
    ("-I", "-O"): True,
    ("-I", "-S"): False,
}


def arguments(options: tuple[str, ...], program: Path) -> list[str]:
    return [*options, "-c", BOOT.format(folder=str(program.parent), file=str(program))]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_option(user: User, program: Path, options: tuple[str, ...]) -> None:
    plain = user.run(*arguments(options, program), plain=True)
    first = user.observe(*arguments(options, program))
    assert first.result == plain and first.hits == 0
    user.build(options=options, code=None if "-S" in options else 0)
    second = user.observe(*arguments(options, program), readonly="-I" not in options and "-E" not in options)
    assert second.result == plain
    assert second.active is OPTIONS[options]
    if OPTIONS[options]:
        assert second.misses == 0 and second.stale == 0
        assert {"lib", "lib.m", "lib.checked", "decimal", "csv"} <= second.served()
    else:
        assert not second.served() and second.hits == 0
        assert not user.cache.exists()


def test_tracemalloc_sees_all(user: User, program: Path) -> None:
    """It has to know who allocated what: an import under it goes the ordinary way, image or not."""
    user.run(program)
    user.build()
    option = ("-X", "tracemalloc")
    observed = user.observe(*arguments(option, program), readonly=True)
    assert observed.result == user.run(*arguments(option, program), plain=True)
    assert observed.active and not observed.served() and observed.hits == 0


def test_variants_do_not_mix(user: User, program: Path) -> None:
    """Code for one optimisation never serves another; three of them lie side by side."""
    options = [(), ("-O",), ("-X", "no_debug_ranges")]
    for option in options:
        user.run(*option, program)
        user.build(options=option)
    outputs = set()
    for option in options:
        observed = user.observe(*option, program, readonly=True)
        assert observed.result == user.run(*option, program, plain=True)
        assert "lib.checked" in observed.served()
        outputs.add(observed.result.stdout)
    assert len(outputs) == len(options)
    assert len(list(user.folder().glob("image-*"))) == 3


def test_a_fourth_variant_gets_no_image(user: User, program: Path) -> None:
    """At most six files lie there at rest; the ordinary variant always has its place."""
    first, fourth, *others = [("-X", "no_debug_ranges"), (), ("-O",), ("-OO",)]
    for option in (first, *others):
        user.run(*option, program)
        user.build(options=option)
        assert "lib.m" in user.observe(*option, program, readonly=True).served()
    extra = ("-O", "-X", "no_debug_ranges")
    same(user.run(*extra, program), user.run(*extra, program, plain=True))
    user.build(options=extra, code=None)
    observed = user.observe(*extra, program, readonly=True)
    assert not observed.served() and observed.reason
    user.run(*fourth, program)
    user.build(options=fourth)
    assert "lib.m" in user.observe(*fourth, program, readonly=True).served()
    assert len(list(user.folder().glob("image-*"))) == 3
    assert len(list(user.folder().iterdir())) <= 6


def test_image_of_one_variant_does_not_serve_another(user: User, program: Path) -> None:
    user.run(program)
    user.build()
    for option in (("-O",), ("-OO",)):
        observed = user.observe(*option, program, readonly=True)
        assert observed.hits == 0 and not observed.served()
        assert observed.result == user.run(*option, program, plain=True)


@pytest.mark.parametrize(
    "setting",
    ["PYTHONOPTIMIZE=1", "PYTHONNODEBUGRANGES=1", "PYTHONSAFEPATH=1", "PYTHONUTF8=1", "PYTHONDONTWRITEBYTECODE=1"],
)
def test_environment_variable(user: User, program: Path, setting: str) -> None:
    """Python's own variables work as the options do."""
    name, _, value = setting.partition("=")
    user.extra[name] = value
    plain = user.run(*arguments((), program), plain=True)
    user.run(*arguments((), program))
    user.build()
    observed = user.observe(*arguments((), program), readonly=True)
    assert observed.result == plain and "lib.m" in observed.served() and observed.misses == 0


@pytest.mark.parametrize("way", ["option", "variable"])
def test_pycache_prefix(user: User, program: Path, tmp_path: Path, way: str) -> None:
    """__cached__ follows the prefix of the process, not of the one that the archive learned from."""
    user.run(program)
    user.build()
    options = ["-X", f"pycache_prefix={tmp_path}/pycs"] if way == "option" else []
    env = {"PYTHONPYCACHEPREFIX": f"{tmp_path}/pycs"} if way == "variable" else {}
    plain = user.run(*options, program, plain=True, env=env)
    observed = user.observe(*options, program, readonly=True, env=env)
    assert observed.result == plain
    assert f"{tmp_path}/pycs" in plain.stdout


@pytest.mark.parametrize("option", ["-E", "-I"])
def test_our_variables_are_ignored(user: User, own_program: Path, tmp_path: Path, option: str) -> None:
    """As Python's are, except the one that switches us off."""
    elsewhere = tmp_path / "elsewhere"
    ignored = {
        "PYCDS_CACHE_DIR": str(elsewhere),
        "PYCDS_LOG": "1",
        "PYCDS_VALIDATE": "trust",
        "PYCDS_SKIP": "importlib",
    }
    user.run(*arguments((option,), own_program), env=ignored)
    user.build(options=(option,), env=ignored)
    assert not elsewhere.exists() and user.image().is_file()
    observed = user.observe(*arguments((option,), own_program), env=ignored | {"PYCDS_READONLY": "1"})
    assert "lib.m" in observed.served() and observed.misses == 0
    (own_program.parent / "lib/m.py").write_text("def function(divisor):\n    return 'edited'\n")
    edited = user.observe(*arguments((option,), own_program), env=ignored)
    assert edited.result == user.run(*arguments((option,), own_program), plain=True)
    disabled = user.observe(*arguments((option,), own_program), env={"PYCDS_DISABLE": "1"})
    assert disabled.hits == 0 and not disabled.active


def test_log(user: User, program: Path) -> None:
    """PYCDS_LOG=1: reasons and a summary on stderr, at exit, and stdout as ever."""
    plain = user.run(program, plain=True)
    first = user.run(program, env={"PYCDS_LOG": "1"}, quiet=False)
    assert first.stdout == plain.stdout and "pycds" in first.stderr and "no archive" in first.stderr
    user.build()
    second = user.run(program, env={"PYCDS_LOG": "1"}, quiet=False)
    assert second.stdout == plain.stdout and re.search(r"hits\W*\d\d", second.stderr), second.stderr
    assert user.run(program, env={"PYCDS_LOG": "0"}).stderr == ""


def test_unknown_names_are_told(user: User) -> None:
    """A misspelt setting is no error, since another release may know it, but `status` says so."""
    for value, told in {"": False, "gc, re": False, "gc,,re": False, "bogus": True, "gc,reg": True, "GC": True}.items():
        assert ("means nothing" in user.command("status", env={"PYCDS_SKIP": value}).stdout) == told, value
    assert "PYCDS_VALIDATE=no means nothing" in user.command("status", env={"PYCDS_VALIDATE": "no"}).stdout


def test_trust(user: User, own_program: Path) -> None:
    """PYCDS_VALIDATE=trust: files are not checked; anything else means stat."""
    user.run(own_program)
    user.build()
    changed = (
        (own_program.parent / "lib/checked.py")
        .read_text()
        .replace("asserted = False", "asserted = 77   ")
        .replace("= True", "= 77  ")
    )
    (own_program.parent / "lib/checked.py").write_text(changed)
    plain = user.run(own_program, plain=True)
    assert "77" in plain.stdout
    trusting = user.observe(own_program, readonly=True, env={"PYCDS_VALIDATE": "trust"})
    assert "77" not in trusting.result.stdout and "lib.checked" in trusting.served()
    for value in ("stat", "", "nonsense"):
        assert user.run(own_program, readonly=True, env={"PYCDS_VALIDATE": value}) == plain


def imported(stderr: str, pattern: str) -> list[str]:
    names = re.findall(pattern, stderr, re.M)
    return [name for name in names if not name.strip().startswith("pycds_auto")]


def test_importtime(user: User, program: Path) -> None:
    """The same modules, nested in the same way."""
    # the report of each module, innermost first: "import time:   123 |   456 |   name"
    pattern = r"^import time:\s+\d+ \|\s+\d+ \| (.*)$"
    user.run(program)
    user.build()
    plain = user.run("-X", "importtime", program, plain=True, quiet=False)
    ours = user.run("-X", "importtime", program, readonly=True, quiet=False)
    assert ours.stdout == plain.stdout
    assert imported(ours.stderr, pattern) == imported(plain.stderr, pattern)
    assert len(imported(plain.stderr, pattern)) > 50
    observed = user.observe("-X", "importtime", program, readonly=True, quiet=False)
    assert observed.misses == 0 and "lib.m" in observed.served()


def test_importtime_of_what_is_there(user: User, program: Path) -> None:
    """Since 3.14 there is a level that names what is imported again, too: also for a file that importlib reads."""
    if user.run("-c", "import sys; print(sys.version_info >= (3, 14))", plain=True).stdout == "False\n":
        pytest.skip("3.14 brought -X importtime=2")
    user.run(program)
    user.build()
    plain = user.run("-X", "importtime=2", program, plain=True, quiet=False)
    ours = user.run("-X", "importtime=2", program, readonly=True, quiet=False)
    assert ours.stdout == plain.stdout
    pattern = r"^import time: +cached +\| +cached +\| (.*)$"
    more = Counter(imported(ours.stderr, pattern))
    more.subtract(Counter(imported(plain.stderr, pattern)))
    assert {name: count for name, count in more.items() if count} == {"_imp": 1}  # our .pth file's
    assert len(imported(plain.stderr, pattern)) > 50


def test_verbose(user: User, program: Path) -> None:
    """-v reports each module that was imported and each that is cleaned up; how a loader calls itself may differ."""
    user.run(program)
    user.build()
    plain = user.run("-v", program, plain=True, quiet=False)
    ours = user.run("-v", program, readonly=True, quiet=False)
    assert ours.stdout == plain.stdout
    pattern = r"^import '?([\w.]+)'? # "
    assert sorted(imported(ours.stderr, pattern)) == sorted(imported(plain.stderr, pattern))
    assert len(imported(plain.stderr, pattern)) > 50
    assert "lib.m" in imported(ours.stderr, pattern)


def test_module_option(user: User, own_program: Path) -> None:
    """python -m: runpy asks the loader for the code."""
    write(
        own_program.parent,
        {
            "pack/__init__.py": "VALUE = 1\n",
            "pack/__main__.py": "import sys, lib.m, pack\nprint(__name__, __spec__.name, __file__, globals().get('__cached__'), pack.VALUE, sys.argv)\nlib.m.function(0)\n",
        },
    )
    age(own_program.parent)
    keywords = {"cwd": own_program.parent, "code": 1, "quiet": False}
    plain = user.run("-m", "pack", "x", plain=True, **keywords)
    assert "ZeroDivisionError" in plain.stderr and plain.stdout
    user.run("-m", "pack", "x", **keywords)
    user.build()
    assert user.run("-m", "pack", "x", readonly=True, **keywords) == plain
    user.run("-m", "lib.checked", cwd=own_program.parent)
    user.build()
    assert user.run("-m", "lib.checked", readonly=True, cwd=own_program.parent) == user.run(
        "-m", "lib.checked", plain=True, cwd=own_program.parent
    )


def test_traceback_of_the_program(user: User, own_program: Path) -> None:
    """An uncaught exception out of archived code, with columns, through several modules."""
    failing = own_program.with_name("failing.py")
    write(own_program.parent, {"failing.py": "import decimal, lib.faulty\n"})
    age(own_program.parent)
    plain = user.run(failing, plain=True, code=1, quiet=False)
    assert plain.stderr.count("File ") == 3
    user.run(failing, code=1, quiet=False)
    user.build()
    assert user.run(failing, readonly=True, code=1, quiet=False) == plain
    assert user.run("-X", "no_debug_ranges", failing, readonly=True, code=1, quiet=False) == user.run(
        "-X", "no_debug_ranges", failing, plain=True, code=1, quiet=False
    )


def test_interactive_and_stdin(user: User, program: Path) -> None:
    """A program from stdin, with sys.path[0] the current folder."""
    text = "import lib.m, decimal\nprint(lib.m.__file__, decimal.Decimal(1))\n"
    keywords = {"input": text, "cwd": program.parent}
    plain = user.run("-", plain=True, **keywords)
    user.run("-", **keywords)
    user.build()
    assert user.run("-", readonly=True, **keywords) == plain
    plain = user.run("-i", plain=True, quiet=False, **keywords)
    assert user.run("-i", readonly=True, quiet=False, **keywords) == plain
