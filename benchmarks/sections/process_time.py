"""Time of the whole process: start-up, import, exit."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.comparison import comparison
from benchmarks.report import Table
from benchmarks.sampling import Case


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each program as a script."""
    cache = bench.cache
    before = bench.background
    cases = []
    for program in bench.programs:
        command = [bench.target.python, program.script]
        sides = {
            "plain": partial(bench.whole_process, command, cache.setting.plain()),
            "pycds": partial(bench.whole_process, command, cache.setting.pycds()),
        }
        cases.append(Case(program.name, sides))
    outcomes = bench.measure("process", cases, bench.options.rounds)
    title = f"Whole process: {bench.how(bench.options.rounds)}"
    notes = ["from before the start to after the exit", *bench.note_background(before)]
    return [comparison(title, bench.programs, outcomes, cache, notes)]
