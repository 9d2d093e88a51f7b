"""The test suites of well-known packages as judges: runs them with and without pycds-auto and prints new failures.

    python tests/others.py [--python EXECUTABLE] [SUITE ...]

A suite comes from its package's sdist. It gets two fresh venvs, one with pycds-auto and one without, each with a source
tree of its own. The one with it imports all test files first, then the archive is built; then both run, in one process
each. Results are compared test by test; files with a test that is worse with pycds-auto are run once more on both sides, to
tell flaky tests. A suite that took nothing from the archive fails the run.

Exit status: 0 no new failure, 1 new failures, 2 a suite took nothing from the archive, or ran no tests.
"""

import argparse
import ast
import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import support
from regrtest import Outcome, build, default_signals, new_failures, read_report
from support import Venv, copy_repository, end_all_with, environment, make_venv


@dataclass(frozen=True)
class Suite:
    """How a package's own tests are run, from its tox.ini."""

    extras: str = ""
    requirements: tuple[str, ...] = ()
    prepare: tuple[tuple[str, ...], ...] = ()  # arguments of the interpreter, in the source tree
    arguments: tuple[str, ...] = ()  # of pytest
    variables: tuple[tuple[str, str], ...] = ()


SUITES = {
    "pytest": Suite("dev", arguments=("testing",)),
    "attrs": Suite(requirements=("cloudpickle", "hypothesis", "pympler", "pytest"), arguments=("tests",)),
    "coverage": Suite(
        requirements=("flaky", "hypothesis", "pygments", "pytest", "pytest-xdist", "setuptools", "gevent"),
        prepare=(("tools/igor.py", "zip_mods"), ("setup.py", "--quiet", "build_ext", "--inplace")),
        arguments=("-n", "0", "tests"),
        variables=(("COVERAGE_TEST_CORES", "ctrace"), ("PYTHON_COLORS", "0")),
    ),
    "importlib_metadata": Suite("test"),
    "importlib_resources": Suite("test"),
    "setuptools": Suite("test", ("coverage",)),  # its pytest.ini names a warning of coverage's
    "black": Suite("d,jupyter", ("pytest<9", "pytest-xdist"), arguments=("tests",)),
}

# As `python -m pytest`, and the counts at the end. Nothing is imported that wasn't already.
LAUNCH = """\
import atexit, os, sys
def launch(path, sys, getpid):
    process = getpid()
    def report():
        loader = sys.modules.get("pycds_auto._loader")
        if getpid() == process:
            with open(path, "w") as file:
                file.write(repr({} if loader is None else loader.stats()))
    atexit.register(report)
launch(sys.argv.pop(1), sys, os.getpid)
sys.path[0] = os.getcwd()
del launch, atexit, os
import runpy
runpy.run_module("pytest", run_name="__main__", alter_sys=True)
"""


