"""CPython's own tests as a judge: runs regrtest with and without pycds-auto and prints what fails only with it.

    python tests/regrtest.py [--python EXECUTABLE] [--all | TEST ...]

Two fresh venvs of the interpreter, one with pycds-auto and one without, run each test file in a process of its own.
The one with it runs everything twice: the first run records, then the archive is built, and the second run is judged.
Results are compared test method by test method (regrtest's JUnit file), so that a file with a known failure still counts
for all else in it; what fails with pycds-auto only, or passes without it and is not even run with it, is run once more
on both sides, alone, to tell flaky tests. A test process that took nothing from the archive fails the run.

Plain Python's results don't depend on pycds-auto: with `--plain FILE` they are taken from there and, if they aren't there
yet, put there; `--only-plain` does nothing else. A file that fails is run twice before that is believed, since a failure
in there would hide those of later runs.

Exit status: 0 no new failure, 1 new failures, 2 the archive wasn't in use where it should be.
"""

import argparse
import ast
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import support
from support import REPOSITORY, Venv, copy_repository, end_all_with, environment, make_venv, run

# Issue 4's list: what has to do with imports, code objects and processes. Patterns; not every version has each.
PATTERNS = """
    test_importlib test_import test_pkgutil test_runpy test_inspect test_code test_marshal test_sys_settrace
    test_sys_setprofile test_dis test_frame test_traceback test_linecache test_zipimport test_site test_venv
    test_dataclasses test_re test_enum test_typing test_gc test_generators test_types test_weakref
    test_multiprocessing_* test_subprocess test_concurrent_futures test_threading test_warnings test_doctest
    test_unittest test_compileall test_py_compile test_cmd_line* test_builtin test_compile test_exec test_monitoring
    test_interpreters test_embed
""".split()

# As `python -m test`, and at the end the process's counts. What is asked at the end was there since the start: nothing is
# imported, and atexit is only used by a test process, not by the processes that tests start. regrtest installs an audit hook
# that does nothing (libregrtest/setup.py), and under audit hooks everything goes the ordinary way: that one is left out, on
# both sides, and hits are counted from there on, when the tests begin.
LAUNCH = """\
import sys
def launch(path, addaudithook):
    loader = sys.modules.get("pycds_auto._loader")
    before = {}
    def report():
        stats = {} if loader is None else loader.stats()
        with open(path, "w") as file:
            file.write(repr(stats and stats | {"hits": stats["hits"] - before.get("hits", stats["hits"])}))
    def choosy(hook):
        sys.addaudithook = addaudithook
        if hook.__name__ != "_test_audit_hook":
            addaudithook(hook)
        elif loader is not None:
            before.update(loader.stats())
    sys.addaudithook = choosy
    import atexit
    atexit.register(report)
launch(sys.argv.pop(1), sys.addaudithook)
del launch
import runpy
runpy.run_module("test", run_name="__main__", alter_sys=True)
"""

PASSED, SKIPPED = "passed", "skipped"
GOOD = (PASSED, SKIPPED)


@dataclass
class Outcome:
    """What became of one test file."""

    result: str  # "passed", "skipped", or the way in which it failed
    seconds: float
    methods: dict[str, str] = field(default_factory=dict)  # name -> "passed", "skipped", "failed"
    stats: dict = field(default_factory=dict)  # pycds_auto.stats() at the end of the process; empty: it had none


class Stored:
    """Plain Python's results of an interpreter, in a file; with no path, in memory only."""

    def __init__(self, path: Path | None, interpreter: str) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.document = {"interpreter": interpreter, "outcomes": {}}
        if path is not None and path.exists():
            self.document = json.loads(path.read_text())
            if self.document["interpreter"] != interpreter:
                raise SystemExit(f"{path} is of another interpreter: {self.document['interpreter']}")

    def get(self, name: str) -> Outcome | None:
        found = self.document["outcomes"].get(name)
        return Outcome(**found) if found else None

    def put(self, name: str, outcome: Outcome) -> None:
        with self.lock:
            self.document["outcomes"][name] = asdict(outcome)
            if self.path is not None:
                new = self.path.with_suffix(".new")
                new.write_text(json.dumps(self.document, indent=1))
                new.replace(self.path)


