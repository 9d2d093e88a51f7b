"""Surroundings that give the cache no place, no room, or no right: programs run as plain Python's, and nothing is left behind.

Elsewhere: a cache folder that is a file, a link, missing, others' or writable by others, and RLIMIT_FSIZE (test_bad_input.py);
closed streams, descriptors (test_processes.py); processes that end without an exit (test_lifecycle.py); the options and
variables of Python (test_flags.py).
"""

import contextlib
import ctypes
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import PATIENCE, Result, User, Venv, environment, processes_with, run, same, until
from test_bad_input import Stock, as_root

pytestmark = pytest.mark.one_interpreter

STRANGER = 54321  # a user id without an entry in the password database


@pytest.fixture(scope="session")
def stock(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(venv, tmp_path_factory.mktemp("surroundings"))


@pytest.fixture
def own(stock: Stock, tmp_path: Path) -> User:
    """A user with a copy of the archive."""
    return stock.copy(tmp_path / "home")


@pytest.fixture
def newcomer(stock: Stock, tmp_path: Path) -> User:
    """A user with an empty home."""
    home = tmp_path / "empty"
    home.mkdir()
    return User(stock.user.python, home)


# Imports what the archive has, and tells what is mapped of it.
MAPPED = "import csv, decimal, email.message, sys; print(sum('.pycds' in line for line in open('/proc/self/maps')))"


def mapped(result: Result) -> int:
    assert result.returncode == 0 and result.stderr == "", result
    return int(result.stdout)


def snapshot(*roots: Path) -> dict[str, tuple]:
    """Everything in the trees that a write would change."""
    told = {}
    for root in roots:
        for path in [root, *root.rglob("*")]:
            status = path.lstat()
            told[str(path)] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                status.st_ino,
            )
    return told


def nothing_was_started(user: User) -> None:
    """A rebuilder lives two seconds and more, and its start comes before the end of the program that starts it."""
    assert not list(processes_with(str(user.home)))


# ---- who may what ----


def stranger(*command: str | Path, env: dict[str, str], cwd: Path | None = None) -> Result:
    """Runs a command as an ordinary user. Root's interpreter may be read, that is all that is special."""
    if shutil.which("setpriv") is None or os.geteuid() != 0:
        pytest.skip("needs root and setpriv")
    who = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return run("setpriv", *who, *reading, *command, env=env, cwd=cwd, code=None, quiet=False)


def give(*roots: Path, to: int = STRANGER) -> None:
    for root in roots:
        for path in [root, *root.rglob("*")]:
            os.chown(path, to, to, follow_symlinks=False)


def as_stranger(user: User, stock: Stock, **env: str) -> None:
    """The program, and the same with plain Python."""
    result = stranger(user.python, stock.program, env=user.env(**env))
    same(result, stranger(user.python, stock.program, env=user.env(plain=True, **env)))
    assert result == stock.plain


@as_root
def test_a_stranger_is_served_by_their_own_cache(stock: Stock, own: User) -> None:
    """What the tests below rest on: such a user is a user as any other."""
    give(own.home)
    as_stranger(own, stock)
    assert mapped(stranger(own.python, "-c", MAPPED, env=own.env())) > 0
    assert not own.status()["active"], "root uses it"


@as_root
@pytest.mark.parametrize("mode", [0o500, 0o100, 0o000])
def test_folder_that_cannot_be_written(stock: Stock, own: User, mode: int) -> None:
    """It serves if it can be read, is not written to, and no one tries for long."""
    give(own.home)
    own.folder().chmod(mode)
    before = snapshot(own.home)
    as_stranger(own, stock)
    result = stranger(own.python, "-c", "import wave, colorsys", env=own.env())
    assert result == ("", "", 0)
    nothing_was_started(own)
    assert snapshot(own.home) == before


@as_root
@pytest.mark.parametrize("what", ["home", ".cache", ".cache/pycds-auto"])
def test_folder_that_cannot_be_made(stock: Stock, newcomer: User, what: str) -> None:
    place = newcomer.home if what == "home" else newcomer.home / what
    place.mkdir(parents=True, exist_ok=True)
    give(newcomer.home)
    place.chmod(0o500)
    before = snapshot(newcomer.home)
    as_stranger(newcomer, stock)
    nothing_was_started(newcomer)
    status = json.loads(stranger(newcomer.python, "-m", "pycds_auto", "status", "--json", env=newcomer.env()).stdout)
    assert status["active"] is False and status["reason"]
    build = stranger(newcomer.python, "-m", "pycds_auto", "build", env=newcomer.env())
    assert build.returncode == 2 and build.stderr.startswith("pycds-auto: ") and "Traceback" not in build.stderr
    assert snapshot(newcomer.home) == before


