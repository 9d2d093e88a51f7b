"""Time to make code objects: the archive's decoder in the running program against marshal over the same modules."""

import json
import os

from benchmarks.bench import Bench
from benchmarks.comparison import Shares, share
from benchmarks.errors import MeasurementError
from benchmarks.processes import run
from benchmarks.programs import Program
from benchmarks.report import Table, milliseconds
from benchmarks.sampling import Case, Measure, geometric_mean, ratio
from benchmarks.serving import Cache
from benchmarks.target import Setting

BAR = 0.40


class Loader:
    """One program's modules: made from their pycs by marshal, or from the archive as the program is run."""

    def __init__(self, bench: Bench, program: Program, cache: Cache) -> None:
        self.bench = bench
        self.program = program
        self.setting = cache.setting
        self.pycs = os.path.join(os.path.dirname(program.script), "pycs")
        self.count = 0
        self.calls = "0"

    def plain(self) -> float:
        """Seconds of marshal.loads over all pycs, which are in memory already."""
        if not self.count:
            self.list_pycs()
        finished = run([self.bench.target.python, self.program.probe("marshal"), self.pycs], self.setting.plain())
        return self.seconds(finished.stdout)

    def in_program(self) -> float:
        """Seconds of marshal.loads in a plain run of the program, with caches and memory as that leaves them."""
        command = [self.bench.target.python, self.program.probe("unmarshal"), self.program.statement]
        seconds, self.calls = run(command, self.setting.plain()).stdout.split()
        return float(seconds)

    def pycds(self) -> float:
        """Seconds the product says that it spent on its hits."""
        environment = self.setting.pycds() | {"PYCDS_LOG": "1"}
        finished = run([self.bench.target.python, self.program.probe("load"), self.program.statement], environment)
        self.bench.background += finished.background
        return self.seconds(finished.stdout)

    def seconds(self, output: str) -> float:
        """The time a probe tells; raises MeasurementError unless it was for exactly the modules compared."""
        seconds, count = output.split()
        if int(count) != self.count:
            raise MeasurementError(f"{count} modules, not the {self.count} that came from the image before")
        return float(seconds)

    def list_pycs(self) -> None:
        """Write the pycs of the modules that the archive serves to a file, in import order."""
        pycs = pycs_of_hits(self.program, self.setting)
        missing = [path for path in pycs if not os.path.exists(path)]
        if missing or not pycs:
            raise MeasurementError(f"no pyc to compare with: {missing[0]}" if missing else "no hits")
        with open(self.pycs, "w", encoding="utf-8") as file:
            file.writelines(f"{path}\n" for path in pycs)
        self.count = len(pycs)


def pycs_of_hits(program: Program, setting: Setting) -> list[str]:
    """The pycs of the modules that the archive serves to a program, in import order; control: of all modules."""
    kind = "import" if setting.control else "hits"
    finished = run([setting.target.python, program.probe(kind), program.statement], setting.pycds())
    found = json.loads(finished.stdout)
    pycs: list[str] = found["pycs"] if setting.control else found
    return pycs


def tables(bench: Bench) -> list[Table]:
    """marshal against the archive's encoding, for each program."""
    cache = bench.cache
    before = bench.background
    loaders = [Loader(bench, program, cache) for program in bench.programs]
    cases = [Case(loader.program.name, sides(loader)) for loader in loaders]
    rounds = bench.options.rounds
    outcomes = bench.measure("load", cases, rounds)
    notes = [
        f"wall-clock time for the code objects of all modules that were hits; bar: {BAR:.2f}",
        "marshal: one loop over pycs that are in memory; pycds: by its own counter while the program is imported, with "
        "checksums and page faults; in program: marshal.loads as importlib calls it in a plain run of the program",
        *bench.note_background(before),
    ]
    shares = Shares(
        f"Load, medians of {rounds} fresh processes a side, interleaved",
        ["program", "marshal ms", "pycds ms"],
        milliseconds,
        notes,
    )
    further = {"": ["modules", "in program ms", "calls", "pycds/in program"]}
    ratios = []
    for loader, outcome in zip(loaders, outcomes, strict=True):
        if outcome.error is None:
            found = ratio(outcome.benchmarks["pycds"], outcome.benchmarks["in program"])
            ratios.append(found.value)
            cells = [str(loader.count), milliseconds(outcome.median("in program")), loader.calls, share(found.value)]
            further[loader.program.name] = cells
    if ratios:
        notes.append(f"geometric mean of pycds/in program: {share(geometric_mean(ratios))}")
    return [shares.table(cache, list(zip(bench.programs, outcomes, strict=True)), further)]


def sides(loader: Loader) -> dict[str, Measure]:
    """The contenders; in a control run marshal plays both."""
    control = loader.setting.control
    return {
        "plain": loader.plain,
        "in program": loader.plain if control else loader.in_program,
        "pycds": loader.plain if control else loader.pycds,
    }