@dataclass
class Side:
    """A venv with its own home, with or without pycds-auto."""

    name: str
    venv: Venv
    home: Path
    options: argparse.Namespace
    stored: Stored | None = None  # of the side without

    def test(self, name: str) -> Outcome:
        """Run one test file."""
        # not below self.home's folder: sockets have short paths
        folder = Path(tempfile.mkdtemp(prefix="rt-"))
        report, stats, output = folder / "report.xml", folder / "stats", folder / "output"
        (folder / "tmp").mkdir()
        command = [self.venv.python, "-u", "-c", LAUNCH, stats, f"--timeout={self.options.timeout}", "-u", "subprocess"]
        command += [part for pattern in self.options.ignore for part in ("-i", pattern)]
        command += ["--junit-xml", report, "--tempdir", folder / "tmp", name]
        started = time.monotonic()
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [str(part) for part in command],
                env=environment(self.home) | {"TMPDIR": str(folder / "tmp")},
                cwd=folder / "tmp",
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: (os.nice(self.options.nice), default_signals()),
            )
            try:
                status = process.wait(self.options.timeout * 2)
            except subprocess.TimeoutExpired:
                status = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        outcome = Outcome(self._result(status, output), time.monotonic() - started)
        with contextlib.suppress(OSError, ElementTree.ParseError):
            outcome.methods, told = read_report(report)
            with open(output, "a") as file:
                file.writelines(told)
        with contextlib.suppress(OSError, SyntaxError):
            outcome.stats = ast.literal_eval(stats.read_text())
        self._keep(name, output, folder)
        return outcome

    @staticmethod
    def _result(status: int | None, output: Path) -> str:
        if status is None:
            return "timed out"
        if status < 0:
            return f"ended by signal {-status}"
        text = output.read_text(errors="replace")
        if status == 0:
            return SKIPPED if "1 test skipped" in text else PASSED
        # 3.11 to 3.13 say 2: failed, 3: environment changed, 4: no tests ran, 5: rerun needed
        return {4: SKIPPED}.get(status, f"exit {status}")

    def _keep(self, name: str, output: Path, folder: Path) -> None:
        """The last output of each test stays for a look at failures, all else goes."""
        logs = self.home.parent / f"log-{self.name}"
        logs.mkdir(exist_ok=True)
        shutil.move(output, logs / f"{name}.txt")
        subprocess.run(["chmod", "-R", "u+rwX", str(folder)], capture_output=True)
        subprocess.run(["rm", "-rf", str(folder)], capture_output=True)

    def tell(self, name: str) -> Outcome:
        outcome = self.stored and self.stored.get(name)
        if outcome:
            return outcome
        outcome = self.test(name)
        if self.stored:
            if outcome.result not in GOOD:
                outcome = better(outcome, self.test(name))
            self.stored.put(name, outcome)
        hits = outcome.stats.get("hits", "-")
        told = f"{self.name:6} {name}: {outcome.result}, {len(outcome.methods)} methods"
        print(f"{told}, {hits} hits, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)
        return outcome


def tests(names: list[str], jobs: int, *sides: Side) -> list[dict[str, Outcome]]:
    """Results on each side. File by file, so that a run that is ended early has said something."""

    def one(name: str) -> list[Outcome]:
        outcomes = [side.tell(name) for side in sides]
        if len(sides) == 2 and (worse := new_failures(*outcomes)):
            print(f"worse  {name}: {', '.join(worse)}", file=sys.stderr, flush=True)
        return outcomes

    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(one, names))
    return [dict(zip(names, outcomes)) for outcomes in zip(*results)]