@as_root
@pytest.mark.parametrize("home", [None, "", "/", "/nonexistent", "relative"])
def test_no_home(stock: Stock, newcomer: User, tmp_path: Path, home: str | None) -> None:
    """As containers have it, for a user without an entry in the password database."""
    here = tmp_path / "here"
    here.mkdir()
    give(here)
    env = {key: value for key, value in newcomer.env().items() if key != "HOME"} | (
        {} if home is None else {"HOME": home}
    )
    result = stranger(newcomer.python, stock.program, env=env, cwd=here)
    same(result, stock.plain)
    told = stranger(newcomer.python, "-c", "import pycds_auto; print(pycds_auto.stats()['reason'])", env=env, cwd=here)
    assert told.stdout.startswith("no archive yet" if home in ("/", "/nonexistent") else "no cache folder")
    assert not any(here.iterdir()) and not any(
        Path("/", name).exists() for name in (".cache/pycds-auto", "nonexistent")
    )


@as_root
def test_root_with_a_users_home(stock: Stock, own: User, newcomer: User) -> None:
    """sudo that keeps HOME: the user's image isn't root's, and root leaves no files that the user could not write."""
    assert mapped(own.run("-c", MAPPED, readonly=True)) > 0
    give(own.home, newcomer.home)
    assert mapped(own.run("-c", MAPPED, readonly=True)) == 0
    for user in (own, newcomer):
        before = snapshot(user.home)
        same(user.run(stock.program), stock.plain)
        nothing_was_started(user)
        assert "belongs to another user" in user.command("build", code=2, quiet=False).stderr
        assert snapshot(user.home) == before


@as_root
@pytest.mark.parametrize("ids", ["user", "group"])
def test_set_uid_program(stock: Stock, own: User, newcomer: User, ids: str) -> None:
    """A program with root's rights, started by somebody else, who chooses its environment: as after the exec of a file
    with the set-user-id or set-group-id bit."""

    def become() -> None:
        if ids == "user":
            os.setresuid(STRANGER, 0, 0)
        else:
            os.setresgid(STRANGER, 0, 0)

    def privileged(*arguments: str | Path, env: dict[str, str]) -> Result:
        done = subprocess.run(
            [own.python, *arguments], env=env, preexec_fn=become, capture_output=True, text=True, timeout=PATIENCE
        )
        return Result(done.stdout, done.stderr, done.returncode)

    assert mapped(own.run("-c", MAPPED, readonly=True)) > 0
    same(privileged(stock.program, env=own.env()), stock.plain)
    assert mapped(privileged("-c", MAPPED, env=own.env())) == 0
    assert mapped(privileged("-c", MAPPED, env=newcomer.env(PYCDS_CACHE_DIR=str(own.cache)))) == 0
    before = snapshot(own.home, newcomer.home)
    for user in (own, newcomer):
        same(
            privileged(stock.program, env=user.env(PYCDS_LOG="1", PYCDS_CACHE_DIR=str(user.home / "cache"))),
            stock.plain,
        )
        nothing_was_started(user)
    assert snapshot(own.home, newcomer.home) == before


# ---- file systems ----


@contextlib.contextmanager
def mounted(target: Path, kind: str, options: str) -> Iterator[None]:
    """A real file system; the test is skipped where none may be mounted."""
    target.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", options, "pycds-test", str(target)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def remount(target: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(target)], check=True)


def fill(folder: Path) -> Path:
    """A file with all the space that is left."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
            file.flush()
    return path


@as_root
def test_file_system_that_becomes_full(stock: Stock, newcomer: User) -> None:
    """The rebuilder's file does not fit: it goes, the misses stay, and no run after it tries again at once."""
    with mounted(newcomer.cache.parent, "tmpfs", "size=400k"):
        same(newcomer.run(stock.program), stock.plain)
        assert list(processes_with(str(newcomer.home))), "no rebuilder was started: the test shows nothing"
        until(lambda: not list(processes_with(str(newcomer.home))), "the rebuilder does not end")
        files = {file.name for file in newcomer.folder().iterdir()}
        assert files <= {"misses.spool", "misses.folding", "lock", "state.json"}, files
        status = newcomer.status()
        assert "No space left" in status["last_rebuild"]["result"] and status["pending_misses"] > 20
        same(newcomer.run(stock.program), stock.plain)
        nothing_was_started(newcomer)
        failed = newcomer.command("build", code=2, quiet=False)
        assert failed.stderr.startswith("pycds-auto: ") and "Traceback" not in failed.stderr
        assert {file.name for file in newcomer.folder().iterdir()} <= files
        remount(newcomer.cache.parent, "size=40m")
        newcomer.build()
        observed = newcomer.observe(stock.program, readonly=True)
        assert observed.misses == 0 and "lib.m" in observed.served()


