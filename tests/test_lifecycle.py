"""Install, run twice, and imports come from the archive: with plain defaults and nothing else to do."""

import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import (
    DEADLINE,
    PROBE,
    User,
    age,
    make_venv,
    processes_with,
    run,
    start_files,
    until,
    write,
)

# Modules of the standard library with many others behind them, pure Python and extension modules.
PROGRAM = """\
import probe
import argparse, asyncio, bz2, csv, decimal, difflib, email.message, fractions, http.client, json, logging.config
import lib.one, lib.two
print(json.dumps({"one": lib.one.VALUE, "two": lib.two.VALUE}), fractions.Fraction("1/3"), decimal.Decimal("1.10"))
print(http.client.responses[404], email.message.Message().as_string() == "\\n")
"""
LIBRARY = {"lib/__init__.py": "", "lib/one.py": "VALUE = 1\n", "lib/two.py": "from .one import VALUE\n"}


ENDS = {"exit": "os._exit(0)", "kill": "os.kill(os.getpid(), 9)", "abort": "os.abort()"}
KILLED = {f"{name}.py": f"{PROGRAM}import os\n{end}\n" for name, end in ENDS.items()}


@pytest.fixture
def program(programs: Path) -> Path:
    write(programs, LIBRARY | {"app.py": PROGRAM})
    age(programs)
    return programs / "app.py"


@pytest.fixture(scope="session")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for tests that don't change it: once its files are two seconds old, no build waits for them."""
    folder = tmp_path_factory.mktemp("lifecycle") / "programs"
    write(
        folder,
        LIBRARY | KILLED | {"app.py": PROGRAM, "other.py": "import probe, pprint\n", "probe.py": PROBE.read_text()},
    )
    age(folder)
    time.sleep(2.1)
    return folder / "app.py"


def at_start(user: User) -> set[str]:
    """Modules that are there before a program's first import."""
    return set(run(user.python, "-c", "import sys; print(*sys.modules)", env=user.env(plain=True)).stdout.split())


def wait_for_image(user: User) -> dict:
    """The status, once a background rebuild has made an image and is over."""

    def ready() -> dict | None:
        status = user.status()
        return status if status["image"] and status["active"] and status["last_rebuild"] else None

    return until(ready, "no background rebuild made an image")


def learned(user: User, program: Path, **keywords) -> None:
    """Run a program as a user does, until it misses nothing."""
    end = time.monotonic() + DEADLINE
    while True:
        user.run(program, **keywords)
        wait_for_image(user)
        observed = user.observe(program, readonly=True, **keywords)
        if observed.misses == 0:
            return
        assert time.monotonic() < end, f"still missed after {DEADLINE:.0f} s: {observed}"
        time.sleep(0.5)


def test_install_and_run(user: User, program: Path) -> None:
    """The second or third run is served, and nothing else about it differs."""
    plain = user.run(program, plain=True)
    start = at_start(user)

    first = user.observe(program)
    assert first.result == plain
    assert first.hits == 0 and first.misses > 50
    assert not first.served()

    status = wait_for_image(user)
    assert status["reason"] is None
    assert status["cache_dir"] == str(user.folder()) and user.folder().parent == user.home / ".cache/pycds-auto"
    assert status["image"]["path"] == str(user.image())
    assert status["image"]["bytes"] == user.image().stat().st_size
    assert status["image"]["modules"] > 50
    assert status["last_rebuild"]["result"].startswith("ok")
    assert status["prefix"] == str(user.python.parent.parent)

    second = user.observe(program)
    wait_for_image(user)
    third = user.observe(program)
    assert second.active and third.active
    assert second.result == third.result == plain
    imported = {name for name in third.loaders if name not in start}
    assert third.unserved() & imported == set(), "source modules that came the ordinary way"
    assert third.misses == 0 and third.stale == 0
    assert third.hits >= len(third.served()) > 50
    assert {"lib", "lib.one", "lib.two", "asyncio", "email.message"} <= third.served()
    assert third.loaders == first.loaders | {name: "archive" for name in third.served()}
    assert "ExtensionFileLoader" in {loader for name, loader in third.loaders.items() if name in imported}


