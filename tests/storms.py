"""Storms: crowds of processes on one cache, killed rebuilders, a clock set back, pip at work while programs run.

    python tests/storms.py --python PYTHON [--python PYTHON ...] [--processes 500] [--kills 200] [--only NAME,NAME]

Run by a Python that has pycds-auto's dependencies; makes two venvs for each PYTHON named. test_storms.py runs the same,
smaller. Whatever happens, each program gives plain Python's answer, no two rebuilders are at work on one image, and in the
end there is a valid image that serves all, and no file beside it. Prints what was seen, a line of JSON for each storm;
exit status 1 if something was wrong. A folder in which something was wrong is kept.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from support import (
    OLD, PROBE, Observed, User, Venv, age, compiled_library, end_all_with, hand_made_venv, processes_with, until, write,
)  # fmt: skip

MODULES = 60
NAMES = [f"module{number}" for number in range(MODULES)]
OWN_FILES = {"image-0.pycds", "image-1.pycds", "misses.spool", "misses.folding", "lock", "state.json"}

# Some hundred lines, so that a rebuild takes its time. `__debug__` tells -O's code from the other.
FUNCTIONS = "".join(
    f"def function{n}(argument, *, other='text {n}'):\n    assert other\n    return [argument, other, {{'a{n}': {n}.5}}]\n"
    for n in range(30)
)


def module_text(value: int) -> str:
    return f"VALUE = {value}\ndef check():\n    return VALUE == {value}, __debug__\n{FUNCTIONS}"


# With "gate" it waits, started but having imported nothing yet, until the other end of its stdin is closed.
PROGRAM = f"""\
import probe
import sys
if "gate" in sys.argv:
    sys.stdin.read()
import asyncio, csv, decimal, difflib, email.message, http.client, json, xml.dom.minidom
import own, {", ".join(f"storm.{name}" for name in NAMES)}
modules = [getattr(sys.modules["storm"], name) for name in {NAMES}]
print([module.VALUE for module in modules], {{module.check() for module in modules}}, own.VALUE == sys.prefix)
print([module.function7(module.__name__) for module in modules] == [[name, "text 7", {{"a7": 7.5}}] for name in map("storm.{{}}".format, {NAMES})])
print(sys.version_info[:2], __debug__, decimal.Decimal("1.10"), json.dumps({{}}), http.client.responses[404])
"""


class Runner(NamedTuple):
    """One way to run the program: an interpreter in a venv, by a user, with options."""

    user: User
    options: tuple[str, ...] = ()

    def run(self, program: Path, **keywords):
        return self.user.run(*self.options, program, **keywords)


def make_program(root: Path) -> Path:
    write(root, {f"storm/{name}.py": module_text(number) for number, name in enumerate(NAMES)})
    write(root, {"storm/__init__.py": "", "app.py": PROGRAM, "probe.py": PROBE.read_text()})
    age(root)
    return root / "app.py"


def own_module(venv: Venv) -> None:
    """A module that is another one in each venv."""
    prefix = venv.python.parent.parent
    (venv.packages / "own.py").write_text(f"VALUE = {str(prefix)!r}\n")
    age(venv.packages)


def twin(venv: Venv, path: Path) -> Venv:
    """Another venv of the same interpreter with the same packages."""
    shutil.copytree(venv.python.parent.parent, path, symlinks=True)
    (path / "pyvenv.cfg").write_text((venv.python.parent.parent / "pyvenv.cfg").read_text())
    return Venv(path / "bin/python", venv.home, has_pip=False)


# ---- what is looked at while a storm goes on ----


class Watch:
    """Sees rebuilders in /proc. Their number at once, for each folder, is a lower bound, and never too high: a process whose
    command line can be read still has its lock (the kernel's do_exit gives up memory before files)."""

    def __init__(self, cache: Path) -> None:
        self.cache = os.fsencode(cache)
        self.seen: set[tuple[int, bytes]] = set()
        self.most_at_once = 0
        self.ours: set[int] = set()  # processes known to be programs

    def command_line(self, pid: int) -> list[bytes]:
        try:
            parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return []
        is_rebuilder = any(b"pycds_auto.rebuild" in part for part in parts) and b"--worker" not in parts
        return parts if is_rebuilder else []

    def folder(self, pid: int) -> bytes:
        return next((part for part in self.command_line(pid) if part.startswith(self.cache + b"/")), b"")

    def parent(self, pid: int) -> int:
        try:
            return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return 0

    def look(self) -> dict[bytes, list[int]]:
        """The living rebuilders of each folder."""
        living: dict[bytes, list[int]] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) not in self.ours and (folder := self.folder(int(entry))):
                living.setdefault(folder, []).append(int(entry))
                self.seen.add((int(entry), folder))
        for folder, every in living.items():
            # a rebuilder's worker is one more of its kind until it has its own command line
            pids = [pid for pid in every if self.parent(pid) not in every] or every[:1]
            # the first was alive when the last was looked at, if it is now
            sure = [pid for pid in pids[:-1] if self.folder(pid) == folder] + pids[-1:]
            self.most_at_once = max(self.most_at_once, len(sure))
        return living


