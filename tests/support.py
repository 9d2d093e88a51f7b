"""What the tests share: running a child interpreter, a user with a home of their own, trees of files with a known age."""

import ast
import contextlib
import difflib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent
PROBE = Path(__file__).resolve().parent / "probe.py"

# An hour ago, with a nanosecond part: older than the two seconds below which nothing is archived or trusted, and equal
# for all files of a tree, as in a container layer, so that no test leans on times that happen to differ.
OLD = (int(time.time()) - 3600) * 1_000_000_000 + 123_456_789

PATIENCE = 180.0  # seconds for one interpreter's run; the tools that aren't tests have more
DEADLINE = 90.0  # seconds; generous, for a loaded machine. Only a failing test waits this long.


class Result(NamedTuple):
    stdout: str
    stderr: str
    returncode: int


def environment(home: Path, **extra: str) -> dict[str, str]:
    """This process's environment without anything that steers Python or this package, and with another home."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "PYCDS_", "XDG_", "COVERAGE", "PYTEST_", "VIRTUAL_ENV", "__PYVENV"))
    }
    return kept | {"HOME": str(home)} | extra


def run(
    python: Path | str,
    *arguments: str | Path,
    env: dict[str, str],
    cwd: Path | None = None,
    input: str | None = None,
    code: int | None = 0,
    quiet: bool = True,
) -> Result:
    """Run an interpreter to its end. Unless told otherwise it must succeed and write nothing to stderr."""
    process = subprocess.run(
        [str(python), *map(str, arguments)],
        env=env,
        cwd=cwd,
        input=input,
        stdin=None if input is not None else subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=PATIENCE,
    )
    result = Result(process.stdout, process.stderr, process.returncode)
    if code is not None:
        told = f"exit {result.returncode}, not {code}\nstdout: {result.stdout}\nstderr: {result.stderr}"
        assert result.returncode == code, told
    if quiet:
        assert result.stderr == "", f"stderr is not empty: {result.stderr}"
    return result


def same(ours: Result, plain: Result) -> None:
    """Fail with the lines that differ from plain Python's, if any."""
    texts = [f"{result.stdout}\n--- stderr\n{result.stderr}".splitlines() for result in (plain, ours)]
    lines = difflib.unified_diff(*texts, "plain", "pycds", n=1, lineterm="")
    assert ours == plain, f"exit {ours.returncode}, plain {plain.returncode}\n" + "\n".join(lines)


def until(condition: Callable[[], object], what: str) -> object:
    """Poll until the condition holds and return its value; fail the test with `what` after the deadline."""
    end = time.monotonic() + DEADLINE
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {DEADLINE:.0f} s in vain: {what}"
        time.sleep(0.1)