def test_stats_of_a_process_without_a_cache(user: User) -> None:
    code = "import pycds_auto; print(pycds_auto.stats())"
    assert eval(user.run("-c", code, plain=True).stdout)["active"] is False
    stats = eval(user.run("-c", code).stdout)
    assert set(stats) == {"active", "reason", "hits", "misses", "stale"}
    assert stats["active"] is False and isinstance(stats["reason"], str) and stats["hits"] == 0


def test_start_imports_nothing(user: User, shared_program: Path) -> None:
    """Activation loads our extension module and nothing else, with and without an image."""
    code = "import sys; print(*sys.modules)"
    plain = at_start(user)
    assert set(user.run("-c", code, readonly=True).stdout.split()) - plain <= {"pycds_auto", "pycds_auto._loader"}
    user.observe(shared_program)
    user.build()
    with_image = set(user.run("-c", code, readonly=True).stdout.split())
    assert with_image - plain <= {"pycds_auto", "pycds_auto._loader"}
    assert "pycds_auto._loader" in with_image


def test_finder_stands_directly_before_the_path_finder(user: User, shared_program: Path) -> None:
    user.run(shared_program)
    user.build()
    code = "import sys; print(*[getattr(f, '__name__', type(f).__name__) for f in sys.meta_path])"
    plain = user.run("-c", code, plain=True).stdout.split()
    finders = user.run("-c", code, readonly=True).stdout.split()
    (ours,) = [name for name in finders if name not in plain]
    at = plain.index("PathFinder")
    assert finders == [*plain[:at], ours, *plain[at:]] and at > 0


def test_files_are_private_and_few(user: User, shared_program: Path) -> None:
    for option in ((), ("-O",), ("-OO",)):
        user.run(*option, shared_program)
        user.build(options=option)
    folder = user.folder()
    until(lambda: not list(processes_with(str(folder))), "a rebuilder does not end")
    for path in [user.cache, folder]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    files = list(folder.iterdir())
    assert len(files) <= 6, files
    assert len([file for file in files if file.name.startswith("image-")]) == 3
    for file in files:
        assert stat.S_ISREG(file.lstat().st_mode) and stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert [path.name for path in user.cache.iterdir()] == [folder.name]
    assert {path.name for path in user.home.iterdir()} == {".cache"}


def test_umask_does_not_matter(user: User, shared_program: Path) -> None:
    code = f"import os, runpy, sys; os.umask(0); sys.path.insert(0, {str(shared_program.parent)!r}); runpy.run_path({str(shared_program)!r})"
    user.run("-c", code)
    wait_for_image(user)
    until(lambda: not list(processes_with(str(user.folder()))), "a rebuilder does not end")
    assert stat.S_IMODE(user.folder().stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in user.folder().iterdir()} == {0o600}


def test_new_modules_join(user: User, program: Path) -> None:
    """What a program comes to import later is in the image soon; what it imported before stays."""
    learned(user, program)
    modules = user.status()["image"]["modules"]
    more = program.with_name("more.py")
    write(program.parent, {"later.py": "import wave, lib.three\n", "lib/three.py": "VALUE = 3\n"})
    write(program.parent, {"more.py": PROGRAM + "import later\nprint(later.wave.__name__)\n"})
    age(program.parent)
    learned(user, more)
    observed = user.observe(more, readonly=True)
    assert {"later", "lib.three", "wave", "lib.one"} <= observed.served()
    assert user.status()["image"]["modules"] > modules
    assert observed.result == user.run(more, plain=True)


def test_edited_module_is_served_again(user: User, program: Path) -> None:
    user.run(program)
    user.build()
    hits = user.observe(program, readonly=True).hits
    (program.parent / "lib/one.py").write_text("VALUE = 1234\n")
    edited = user.observe(program, readonly=True)
    assert '{"one": 1234, "two": 1234}' in edited.result.stdout
    assert edited.stale == 1 and edited.hits == hits - 1
    time.sleep(2.1)  # it must not be young when it is read
    user.run(program)
    user.build()
    again = user.observe(program, readonly=True)
    assert again.result == edited.result
    assert again.hits == hits and again.stale == 0 and again.misses == 0


def test_young_modules_are_not_archived(user: User, program: Path) -> None:
    """What was written within two seconds may change again without a trace; the build waits rather than trust it."""
    (program.parent / "lib/one.py").write_text("VALUE = 5\n")
    user.run(program)
    user.build()
    built = user.image().stat().st_mtime
    observed = user.observe(program, readonly=True)
    assert '"one": 5' in observed.result.stdout
    assert observed.misses + observed.stale > 0 or built - (program.parent / "lib/one.py").stat().st_mtime > 2