def crowd(runners: list[Runner], program: Path, count: int, work: Path) -> Watch:
    """Starts `count` processes, lets them go all at once, and holds each one's answer against plain Python's."""
    plain = [runner.run(program, plain=True) for runner in runners]
    watch = Watch(runners[0].user.cache)
    gate, opening = os.pipe()
    running: list[tuple[int, subprocess.Popen]] = []
    work.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, gate)
        for number in range(count):
            runner = runners[number % len(runners)]
            with open(work / f"{number}.out", "wb") as out, open(work / f"{number}.err", "wb") as err:
                process = subprocess.Popen(
                    [runner.user.python, *runner.options, program, "gate"],
                    env=runner.user.env(), stdin=gate, stdout=out, stderr=err, close_fds=True,
                )  # fmt: skip
            watch.ours.add(process.pid)
            running.append((number, process))
        os.close(opening)
        waiting = running
        while waiting:
            watch.look()
            waiting = [(number, process) for number, process in waiting if process.poll() is None]
            time.sleep(0.01)
    watch.ours.clear()
    until(lambda: not watch.look(), "a rebuilder does not end")
    for number, process in running:
        told = (work / f"{number}.out").read_text(), (work / f"{number}.err").read_text(), process.returncode
        assert told == plain[number % len(runners)], (number, told, plain[number % len(runners)])
    shutil.rmtree(work)
    assert watch.most_at_once <= 1, f"{watch.most_at_once} rebuilders at once"
    assert watch.seen, "no rebuilder was started: the test shows nothing"
    return watch


INSPECT = """\
from pycds_auto import _loader
state = _loader.state()
print(_loader.inspect_image(state["image"], state["identity"])["modules"])
"""


def short(observed: Observed) -> dict:
    return {
        "active": observed.active, "reason": observed.reason, "hits": observed.hits, "misses": observed.misses,
        "stale": observed.stale, "unserved": sorted(observed.unserved()),
    }  # fmt: skip


def all_is_well(runners: list[Runner], program: Path) -> None:
    """A valid image for each, that has all the program needs; no file that doesn't belong there, no process."""
    user = runners[0].user
    until(lambda: not list(processes_with(str(user.home))), "a process does not end")
    for runner in runners:
        runner.run(program, env={"PYCDS_LOG": ""})
        runner.user.build(options=runner.options)
    for runner in runners:
        observed = runner.user.observe(*runner.options, program, readonly=True)
        assert observed.result == runner.run(program, plain=True)
        assert observed.active and observed.misses == observed.stale == 0, short(observed)
        assert {"own", *(f"storm.{name}" for name in NAMES)} <= observed.served()
        assert int(runner.user.run(*runner.options, "-c", INSPECT, plain=True).stdout) > MODULES
    assert not list(processes_with(str(user.home)))
    assert {path.name for path in user.home.iterdir()} <= {".cache"}
    folders = list(user.cache.iterdir())
    assert len(folders) == len({runner.user.python for runner in runners}), folders
    for folder in folders:
        assert {file.name for file in folder.iterdir()} <= OWN_FILES - {"misses.folding"}, list(folder.iterdir())


# ---- rebuilders killed ----


class Kills(NamedTuple):
    """How many were killed, how many of them behind which step of theirs, and how many had ended before."""

    killed: int
    background: int
    folding: int
    with_temporary: int
    too_late: int


