"""Starts with a cold page cache, as the first one after a boot, a deployment or a long pause has it."""

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.comparison import comparison
from benchmarks.errors import MeasurementError
from benchmarks.report import Table
from benchmarks.sampling import Case
from benchmarks.sections.import_time import import_cases

BAR = 1.8
PROGRAMS = {"django", "sympy"}  # a second a start is spent on dropping; these two, or whatever was chosen instead
DROP_CACHES = "/proc/sys/vm/drop_caches"
PAGES_AND_INODES = "3"
IN_MEMORY = {"tmpfs", "ramfs"}


class Disk(NamedTuple):
    """Where a path lies."""

    file_system: str
    device: str  # such as vda; what the mount table calls it, if it is no block device
    rotational: str  # "1", "0" or unknown
    read_ahead: str  # KiB, or unknown

    def __str__(self) -> str:
        return f"{self.file_system} on {self.device} (rotational: {self.rotational}, read-ahead {self.read_ahead} KiB)"


def tables(bench: Bench) -> list[Table]:
    """Whole process and import in process, plain against pycds, each start with nothing in the page cache."""
    programs = [program for program in bench.programs if program.name in PROGRAMS] or bench.programs
    cache = bench.cache
    disks = {name: disk_of(path) for name, path in places(bench).items()}
    for name, disk in disks.items():
        if disk.file_system in IN_MEMORY:
            raise MeasurementError(
                f"{name}: {disk.file_system} is never cold; TMPDIR chooses another place for the cache"
            )
    drop_caches()
    before = bench.background
    processes = [Case(f"{program.name} process", whole_process(bench, program.script)) for program in programs]
    imports = [Case(f"{case.name} import", cold_sides(case)) for case in import_cases(bench, programs, cache)]
    outcomes = bench.measure("cold", [*processes, *imports], bench.options.rounds)
    notes = [
        f"before each start: sync, and {PAGES_AND_INODES} written to {DROP_CACHES}; bar: {BAR} each",
        *(f"{name}: {disk}" for name, disk in disks.items()),
        "what processes at work have mapped stays: the C library and, if this is the measured interpreter, too, parts "
        "of its binary; so does what a virtual machine's host keeps",
        *bench.note_background(before),
    ]
    how = bench.how(bench.options.rounds)
    return [
        comparison(f"Cold start, whole process: {how}", programs, outcomes[: len(programs)], cache, []),
        comparison(f"Cold start, import in process: {how}", programs, outcomes[len(programs) :], cache, notes),
    ]


def whole_process(bench: Bench, script: str) -> dict[str, Callable[[], float]]:
    """Both sides of a script, started cold."""
    command = [bench.target.python, script]
    setting = bench.cache.setting
    sides = {"plain": setting.plain(), "pycds": setting.pycds()}
    return {
        side: partial(cold, partial(bench.whole_process, command, environment)) for side, environment in sides.items()
    }


def cold_sides(case: Case) -> dict[str, Callable[[], float]]:
    """The contenders of a case, each started cold."""
    return {side: partial(cold, measure) for side, measure in case.contenders.items()}


def cold(measure: Callable[[], float]) -> float:
    """Measure with nothing in the page cache."""
    drop_caches()
    return measure()


def drop_caches() -> None:
    """Empty the page cache and the caches of inodes and names; raises MeasurementError if that isn't allowed here."""
    os.sync()  # what is dirty would stay
    try:
        with open(DROP_CACHES, "w", encoding="ascii") as file:
            file.write(PAGES_AND_INODES)
    except OSError as error:
        raise MeasurementError(f"{DROP_CACHES}: {error.strerror}; only root can drop the page cache") from None


def places(bench: Bench) -> dict[str, str]:
    """What a cold start reads, by the name of its kind."""
    return {
        "interpreter": os.path.realpath(bench.target.executable),
        "packages": bench.target.site_packages,
        "archive": bench.workspace,
    }


def disk_of(path: str) -> Disk:
    """What is known of the disk that a path lies on."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        file_system, source = mounted(file.read(), number)
    block = os.path.realpath(f"/sys/dev/block/{number}")
    if not os.path.exists(block):
        return Disk(file_system, source, "unknown", "unknown")
    queue = next(
        (folder for folder in (f"{block}/queue", f"{os.path.dirname(block)}/queue") if os.path.isdir(folder)), ""
    )
    return Disk(file_system, os.path.basename(block), attribute(queue, "rotational"), attribute(queue, "read_ahead_kb"))


def mounted(mounts: str, number: str) -> tuple[str, str]:
    """File system and source of the device MAJOR:MINOR in the text of a mountinfo, see proc(5)."""
    for line in mounts.splitlines():
        head, _, tail = line.partition(" - ")
        if head.split()[2] == number:
            file_system, source = tail.split()[:2]
            return file_system, source
    return "unknown file system", "unknown device"


def attribute(folder: str, name: str) -> str:
    """A block device's attribute."""
    try:
        with open(os.path.join(folder, name), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"