@pytest.mark.parametrize("end", ENDS)
def test_misses_of_a_killed_process_are_not_lost(user: User, shared_program: Path, end: str) -> None:
    user.run(shared_program.with_name(f"{end}.py"), code=None, quiet=False, cwd=user.home)
    status = user.status()
    assert status["pending_misses"] > 50 and status["image"] is None
    assert list(processes_with(str(user.home))) == [], "a killed process started something"
    user.build()
    assert user.status()["pending_misses"] == 0
    observed = user.observe(shared_program, readonly=True)
    assert observed.misses == 0 and {"lib.one", "asyncio"} <= observed.served()


def test_misses_of_killed_servers_are_folded_by_a_later_process(user: User, shared_program: Path) -> None:
    """No one runs `build`: a process that ends in the ordinary way folds what the killed one left, too."""
    user.run(shared_program.with_name("exit.py"))
    assert user.status()["image"] is None
    user.run(shared_program.with_name("other.py"))
    wait_for_image(user)
    observed = user.observe(shared_program, readonly=True)
    assert {"lib.one", "asyncio"} <= observed.served() and observed.misses == 0


# A command that adopts what its children leave behind (a subreaper), waits for all of it, and counts: a process that
# the program detached cannot escape, however short it lives. Prints a list of the adopted processes' life spans.
REAPER = """\
import ctypes, json, os, subprocess, sys, time
assert ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
count = int(sys.argv[1])
started = {}
for _ in range(count):
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    started[child.pid] = child
adopted, statuses = {}, []
children = f"/proc/self/task/{os.getpid()}/children"
while True:
    now = time.monotonic()
    for pid in map(int, open(children).read().split()):
        if pid not in started:
            adopted.setdefault(pid, [now, now])
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        break
    if pid == 0:
        time.sleep(0.002)
    elif pid in started:
        started[pid].returncode = status
        statuses.append(status)
    else:
        adopted.setdefault(pid, [now, now])[1] = time.monotonic()
print(json.dumps({"adopted": sorted(adopted.values()), "statuses": statuses}))
"""


def adopted(user: User, count: int, *arguments: str | Path, env: dict[str, str] | None = None) -> list[list[float]]:
    """Run a program `count` times at once; the life spans of the processes that it left behind."""
    whole = user.env(**(env or {}))
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", REAPER, str(count), str(user.python), *map(str, arguments)],
        env=whole,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.stderr == "" and process.returncode == 0, process
    told = json.loads(process.stdout)
    assert told["statuses"] == [0] * count
    return told["adopted"]


def most_at_once(spans: list[list[float]]) -> int:
    return max(
        (sum(begin <= other[0] < end or other[0] == begin for begin, end in spans) for other in spans), default=0
    )


def test_one_process_starts_one_rebuilder(user: User, shared_program: Path) -> None:
    """... which starts none itself; and when there is nothing to fold, none is started at all."""
    assert len(adopted(user, 1, shared_program)) == 1
    assert user.status()["active"]
    learned(user, shared_program)
    assert adopted(user, 1, shared_program) == []
    assert adopted(user, 1, shared_program, env={"PYCDS_READONLY": "1"}) == []


def test_nothing_is_started_where_it_is_not_wanted(user: User, shared_program: Path) -> None:
    assert adopted(user, 1, shared_program, env={"PYCDS_READONLY": "1"}) == []
    assert adopted(user, 1, shared_program, env={"PYCDS_DISABLE": "1"}) == []
    assert adopted(user, 1, "-S", shared_program) == []
    assert not user.cache.exists()


def test_no_storm(user: User, shared_program: Path) -> None:
    """Twenty processes that end together: one rebuilder at a time, and every one of them ends well."""
    spans = adopted(user, 20, shared_program)
    assert spans, "no rebuilder was started"
    assert most_at_once(spans) == 1, spans
    assert user.status()["active"]
    assert len(list(user.folder().iterdir())) <= 6


def test_no_storm_from_a_young_module(user: User, program: Path) -> None:
    """Files being edited don't cause a rebuild in each run."""
    user.run(program)
    user.build()
    for number in range(5):
        (program.parent / "lib/one.py").write_text(f"VALUE = {number}\n")
        assert adopted(user, 1, program) == []