@as_root
@pytest.mark.parametrize("options", ["size=64k", "size=1m,nr_inodes=3", "size=1m,nr_inodes=4"])
def test_file_system_that_is_full(stock: Stock, newcomer: User, options: str) -> None:
    """Of bytes, or of files: not even the spool can be written."""
    newcomer.cache.parent.mkdir()
    with mounted(newcomer.cache.parent, "tmpfs", options):
        filling = fill(newcomer.cache.parent)
        for _ in range(2):
            same(newcomer.run(stock.program), stock.plain)
            nothing_was_started(newcomer)
        assert sum(path.stat().st_size for path in newcomer.cache.rglob("*") if path.is_file()) == 0
        assert "Traceback" not in newcomer.command("build", code=None, quiet=False).stderr
        filling.unlink()


@as_root
@pytest.mark.parametrize("with_image", [True, False])
def test_read_only_file_system(stock: Stock, own: User, newcomer: User, with_image: bool) -> None:
    """As a container's root: an archive in it serves, and nothing more is asked."""
    user = own if with_image else newcomer
    subprocess.run(["mount", "--bind", user.home, user.home], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", user.home], check=True)
        before = snapshot(user.home)
        same(user.run(stock.program), stock.plain)
        assert (mapped(user.run("-c", MAPPED)) > 0) is with_image
        assert user.run("-c", "import wave, colorsys").returncode == 0
        nothing_was_started(user)
        assert snapshot(user.home) == before
        failed = user.command("build", code=2, quiet=False)
        assert failed.stderr.startswith("pycds-auto: ") and "Traceback" not in failed.stderr
    finally:
        subprocess.run(["umount", "-l", user.home], check=True)


# ---- limits ----


def limited(user: User, limits: dict[int, int], *arguments: str | Path, plain: bool = False) -> Result:
    def lower() -> None:
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))

    done = subprocess.run(
        [user.python, *arguments], env=user.env(plain=plain), preexec_fn=lower, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=PATIENCE,
    )  # fmt: skip
    return Result(done.stdout, done.stderr, done.returncode)


@pytest.mark.parametrize("descriptors", range(3, 9))
def test_few_descriptors(stock: Stock, own: User, newcomer: User, descriptors: int) -> None:
    """So few that the interpreter itself may not start."""
    limits = {resource.RLIMIT_NOFILE: descriptors}
    plain = limited(own, limits, stock.program, plain=True)
    assert plain.returncode == 0 or descriptors < 6  # setuptools has a .pth file, too, in venvs of 3.11
    for user in (own, newcomer):
        same(limited(user, limits, stock.program), plain)


@pytest.mark.parametrize("kind", ["AS", "DATA"])
def test_little_memory(stock: Stock, own: User, newcomer: User, kind: str) -> None:
    """The address space belongs to the program."""
    limits = {getattr(resource, f"RLIMIT_{kind}"): 200 * 1024 * 1024}
    before = snapshot(own.home, newcomer.home)
    for user in (own, newcomer):
        same(limited(user, limits, stock.program), stock.plain)
        nothing_was_started(user)
    assert mapped(limited(own, limits, "-c", MAPPED)) == 0 < mapped(own.run("-c", MAPPED, readonly=True))
    assert snapshot(own.home, newcomer.home) == before


def test_no_further_process(stock: Stock, newcomer: User) -> None:
    """RLIMIT_NPROC: there can be no rebuilder. (Root has no such limit.)"""
    if os.geteuid() == 0:
        give(newcomer.home)
        code = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1)); runpy.run_path({str(stock.program)!r})"
        result = stranger(newcomer.python, "-c", code, env=newcomer.env(PYTHONPATH=str(stock.program.parent)))
    else:
        result = limited(newcomer, {resource.RLIMIT_NPROC: 1}, stock.program)
    same(result, stock.plain)
    nothing_was_started(newcomer)
    assert newcomer.cache.exists()


