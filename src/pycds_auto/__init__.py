"""pycds-auto: the imports of every Python program in this environment, faster, and nothing else changed.

There is nothing to call: installing the package is enough. ``python -m pycds_auto status`` shows the cache,
``PYCDS_DISABLE=1`` leaves it out.
"""

import os
import sys

__all__ = ["__version__", "activate", "stats"]
__version__ = "0.1.0"


def _what_is_missing() -> str | None:
    """What is wrong with the extension's file, if it isn't there as a whole.

    An installer writes it in place, and one that is stopped, or finds the disk full, leaves a part. The dynamic loader
    maps what the headers promise and reads behind the file's end: SIGBUS, at every start of Python, pip's among them.
    Linkers and strip put the section header table last (ELF64: `e_shoff`, the eight bytes at 40), so a file that goes
    beyond its start has all that is mapped. The .pth file asks the same before it loads the extension.
    """
    import _imp

    candidates = [os.path.join(__path__[0], "_loader" + suffix) for suffix in _imp.extension_suffixes()]
    path = next(filter(os.path.isfile, candidates), None)  # as importlib's FileFinder chooses
    if path is None:
        return "the extension module isn't there; install pycds-auto again, for this Python"
    try:
        with open(path, "rb") as file:
            header, size = file.read(64), os.fstat(file.fileno()).st_size
    except OSError as error:
        return f"the extension module can't be read: {error}"
    if len(header) < 64 or (header[4] == 2 and memoryview(header).cast("Q")[5] >= size):
        return f"only a part of the extension module is there ({size} bytes); install pycds-auto again"
    return None


_missing = None if "pycds_auto._loader" in sys.modules else _what_is_missing()
if _missing is not None:
    # importlib refuses it then, and doesn't try the file; from 3.14 on it does, if this package is imported for it
    sys.modules["pycds_auto._loader"] = None


def activate() -> bool:
    """Put the archive to use, once; is it in use? The .pth file does this at start-up, and from 3.18 on
    pycds_auto.start, whose errors site would print: raises none. PYCDS_DISABLE leaves the extension unloaded."""
    if "pycds_auto._loader" not in sys.modules and os.environ.get("PYCDS_DISABLE", "") not in ("", "0"):
        return False
    try:
        from ._loader import activate
    except ImportError:
        return False
    return activate()


def __getattr__(name: str) -> object:
    if name not in ("_loader", "stats"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _missing is not None:
        raise ImportError(_missing)
    import importlib

    loader = importlib.import_module("pycds_auto._loader")
    return loader if name == "_loader" else loader.stats


def __dir__() -> list[str]:
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
