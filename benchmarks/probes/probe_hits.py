"""Runs in the measured interpreter: `probe_hits.py STATEMENT` lists the pycs of modules that came from the archive.

In import order, those of the interpreter's start first, as JSON on stdout. A finder in front of all others takes note
of what is looked for and finds nothing; what was looked for and has a loader of the archive's was a hit. A module that
took itself out of `sys.modules`, or put another there, is looked for once more. (While there is an audit hook, or one
of importlib's functions is replaced, nothing comes from the archive.)
"""

import sys

importlib = sys.modules["_frozen_importlib_external"]  # importing importlib.util would import more
ordinary = importlib.SourceFileLoader
noted = [(name, None) for name in sys.modules]


class Noting:
    """Notes what is looked for."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        noted.append((name, path))


def loader_of(name, path):
    """The loader of a module that was imported, or would be."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or spec.name != name:  # gone, or another one in its place
        specs = (finder.find_spec(name, path) for finder in sys.meta_path)
        spec = next((found for found in specs if found is not None), None)
    return getattr(spec, "loader", None)


sys.meta_path.insert(0, Noting)
exec(compile(sys.argv[1], "<statement>", "exec"), {"__name__": "__main__"})
sys.meta_path.remove(Noting)
loaders = [loader_of(name, path) for name, path in noted]
sources = [loader.path for loader in loaders if isinstance(loader, ordinary) and type(loader) is not ordinary]
pycs = [importlib.cache_from_source(source) for source in sources]

import json  # noqa: E402

json.dump(pycs, sys.stdout)
