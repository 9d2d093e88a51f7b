"""In-process time of the import statement, in fresh processes."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.comparison import comparison
from benchmarks.programs import Program
from benchmarks.report import Table
from benchmarks.sampling import Case
from benchmarks.serving import Cache, check_plain, check_served, probe


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each program."""
    cache = bench.cache
    before = bench.background
    cases = import_cases(bench, bench.programs, cache)
    outcomes = bench.measure("import", cases, bench.options.rounds)
    title = f"Import, in process: {bench.how(bench.options.rounds)}"
    notes = ["modules: those made from a .py file", *bench.note_background(before)]
    return [comparison(title, bench.programs, outcomes, cache, notes)]


def import_cases(bench: Bench, programs: list[Program], cache: Cache) -> list[Case]:
    """The timing of each program's statement on both sides; every measured process proves what served it."""
    cases = []
    for program in programs:
        sides = {"plain": partial(plain, bench, program, cache), "pycds": partial(pycds, bench, program, cache)}
        cases.append(Case(program.name, sides))
    return cases


def plain(bench: Bench, program: Program, cache: Cache) -> float:
    """Seconds of the statement without pycds-auto."""
    probed = probe(program, cache.setting.plain(), cache.setting)
    check_plain(probed)
    return bench.clock(probed)


def pycds(bench: Bench, program: Program, cache: Cache) -> float:
    """Seconds of the statement from the image."""
    probed = probe(program, cache.setting.pycds(), cache.setting)
    check_served(probed, cache, program)
    bench.background += probed.background
    return bench.clock(probed)