CHANGES = itertools.count(1)


def change(program: Path, chance: random.Random) -> None:
    """Another value for some modules, settled long ago: work for the rebuilder, with the folder as it was. Each time has
    a second of its own, since pycs go by that."""
    moment = OLD + next(CHANGES) * 10**9
    for name in chance.sample(NAMES, 6):
        path = program.parent / f"storm/{name}.py"
        with open(path, "r+") as file:
            file.truncate()
            file.write(module_text(chance.randrange(10**6)))
        os.utime(path, ns=(moment, moment))


def started_rebuilders(watch: Watch) -> list[int]:
    """Those of the one folder that is used. On a busy machine the command line of a new process is empty for a moment: its
    parent goes on before exec has put the arguments in place."""
    end = time.monotonic() + 1.5  # they work for two seconds at least
    while not (living := watch.look()) and time.monotonic() < end:
        time.sleep(0.01)
    return [pid for pids in living.values() for pid in pids]


def kill_rebuilders(user: User, program: Path, count: int, seed: int = 0) -> Kills:
    """Kills rebuilders with SIGKILL, half of them started by `build`, half by a program's end: at random moments of their
    work, and at the moment when one of their files appears. After each, the program's answer is right."""
    chance = random.Random(seed)
    runners = [Runner(user), Runner(user, ("-O",))]
    watch = Watch(user.cache)
    killed = background = folding = with_temporary = too_late = none_started = number = 0
    length = 0.5  # seconds of work; measured below
    while killed < count:
        number += 1
        if number % 20 == 10:
            shutil.rmtree(user.cache)
        change(program, chance)
        in_background = number % 2 == 0
        for name in ("state.json", "lock"):  # the pause after a rebuild is not for us to wait for
            for folder in user.cache.glob("*"):
                (folder / name).unlink(missing_ok=True)
        first, second = chance.sample(runners, 2)
        # without the end that starts a rebuilder
        second.user.run(
            *second.options,
            "-c",
            f"import sys, os\nsys.path.insert(0, {str(program.parent)!r})\nimport app\nos._exit(0)",
        )
        before = time.monotonic()
        process = None
        if in_background:
            first.run(program)
            victims = started_rebuilders(watch)
            if not victims:  # a worker of the one before holds the lock until it is gone
                none_started += 1
                assert none_started <= 2 + number // 20, f"{none_started} of {number} times no rebuilder was started"
                end_all_with(str(user.home))
                continue
        else:
            process = subprocess.Popen(
                [user.python, *first.options, "-m", "pycds_auto", "build"],
                env=user.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            victims = [process.pid]
        assert len(victims) == 1, f"{len(victims)} rebuilders"
        moment = before + (2 if in_background else 0) + chance.uniform(0, length)
        event = chance.choice([*[None] * 6, ".tmp-image-0", ".tmp-image-1", ".tmp-state", "misses.folding"])
        folder = user.folder()
        alive = lambda: process.poll() is None if process else bool(watch.folder(victims[0]))  # noqa: B023, E731
        while alive():
            if event is None and time.monotonic() >= moment:
                break
            if event is not None and any(name.startswith(event) for name in os.listdir(folder)):
                break
            if event is None:
                time.sleep(0.001)
        struck = alive()
        if struck:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victims[0], signal.SIGKILL)
        if process is None:
            until(lambda: not watch.folder(victims[0]), "it does not end")
        elif process.wait() != -signal.SIGKILL:
            struck = False
        files = {file.name for file in folder.iterdir()}
        left = "misses.folding" in files, any(name.startswith(".tmp-") for name in files)
        if struck and (process is not None or any(left) or "state.json" not in files):
            killed += 1
            background += in_background
            folding += left[0]
            with_temporary += left[1]
        else:
            too_late += 1
            length = max(0.1, 0.8 * length + 0.2 * (time.monotonic() - before - (2 if in_background else 0)))
        for runner in runners if number % 5 == 0 else [chance.choice(runners)]:
            assert runner.run(program, readonly=True) == runner.run(program, plain=True)
        assert all(name in OWN_FILES or name.startswith(".tmp-") for name in files), files
        assert sum(name.startswith(".tmp-") for name in files) <= 2, files
        end_all_with(str(user.home))
    all_is_well(runners, program)
    return Kills(killed, background, folding, with_temporary, too_late)


