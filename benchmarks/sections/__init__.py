"""The sections, in the order they are printed: each takes the benchmark run and gives tables."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.sections import empty_run, first_run, image_size, import_time, process_time, system_calls, without_pycs

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "import": import_time.tables,
    "process": process_time.tables,
    "empty": empty_run.tables,
    "no-pycs": without_pycs.tables,
    "syscalls": system_calls.tables,
    "image": image_size.tables,
    "first": first_run.tables,
}
