"""Runs in the measured interpreter: `probe.py STATEMENT` times the statement, then reports as JSON on stdout.

Up to the end of the timing nothing is imported but `sys` and `time`, both built in.
"""

import sys
import time

statement = compile(sys.argv[1], "<statement>", "exec")
namespace = {"__name__": "__main__"}
before = set(sys.modules)
cpu_begin = time.process_time_ns()
begin = time.perf_counter_ns()
exec(statement, namespace)
nanoseconds = time.perf_counter_ns() - begin
cpu_nanoseconds = time.process_time_ns() - cpu_begin
imported = [module for name, module in sys.modules.items() if name not in before]

import importlib.machinery  # noqa: E402
import json  # noqa: E402


def spec_of(module):
    """The module's spec, or None; some modules answer any attribute with an error."""
    try:
        spec = module.__spec__
    except Exception:
        return None
    return spec if isinstance(spec, importlib.machinery.ModuleSpec) else None


def from_source(spec):
    """Was the module made from a .py file (by Python's own loader or a subclass of it, as pycds-auto's)?"""
    if spec is None or not isinstance(spec.loader, importlib.machinery.SourceFileLoader):
        return False
    return spec.cached is not None


specs = {spec.name: spec for spec in map(spec_of, imported) if from_source(spec)}

try:
    import pycds_auto
except ModuleNotFoundError:
    stats = None
else:
    stats = pycds_auto.stats()

json.dump(
    {
        "nanoseconds": nanoseconds,
        "cpu_nanoseconds": cpu_nanoseconds,
        "pycs": sorted(spec.cached for spec in specs.values()),
        "ordinary": sorted(
            name for name, spec in specs.items() if type(spec.loader) is importlib.machinery.SourceFileLoader
        ),
        "stats": stats,
    },
    sys.stdout,
)