# ---- the clock ----

# The clock as the C library tells it, a number of seconds away; the kernel's own, which gives files their times, stays: to
# these programs all that was written before, and all they write, is of the future, or long ago.
CLOCK = """\
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long away(void) { const char *text = getenv("SECONDS_AWAY"); return text ? atol(text) : 0; }
int clock_gettime(clockid_t id, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, id, now);
    if (result == 0 && id == CLOCK_REALTIME) now->tv_sec += away();
    return result;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""

DAY = 24 * 3600


CLOCKS = (0, DAY, 60 * DAY, 0, -DAY, -400 * DAY, 0)  # set forward, so that it can be set back; and back


def clock_set_back(user: User, program: Path, work: Path, clocks: tuple[int, ...] = CLOCKS) -> int:
    """Programs and rebuilds by clocks that are so many seconds away, one after the other. Returns the number of rebuilds."""
    library = compiled_library(work / "clock.so", CLOCK)
    chance = random.Random(0)
    rebuilds = 0
    for seconds in clocks:
        away = User(user.python, user.home, user.extra | {"LD_PRELOAD": str(library), "SECONDS_AWAY": str(seconds)})
        told = float(away.run("-c", "import time; print(time.time())").stdout)
        assert abs(told - time.time() - seconds) < 3600, "the clock is not away"
        change(program, chance)
        runner = Runner(away)
        plain = runner.run(program, plain=True)
        assert runner.run(program) == plain
        away.build()
        observed = away.observe(program, readonly=True)
        assert observed.result == plain
        assert observed.active and observed.misses == observed.stale == 0, (seconds, short(observed))
        assert (
            float(
                away.run(
                    "-c",
                    "from pycds_auto import _loader; state = _loader.state(); print(_loader.inspect_image(state['image'])['built'])",
                    plain=True,
                ).stdout
            )
            <= time.time() + seconds + 60
        )
        rebuilds += 1
    all_is_well([Runner(user)], program)
    return rebuilds


# ---- pip at work ----


def wheel_of(folder: Path, version: int, modules: int) -> Path:
    """A wheel of a package `changing` in which everything says the version."""
    path = folder / f"changing-{version}-py3-none-any.whl"
    text = f"VALUE = {version}\ndef check():\n    return {version}\n{FUNCTIONS}"
    files = {f"changing/part{number}.py": text for number in range(modules)} | {"changing/__init__.py": text}
    info = f"changing-{version}.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: changing\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: storms\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files | {f"{info}/RECORD": record}).items():
            archive.writestr(name, content)
    return path


# What plain Python can say while files come and go: each module is of one version as a whole, or not there.
WHILE_CHANGING = """\
import sys
seen = set()
for name in ["changing", *(f"changing.part{number}" for number in range(int(sys.argv[1])))]:
    try:
        module = __import__(name, fromlist=["VALUE"])
        seen.add((module.VALUE, module.check()))
    except (ImportError, AttributeError, SyntaxError, EOFError, FileNotFoundError):  # found, and then gone: get_data raises
        seen.add("gone")
