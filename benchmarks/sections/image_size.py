"""The image's size against the size of the pycs it stands for."""

import os

from benchmarks.bench import Bench
from benchmarks.programs import Program
from benchmarks.report import Row, Table, error_row, times
from benchmarks.serving import build_image, compile_pycs
from benchmarks.target import Setting, pycs_of_image

KIB = 1024


def tables(bench: Bench) -> list[Table]:
    """An image of each program alone, and one of all."""
    title = "Image size over pyc size"
    columns = ["image of", "modules", "image KiB", "pycs KiB", "image/pycs"]
    if bench.options.control:
        return [Table(title, columns, [error_row("all", "a control run has no image")], [])]
    compile_pycs(bench.programs, bench.setting("image"))
    rows = []
    for program in bench.programs:
        bench.tell(f"image: {program.name}")
        rows.append(size_row(program.name, [program], bench.setting(f"image-{program.name}")))
    rows.append(size_row("all of them", bench.programs, bench.setting("image-all")))
    notes = ["of all modules in the image, so with what start-up and the building itself imported"]
    return [Table(title, columns, rows, notes)]


def size_row(name: str, programs: list[Program], setting: Setting) -> Row:
    """The image that some programs make against the pycs of the modules in it."""
    image = build_image(programs, setting)["image"]
    pycs = pycs_of_image(setting, image["path"])
    there = [path for path in pycs if os.path.exists(path)]
    size = sum(map(os.path.getsize, there))
    missing = len(pycs) - len(there)
    cells = [name, str(len(pycs)), f"{image['bytes'] / KIB:.0f}", f"{size / KIB:.0f}", times(image["bytes"] / size)]
    return Row(cells, f"{missing} modules have no pyc" if missing else "")
