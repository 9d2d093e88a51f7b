"""The command line: `python -m benchmarks [options]`, from the repository's root."""

import argparse
import os
import sys
from collections.abc import Callable, Collection
from typing import NoReturn

from benchmarks.errors import TargetError
from benchmarks.programs import STATEMENTS
from benchmarks.target import clean_environment
from benchmarks.venvs import REPOSITORY, install

SECTIONS = [
    "import", "process", "empty", "no-pycs", "syscalls", "image", "first", "load", "exit", "memory", "steady",
    "accelerations", "empty-modules", "cold",
]  # fmt: skip
CHARTED = "import"
RUNS = 25
QUICK_RUNS = 5


def installer() -> argparse.ArgumentParser:
    """The options that choose the interpreter."""
    made = argparse.ArgumentParser(add_help=False)
    made.add_argument("--python", default=sys.executable, metavar="PATH", help="the interpreter to measure (this one)")
    made.add_argument(
        "--install", metavar="FOLDER", help="make or renew a venv of --python there, with all it needs; measure that"
    )
    return made


def parser() -> argparse.ArgumentParser:
    """All options."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description="pycds-auto against plain Python", parents=[installer()]
    )
    made.add_argument("--programs", type=names_of(STATEMENTS), default=list(STATEMENTS), metavar="A,B")
    made.add_argument(
        "--sections", type=names_of(SECTIONS), default=SECTIONS, metavar="A,B", help=f"some of {','.join(SECTIONS)}"
    )
    made.add_argument("--runs", type=positive, default=RUNS, metavar="N", help=f"processes a side and program ({RUNS})")
    made.add_argument("--quick", action="store_const", dest="runs", const=QUICK_RUNS, help=f"--runs {QUICK_RUNS}")
    made.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for machines busy with others")
    made.add_argument("--breakdown", action="store_true", help="also list the system calls by name")
    made.add_argument("--control", action="store_true", help="plain on both sides: shows the machine's noise")
    made.add_argument("--markdown", action="store_true", help="Markdown instead of text")
    made.add_argument("--json", metavar="FILE.json", help="also write FILE.plain.json and FILE.pycds.json, for pyperf")
    made.add_argument("--chart", metavar="FILE.svg", help="also draw the figures of the import section")
    return made


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """An argument type: a comma list of names out of KNOWN."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return list(dict.fromkeys(chosen))

    return names


def positive(text: str) -> int:
    """An argument type: an integer from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def main() -> int:
    """0: every row has its figures; 1: some don't; 2: nothing could be measured."""
    options = parser().parse_args()
    if options.chart is not None and CHARTED not in options.sections:
        parser().error(f"--chart draws the section {CHARTED}, which isn't among those chosen")
    try:
        if options.install is not None:
            install_and_continue()
        return measure(options)
    except TargetError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def install_and_continue() -> NoReturn:
    """Make the venv, and become the same command line, without --install, in it."""
    chosen, others = installer().parse_known_args()
    python = install(os.path.abspath(chosen.python), os.path.abspath(chosen.install))
    os.chdir(REPOSITORY)
    command = [python, "-m", "benchmarks", *others, "--python", python]
    os.execve(python, command, clean_environment() | {"PYCDS_DISABLE": "1"})


def measure(options: argparse.Namespace) -> int:
    """Measure and print."""
    try:
        from benchmarks.runner import print_tables
    except ModuleNotFoundError as error:
        if error.name != "pyperf":
            raise
        raise TargetError("pyperf is not installed here; --install FOLDER makes a venv that has it") from None
    return print_tables(options)


if __name__ == "__main__":
    sys.exit(main())
