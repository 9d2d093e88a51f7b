"""System calls a module, counted by strace: a program's minus those of an empty script, over its modules."""

import os
import shutil
from collections import Counter
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import MeasurementError
from benchmarks.processes import run
from benchmarks.programs import Program, write_program
from benchmarks.report import Row, Table, error_row
from benchmarks.sampling import Case, Outcome
from benchmarks.serving import refusal, remark

ROUNDS = 3  # counts hardly vary
SHOWN = 12  # lines of the break-down

Side = tuple[str, str]  # program, contender


class Tracer:
    """Counts a process's system calls, and remembers the last count of each side by call."""

    def __init__(self, bench: Bench, strace: str) -> None:
        self.bench = bench
        self.strace = strace
        self.last: dict[Side, Counter[str]] = {}

    def count(self, program: Program, contender: str) -> float:
        """System calls of the program and its children, threads included."""
        setting = self.bench.cache.setting
        environment = setting.plain() if contender == "plain" else setting.pycds()
        command = [self.strace, "-f", "-c", "-o", "strace", self.bench.target.python, program.script]
        finished = run(command, environment)
        self.bench.background += finished.background
        with open("strace", encoding="utf-8") as file:
            calls = parse_summary(file.read())
        self.last[program.name, contender] = calls
        return calls.total()


def parse_summary(text: str) -> Counter[str]:
    """The calls column of `strace -c`, by system call."""
    calls: Counter[str] = Counter()
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and words[0].replace(".", "").isdigit() and words[-1] != "total":
            calls[words[-1]] += int(words[3])
    if not calls:
        raise MeasurementError("strace printed no summary")
    return calls


def tables(bench: Bench) -> list[Table]:
    """Plain against pycds, for each program; with --breakdown a second table by system call."""
    title = "System calls above an empty run, a module"
    columns = ["program", "modules", "plain", "pycds", "plain/module", "pycds/module"]
    strace = shutil.which("strace")
    if strace is None:
        return [Table(title, columns, [error_row("all", "strace is not installed")], [])]
    tracer = Tracer(bench, strace)
    empty = write_program("empty", "", os.path.join(bench.workspace, "programs"))
    programs = [*bench.programs, empty]
    cases = [
        Case(program.name, {side: partial(tracer.count, program, side) for side in ("plain", "pycds")})
        for program in programs
    ]
    outcomes = bench.measure("syscalls", cases, ROUNDS, "integer")
    *outcomes, floor = outcomes
    if floor.error is not None:
        return [Table(title, columns, [error_row("empty", floor.error)], [])]
    rows = [call_row(bench, *pair, floor) for pair in zip(bench.programs, outcomes, strict=True)]
    notes = [
        f"strace -f -c, medians of {ROUNDS}; modules: those made from a .py file; "
        f"an empty script: plain {floor.median('plain'):.0f}, pycds {floor.median('pycds'):.0f}"
    ]
    found = [Table(title, columns, rows, notes)]
    if bench.options.breakdown:
        found.append(breakdown(bench, tracer))
    return found


def call_row(bench: Bench, program: Program, outcome: Outcome, floor: Outcome) -> Row:
    """One program's calls above the empty script's."""
    error = outcome.error or refusal(bench.cache, program)
    if error is not None:
        return error_row(program.name, error)
    modules = bench.cache.plain[program.name].sources()
    above = [outcome.median(side) - floor.median(side) for side in ("plain", "pycds")]
    counts = [f"{calls:.0f}" for calls in above]
    cells = [program.name, str(modules), *counts, *(f"{calls / modules:.2f}" for calls in above)]
    return Row(cells, remark(bench.cache, program))


def breakdown(bench: Bench, tracer: Tracer) -> Table:
    """The calls of all programs together above as many empty runs, a module, by system call."""
    modules = sum(bench.cache.plain[program.name].sources() for program in bench.programs)
    sums = {side: Counter[str]() for side in ("plain", "pycds")}
    for side, total in sums.items():
        for program in bench.programs:
            total.update(tracer.last[program.name, side])
            total.subtract(tracer.last["empty", side])
    order = sorted(set(sums["plain"]) | set(sums["pycds"]), key=lambda call: (-sums["pycds"][call], call))
    shown, rest = order[:SHOWN], order[SHOWN:]
    rows = [breakdown_row(call, [call], sums, modules) for call in shown]
    if rest:
        rows.append(breakdown_row(f"{len(rest)} others", rest, sums, modules))
    title = "System calls by name, all programs together above empty runs"
    return Table(title, ["call", "plain", "pycds", "plain/module", "pycds/module"], rows, [f"{modules} modules"])


def breakdown_row(name: str, calls: list[str], sums: dict[str, Counter[str]], modules: int) -> Row:
    """One system call, or several as one."""
    counts = [sum(total[call] for call in calls) for total in sums.values()]
    return Row([name, *map(str, counts), *(f"{count / modules:.2f}" for count in counts)])
