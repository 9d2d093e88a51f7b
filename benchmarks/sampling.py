"""Interleaved measuring and its statistics.

Machines drift, by seconds and by hours, so the contenders of a comparison take turns within one run: every round
measures each contender of each case once. The order within a case changes from round to round (plain pycds, pycds
plain, …), so that none always comes first or after the same other. pyperf keeps the values; it has no interleaving.
"""

import datetime
import os
import random
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyperf

from benchmarks.errors import MeasurementError

RESAMPLES = 1000
CONFIDENCE = 0.95

Measure = Callable[[], float]


class Case(NamedTuple):
    """One row of a comparison: a name and the contenders, each a function that measures once."""

    name: str
    contenders: Mapping[str, Measure]


class Outcome(NamedTuple):
    """What a case gave: a pyperf benchmark per contender, or the reason why there is none."""

    name: str
    benchmarks: dict[str, pyperf.Benchmark]
    error: str | None

    def median(self, contender: str) -> float:
        """The contender's median, in its unit."""
        return float(self.benchmarks[contender].median())


class Ratio(NamedTuple):
    """A ratio of medians with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def interleave(section: str, cases: Iterable[Case], rounds: int, unit: str = "second") -> list[Outcome]:
    """Measure every contender of every case ROUNDS times, in turns. A case that fails ends there, with its reason."""
    cases = list(cases)
    runs: dict[tuple[str, str], list[pyperf.Run]] = {}
    errors: dict[str, str] = {}
    for number in range(rounds):
        for case in cases:
            if case.name in errors:
                continue
            try:
                for label in turn(list(case.contenders), number):
                    run = measured(f"{section}: {case.name}", unit, case.contenders[label])
                    runs.setdefault((case.name, label), []).append(run)
            except MeasurementError as error:
                errors[case.name] = str(error)
    return [outcome(case, runs, errors.get(case.name)) for case in cases]


def turn(contenders: list[str], number: int) -> list[str]:
    """The order in a round. Who comes first pays for what another case left in the processor's caches: of several
    contenders each comes first, and last, equally often; in the next round the order is turned round.
    """
    first = number // 2 % len(contenders)
    order = contenders[first:] + contenders[:first]
    return order[::-1] if number % 2 else order


def measured(name: str, unit: str, measure: Measure) -> pyperf.Run:
    """One measurement as a run of pyperf (every one is a process of its own)."""
    value = measure()
    metadata = {
        "name": name,
        "unit": unit,
        "date": datetime.datetime.now().isoformat(sep=" "),
        "load_avg_1min": os.getloadavg()[0],
    }
    return pyperf.Run([value], metadata=metadata, collect_metadata=False)


def outcome(case: Case, runs: dict[tuple[str, str], list[pyperf.Run]], error: str | None) -> Outcome:
    """Gather a case's runs."""
    if error is not None:
        return Outcome(case.name, {}, error)
    return Outcome(case.name, {label: pyperf.Benchmark(runs[case.name, label]) for label in case.contenders}, None)


def ratio(numerator: pyperf.Benchmark, denominator: pyperf.Benchmark) -> Ratio:
    """The ratio of two medians; the interval is bootstrapped over rounds, whose two values were measured together."""
    above, below = numerator.get_values(), denominator.get_values()
    value = statistics.median(above) / statistics.median(below)
    source = random.Random(0)
    rounds = range(len(above))
    resampled = []
    for _ in range(RESAMPLES):
        chosen = source.choices(rounds, k=len(above))
        resampled.append(statistics.median([above[i] for i in chosen]) / statistics.median([below[i] for i in chosen]))
    resampled.sort()
    tail = int(RESAMPLES * (1 - CONFIDENCE) / 2)
    return Ratio(value, resampled[tail], resampled[-1 - tail])


def geometric_mean(values: list[float]) -> float:
    """The geometric mean, the fair mean of ratios."""
    return statistics.geometric_mean(values)
