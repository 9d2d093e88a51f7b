"""Runs in the measured interpreter: `probe_hits.py STATEMENT` lists the pycs of modules that came from the archive.

In import order, those of the interpreter's start first, as JSON on stdout. importlib executes every module by `exec`,
whose audit event carries the code object; it was a hit if the count of hits went up since the last one. That finds
modules, too, that take themselves out of `sys.modules`.
"""

import sys

stats = sys.modules["pycds_auto._loader"].stats
specs = [getattr(module, "__spec__", None) for module in sys.modules.values()]
importlib = sys.modules["_frozen_importlib_external"]  # importing importlib.util would import more
ordinary = importlib.SourceFileLoader
loaders = [spec.loader for spec in specs if spec is not None]
sources = [loader.path for loader in loaders if isinstance(loader, ordinary) and type(loader) is not ordinary]
hits = stats()["hits"]


def note(event, arguments):
    """Audit hook: a module is about to be executed."""
    global hits
    if event == "exec" and stats()["hits"] != hits:
        hits = stats()["hits"]
        sources.append(arguments[0].co_filename)


sys.addaudithook(note)
exec(compile(sys.argv[1], "<statement>", "exec"), {"__name__": "__main__"})
pycs = [importlib.cache_from_source(source) for source in sources]

import json  # noqa: E402

json.dump(pycs, sys.stdout)
