"""Speed of code once it is loaded: pure-Python work in modules of the standard library."""

import json
import os
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import MeasurementError
from benchmarks.processes import run
from benchmarks.programs import Program, write_program
from benchmarks.report import Row, Table, error_row, milliseconds
from benchmarks.sampling import Case, Outcome, geometric_mean, ratio
from benchmarks.serving import Cache, prepare

BAR = 0.98
STATEMENT = "import copy, difflib, fractions, heapq, json.encoder, textwrap, tokenize"  # as probe_steady.py has them
TASKS = ["copy", "difflib", "fractions", "heapq", "json", "textwrap", "tokenize"]


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each task."""
    program = write_program("steady", STATEMENT, os.path.join(bench.workspace, "programs"))
    bench.tell("preparing the image of modules at work")
    cache = prepare([program], bench.setting("steady"))
    cases = [
        Case(task, {side: partial(seconds, bench, program, cache, task, side) for side in ("plain", "pycds")})
        for task in TASKS
    ]
    outcomes = bench.measure("steady", cases, bench.options.rounds)
    return [speeds(outcomes, f"Steady work: {bench.how(bench.options.rounds)}")]


def seconds(bench: Bench, program: Program, cache: Cache, task: str, side: str) -> float:
    """Seconds of a task in one process, warmed up; raises MeasurementError if its modules aren't the side's."""
    environment = cache.setting.plain() if side == "plain" else cache.setting.pycds()
    finished = run([bench.target.python, program.probe("steady"), task], environment)
    found = json.loads(finished.stdout)
    check_origin(found["ordinary"], found["modules"], side == "plain" or cache.setting.control)
    value: float = found[bench.options.clock]
    return value


def check_origin(ordinary: int, modules: int, plain: bool) -> None:
    """Raise MeasurementError unless all modules are plain Python's, respectively none."""
    if ordinary != (modules if plain else 0):
        raise MeasurementError(f"{ordinary} of {modules} modules at work were loaded by plain Python")


def speeds(outcomes: list[Outcome], title: str) -> Table:
    """How fast tasks run with modules from the image, times plain's speed."""
    rows, ratios = [], []
    for outcome in outcomes:
        if outcome.error is not None:
            rows.append(error_row(outcome.name, outcome.error))
            continue
        found = ratio(outcome.benchmarks["plain"], outcome.benchmarks["pycds"])
        ratios.append(found.value)
        medians = [milliseconds(outcome.median(side)) for side in ("plain", "pycds")]
        rows.append(Row([outcome.name, *medians, f"{found.value:.3f}", f"{found.low:.3f}–{found.high:.3f}"]))
    if ratios:
        rows.append(Row(["geometric mean", "", "", f"{geometric_mean(ratios):.3f}", ""]))
    notes = [f"a process's value: the fastest of some repetitions after warming up; bar: {BAR} in the geometric mean"]
    return Table(title, ["task", "plain ms", "pycds ms", "plain/pycds", "95 %"], rows, notes)
