"""A package of empty modules: what an import costs apart from the code that it runs."""

import os

from benchmarks.bench import Bench
from benchmarks.comparison import comparison
from benchmarks.programs import Program, write_program
from benchmarks.report import Table
from benchmarks.sections.import_time import import_cases
from benchmarks.serving import prepare

BAR = 4
MODULES = 1000
PACKAGE = "thousand"
NAME = "empty-modules"


def tables(bench: Bench) -> list[Table]:
    """In-process time of importing them all, one after another."""
    program = write_program(NAME, f"import {PACKAGE}.all_of_them", os.path.join(bench.workspace, "programs"))
    write_package(program, MODULES)
    bench.tell("preparing the image of empty modules")
    cache = prepare([program], bench.setting(NAME))
    outcomes = bench.measure("empty-modules", import_cases(bench, [program], cache), bench.options.rounds)
    title = f"{MODULES:,} empty modules, import in process: {bench.how(bench.options.rounds)}"
    notes = [f"imported one after another by a module of their package; bar: {BAR}"]
    return [comparison(title, [program], outcomes, cache, notes)]


def write_package(program: Program, count: int) -> None:
    """A package beside the program, with so many empty modules and one that imports them all."""
    folder = os.path.join(os.path.dirname(program.script), PACKAGE)
    os.mkdir(folder)
    names = [f"module_{number:04}" for number in range(count)]
    for name in ("__init__", *names):
        with open(os.path.join(folder, f"{name}.py"), "w", encoding="utf-8"):
            pass
    with open(os.path.join(folder, "all_of_them.py"), "w", encoding="utf-8") as file:
        file.writelines(f"import {PACKAGE}.{name}\n" for name in names)
