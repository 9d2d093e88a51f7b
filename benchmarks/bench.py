"""What the sections share: the target, the programs, prepared caches, and the results for pyperf."""

import functools
import itertools
import os
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

import pyperf

from benchmarks.errors import MeasurementError, TargetError
from benchmarks.processes import Finished, run
from benchmarks.programs import Program
from benchmarks.sampling import Case, Outcome, interleave
from benchmarks.serving import Cache, Probed, prepare
from benchmarks.target import Setting, Target


class Options(NamedTuple):
    """What the command line asked for."""

    rounds: int
    control: bool
    breakdown: bool
    clock: str  # "wall" or "cpu"


class Bench:
    """One benchmark run."""

    def __init__(self, target: Target, programs: list[Program], workspace: str, options: Options) -> None:
        self.target = target
        self.programs = programs
        self.workspace = workspace
        self.options = options
        self.outcomes: dict[str, list[Outcome]] = {}  # by section
        self.background = 0  # processes that timed processes left behind

    def setting(self, name: str, extra: dict[str, str] | None = None) -> Setting:
        """A setting with a cache folder of its own, which doesn't exist yet."""
        folder = os.path.join(self.workspace, "caches", name)
        return Setting(self.target, folder, extra or {}, self.options.control)

    @functools.cached_property
    def cache(self) -> Cache:
        """The cache with all programs in one image, as a venv's user has it; prepared when first asked for."""
        self.tell("preparing pycs and the image of all programs")
        try:
            return prepare(self.programs, self.setting("all"))
        except MeasurementError as error:
            raise TargetError(str(error)) from None

    def whole_process(self, arguments: list[str], environment: dict[str, str]) -> float:
        """Seconds of a process from its start to its end."""
        finished = run(arguments, environment)
        self.background += finished.background
        return self.clock(finished)

    def clock(self, measured: Finished | Probed) -> float:
        """Seconds by the clock that was asked for."""
        return measured.cpu if self.options.clock == "cpu" else measured.wall

    def how(self, rounds: int) -> str:
        """How times were measured, for a title."""
        time_of = "CPU time, " if self.options.clock == "cpu" else ""
        return f"{time_of}medians of {rounds} fresh processes a side, interleaved"

    def note_background(self, before: int) -> list[str]:
        """A note if processes were left behind since `self.background` was `before`, with nothing left to record."""
        started = self.background - before
        return [f"! rebuilders started although the image is complete: {started}"] if started else []

    def measure(self, section: str, cases: Iterable[Case], rounds: int, unit: str = "second") -> list[Outcome]:
        """Interleave the cases and keep their values for pyperf's JSON."""
        self.tell(f"{section}: {rounds} rounds")
        begin = time.monotonic()
        outcomes = interleave(section, cases, rounds, unit)
        self.outcomes.setdefault(section, []).extend(outcomes)
        self.tell(f"{section}: done in {time.monotonic() - begin:.0f} s")
        return outcomes

    def tell(self, message: str) -> None:
        """Progress, on stderr."""
        print(message, file=sys.stderr, flush=True)

    def suites(self) -> dict[str, pyperf.BenchmarkSuite]:
        """A suite per contender, so that `pyperf compare_to` can set one against the other."""
        benchmarks: dict[str, list[pyperf.Benchmark]] = {}
        for outcome in itertools.chain.from_iterable(self.outcomes.values()):
            for label, benchmark in outcome.benchmarks.items():
                benchmarks.setdefault(label, []).append(benchmark)
        return {label: pyperf.BenchmarkSuite(found) for label, found in benchmarks.items()}