def write(root: Path, files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def age(*roots: Path, moment: int = OLD) -> None:
    """Give everything in the trees, links and the roots themselves included, the same old modification time.

    Folders of modules get their __pycache__ before, as its creation would make them young again.
    """
    for root in roots:
        for folder, _, files in os.walk(root, topdown=False):
            if any(name.endswith(".py") for name in files):
                os.makedirs(os.path.join(folder, "__pycache__"), exist_ok=True)
            for name in files:
                os.utime(os.path.join(folder, name), ns=(moment, moment), follow_symlinks=False)
            os.utime(folder, ns=(moment, moment))


def age_folders(*roots: Path, moment: int = OLD) -> None:
    """As age(), but only the directories: a changed time of a source would make its pyc invalid."""
    for root in roots:
        for folder, _, _ in os.walk(root, topdown=False):
            os.utime(folder, ns=(moment, moment))


@dataclass(frozen=True)
class Observed:
    """A finished program that imported `probe`: its output and what it says of its modules."""

    result: Result
    active: bool
    reason: str | None
    hits: int
    misses: int
    stale: int
    loaders: dict[str, str]  # module name -> "archive" or the type of its loader

    def served(self) -> set[str]:
        return {name for name, loader in self.loaders.items() if loader == "archive"}

    def unserved(self) -> set[str]:
        """Modules with a source file that came the ordinary way."""
        return {name for name, loader in self.loaders.items() if loader == "SourceFileLoader"}


@dataclass
class User:
    """Someone who uses one interpreter of the machine: a home, and thereby a cache, of their own."""

    python: Path
    home: Path
    extra: dict[str, str] = field(default_factory=dict)

    def env(self, *, plain: bool = False, readonly: bool = False, **extra: str) -> dict[str, str]:
        wanted = dict(self.extra)
        if plain:
            wanted["PYCDS_DISABLE"] = "1"
        if readonly:
            wanted["PYCDS_READONLY"] = "1"
        return environment(self.home, **(wanted | extra))

    def run(
        self,
        *arguments: str | Path,
        plain: bool = False,
        readonly: bool = False,
        env: dict[str, str] | None = None,
        **keywords,
    ) -> Result:
        return run(self.python, *arguments, env=self.env(plain=plain, readonly=readonly, **(env or {})), **keywords)

    def observe(self, *arguments: str | Path, env: dict[str, str] | None = None, **keywords) -> Observed:
        """Run a program that imports probe and read its report."""
        self.home.mkdir(parents=True, exist_ok=True)
        report = self.home / f"report-{time.monotonic_ns()}"
        try:
            result = self.run(*arguments, env={"PROBE_REPORT": str(report)} | (env or {}), **keywords)
            told = ast.literal_eval(report.read_text())
        finally:
            report.unlink(missing_ok=True)
        return Observed(result=result, **told)

    def command(self, *arguments: str, **keywords) -> Result:
        return self.run("-m", "pycds_auto", *arguments, **keywords)

    def status(self, **env: str) -> dict:
        """`status --json`, asked so that the question itself changes nothing."""
        return json.loads(self.command("status", "--json", readonly=True, env=env).stdout)

    def build(self, *modules: str, options: tuple[str, ...] = (), **keywords) -> Result:
        """Fold what was recorded now, in place of a rebuilder in the background, which bides its time."""
        end_all_with(str(self.home))
        return self.run(*options, "-m", "pycds_auto", "build", *modules, quiet=False, **keywords)

    @property
    def cache(self) -> Path:
        return Path(self.extra.get("PYCDS_CACHE_DIR") or self.home / ".cache" / "pycds-auto")

    def folder(self) -> Path:
        """The one sub-folder of the cache, of this interpreter and venv."""
        (folder,) = self.cache.iterdir()
        return folder

    def image(self) -> Path:
        """The image of the variant without -O."""
        (image,) = self.folder().glob("image-0*")
        return image


def copy_repository(destination: Path) -> Path:
    """The working tree without what builds and tools leave in it; builds happen in the copy."""
    ignored = shutil.ignore_patterns(
        ".git", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyc", ".venv", "venv", ".*_cache", ".cache"
    )
    shutil.copytree(REPOSITORY, destination, ignore=ignored, symlinks=True)
    return destination


@dataclass
class Venv:
    python: Path
    home: Path  # pip's; its cache is shared by all venvs of the session
    has_pip: bool

    def pip(self, *arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Result:
        command = [self.python, "-m", "pip"] if self.has_pip else [sys.executable, "-m", "pip", "--python", self.python]
        return run(
            *command,
            *arguments,
            env=environment(self.home, **({"PYCDS_DISABLE": "1"} | (env or {}))),
            cwd=cwd or self.home,
            quiet=False,
        )

    @property
    def packages(self) -> Path:
        """site-packages"""
        (path,) = (self.python.parent.parent / "lib").glob("python3*/site-packages")
        return path


def make_venv(interpreter: Path, path: Path, home: Path, with_pip: bool = True) -> Venv:
    env = environment(home)
    has_pip = with_pip and run(interpreter, "-c", "import ensurepip", env=env, code=None, quiet=False).returncode == 0
    run(interpreter, "-m", "venv", *([] if has_pip else ["--without-pip"]), path, env=env, quiet=False)
    return Venv(path / "bin" / "python", home, has_pip)


def hand_made_venv(interpreter: Path, path: Path, *macros: str) -> Path:
    """A venv with this project, not by way of a wheel: a quarter of the time, and any interpreter will do. Returns its
    python. Needs a compiler and the interpreter's headers; the test is skipped without."""
    env = environment(path.parent)
    ask = "import sysconfig; print(sysconfig.get_path('include'), sysconfig.get_config_var('EXT_SUFFIX'), sep='\\n')"
    include, suffix = run(interpreter, "-c", ask, env=env).stdout.split()
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not Path(include, "Python.h").exists():
        import pytest  # the tools that share this file have no need of it

        pytest.skip(f"no compiler, or no headers for {interpreter}")
    run(interpreter, "-m", "venv", "--without-pip", path, env=env)
    (packages,) = (path / "lib").glob("python3*/site-packages")
    shutil.copytree(
        REPOSITORY / "src/pycds_auto", packages / "pycds_auto", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copy(REPOSITORY / "pycds_auto.pth", packages)
    for name in ("filelock", "platformdirs"):
        (package,) = importlib.util.find_spec(name).submodule_search_locations
        shutil.copytree(package, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    compile_extension(compiler, include, packages / "pycds_auto" / f"_loader{suffix}", *macros)
    return path / "bin" / "python"


def start_files(packages: Path) -> list[str]:
    """The names of our files at the root of a site-packages folder by which starts find us."""
    return sorted(path.name for path in packages.glob("pycds_auto*") if path.suffix in {".pth", ".start"})


def compile_extension(compiler: str, include: str, target: Path, *macros: str) -> None:
    flags = ["-shared", "-fPIC", "-O1", "-std=c11", "-D_GNU_SOURCE=1", "-fvisibility=hidden", f"-I{include}"]
    sources = sorted((REPOSITORY / "csrc").glob("*.c"))
    command = [compiler, *flags, *(f"-D{macro}" for macro in macros), *map(str, sources), "-o", str(target), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compiled_library(target: Path, source: str, *flags: str) -> Path:
    """A shared library made of C source, for LD_PRELOAD or to import; the test is skipped where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        import pytest

        pytest.skip("no compiler")
    command = [compiler, "-shared", "-fPIC", "-O1", *flags, "-x", "c", "-", "-o", str(target), "-ldl"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def end_all_with(mark: str) -> list[int]:
    """Kill what a test left running; the mark is a folder that only this test's processes know."""
    left = [pid for pid, _ in processes_with(mark)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def processes_with(mark: str) -> Iterable[tuple[int, list[str]]]:
    """(pid, command line) of every living process whose environment or command line contains the mark."""
    wanted = os.fsencode(mark)
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path("/proc", entry, "cmdline").read_bytes()
            if command and (wanted in command or wanted in Path("/proc", entry, "environ").read_bytes()):
                yield int(entry), [os.fsdecode(part) for part in command.rstrip(b"\0").split(b"\0")]
        except OSError:
            continue  # ended meanwhile
