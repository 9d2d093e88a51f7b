"""Memory of several processes of one program, all alive at once: what they share counts once."""

import statistics
from collections.abc import Iterable
from functools import partial

from benchmarks.bench import Bench
from benchmarks.comparison import Shares
from benchmarks.errors import MeasurementError
from benchmarks.processes import Waiting, started, wait_for_background
from benchmarks.programs import Program
from benchmarks.report import Table
from benchmarks.sampling import Case
from benchmarks.serving import Cache, check_hits, check_no_hits

BAR = 1.03
PROCESSES = 8
ROUNDS = 3  # sizes hardly vary
FIELDS = ["Pss", "Private_Dirty", "Rss"]
MIB = 1024 * 1024

Sums = dict[str, int]  # bytes of all processes, by FIELDS


class Memory:
    """Measures, and keeps what else was seen of each side."""

    def __init__(self, bench: Bench, cache: Cache) -> None:
        self.bench = bench
        self.cache = cache
        self.seen: dict[tuple[str, str], list[Sums]] = {}

    def measure(self, program: Program, contender: str) -> float:
        """Bytes of proportional set sizes of all processes."""
        plain = contender == "plain"
        setting = self.cache.setting
        environment = setting.plain() if plain else setting.pycds()
        command = [self.bench.target.python, program.probe("waiting"), program.statement]
        with started(command, environment, PROCESSES) as processes:
            for process in processes:
                self.check(process, program, plain)
            sums = add(parse_sizes(sizes_of(process.pid)) for process in processes)
        left = wait_for_background()
        self.bench.background += 0 if plain else left
        self.seen.setdefault((program.name, contender), []).append(sums)
        return float(sums["Pss"])

    def check(self, process: Waiting, program: Program, plain: bool) -> None:
        """Raise MeasurementError unless the process was served as its side is to be."""
        hits = int(process.line)
        if plain:
            check_no_hits(hits)
        else:
            check_hits(hits, self.cache, program)

    def median(self, program: str, contender: str, field: str) -> str:
        """Of the sums of all processes, in MiB; empty if there is none."""
        values = [sums[field] for sums in self.seen.get((program, contender), [])]
        return mebibytes(statistics.median(values)) if values else ""


def sizes_of(pid: int) -> str:
    """The kernel's summary of a process's mappings."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return file.read()


def parse_sizes(text: str) -> Sums:
    """FIELDS of a smaps_rollup, in bytes."""
    sizes = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS:
            sizes[name] = int(value.split()[0]) * 1024
    if len(sizes) != len(FIELDS):
        raise MeasurementError("smaps_rollup lacks sizes")
    return sizes


def add(all_sizes: Iterable[Sums]) -> Sums:
    """The sums, field by field."""
    sums = dict.fromkeys(FIELDS, 0)
    for sizes in all_sizes:
        for field in FIELDS:
            sums[field] += sizes[field]
    return sums


def mebibytes(value: float) -> str:
    """A size in MiB."""
    return f"{value / MIB:.1f}"


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each program."""
    cache = bench.cache
    before = bench.background
    memory = Memory(bench, cache)
    cases = [
        Case(program.name, {side: partial(memory.measure, program, side) for side in ("plain", "pycds")})
        for program in bench.programs
    ]
    outcomes = bench.measure("memory", cases, ROUNDS, "byte")
    further = {"": [f"{side} {name}" for name in ("dirty", "RSS") for side in ("plain", "pycds")]}
    for program in bench.programs:
        further[program.name] = [
            memory.median(program.name, side, field) for field in FIELDS[1:] for side in ("plain", "pycds")
        ]
    notes = [
        f"sums over the processes, MiB: proportional set sizes, private dirty memory, resident set sizes; bar: {BAR}",
        *bench.note_background(before),
    ]
    title = f"Memory of {PROCESSES} processes alive at once, medians of {ROUNDS} times as many a side, interleaved"
    shares = Shares(title, ["program", "plain PSS", "pycds PSS"], mebibytes, notes)
    return [shares.table(cache, list(zip(bench.programs, outcomes, strict=True)), further)]
