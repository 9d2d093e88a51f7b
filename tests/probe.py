"""Runs in the interpreter under test, copied beside the programs: prints what a program can see of its modules.

Everything goes to stdout, so that it can be compared with plain Python's; addresses are left out.
With PROBE_REPORT it also writes, at exit, which loaders the modules have and what pycds_auto counted.
"""

import atexit
import importlib
import os
import re
import sys
import traceback
from importlib.machinery import SourceFileLoader


def clean(text):
    """Without addresses."""
    return re.sub(r"\b0x[0-9a-f]+", "0x...", text)


def kind(loader):
    if isinstance(loader, SourceFileLoader):
        return "SourceFileLoader"
    return type(loader).__name__


def describe(module):
    print("module", module.__name__, clean(repr(module)))
    for name in ("__file__", "__cached__", "__package__", "__doc__"):
        print("  ", name, repr(getattr(module, name, "(none)")))
    path = getattr(module, "__path__", None)
    print("   __path__", path if path is None or isinstance(path, str) else (type(path).__name__, list(path)))
    spec = module.__spec__
    if spec is None:
        print("   no spec")
    else:
        locations = spec.submodule_search_locations
        print("   spec", spec.name, spec.origin, spec.cached, spec.parent, spec.has_location, spec.loader_state)
        print("   locations", locations if locations is None else list(locations))
        loader = spec.loader
        print("   loader", kind(loader), getattr(loader, "name", None), getattr(loader, "path", None))
        print("   same loader", getattr(module, "__loader__", None) is loader)
    values = sorted((k, v) for k, v in vars(module).items() if not k.startswith("_") and isinstance(v, (int, str)))
    print("   values", values)


def failure():
    """The whole traceback, without this file's own frame."""
    kind_, error, where = sys.exc_info()
    print("".join(traceback.format_exception(kind_, error, where.tb_next)), end="")
    for name in ("name", "path", "msg"):
        if isinstance(error, ImportError):
            print("  ", name, repr(getattr(error, name)))


def attempt(statement):
    """Run one statement; print what it raises."""
    try:
        exec(compile(statement, "<attempt>", "exec"), {"__name__": "attempt"})
    except BaseException:
        print(statement, "->")
        failure()
    else:
        print(statement, "-> done")


def show(*names):
    """Import each module as a statement does and describe it, or print the exception's traceback."""
    for name in names:
        try:
            exec(compile(f"import {name}", "<show>", "exec"), {"__name__": "show"})
        except BaseException:
            print("import", name, "->")
            failure()
        else:
            describe(sys.modules[name])


def origin(module):
    loader = getattr(module.__spec__, "loader", None) or getattr(module, "__loader__", None)
    if isinstance(loader, SourceFileLoader) and type(loader) is not SourceFileLoader:
        return "archive"
    return loader.__name__ if isinstance(loader, type) else type(loader).__name__


def report():
    loaders = {
        name: origin(module)
        for name, module in list(sys.modules.items())
        if getattr(module, "__spec__", None) is not None and name != "__main__"
    }
    # not by `import pycds_auto`: that would be an import to be counted
    loader = sys.modules.get("pycds_auto._loader")
    stats = {"active": False, "reason": "not loaded", "hits": 0, "misses": 0, "stale": 0}
    if loader is not None:
        stats = loader.stats()
    told = {key: stats[key] for key in ("active", "reason", "hits", "misses", "stale")}
    with open(os.environ["PROBE_REPORT"], "w") as file:
        file.write(repr(told | {"loaders": loaders}))


if os.environ.get("PROBE_REPORT") and os.environ.setdefault("PROBE_PROCESS", str(os.getpid())) == str(os.getpid()):
    atexit.register(report)  # of the program itself: multiprocessing's fork server may have imported it, too
