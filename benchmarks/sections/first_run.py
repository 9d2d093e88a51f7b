"""The first run of a program after installation: nothing cached, every module recorded, a rebuilder started at exit."""

import os
import shutil

from benchmarks.bench import Bench
from benchmarks.errors import MeasurementError
from benchmarks.processes import run
from benchmarks.programs import Program
from benchmarks.report import Row, Table, change, error_row, milliseconds
from benchmarks.sampling import Case, Outcome, geometric_mean, ratio
from benchmarks.serving import compile_pycs
from benchmarks.target import Setting


class FirstRun:
    """A program that always runs as if for the first time."""

    def __init__(self, bench: Bench, program: Program, setting: Setting) -> None:
        self.bench = bench
        self.program = program
        self.setting = setting
        self.rebuilders = 0

    def plain(self) -> float:
        """Seconds of the whole process without pycds-auto."""
        return self.bench.clock(run([self.setting.target.python, self.program.script], self.setting.plain()))

    def pycds(self) -> float:
        """Seconds of the whole process that records; a rebuilder it starts has ended when this returns."""
        finished = run([self.setting.target.python, self.program.script], self.setting.pycds())
        self.rebuilders += finished.background
        if not self.setting.control:
            self.forget()
        return self.bench.clock(finished)

    def forget(self) -> None:
        """Remove the cache folder; raise MeasurementError if nothing was recorded there."""
        recorded = any(files for _, _, files in os.walk(self.setting.cache))
        shutil.rmtree(self.setting.cache, ignore_errors=True)
        if not recorded:
            raise MeasurementError("the first run recorded nothing")


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds with no cache folder, whole process."""
    setting = bench.setting("first")
    compile_pycs(bench.programs, setting)
    contenders = [FirstRun(bench, program, bench.setting(f"first-{program.name}")) for program in bench.programs]
    cases = [Case(first.program.name, {"plain": first.plain, "pycds": first.pycds}) for first in contenders]
    rounds = bench.options.rounds
    outcomes = bench.measure("first", cases, rounds)
    rows, ratios = [], []
    for outcome in outcomes:
        if outcome.error is None:
            ratios.append(ratio(outcome.benchmarks["pycds"], outcome.benchmarks["plain"]).value)
        rows.append(first_row(outcome))
    if ratios:
        rows.append(Row(["geometric mean", "", "", change(geometric_mean(ratios)), ""]))
    started = sum(first.rebuilders for first in contenders)
    notes = [
        "whole process, no cache folder at its start, pycs present. Rebuilders start at exit "
        f"({started} did) and end before the next process starts; their own time is not counted"
    ]
    title = f"First, recording run: {bench.how(rounds)}"
    return [Table(title, ["program", "plain ms", "pycds ms", "pycds takes", "95 %"], rows, notes)]


def first_row(outcome: Outcome) -> Row:
    """One program's first run."""
    if outcome.error is not None:
        return error_row(outcome.name, outcome.error)
    found = ratio(outcome.benchmarks["pycds"], outcome.benchmarks["plain"])
    times = [milliseconds(outcome.median(side)) for side in ("plain", "pycds")]
    return Row([outcome.name, *times, change(found.value), f"{change(found.low)} – {change(found.high)}"])