print(sorted(map(str, seen)))
"""


def pip_at_work(user: User, venv: Venv, work: Path, upgrades: int, reinstalled: Path | None = None) -> int:
    """Upgrades a package, and then pycds-auto itself, in a venv where programs run. Returns how many programs ran."""
    modules = 40
    wheels = [wheel_of(work, version, modules) for version in (1, 2)]
    program = work / "while_changing.py"
    program.write_text(WHILE_CHANGING)
    venv.pip("install", "--quiet", "--no-index", "--no-deps", wheels[0])
    command = [user.python, program, str(modules)]
    count = 0
    install = ["install", "--quiet", "--no-index", "--no-deps", "--force-reinstall"]
    steps = [(wheels[(number + 1) % 2], (number + 1) % 2 + 1) for number in range(upgrades)]
    if reinstalled is not None:
        steps.append((reinstalled, steps[-1][1]))
    for wheel, version in steps:
        pip = (
            [sys.executable, "-m", "pip", "--python", str(venv.python)]
            if not venv.has_pip
            else [str(venv.python), "-m", "pip"]
        )
        at_work = subprocess.Popen(
            [*pip, *install, str(wheel)],
            env=user.env(plain=True),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=work,
        )
        while at_work.poll() is None:
            done = subprocess.run(command, env=user.env(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
            assert (done.returncode, done.stderr) == (0, ""), done
            assert set(json.loads(done.stdout.replace("'", '"'))) <= {"(1, 1)", "(2, 2)", "gone"}, done
            count += 1
        assert at_work.returncode == 0
        expected = f"['({version}, {version})']\n"
        for readonly in (False, True):
            assert user.run(*command[1:], readonly=readonly).stdout == expected
    watch = Watch(user.cache)
    until(lambda: not watch.look(), "a rebuilder does not end")
    user.run(*command[1:])
    user.build()
    assert user.run(*command[1:], readonly=True).stdout == expected
    code = f"import sys; sys.argv[1:] = ['{modules}']; exec(open({str(program)!r}).read()); import pycds_auto; print(pycds_auto.stats())"
    stats = eval(user.run("-c", code, readonly=True).stdout.splitlines()[1])
    assert stats["active"] and stats["hits"] > modules and stats["misses"] <= 1 and stats["stale"] == 0, stats
    assert {file.name for file in user.folder().iterdir()} <= OWN_FILES - {"misses.folding"}
    return count


# ---- by hand ----


@contextlib.contextmanager
def storm(name: str, root: Path, failures: list[str]) -> Iterator[dict]:
    told: dict = {"storm": name}
    started = time.monotonic()
    try:
        yield told
        told["result"] = "ok"
    except Exception:
        traceback.print_exc()
        told["result"] = f"failed; see {root}"
        failures.append(name)
    finally:
        end_all_with(str(root))
    print(json.dumps(told | {"seconds": round(time.monotonic() - started)}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python", action="append", required=True, help="an interpreter; several times for several versions"
    )
    parser.add_argument("--processes", type=int, default=500)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--upgrades", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="crowd,kills,clock,pip,interleaved", help="which storms")
    options = parser.parse_args()
    wanted = options.only.split(",")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    root = Path(tempfile.mkdtemp(prefix="pycds-storms-"))
    program = make_program(root / "programs")
    failures: list[str] = []
    venvs: list[Venv] = []
    for number, python in enumerate(options.python):
        one = Venv(hand_made_venv(Path(python), root / f"venv{number}"), root, has_pip=False)
        both = [one, twin(one, root / f"venv{number}-twin")]
        for venv in both:
            own_module(venv)
        venvs += both
    time.sleep(2.1)

    def user(venv: Venv, name: str) -> User:
        home = root / name
        home.mkdir(exist_ok=True)
        return User(venv.python, home)

    def each(name: str, act: Callable[[User, Venv, Path, dict], None]) -> None:
        if name not in wanted:
            return
        for number, venv in enumerate(venvs[::2]):
            home = f"{name}{number}"
            work = root / f"{home}-work"
            work.mkdir()
            with storm(f"{name}, {options.python[number]}", root, failures) as told:
                act(user(venv, home), venv, work, told)

    def crowd_of_one(one: User, venv: Venv, work: Path, told: dict) -> None:
        watch = crowd([Runner(one)], program, options.processes, work / "out")
        told.update(processes=options.processes, rebuilders=len(watch.seen), most_at_once=watch.most_at_once)
        all_is_well([Runner(one)], program)

    each("crowd", crowd_of_one)
    each(
        "kills",
        lambda one, venv, work, told: told.update(kill_rebuilders(one, program, options.kills, options.seed)._asdict()),
    )
    each("clock", lambda one, venv, work, told: told.update(rebuilds=clock_set_back(one, program, work)))
    each("pip", lambda one, venv, work, told: told.update(programs=pip_at_work(one, venv, work, options.upgrades)))
    if "interleaved" in wanted:
        runners = [Runner(user(venv, "all"), option) for venv in venvs for option in ((), ("-O",))]
        with storm(f"interleaved, {len(runners)} kinds", root, failures) as told:
            watch = crowd(runners, program, options.processes, root / "all-work")
            told.update(processes=options.processes, rebuilders=len(watch.seen), most_at_once=watch.most_at_once)
            all_is_well(runners, program)
    if not failures:
        shutil.rmtree(root)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
