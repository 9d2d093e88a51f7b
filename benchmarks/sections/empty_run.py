"""What pycds-auto costs a process that imports nothing: `python -c pass` with a large image present."""

import os
from functools import partial

from benchmarks.bench import Bench
from benchmarks.errors import MeasurementError
from benchmarks.processes import run
from benchmarks.report import Row, Table, change, error_row, milliseconds
from benchmarks.sampling import Case, ratio
from benchmarks.target import Setting, Target

ROUNDS_PER_ROUND = 40  # an empty run is short and its bar narrow: so many more
ENOUGH_MODULES = 1000
NOT_INSTALLED = "not-installed"
SAY_WHETHER_ACTIVE = """
import sys
loader = sys.modules.get("pycds_auto._loader")
print(loader is not None and loader.stats()["active"])
"""


def tables(bench: Bench) -> list[Table]:
    """pycds against PYCDS_DISABLE=1 and against the same venv without pycds-auto."""
    cache = bench.cache
    check_sides(bench.target.python, cache.setting)
    rounds = bench.options.rounds * ROUNDS_PER_ROUND
    statement = ["-c", "pass"]
    sides = {
        "plain": partial(bench.whole_process, [bench.target.python, *statement], cache.setting.plain()),
        "pycds": partial(bench.whole_process, [bench.target.python, *statement], cache.setting.pycds()),
    }
    notes = ["whole process; not installed: the same venv without pycds-auto's files"]
    twin = venv_without_pycds(bench.target, os.path.join(bench.workspace, "twin"))
    if twin is None:
        notes = ["whole process; the target is no venv, so a twin of it without pycds-auto wasn't measured"]
    else:
        sides[NOT_INSTALLED] = partial(bench.whole_process, [twin, *statement], cache.setting.plain())
    (outcome,) = bench.measure("empty", [Case("-c pass", sides)], rounds)
    modules = cache.image["modules"] if cache.image else 0
    title = f"Empty run (-c pass) with an image of {modules:,} modules: {bench.how(rounds)}"
    if outcome.error is not None:
        return [Table(title, ["contender"], [error_row("-c pass", outcome.error)], notes)]
    warning = "" if modules >= ENOUGH_MODULES else f"the image has fewer than {ENOUGH_MODULES:,} modules"
    rows = [Row(["pycds", milliseconds(outcome.median("pycds")), "", ""], warning)]
    for label, name in (("plain", "PYCDS_DISABLE=1"), (NOT_INSTALLED, "not installed")):
        if label in outcome.benchmarks:
            found = ratio(outcome.benchmarks["pycds"], outcome.benchmarks[label])
            interval = f"{change(found.low)} – {change(found.high)}"
            rows.append(Row([name, milliseconds(outcome.median(label)), change(found.value), interval]))
    return [Table(title, ["contender", "ms", "pycds takes", "95 %"], rows, notes)]


def check_sides(python: str, setting: Setting) -> None:
    """Raise MeasurementError unless pycds-auto is active on its side, and only there: `-c pass` itself can't tell."""
    for environment, active in ((setting.plain(), False), (setting.pycds(), not setting.control)):
        found = run([python, "-c", SAY_WHETHER_ACTIVE], environment).stdout.strip()
        if found != str(active):
            raise MeasurementError(f"pycds-auto active: {found}, where it should be {active}")


def venv_without_pycds(target: Target, folder: str) -> str | None:
    """A twin of the target's venv that lacks only pycds-auto; returns its python, or None if the target is no venv.

    Its site-packages holds a symbolic link to every other entry of the target's: site does the same work in both.
    """
    configuration = os.path.join(target.prefix, "pyvenv.cfg")
    if target.prefix == target.base_prefix or not os.path.exists(configuration):
        return None
    site_packages = os.path.join(folder, os.path.relpath(target.site_packages, target.prefix))
    os.makedirs(site_packages)
    for name in os.listdir(target.site_packages):
        if "pycds" not in name:
            os.symlink(os.path.join(target.site_packages, name), os.path.join(site_packages, name))
    os.symlink(configuration, os.path.join(folder, "pyvenv.cfg"))
    binaries = os.path.join(folder, "bin")
    os.mkdir(binaries)
    python = os.path.join(binaries, os.path.basename(target.python))
    os.symlink(os.path.realpath(target.python), python)
    return python
