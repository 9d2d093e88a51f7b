"""What each acceleration is worth: imports with all of them, with all but one, and with none but the archive itself."""

import os
import re
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import MeasurementError
from benchmarks.programs import Program
from benchmarks.report import Row, Table, change, error_row, milliseconds, times
from benchmarks.sampling import Case, Measure, Outcome, geometric_mean, ratio
from benchmarks.sections.import_time import plain
from benchmarks.serving import Cache, check_served, probe, refusal, remark
from benchmarks.venvs import REPOSITORY

SETTINGS = os.path.join(REPOSITORY, "csrc", "settings.c")
ALL_ON = "pycds"
CODE_ONLY = "code-only"


def accelerations(path: str = SETTINGS) -> list[str]:
    """The names that PYCDS_SKIP knows, from the one place that says so. A release that lacks one ignores its name."""
    try:
        with open(path, encoding="utf-8") as file:
            names = re.findall(r'\{"(\w+)", ACCELERATION_\w+\}', file.read())
    except OSError as error:
        raise MeasurementError(f"{path}: {error.strerror}") from None
    if not names:
        raise MeasurementError(f"{path} names no acceleration")
    return names


def skips(names: list[str]) -> dict[str, str]:
    """PYCDS_SKIP of each contender but the plain one."""
    return {ALL_ON: "", **{without(name): name for name in names}, CODE_ONLY: ",".join(names)}


def without(name: str) -> str:
    """The contender that lacks one acceleration."""
    return f"without-{name}"


def tables(bench: Bench) -> list[Table]:
    """Times plain of each contender, and what is lost by leaving each acceleration out; all in one interleaved run."""
    names = accelerations()
    cache = bench.cache
    before = bench.background
    cases = [Case(program.name, contenders(bench, program, cache, names)) for program in bench.programs]
    rounds = bench.options.rounds
    outcomes = bench.measure("accelerations", cases, rounds)
    notes = [
        "plain/pycds; all: the defaults; no …: PYCDS_SKIP of that one; code only: of all of them, so that the archive "
        "gives code and finds files, and nothing else",
        *bench.note_background(before),
    ]
    pairs = list(zip(bench.programs, outcomes, strict=True))
    how = bench.how(rounds)
    return [
        ratios(f"Accelerations, import in process, times plain: {how}", names, cache, pairs, notes),
        losses("Accelerations, what an import takes when one is left out, ms and change", names, cache, pairs),
    ]


def contenders(bench: Bench, program: Program, cache: Cache, names: list[str]) -> dict[str, Measure]:
    """plain, all accelerations, all but one, none."""
    sides: dict[str, Measure] = {"plain": partial(plain, bench, program, cache)}
    for label, skip in skips(names).items():
        sides[label] = partial(skipping, bench, program, cache, skip)
    return sides


def skipping(bench: Bench, program: Program, cache: Cache, skip: str) -> float:
    """Seconds of the statement from the image, without some accelerations."""
    probed = probe(program, cache.setting.pycds() | {"PYCDS_SKIP": skip}, cache.setting)
    check_served(probed, cache, program)
    bench.background += probed.background
    return bench.clock(probed)


def ratios(title: str, names: list[str], cache: Cache, pairs: list[tuple[Program, Outcome]], notes: list[str]) -> Table:
    """A row a program: how many times as fast as plain each contender is."""
    labels = list(skips(names))
    found: dict[str, list[float]] = {label: [] for label in labels}
    rows = []
    for program, outcome in pairs:
        error = outcome.error or refusal(cache, program)
        if error is not None:
            rows.append(error_row(program.name, error))
            continue
        cells = [program.name, milliseconds(outcome.median("plain")), milliseconds(outcome.median(ALL_ON))]
        for label in labels:
            value = ratio(outcome.benchmarks["plain"], outcome.benchmarks[label]).value
            found[label].append(value)
            cells.append(times(value))
        rows.append(Row(cells, remark(cache, program)))
    if all(found.values()):
        rows.append(Row(["geometric mean", "", "", *(times(geometric_mean(values)) for values in found.values())]))
    columns = ["program", "plain ms", "pycds ms", "all", *(f"no {name}" for name in names), "code only"]
    return Table(title, columns, rows, notes)


def losses(title: str, names: list[str], cache: Cache, pairs: list[tuple[Program, Outcome]]) -> Table:
    """A row a program: how much longer its import takes without each acceleration than with all."""
    labels = [without(name) for name in names] + [CODE_ONLY]
    found: dict[str, list[float]] = {label: [] for label in labels}
    rows = []
    for program, outcome in pairs:
        error = outcome.error or refusal(cache, program)
        if error is not None:
            rows.append(error_row(program.name, error))
            continue
        base = outcome.median(ALL_ON)
        cells = [program.name, milliseconds(base)]
        for label in labels:
            lost = ratio(outcome.benchmarks[label], outcome.benchmarks[ALL_ON])
            found[label].append(lost.value)
            cells.append(f"{(outcome.median(label) - base) * 1000:+.1f} ({change(lost.low)} – {change(lost.high)})")
        rows.append(Row(cells))
    if all(found.values()):
        rows.append(Row(["geometric mean", "", *(change(geometric_mean(values)) for values in found.values())]))
    columns = ["program", "pycds ms", *(f"no {name}" for name in names), "code only"]
    return Table(title, columns, rows, ["in brackets: the 95 % interval of the change"])
