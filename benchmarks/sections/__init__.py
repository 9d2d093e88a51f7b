"""The sections, in the order they are printed: each takes the benchmark run and gives tables."""

from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.sections import (
    accelerations,
    cold_start,
    empty_modules,
    empty_run,
    exit_time,
    first_run,
    image_size,
    import_time,
    load_time,
    memory,
    process_time,
    steady_work,
    system_calls,
    without_pycs,
)

SECTIONS: dict[str, Callable[[Bench], list[Table]]] = {
    "import": import_time.tables,
    "process": process_time.tables,
    "empty": empty_run.tables,
    "no-pycs": without_pycs.tables,
    "syscalls": system_calls.tables,
    "image": image_size.tables,
    "first": first_run.tables,
    "load": load_time.tables,
    "exit": exit_time.tables,
    "memory": memory.tables,
    "steady": steady_work.tables,
    "accelerations": accelerations.tables,
    "empty-modules": empty_modules.tables,
    "cold": cold_start.tables,
}
