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
    cases = import_cases(bench.programs, cache)
    outcomes = bench.measure("import", cases, bench.options.rounds)
    title = f"Import, in process: medians of {bench.options.rounds} fresh processes a side, interleaved"
    return [comparison(title, bench.programs, outcomes, cache, ["modules: those made from a .py file"])]


def import_cases(programs: list[Program], cache: Cache) -> list[Case]:
    """The timing of each program's statement on both sides; every measured process proves what served it."""
    return [
        Case(program.name, {"plain": partial(plain, program, cache), "pycds": partial(pycds, program, cache)})
        for program in programs
    ]


def plain(program: Program, cache: Cache) -> float:
    """Seconds of the statement without pycds-auto."""
    probed = probe(program, cache.setting.plain(), cache.setting)
    check_plain(probed)
    return probed.seconds


def pycds(program: Program, cache: Cache) -> float:
    """Seconds of the statement from the image."""
    probed = probe(program, cache.setting.pycds(), cache.setting)
    check_served(probed, cache, program)
    return probed.seconds
