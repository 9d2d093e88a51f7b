"""Runs the chosen sections and prints their tables."""

import argparse
import datetime
import os
import platform
import tempfile

import pyperf

from benchmarks.bench import Bench, Options
from benchmarks.chart import Bars, Chart, draw
from benchmarks.errors import MeasurementError, TargetError
from benchmarks.processes import adopt_orphans
from benchmarks.programs import write_programs
from benchmarks.report import Table, as_markdown, as_text, error_row
from benchmarks.sections import SECTIONS
from benchmarks.serving import refusal
from benchmarks.target import Target, interrogate

HOST_METADATA = ("hostname", "platform", "cpu_model_name", "cpu_count", "cpu_config", "aslr", "perf_version")
CONTROL = "CONTROL RUN: both sides are plain; what differs is the machine's noise"


def print_tables(options: argparse.Namespace) -> int:
    """0 if every row has its figures, else 1."""
    target = interrogate(os.path.abspath(options.python))
    check(target, options)
    adopt_orphans()
    json = os.path.abspath(options.json) if options.json else None
    chart = os.path.abspath(options.chart) if options.chart else None
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="pycds-benchmarks-") as workspace:
        programs = write_programs(options.programs, os.path.join(workspace, "programs"))
        bench = Bench(
            target, programs, workspace, Options(options.runs, options.control, options.breakdown, options.clock)
        )
        os.chdir(workspace)
        try:
            return print_sections(bench, options, json, chart)
        finally:
            os.chdir(here)


def check(target: Target, options: argparse.Namespace) -> None:
    """Raise TargetError if the target lacks something the run needs."""
    missing = [name for name in options.programs if name in target.missing]
    if missing:
        raise TargetError(f"{target.python} lacks {', '.join(missing)}; --install FOLDER makes a venv that has all")
    if target.pycds is None and not options.control:
        raise TargetError(f"pycds-auto is not installed in {target.python}; --install FOLDER makes a venv that has it")


def print_sections(bench: Bench, options: argparse.Namespace, json: str | None, chart: str | None) -> int:
    """Measure and print section by section, so that a long run shows what it has."""
    render = as_markdown if options.markdown else as_text
    machine = describe_machine()
    print("\n".join(describe(bench.target, machine, options)), flush=True)
    failed = False
    for name in options.sections:
        for table in section(bench, name):
            print("\n" + render(table), flush=True)
            failed = failed or table.failed()
    if json is not None:
        write_json(bench, json)
    if chart is not None:
        write_chart(bench, machine, chart)
    return 1 if failed else 0


def section(bench: Bench, name: str) -> list[Table]:
    """One section's tables; what spoils all of it becomes its only row."""
    try:
        return SECTIONS[name](bench)
    except MeasurementError as error:
        return [Table(name, ["section"], [error_row(name, str(error))], [])]


def describe(target: Target, machine: str, options: argparse.Namespace) -> list[str]:
    """What was measured, on what."""
    lines = [f"{subject(target)}, {target.executable}", machine]
    if options.control:
        lines.append(CONTROL)
    return lines


def subject(target: Target) -> str:
    """The release and the interpreter."""
    build = f"PGO: {target.pgo}; libpython: {'shared' if target.shared else 'static'}"
    if target.debug:
        build += "; DEBUG BUILD"
    return f"pycds-auto {target.pycds}, {target.implementation} {target.version} ({build})"


def describe_machine() -> str:
    """The machine, its load, and the day."""
    host = pyperf.Run([1.0]).get_metadata()
    return (
        f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs "
        f"({host.get('cpu_model_name', 'model unknown')}), load {os.getloadavg()[0]:.1f} at the start, "
        f"{datetime.date.today()}"
    )


def write_chart(bench: Bench, machine: str, path: str) -> None:
    """The import section's figures as SVG; raises TargetError if there are none."""
    programs, left_out = [], []
    outcomes = {outcome.name: outcome for outcome in bench.outcomes.get("import", [])}
    for program in bench.programs:
        outcome = outcomes.get(program.name)
        if outcome is not None and outcome.error is None and refusal(bench.cache, program) is None:
            programs.append(Bars(program.name, outcome.median("plain"), outcome.median("pycds")))
        else:
            left_out.append(program.name)
    if not programs:
        raise TargetError("no program has figures to draw")
    how = bench.how(bench.options.rounds)
    captions = [f"{how[0].upper()}{how[1:]}; files in the page cache, pycs present.", subject(bench.target), machine]
    if bench.options.control:
        captions.append(CONTROL)
    if left_out:
        captions.append(f"Not measured, because of errors: {', '.join(left_out)}.")
    chart = Chart(
        "Python's imports, plain and with pycds-auto",
        "Time of the import statement, taken inside the process, in milliseconds; shorter is better",
        programs,
        captions,
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write(draw(chart))


def write_json(bench: Bench, path: str) -> None:
    """FILE.json becomes FILE.plain.json and so on: suites with equal names, as `pyperf compare_to` wants them."""
    stem = path.removesuffix(".json")
    metadata = {
        "python_version": f"{bench.target.version} ({bench.target.bits}-bit)",
        "python_implementation": bench.target.implementation.lower(),
        "python_executable": bench.target.executable,
        "pycds_auto_version": str(bench.target.pycds),
    }
    host = pyperf.Run([1.0]).get_metadata()
    metadata |= {name: host[name] for name in HOST_METADATA if name in host}
    for contender, suite in bench.suites().items():
        for benchmark in suite:
            benchmark.update_metadata(metadata)
        suite.dump(f"{stem}.{contender}.json", replace=True)