def test_output_captured_by_a_shell_ends_at_once(user: User, program: Path) -> None:
    """x=$(python app.py): the rebuilder outlives the program, and holds no pipe, no terminal and no folder of it."""
    # Modules just written keep the rebuilder waiting until they are two seconds old: time to look at it.
    for attempt in range(5):
        mark = f"mark-{attempt}"
        (program.parent / "lib/one.py").write_text("VALUE = 1\n")
        result = user.run(program, env={"PYCDS_CACHE_DIR": str(user.home / mark), "MARK": mark}, cwd=program.parent)
        assert result.stdout.startswith('{"one": 1')
        alive = [found for pid, _ in processes_with(f"{user.home}/{mark}") if (found := inspected(pid))]
        if alive:
            break
    else:
        pytest.fail("no rebuilder was seen alive after its program")
    assert len(alive) == 1
    (rebuilder,) = alive
    assert rebuilder["session"] == rebuilder["pid"] != os.getsid(0)
    assert rebuilder["terminal"] == 0
    assert rebuilder["nice"] > 0
    assert rebuilder["cwd"] == "/"
    descriptors = rebuilder["descriptors"]
    assert {descriptors[number] for number in (0, 1, 2)} == {"/dev/null"}
    allowed = (f"{user.home}/{mark}", "/dev/null", str(user.python.parent.parent), str(program.parent))
    foreign = [path for path in descriptors.values() if not path.startswith(allowed)]
    assert not [path for path in foreign if path.startswith(("pipe:", "socket:", "/dev/pts", "/dev/tty"))], descriptors
    until(lambda: not list(processes_with(f"{user.home}/{mark}")), "the rebuilder does not end")


def inspected(pid: int) -> dict | None:
    """What /proc tells of a process; None if it has ended."""
    try:
        name_and_rest = Path(f"/proc/{pid}/stat").read_text()
        fields = name_and_rest.rpartition(")")[2].split()  # from the state on: proc(5)'s field 3
        descriptors = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        return {
            "pid": pid,
            "session": int(fields[3]),
            "terminal": int(fields[4]),
            "nice": int(fields[16]),
            "cwd": os.readlink(f"/proc/{pid}/cwd"),
            "descriptors": descriptors,
        }
    except OSError:
        return None


def test_interrupted_rebuilder_does_no_harm(user: User, program: Path) -> None:
    """Killed while it works, it leaves what the next one needs, and no file of its own for long."""
    for _ in range(5):
        (program.parent / "lib/one.py").write_text("VALUE = 1\n")  # keeps it waiting
        user.run(program)
        victims = [pid for pid, _ in processes_with(str(user.folder()))]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        if victims:
            break
        user.command("clear", quiet=False)
    else:
        pytest.fail("no rebuilder was seen alive")
    assert user.status()["pending_misses"] > 50
    user.build()
    observed = user.observe(program, readonly=True)
    assert observed.misses == 0 and "asyncio" in observed.served()
    assert len(list(user.folder().iterdir())) <= 6


def test_build_waits_for_a_running_rebuilder(user: User, shared_program: Path) -> None:
    """What is in its hands, or still to be taken up, is in the image when the command ends."""
    user.run(shared_program)
    assert list(processes_with(str(user.home))), "no rebuilder was started"
    result = user.command("build", quiet=False)
    assert "Traceback" not in result.stderr
    observed = user.observe(shared_program, readonly=True)
    assert observed.misses == 0 and {"lib.one", "asyncio"} <= observed.served()
    assert user.status()["pending_misses"] == 0


def test_build_commands(user: User, shared_program: Path) -> None:
    """`build MODULE...` and `build -- COMMAND...` need no earlier run."""
    user.build("fractions", "email.message")
    code = "import probe, fractions, email.message"
    observed = user.observe("-c", code, readonly=True, cwd=shared_program.parent)
    assert {"fractions", "numbers", "email.message"} <= observed.served()
    result = user.command("build", "--", str(user.python), str(shared_program), quiet=False)
    assert result.stdout.startswith(user.run(shared_program, plain=True).stdout)
    observed = user.observe(shared_program, readonly=True)
    assert observed.misses == 0 and "lib.one" in observed.served()


