"""pycds-auto: every Python start and import on this machine, faster, and nothing else changed.

There is nothing to call: installing the package is enough. ``python -m pycds_auto status`` shows the cache,
``PYCDS_DISABLE=1`` leaves it out.
"""

import os
import sys


def _require_whole_extension() -> None:
    """Raises ImportError unless the extension's file is there to its end.

    An installer writes it in place, and one that is stopped, or finds the disk full, leaves a part. The dynamic loader
    maps what the headers promise and reads behind the file's end: SIGBUS, at every start of Python, pip's among them.
    Linkers and strip put the section header table last (ELF64: `e_shoff`, the eight bytes at 40), so a file that goes
    beyond its start has all that is mapped. The .pth file asks the same before it loads the extension.
    """
    import _imp

    path = os.path.join(__path__[0], "_loader" + _imp.extension_suffixes()[0])
    if not os.path.exists(path):
        return  # the import says what is missing, and may find it under another of the suffixes
    with open(path, "rb") as file:
        header, size = file.read(64), os.fstat(file.fileno()).st_size
    if len(header) < 64 or (header[4] == 2 and memoryview(header).cast("Q")[5] >= size):
        raise ImportError(f"only a part of the extension module is there ({size} bytes): install it again", path=path)


if "pycds_auto._loader" not in sys.modules:
    _require_whole_extension()

from pycds_auto import _loader  # in sys.modules since the start: this binds it to the package, too

activate, stats = _loader.activate, _loader.stats

__all__ = ["__version__", "activate", "stats"]
__version__ = "0.1.0"
