"""Runs in the measured interpreter: `probe_hits.py STATEMENT` lists the pycs of modules that came from the archive.

In import order, those of the interpreter's start first, as JSON on stdout. importlib executes every module by a call of
`exec` through a helper, which is replaced here; it was a hit if the count of hits went up since the last one. That finds
modules, too, that take themselves out of `sys.modules`. (While there is an audit hook nothing comes from the archive.)
"""

import sys

stats = sys.modules["pycds_auto._loader"].stats
specs = [getattr(module, "__spec__", None) for module in sys.modules.values()]
importlib = sys.modules["_frozen_importlib_external"]  # importing importlib.util would import more
ordinary = importlib.SourceFileLoader
loaders = [spec.loader for spec in specs if spec is not None]
sources = [loader.path for loader in loaders if isinstance(loader, ordinary) and type(loader) is not ordinary]
hits = stats()["hits"]


def note(function, *arguments, **keywords):
    """In place of importlib's _call_with_frames_removed."""
    global hits
    if function is exec and stats()["hits"] != hits:
        hits = stats()["hits"]
        sources.append(arguments[0].co_filename)
    return plain(function, *arguments, **keywords)


bootstrap = sys.modules["_frozen_importlib"]
plain, bootstrap._call_with_frames_removed = bootstrap._call_with_frames_removed, note
exec(compile(sys.argv[1], "<statement>", "exec"), {"__name__": "__main__"})
pycs = [importlib.cache_from_source(source) for source in sources]

import json  # noqa: E402

json.dump(pycs, sys.stdout)