def test_clear(user: User, shared_program: Path) -> None:
    user.run(shared_program)
    user.build()
    assert user.status()["image"]
    user.command("clear", quiet=False)
    assert [path for path in user.cache.rglob("*") if path.name.startswith("image")] == []
    status = user.status()
    assert status["image"] is None and not status["active"] and status["reason"]
    assert user.run(shared_program, readonly=True) == user.run(shared_program, plain=True)


def test_archive_serves_without_pycs(user: User, program: Path) -> None:
    """The rebuilder and the archive write no pyc, and an archive needs none."""
    user.extra["PYTHONDONTWRITEBYTECODE"] = "1"
    user.run(program)
    user.build()
    observed = user.observe(program, readonly=True)
    assert observed.misses == 0 and {"lib", "lib.one", "lib.two"} <= observed.served()
    assert not list(program.parent.rglob("*.pyc"))


def test_pycs_are_written_as_ever(user: User, program: Path) -> None:
    """What is missed is imported the ordinary way, pyc included."""
    user.run(program)
    written = {path.relative_to(program.parent) for path in program.parent.rglob("*.pyc")}
    shutil.rmtree(program.parent / "__pycache__")
    shutil.rmtree(program.parent / "lib/__pycache__")
    user.run(program, plain=True)
    assert written == {path.relative_to(program.parent) for path in program.parent.rglob("*.pyc")} != set()


def test_two_venvs_do_not_share(user: User, shared_program: Path, tmp_path: Path) -> None:
    """Same interpreter, same home, another prefix: a folder of its own."""
    other = make_venv(user.python, tmp_path / "other", tmp_path, with_pip=False)
    for name in ("pycds_auto", "platformdirs", "filelock"):
        shutil.copytree(_packages(user.python) / name, other.packages / name)
    for name in start_files(_packages(user.python)):
        shutil.copy(_packages(user.python) / name, other.packages / name)
    user.run(shared_program)
    user.build()
    stranger = User(other.python, user.home)
    assert stranger.status()["image"] is None
    assert stranger.observe(shared_program, readonly=True).hits == 0
    assert stranger.status()["cache_dir"] != user.status()["cache_dir"]


def test_why_it_is_not_activated(user: User, tmp_path: Path) -> None:
    """Copied without the .pth file, or to where Python reads none (pip's --target, PYTHONPATH)."""
    other = make_venv(user.python, tmp_path / "other", tmp_path, with_pip=False)
    target = tmp_path / "target"
    for folder in (other.packages, target):
        for name in ("pycds_auto", "platformdirs", "filelock"):
            shutil.copytree(_packages(user.python) / name, folder / name)
    shutil.copy(_packages(user.python) / "pycds_auto.pth", target)
    reason = User(other.python, user.home).status()["reason"]
    assert reason.endswith(f": pycds_auto.pth is missing in {other.packages}; install pycds-auto again")
    (other.packages / "pycds_auto").rename(tmp_path / "gone")
    reason = User(other.python, user.home, {"PYTHONPATH": str(target)}).status()["reason"]
    assert f": {target} is not a site-packages folder" in reason
    answer = user.run("-S", "-m", "pycds_auto", "status", "--json", env={"PYTHONPATH": str(target)})
    assert "(-S)" in json.loads(answer.stdout)["reason"]


def _packages(python: Path) -> Path:
    (path,) = (python.parent.parent / "lib").glob("python3*/site-packages")
    return path


