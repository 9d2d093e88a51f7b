"""Imports where no pyc can be used, as in stripped container images and read-only sandboxes."""

import os

from benchmarks.bench import Bench
from benchmarks.comparison import comparison
from benchmarks.errors import MeasurementError
from benchmarks.report import Table
from benchmarks.sections.import_time import import_cases
from benchmarks.serving import Cache, prepare

BAR = 5
PROGRAMS = {"django", "sympy", "sqlalchemy"}  # compiling is slow; these, or whatever was chosen instead


def tables(bench: Bench) -> list[Table]:
    """In-process time of the import; both sides look for pycs in an empty folder and write none."""
    programs = [program for program in bench.programs if program.name in PROGRAMS] or bench.programs
    empty = os.path.join(bench.workspace, "no-pycs")
    os.mkdir(empty)
    extra = {"PYTHONPYCACHEPREFIX": empty, "PYTHONDONTWRITEBYTECODE": "1"}
    bench.tell("preparing the image without pycs")
    cache = prepare(programs, bench.setting("no-pycs", extra))
    outcomes = bench.measure("no-pycs", import_cases(bench, programs, cache), bench.options.rounds)
    check_empty(cache, empty)
    title = f"Import without pycs, in process: {bench.how(bench.options.rounds)}"
    notes = [
        "PYTHONPYCACHEPREFIX on an empty folder, PYTHONDONTWRITEBYTECODE=1: plain compiles every source; "
        f"bar: {BAR} each"
    ]
    return [comparison(title, programs, outcomes, cache, notes)]


def check_empty(cache: Cache, folder: str) -> None:
    """Raise MeasurementError unless every module's pyc belonged into the folder and none was there."""
    for probed in cache.plain.values():
        outside = [path for path in probed.pycs if not path.startswith(folder + os.sep)]
        if outside:
            raise MeasurementError(f"plain looked for a pyc elsewhere: {outside[0]}")
    if os.listdir(folder):
        raise MeasurementError(f"a side wrote pycs: {folder} isn't empty")
