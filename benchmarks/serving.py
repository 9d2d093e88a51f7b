"""Preparing a cache folder, and proving that a process was served from it.

A comparison is worth printing only if the plain side read pycs without pycds-auto and the other side's code came from
the image. Both are read from the measured process itself, or, where that would disturb the figure, from processes
before it in the same setting.
"""

import glob
import json
import os
from typing import Any, NamedTuple

from benchmarks.errors import MeasurementError
from benchmarks.processes import run, wait_for_background
from benchmarks.programs import Program
from benchmarks.target import Setting, build, status


class Probed(NamedTuple):
    """What a probed process reported."""

    wall: float  # seconds of the import statement alone
    cpu: float  # seconds of user and system time of it
    pycs: list[str]  # where the pycs of its modules from source belong, one each
    ordinary: list[str]  # modules from source that Python's own loader loaded
    stats: dict[str, Any] | None  # pycds_auto.stats(), None if not installed
    background: int  # processes left behind
    recorded: bool  # it left misses to be folded

    def sources(self) -> int:
        """Modules that were made from a .py file."""
        return len(self.pycs)

    def uncompiled(self) -> int:
        """Modules whose pyc isn't there."""
        return sum(not os.path.exists(path) for path in self.pycs)


class Cache(NamedTuple):
    """A prepared cache folder."""

    setting: Setting
    plain: dict[str, Probed]  # by program
    pycds: dict[str, Probed]
    image: dict[str, Any] | None  # as in `status --json`; None in a control run
    complaint: str  # what is wrong with the cache as a whole, or nothing


def probe(program: Program, environment: dict[str, str], setting: Setting) -> Probed:
    """Run a program's statement under the probe."""
    before = spooled(setting)
    finished = run([setting.target.python, program.probe("import"), program.statement], environment)
    report = json.loads(finished.stdout)
    return Probed(
        wall=report["nanoseconds"] / 1e9,
        cpu=report["cpu_nanoseconds"] / 1e9,
        pycs=report["pycs"],
        ordinary=report["ordinary"],
        stats=report["stats"],
        background=finished.background,
        recorded=spooled(setting) != before,
    )


def spooled(setting: Setting) -> int:
    """Bytes of recorded misses in the cache folder."""
    return sum(os.path.getsize(path) for path in glob.glob(os.path.join(setting.cache, "*", "misses.*")))


def compile_pycs(programs: list[Program], setting: Setting) -> dict[str, Probed]:
    """Run each program plain; unless the setting forbids it, all its pycs are there afterwards."""
    for program in programs:
        probe(program, setting.plain(), setting)
    return {program.name: probe(program, setting.plain(), setting) for program in programs}


def prepare(programs: list[Program], setting: Setting) -> Cache:
    """Compile the pycs, record every program, build the image, and see what each program then gets."""
    plain = compile_pycs(programs, setting)
    if setting.control:
        return Cache(setting, plain, plain, None, "")
    for program in programs:
        probe(program, setting.pycds(), setting)
    state = build_image(programs, setting)
    pycds = {program.name: probe(program, setting.pycds(), setting) for program in programs}
    complaint = f"{state['pending_misses']} misses pending after build" if state["pending_misses"] else ""
    return Cache(setting, plain, pycds, state["image"], complaint)


def build_image(programs: list[Program], setting: Setting) -> dict[str, Any]:
    """Run each program once, build the image in the foreground, and return the status."""
    for program in programs:
        run([setting.target.python, program.script], setting.pycds())
    build(setting)
    wait_for_background()
    state = status(setting)
    if state["image"] is None:
        raise MeasurementError(f"no image after build: {state['reason']}")
    return state


def check_plain(probed: Probed) -> None:
    """Raise MeasurementError if a plain process was served by pycds-auto."""
    if probed.stats is not None and (probed.stats["active"] or probed.stats["hits"]):
        raise MeasurementError("the plain side was served by pycds-auto")


def check_served(probed: Probed, cache: Cache, program: Program) -> None:
    """Raise MeasurementError if a pycds process wasn't served, or less than when the cache was prepared."""
    if cache.setting.control:
        return
    stats = probed.stats
    if stats is None:
        raise MeasurementError("pycds-auto is not installed")
    if not stats["active"]:
        raise MeasurementError(f"pycds-auto is not active: {stats['reason']}")
    before = cache.pycds[program.name].stats
    expected = before["hits"] if before is not None else 0
    if stats["hits"] < max(expected, probed.sources() / 2):
        raise MeasurementError(f"{stats['hits']} hits, {expected} before, for {probed.sources()} modules")


def check_hits(hits: int, cache: Cache, program: Program) -> None:
    """As `check_served`, for a process that tells nothing but its hits."""
    expected = archived(cache.pycds[program.name])
    if not cache.setting.control and hits < expected:
        raise MeasurementError(f"{hits} hits, but {expected} modules came from the image before")


def archived(probed: Probed) -> int:
    """How many of the statement's modules came from the image; at least one, if it was to serve at all."""
    hits = probed.stats["hits"] if probed.stats is not None else 0
    return max(1, min(hits, probed.sources() - len(probed.ordinary)))


def check_no_hits(hits: int) -> None:
    """As `check_plain`, for a process that tells nothing but its hits."""
    if hits:
        raise MeasurementError("the plain side was served by pycds-auto")


def refusal(cache: Cache, program: Program) -> str | None:
    """Why figures of this program would be a lie, judged by the probes of the preparation."""
    try:
        check_plain(cache.plain[program.name])
        check_served(cache.pycds[program.name], cache, program)
    except MeasurementError as error:
        return str(error)
    return None


def remark(cache: Cache, program: Program) -> str:
    """What the reader of this program's row must know; empty if everything was as it should be."""
    plain, pycds = cache.plain[program.name], cache.pycds[program.name]
    remarks = [cache.complaint] if cache.complaint else []
    if "PYTHONPYCACHEPREFIX" not in cache.setting.extra and plain.uncompiled():
        remarks.append(f"{plain.uncompiled()} modules have no pyc")
    if cache.setting.control or pycds.stats is None:
        return "; ".join(remarks)
    if pycds.sources() != plain.sources():
        remarks.append(f"{pycds.sources()} modules with pycds, {plain.sources()} plain")
    for kind in ("misses", "stale"):
        if pycds.stats[kind]:
            remarks.append(f"{pycds.stats[kind]} {kind}")
    if pycds.ordinary:
        remarks.append(f"{len(pycds.ordinary)} not from the image, such as {pycds.ordinary[0]}")
    if pycds.stats["hits"] < pycds.sources():
        remarks.append(f"{pycds.stats['hits']} hits for {pycds.sources()} modules")
    if pycds.recorded or pycds.background:
        remarks.append("goes on recording")
    return "; ".join(remarks)