# ---- confined programs ----

# A system call filter as programs give themselves: what is named ends the process. Plain Python's end needs none of it.
CONFINE = """\
import ctypes, struct, sys
def confine(*forbidden):
    # seccomp(2): load the number, compare with each, kill or allow
    program = struct.pack("HBBI", 0x20, 0, 0, 0)
    for place, number in enumerate(forbidden):
        program += struct.pack("HBBI", 0x15, len(forbidden) - place, 0, number)
    program += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000) + struct.pack("HBBI", 0x06, 0, 0, 0x80000000)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()
"""
NUMBERS = {
    "x86_64": {"stat": 4, "lstat": 6, "vfork": 58, "fork": 57, "execve": 59, "newfstatat": 262, "statx": 332, "prctl": 157, "openat": 257, "getpid": 39, "flock": 73, "setsid": 112},
    "aarch64": {"execve": 221, "newfstatat": 79, "statx": 291, "prctl": 167, "openat": 56, "getpid": 172, "flock": 32, "setsid": 157},
}  # fmt: skip


def numbers(*names: str) -> str:
    known = NUMBERS.get(os.uname().machine) or pytest.skip("system call numbers not known")
    return ", ".join(str(known[name]) for name in names if name in known)


def confined(program: Path, names: str) -> str:
    folder = str(program.parent)
    return f"{CONFINE}sys.path.insert(0, {folder!r})\nexec(open({str(program)!r}).read())\nsys.stdout.flush()\nconfine({names})\n"


def test_program_that_confines_itself(stock: Stock, newcomer: User) -> None:
    """It may start no process any more: no rebuilder, and no signal for having tried."""
    code = confined(stock.program, numbers("vfork", "fork", "execve", "flock", "setsid", "openat"))
    plain = newcomer.run("-c", code, plain=True)
    assert plain == stock.plain
    same(newcomer.run("-c", code), plain)
    nothing_was_started(newcomer)
    assert newcomer.status()["pending_misses"] > 20


def test_confined_program_that_missed_nothing(stock: Stock, own: User) -> None:
    """Its end asks the system nothing at all that plain Python's would not."""
    questions = numbers(
        "vfork", "fork", "execve", "flock", "prctl", "stat", "lstat", "newfstatat", "statx", "openat", "getpid"
    )
    code = confined(stock.program, questions)
    own.run("-c", f"{CONFINE}import os; os._exit(0)")
    own.build()
    plain = own.run("-c", code, plain=True)
    assert plain == stock.plain
    same(own.run("-c", code), plain)


def test_confined_from_the_start(stock: Stock, own: User, newcomer: User) -> None:
    """A container's filter, under which everything starts: some calls fail. There is an archive nevertheless, or none."""
    code = CONFINE.replace("0x80000000", "0x00050001") + (  # SECCOMP_RET_ERRNO, EPERM
        f"confine({numbers('flock', 'setsid', 'statx')})\nimport os\nos.environ.pop('PYCDS_DISABLE')\n"
        f"os.execv(sys.executable, [sys.executable, {str(stock.program)!r}])\n"
    )
    for user in (own, newcomer):
        same(user.run("-c", code, plain=True), stock.plain)
        until(lambda: not list(processes_with(str(user.home))), "a rebuilder does not end")  # noqa: B023
        same(user.run("-c", code, plain=True), stock.plain)
        files = {file.name for file in user.folder().iterdir()}
        assert files <= {"image-0.pycds", "image-1.pycds", "misses.spool", "misses.folding", "lock", "state.json"}


# ---- ends ----


def test_exec_without_an_exit(stock: Stock, own: User, newcomer: User) -> None:
    """Another program takes the process over: it finds no descriptor of ours, no signal blocked, and the misses are kept."""
    start = f"import sys, os; sys.path.insert(0, {str(stock.program.parent)!r}); import csv, decimal, lib.m, email.message, json\n"
    ends = [
        "os.execv('/bin/ls', ['ls', '/proc/self/fd'])",
        "os.execv('/bin/grep', ['grep', 'Sig[BIC]', '/proc/self/status'])",
    ]
    for user in (own, newcomer):
        for end in ends:
            same(user.run("-c", start + end), user.run("-c", start + end, plain=True))
            nothing_was_started(user)
    assert newcomer.status()["pending_misses"] > 20
    newcomer.build()
    assert {"lib.m", "decimal"} <= newcomer.observe(stock.program, readonly=True).served()