def default_signals() -> None:
    """A shell's background jobs ignore these, and then some tests of signals never end."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def read_report(path: Path) -> tuple[dict[str, str], list[str]]:
    """Results of test methods, of several with one name (subtests, repetitions) the worst, and what failures said."""
    found: dict[str, str] = {}
    told: list[str] = []
    order = [SKIPPED, PASSED, "failed"]
    for case in ElementTree.parse(path).iter("testcase"):
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))  # regrtest's have no class
        failures = [*case.iter("failure"), *case.iter("error")]
        told += [f"\nFAILED {name}\n{failure.text}\n" for failure in failures]
        result = "failed" if failures else SKIPPED if case.find("skipped") is not None else PASSED
        found[name] = max(found.get(name, SKIPPED), result, key=order.index)
    return found, told


def better(first: Outcome, second: Outcome) -> Outcome:
    """The better result of two runs, file by file and method by method."""
    order = ["failed", SKIPPED, PASSED]
    methods = dict(first.methods)
    for name, result in second.methods.items():
        methods[name] = max(methods.get(name, result), result, key=order.index)
    return Outcome(second.result if second.result in GOOD else first.result, second.seconds, methods, second.stats)


def new_failures(ours: Outcome, plain: Outcome) -> dict[str, str]:
    """What is worse with pycds-auto than without: name -> how it went."""
    found = {}
    for name, result in plain.methods.items():
        now = ours.methods.get(name, "not run")
        if result == PASSED and now != PASSED or result == SKIPPED and now == "failed":
            found[name] = now
    for name, result in ours.methods.items():
        if result == "failed" and name not in plain.methods:
            found[name] = result
    # The same failing methods make the same exit status; a crash or a timeout has no methods to tell of it.
    if not found and ours.result != plain.result and ours.result not in GOOD:
        found["(the file)"] = ours.result
    return found


def choose(python: Path, home: Path, options: argparse.Namespace) -> list[str]:
    listed = run(python, "-m", "test", "--list-tests", env=environment(home), quiet=False, code=None).stdout.split()
    if options.all:
        chosen = listed
    else:
        patterns = options.tests or PATTERNS
        # packages of tests are listed by their parts: test_importlib in 3.11, test.test_asyncio.test_events in 3.12
        matches = (name for name in listed for pattern in patterns if fits(name, pattern))
        chosen = list(dict.fromkeys(matches))
        for pattern in options.tests or PATTERNS:
            if not any(fits(name, pattern) for name in listed):
                print(f"not in this interpreter's test package: {pattern}")
    return [name for name in chosen if not any(fits(name, pattern) for pattern in options.exclude)]


def fits(name: str, pattern: str) -> bool:
    """Does the pattern choose this test file, by its full name, or without `test.`, or by its folder?"""
    short = name.removeprefix("test.")
    return any(fnmatch.fnmatchcase(form, pattern) for form in (name, short, short.partition(".")[0]))


def prepare(root: Path, options: argparse.Namespace) -> list[Side]:
    """The side with pycds-auto, unless only the other is wanted, and the one without."""
    sides = []
    source = copy_repository(root / "source")
    for name in ("plain",) if options.only_plain else ("pycds", "plain"):
        home = root / f"home-{name}"
        home.mkdir()
        venv = make_venv(options.python, root / f"venv-{name}", home)
        # the same packages on both sides, but for ours
        what = ["--no-cache-dir", str(source)] if name == "pycds" else ["platformdirs>=4", "filelock>=3.12"]
        venv.pip("install", "--quiet", *what)
        if name == "plain":
            # test_site has a test that any .pth file makes it skip
            (venv.packages / "pycds_auto.pth").write_text("import sys\n")
        sides.append(Side(name, venv, home, options))
    told = run(options.python, "-c", "import sys; print(sys.version)", env=environment(home)).stdout
    sides[-1].stored = Stored(options.plain, told.strip())
    time.sleep(2.1)  # what is younger isn't archived
    return sides


def build(side: Side, *arguments: str) -> None:
    end_all_with(str(side.home))
    env = environment(side.home)
    told = run(side.venv.python, "-m", "pycds_auto", "build", *arguments, env=env, quiet=False, code=None)
    print(told.stdout + told.stderr, end="", flush=True)


def report(side: str, outcomes: dict[str, Outcome]) -> None:
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.result] = counts.get(outcome.result, 0) + 1
    methods = sum(len(outcome.methods) for outcome in outcomes.values())
    told = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
    print(f"{side:8} {told}; {methods:,} methods; {sum(o.seconds for o in outcomes.values()):.0f} s")
    bad = [f"{name} ({outcome.result})" for name, outcome in outcomes.items() if outcome.result not in GOOD]
    print(f"         failing: {', '.join(bad) or 'none'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", metavar="TEST", help="test files, or patterns; default: issue 4's list")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable), help="an interpreter with the test package"
    )
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="test files to leave out")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="METHOD", help="test methods that hang in plain Python"
    )
    how = "how the archive gets its modules: by a run of the tests, or by `build --all` and an import of each (quicker)"
    parser.add_argument("--record", choices=["run", "import"], default="run", help=how)
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--nice", type=int, default=10)
    parser.add_argument(
        "--timeout", type=int, default=900, help="seconds for a test method; a file may take twice that"
    )
    parser.add_argument("--plain", type=Path, metavar="FILE", help="plain Python's results, reused or made")
    parser.add_argument("--only-plain", action="store_true", help="run the tests without pycds-auto only")
    parser.add_argument("--work", type=Path, help="folder for venvs and logs, which stays (default: a temporary one)")
    options = parser.parse_args()
    support.PATIENCE = 3600
    with contextlib.ExitStack() as stack:
        root = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycds-regrtest-")))
        root.mkdir(parents=True, exist_ok=True)
        return compare(root.resolve(), options)


def compare(root: Path, options: argparse.Namespace) -> int:
    *_, plain = sides = prepare(root, options)
    names = choose(plain.venv.python, plain.home, options)
    print(f"{options.python}: {len(names)} test files", flush=True)
    if options.only_plain:
        report("without", tests(names, options.jobs, plain)[0])
        return 0
    ours = sides[0]
    if options.record == "run":
        tests(names, options.jobs, ours)
    else:
        build(ours, "--all")
        modules = [name if name.startswith("test.") else f"test.{name}" for name in names]
        build(ours, "test.regrtest", *modules)
    build(ours)
    with_it, without = tests(names, options.jobs, ours, plain)

    suspects = {name: found for name in names if (found := new_failures(with_it[name], without[name]))}
    confirmed: dict[str, dict[str, str]] = {}
    for name, found in suspects.items():
        again = new_failures(ours.test(name), plain.test(name))
        sure = {method: again[method] for method in found if method in again}
        flaky = [method for method in found if method not in again]
        if sure:
            confirmed[name] = sure
        if flaky:
            print(f"flaky: {name}: {', '.join(flaky)}")

    report("with", with_it)
    report("without", without)
    totals = {key: sum(o.stats.get(key, 0) for o in with_it.values()) for key in ("hits", "misses", "stale")}
    print(
        "archive: "
        + ", ".join(f"{count:,} {key}" for key, count in totals.items())
        + " in the test processes themselves"
    )
    # a process that was killed, or that a test ends with os._exit, has no counts
    idle = [name for name, o in with_it.items() if o.stats and not (o.stats["active"] and o.stats["hits"])]
    unknown = [name for name, o in with_it.items() if not o.stats]
    if unknown:
        print(f"no counts (the process didn't end by itself): {', '.join(unknown)}")
    for name, found in confirmed.items():
        for method, result in found.items():
            print(f"NEW FAILURE {name}: {method}: {result}")
    print(f"new failures: {sum(map(len, confirmed.values()))}")
    for side in (ours, plain):
        end_all_with(str(side.home))
    if idle or len(unknown) == len(names):
        print(f"the archive was not in use in: {', '.join(idle or unknown)}")
        return 2
    return 1 if confirmed else 0


if __name__ == "__main__":
    sys.exit(main())