class Side:
    """One suite in one venv."""

    def __init__(self, name: str, root: Path, python: Path, suite: Suite, archive: Path, project: Path) -> None:
        self.name, self.root, self.suite = name, root, suite
        self.home = root / "home"
        self.home.mkdir(parents=True)
        with tarfile.open(archive) as file:
            file.extractall(root, filter="data")
        (self.source,) = (path for path in root.iterdir() if path.is_dir() and path != self.home)
        self.venv: Venv = make_venv(python, root / "venv", self.home)
        extras = f"[{suite.extras}]" if suite.extras else ""
        self.venv.pip("install", "--quiet", f"{self.source}{extras}", *suite.requirements)
        ours = [str(project)] if name == "with" else ["platformdirs>=4", "filelock>=3.12"]
        self.venv.pip("install", "--quiet", *ours)
        for arguments in suite.prepare:
            support.run(
                self.venv.python, *arguments, env=self.environment(PYCDS_DISABLE="1"), cwd=self.source, quiet=False
            )
        time.sleep(2.1)  # what is younger isn't archived

    def environment(self, **extra: str) -> dict[str, str]:
        path = f"{self.venv.python.parent}{os.pathsep}{os.environ['PATH']}"
        return environment(self.home, PATH=path, **dict(self.suite.variables), **extra)

    def pytest(self, *arguments: str, patience: float) -> Outcome:
        report, stats = self.root / "report.xml", self.root / "stats"
        for path in (report, stats):
            path.unlink(missing_ok=True)
        # below /tmp: sockets have short paths
        with tempfile.TemporaryDirectory(prefix="ot-", ignore_cleanup_errors=True) as temporary:
            command = [
                self.venv.python,
                "-c",
                LAUNCH,
                stats,
                "--junit-xml",
                report,
                f"--basetemp={temporary}/base",
                *arguments,
            ]
            started = time.monotonic()
            with open(self.root / "output.txt", "a") as output:
                try:
                    status = subprocess.run(
                        [str(part) for part in command],
                        env=self.environment(TMPDIR=temporary),
                        cwd=self.source,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        timeout=patience,
                        preexec_fn=default_signals,
                    ).returncode
                except subprocess.TimeoutExpired:
                    status = "timed out"
        outcome = Outcome({0: "passed"}.get(status, f"exit {status}"), time.monotonic() - started)
        with contextlib.suppress(OSError, ElementTree.ParseError):
            outcome.methods, _ = read_report(report)
        with contextlib.suppress(OSError, SyntaxError):
            outcome.stats = ast.literal_eval(stats.read_text())
        return outcome

    def run(self, options: argparse.Namespace, *files: str) -> Outcome:
        arguments = [item for item in self.suite.arguments if not (files and (self.source / item).is_dir())]
        return self.pytest(*arguments, *files, patience=options.timeout)

    def file_of(self, test: str) -> str | None:
        """The test's file, out of a class name such as tests.test_api.ApiTest."""
        parts = test.partition("::")[0].split(".")
        names = ("/".join(parts[:count]) + ".py" for count in range(len(parts), 0, -1))
        return next((name for name in names if (self.source / name).is_file()), None)


def judge(name: str, root: Path, project: Path, options: argparse.Namespace) -> int:
    suite = SUITES[name]
    download = [
        options.python,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "-d",
        root,
        name,
    ]
    subprocess.run([str(part) for part in download], check=True, stderr=subprocess.DEVNULL)
    (archive,) = root.glob("*.tar.gz")
    ours, plain = (Side(side, root / side, options.python, suite, archive, project) for side in ("with", "without"))
    for side in (ours, plain):  # both have the pycs and whatever else a first run leaves
        side.pytest(*suite.arguments, "--collect-only", "-q", patience=options.timeout)
    build(ours)
    with_it, without = ours.run(options), plain.run(options)
    suspects = new_failures(with_it, without)
    confirmed = suspects
    if suspects:
        files = {ours.file_of(test) for test in suspects}
        again = [side.run(options, *sorted(files) if None not in files else ()) for side in (ours, plain)]
        confirmed = {test: result for test, result in new_failures(*again).items() if test in suspects}
        print(f"flaky: {', '.join(test for test in suspects if test not in confirmed) or 'none'}")
    for told, outcome in (("with", with_it), ("without", without)):
        counts = {key: list(outcome.methods.values()).count(key) for key in ("passed", "skipped", "failed")}
        print(
            f"{archive.name} {told}: {outcome.result}, {counts}, {outcome.seconds:.0f} s {outcome.stats or ''}",
            flush=True,
        )
    for test, result in confirmed.items():
        print(f"NEW FAILURE {name}: {test}: {result}", flush=True)
    for side in (ours, plain):
        end_all_with(str(side.root))
    if confirmed:
        return 1
    return 0 if with_it.stats.get("hits") and "passed" in without.methods.values() else 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"default: all of {', '.join(SUITES)}")
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for one run of one suite")
    parser.add_argument(
        "--work", type=Path, help="folder for venvs and outputs, which stays (default: a temporary one)"
    )
    options = parser.parse_args()
    support.PATIENCE = 3600
    with contextlib.ExitStack() as stack:
        root = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pycds-others-")))
        root = root.resolve()
        project = copy_repository(root / "project")
        worst = 0
        for name in options.suites or SUITES:
            (root / name).mkdir()
            result = judge(name, root / name, project, options)
            print(
                f"{name}: {('no new failure', 'new failures', 'the archive was not in use, or no test ran')[result]}",
                flush=True,
            )
            worst = max(worst, result)
            if options.work is None:
                shutil.rmtree(root / name, ignore_errors=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