SERVER = """\
import argparse, asyncio, email.message, http.client, os, resource, signal, time
print(signal.getsignal(signal.SIGCHLD), list(resource.getrusage(resource.RUSAGE_CHILDREN)), os.times()[2:4])
try:
    print(os.waitpid(-1, os.WNOHANG))
except ChildProcessError as error:
    print(error)
print("serving", flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_servers_that_are_always_killed_have_an_archive(user: User, tmp_path: Path, ignored: bool) -> None:
    """A start that finds what others left has it folded, and sees nothing of that."""
    program = tmp_path / "server.py"
    program.write_text(SERVER)

    @contextlib.contextmanager
    def served(**keywords) -> Iterator[str]:
        command = [user.python, program]
        ignore = (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)) if ignored else None
        with subprocess.Popen(
            command, env=user.env(**keywords), stdout=subprocess.PIPE, text=True, preexec_fn=ignore
        ) as process:
            lines = [process.stdout.readline() for _ in range(3)]
            try:
                yield "".join(lines)
            finally:
                process.terminate()

    with served(plain=True) as plain:
        assert plain.endswith("serving\n")
    with served() as told:
        assert told == plain
    assert user.status()["image"] is None and list(processes_with(str(user.home))) == []
    os.utime(user.folder() / "misses.spool", (time.time() - 3600,) * 2)  # an hour goes by
    with served() as told:
        wait_for_image(user)
    assert told == plain
    with served(PYCDS_LOG="1") as told:
        assert told == plain
    assert user.status()["image"]["modules"] > 50


def test_people_are_told_what_comes_next(user: User) -> None:
    def headline(**keywords) -> str:
        return user.command("status", **keywords).stdout.splitlines()[0]

    assert "is not active: no archive yet" in headline(readonly=True)
    assert "is ready: what programs import is noted" in headline()
    wait_for_image(user)
    assert "is active: imports come from the archive" in headline(readonly=True)
    user.build()
    told = user.command("build", "--", "true", quiet=False).stderr  # as would be the program of another environment
    assert told.startswith(f"Nothing to do: the archive of {user.python.parent.parent} is up to date with ")


def test_people_are_told_the_truth(user: User, program: Path) -> None:
    def line(label: str, *, readonly: bool = True, **env: str) -> str:
        lines = user.command("status", readonly=readonly, env=env).stdout.splitlines()
        return next(line for line in lines if line.lstrip().startswith(label))

    learned(user, program)
    assert "waiting       nothing" in line("waiting")
    write(program.parent, {"lib/one.py": "VALUE = 3\n"})
    assert "(1 of them changed since, " in line("archive")
    assert "changed" not in line("archive", PYCDS_VALIDATE="trust")
    user.run(program)
    assert "waiting       1 module to be added" in line("waiting")
    assert user.status()["pending_misses"] == 1
    told = run(user.python, "-X", "tracemalloc", "-m", "pycds_auto", "status", env=user.env(readonly=True)).stdout
    assert "is active, but this process left imports to plain Python: something looks on" in told.splitlines()[0]
    assert line("skipped", PYCDS_SKIP="re,foo,exit") == (
        "  skipped       re, exit (PYCDS_SKIP); foo in it means nothing: there are "
        "re, source, gc, importlib, classes, frames, exit"
    )
    with open(user.image(), "r+b") as image:
        image.truncate(100)
    assert line("pycds-auto", readonly=False).endswith(
        "is not active: archive damaged: it is too short; it will be made anew, in the background or now by `build`"
    )


def test_what_clear_notes_itself_is_nothing(user: User) -> None:
    assert user.command("clear").stdout == "There was nothing to clear.\n"
    user.build("json")
    assert user.command("clear", quiet=False).stdout.startswith("Removed ")  # may wait for a rebuilder
    assert user.command("clear").stdout == "There was nothing to clear.\n"
    assert not user.cache.exists() or not any(user.cache.iterdir())


@pytest.mark.parametrize("variable", ["PYCDS_CACHE_DIR", "XDG_CACHE_HOME"])
def test_a_cache_folder_at_any_depth(user: User, tmp_path: Path, variable: str) -> None:
    cache = tmp_path / "one/two/three"
    user.run("-c", "import json", env={variable: str(cache)})
    assert [path.suffix for path in cache.rglob("misses.*")] == [".spool"]
    assert {path.stat().st_mode & 0o777 for path in cache.rglob("*") if path.is_dir()} == {0o700}


def test_a_cache_folder_in_somebodys_home(user: User) -> None:
    name, home = pwd.getpwuid(os.geteuid()).pw_name, pwd.getpwuid(os.geteuid()).pw_dir
    folder = user.status(PYCDS_CACHE_DIR=f"~{name}/deep/down")["cache_dir"]
    assert folder.startswith(f"{home}/deep/down/cpython-")
    homeless = [entry.pw_name for entry in pwd.getpwall() if entry.pw_dir.startswith("/nonexistent")]
    for nobody in ["nobody-of-that-name", *homeless]:
        lost = user.status(PYCDS_CACHE_DIR=f"~{nobody}/deep")
        assert lost["reason"] == "no cache folder: PYCDS_CACHE_DIR is no path that could be followed"


def test_the_package_shows_what_it_offers(user: User) -> None:
    shown = user.run("-c", "import pycds_auto; print([name for name in dir(pycds_auto) if name[0] != '_'])").stdout
    assert shown == "['activate', 'stats']\n"
