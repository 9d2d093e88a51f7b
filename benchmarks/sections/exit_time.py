"""Time from a program's last statement to the end of its process."""

from functools import partial

from benchmarks.bench import Bench
from benchmarks.comparison import Shares
from benchmarks.errors import MeasurementError
from benchmarks.processes import Finished, run
from benchmarks.programs import Program
from benchmarks.report import Table, milliseconds
from benchmarks.sampling import Case
from benchmarks.serving import Cache, check_hits, check_no_hits

BAR = 0.8
BAR_PROGRAM = "sympy"


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each program."""
    cache = bench.cache
    before = bench.background
    cases = []
    for program in bench.programs:
        sides = {"plain": partial(plain, bench, program, cache), "pycds": partial(pycds, bench, program, cache)}
        cases.append(Case(program.name, sides))
    outcomes = bench.measure("exit", cases, bench.options.rounds)
    notes = [
        f"from the program's last statement to the end of the process; bar: {BAR} for {BAR_PROGRAM}",
        *bench.note_background(before),
    ]
    title = f"Exit: {bench.how(bench.options.rounds)}"
    shares = Shares(title, ["program", "plain ms", "pycds ms"], milliseconds, notes)
    return [shares.table(cache, list(zip(bench.programs, outcomes, strict=True)), {})]


def plain(bench: Bench, program: Program, cache: Cache) -> float:
    """Seconds of the exit without pycds-auto."""
    finished = run([bench.target.python, program.probe("exit"), program.statement], cache.setting.plain())
    hits, end = seconds_of_end(bench, finished)
    check_no_hits(hits)
    return end


def pycds(bench: Bench, program: Program, cache: Cache) -> float:
    """Seconds of the exit with modules from the image."""
    finished = run([bench.target.python, program.probe("exit"), program.statement], cache.setting.pycds())
    bench.background += finished.background
    hits, end = seconds_of_end(bench, finished)
    check_hits(hits, cache, program)
    return end


def seconds_of_end(bench: Bench, finished: Finished) -> tuple[int, float]:
    """Hits, and seconds from the time that the program wrote to its end, by the clock that was asked for."""
    try:
        hits, cpu, monotonic = map(int, finished.stdout.split())
    except ValueError:
        raise MeasurementError(f"the program wrote {finished.stdout[-60:]!r} in place of its times") from None
    seconds = finished.cpu - cpu / 1e9 if bench.options.clock == "cpu" else finished.ended - monotonic / 1e9
    return hits, seconds
