"""Looks for anything by which a program could tell pycds-auto from plain Python.

    python tests/difference_finder.py --python VENV/bin/python STATEMENT...

Each statement ("import numpy", say) is run in fresh interpreters of the venv, which has pycds-auto installed, with and
without it (PYCDS_DISABLE), and what a program can see is compared: see observe.py, which runs in there. What differs
between runs without it, too, is chance and doesn't count; nothing else is left out but what README's "Limits" names:
our finder in sys.meta_path and our extension in sys.modules, and when garbage is collected.

Exit status: 0 no difference, 1 differences, 2 a statement took no module from the archive.
"""

import argparse
import difflib
import itertools
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import support
from support import Result, User, run

OBSERVER = Path(__file__).resolve().parent / "observe.py"
MODES = ("state", "audit", "late-audit", "profile", "late-profile", "trace")
SHOWN = 12  # differences of one statement and mode

OPTIONS: tuple[tuple[str, ...], ...] = ((), ("-v",), ("-X", "importtime"), ("-O",), ("-I",))

Seen = dict[str, str | list[str]]


@dataclass
class Comparison:
    statement: str
    differences: list[str]
    hits: int
    modules: int  # of sys.modules


class Finder:
    """Compares in one venv; `folder` is for the user's home and the observer, and stays empty of programs."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.folder = folder
        home = folder / "home"
        home.mkdir(parents=True, exist_ok=True)
        self.user = User(python, home, {"PYTHONHASHSEED": "0", "TMPDIR": str(folder)})
        (folder / "observer").mkdir()
        self.observer = shutil.copy(OBSERVER, folder / "observer")
        self.numbers = itertools.count()

    def prepare(self, statements: Iterable[str], jobs: int) -> None:
        """Have everything that the runs import in the archive."""
        outside = [(*options, "-c", statement) for statement in statements for options in ((), ("-O",))]
        with ThreadPoolExecutor(jobs) as pool:
            # the first runs write pycs, and the files that packages keep at home
            list(pool.map(lambda arguments: self._run(*arguments, plain=True), outside))
            time.sleep(2.1)
            list(pool.map(lambda arguments: self._run(*arguments, plain=False), outside))
            list(pool.map(lambda statement: self.observe("state", statement, plain=False), [*statements, "pass"]))
        self.observe("late-profile", "pass", plain=False)
        self.user.build()

    def _run(self, *arguments: str | Path, plain: bool) -> Result:
        # the same variables on both sides: "0" is as if it weren't set
        env = self.user.env(readonly=False, PYCDS_DISABLE="1" if plain else "0")
        return run(self.user.python, *arguments, env=env, cwd=self.user.home, code=None, quiet=False)

    def observe(self, mode: str, statement: str, plain: bool, shift: int = 0) -> tuple[Seen, dict | None]:
        """`shift` is for other addresses: sets of classes are in their order, and how ABCs ask one another is."""
        output = self.folder / f"seen-{next(self.numbers)}"
        result = self._run("-W", "always", self.observer, mode, output, statement, str(shift), plain=plain)
        seen, stats = {}, None
        if output.exists():
            seen, stats = json.loads(output.read_text())
            output.unlink()
        texts = {key: clean(value) for key, value in result._asdict().items() if isinstance(value, str)}
        return seen | texts | {"exit status": str(result.returncode)}, stats

    def from_outside(self, options: tuple[str, ...], statement: str, plain: bool, shift: int = 0) -> tuple[Seen, None]:
        """Output and exit status of a run that nobody watches, with options of the interpreter."""
        result = self._run(*options, "-c", statement, plain=plain)
        told = result.stderr
        if "importtime" in options:
            told = re.sub(r"^(import time:) +\d+ \| +\d+ \|", r"\1", told, flags=re.MULTILINE)
        lines = [line for line in clean(told).splitlines() if "pycds_auto" not in line]
        if "-v" in options:
            # modules that are in reference cycles end in an order that one module more in sys.modules can change
            end = next((i for i, line in enumerate(lines) if line.startswith("# clear sys.")), len(lines))
            lines[end:] = sorted(lines[end:])
        return {"stdout": clean(result.stdout), "stderr": lines, "exit status": str(result.returncode)}, None

    def compare(self, statement: str, only: Collection[str] = ()) -> Comparison:
        """Looks in every way, or in those named."""
        differences = []
        hits = modules = 0
        looks = [(mode, lambda mode=mode, **how: self.observe(mode, statement, **how)) for mode in MODES]
        for options in OPTIONS:
            name = " ".join(("python", *options))
            looks.append((name, lambda options=options, **how: self.from_outside(options, statement, **how)))
        for mode, look in looks:
            if only and mode not in only:
                continue
            ours, stats = look(plain=False)
            if mode == "state":
                hits, modules = stats["hits"] if stats else 0, len(ours.get("sys.modules", ()))
            plain, _ = look(plain=True)
            if ours != plain:
                others = [look(plain=True, shift=shift)[0] for shift in range(8)]
                found = list(difference(ours, plain, others))
                differences += [f"[{mode}] {line}" for line in found[:SHOWN]]
                if len(found) > SHOWN:
                    differences.append(f"[{mode}] and {len(found) - SHOWN} more")
        return Comparison(statement, differences, hits, modules)


def clean(text: str) -> str:
    return re.sub(r"\b0x[0-9a-f]+", "0x...", text)


def difference(ours: Seen, plain: Seen, others: list[Seen]) -> Iterable[str]:
    """What ours has otherwise than plain runs, which agree with each other in it."""
    for key in dict.fromkeys([*plain, *ours]):
        now, then, *more = (seen.get(key, "(missing)") for seen in (ours, plain, *others))
        if all(isinstance(value, list) for value in (now, then, *more)):
            yield from (f"{key}: {line}" for line in difference_of_lists(now, then, more))
        elif now != then and all(value == then for value in more):
            yield f"{key}: {shorten(str(now), str(now), str(then))}; plain: {shorten(str(then), str(now), str(then))}"


def difference_of_lists(ours: list[str], plain: list[str], others: list[list[str]]) -> Iterable[str]:
    chance = {line[2:] for other in others for line in changed(plain, other)}
    removed, added = ([line for line in changed(plain, ours) if line[0] == sign] for sign in "-+")
    if len(removed) == len(added):  # in place of what is chance, there is chance
        pairs = [pair for pair in zip(removed, added) if pair[0][2:] not in chance]
        removed, added = [old for old, _ in pairs], [new for _, new in pairs]
    lines = [line for line in [*removed, *added] if line[2:] not in chance]
    removed, added = ([line for line in lines if line[0] == sign] for sign in "-+")
    if len(removed) == len(added):
        return (f"{shorten(n, n, o)}; plain: {shorten(o[2:], n[2:], o[2:])}" for n, o in zip(added, removed))
    return (shorten(line) for line in lines)


def changed(before: list[str], after: list[str]) -> list[str]:
    """The lines that went and came, marked with - and +."""
    if before == after:
        return []
    # difflib is slow with a long trace, and most of it is equal
    start = next((i for i, (one, other) in enumerate(zip(before, after)) if one != other), min(len(before), len(after)))
    before, after = before[start:], after[start:]
    end = next(
        (i for i, (one, other) in enumerate(zip(before[::-1], after[::-1])) if one != other),
        min(len(before), len(after)),
    )
    before, after = before[: len(before) - end], after[: len(after) - end]
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]
    return [f"{line[0]} {line[1:]}" for line in lines if line[0] in "+-"]


def shorten(text: str, *both: str) -> str:
    """A long text from just before where the two differ."""
    start = next((i for i, (a, b) in enumerate(zip(*both)) if a != b), 0)
    return text if len(text) < 200 else f"...{text[max(0, start - 60) : start + 140]}..."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("statements", nargs="+", metavar="STATEMENT")
    parser.add_argument("--python", type=Path, required=True, help="a venv's interpreter, with pycds-auto installed")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    ways = [*MODES, *(" ".join(("python", *options)) for options in OPTIONS)]
    parser.add_argument("--only", action="append", default=[], choices=ways, help="ways to look; default: all")
    options = parser.parse_args()
    support.PATIENCE = 1800
    with tempfile.TemporaryDirectory(prefix="pycds-differences-") as folder:
        finder = Finder(options.python.absolute(), Path(folder))
        finder.prepare(options.statements, options.jobs)
        found = unserved = 0
        with ThreadPoolExecutor(options.jobs) as pool:
            for result in pool.map(lambda statement: finder.compare(statement, options.only), options.statements):
                told = f"{len(result.differences) or 'no'} differences, {result.hits} of {result.modules} modules from the archive"
                print(f"{result.statement}: {told}", flush=True)
                for line in result.differences:
                    print(f"    {line}", flush=True)
                found += len(result.differences)
                unserved += not result.hits
        print(f"{found} differences in {len(options.statements)} statements")
    return 2 if unserved else 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
