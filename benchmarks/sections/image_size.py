"""The image's size against the size of the pycs it stands for."""

import os
from typing import Any

from benchmarks.bench import Bench
from benchmarks.programs import Program
from benchmarks.report import Row, Table, error_row, times
from benchmarks.serving import Cache, build_image

KIB = 1024


def tables(bench: Bench) -> list[Table]:
    """An image of each program alone, and one of all."""
    title = "Image size over pyc size"
    columns = ["image of", "modules", "image KiB", "pycs", "pycs KiB", "image/pycs"]
    if bench.options.control:
        return [Table(title, columns, [error_row("all", "a control run has no image")], [])]
    cache = bench.cache
    rows = []
    for program in bench.programs:
        bench.tell(f"image: {program.name}")
        image = build_image([program], bench.setting(f"image-{program.name}"))["image"]
        rows.append(size_row(program.name, image, [program], cache))
    image = build_image(bench.programs, bench.setting("image-all"))["image"]
    rows.append(size_row("all of them", image, bench.programs, cache))
    notes = ["modules: in the image, those that start-up imports included; pycs: of the import statements alone"]
    return [Table(title, columns, rows, notes)]


def size_row(name: str, image: dict[str, Any], programs: list[Program], cache: Cache) -> Row:
    """One image against the pycs of its programs' modules, each counted once."""
    pycs = {path for program in programs for path in cache.plain[program.name].pycs}
    size = sum(os.path.getsize(path) for path in pycs if os.path.exists(path))
    counted = [str(image["modules"]), f"{image['bytes'] / KIB:.0f}", str(len(pycs)), f"{size / KIB:.0f}"]
    return Row([name, *counted, times(image["bytes"] / size)])
