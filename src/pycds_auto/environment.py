"""What an environment's folders offer for import, found by reading the folders: nothing is imported.

The answer is generous: a file that no import would choose (beside a package of the same name, say) costs its place
in the archive and is never asked for.
"""

import os
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES

TEST_SUITES = ("tests", "idle_test")  # packages left out wherever they are; `test` isn't: django.test is an API
STANDARD_LIBRARY = os.path.dirname(os.__file__)


def importable(path_entries: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields ("D", folder) for every folder an import may search and ("M", file) for every source module in them.

    Path entries that are relative, zipped or missing are left out: the archive doesn't serve them.
    """
    seen = set()
    for entry in path_entries:
        if os.path.isabs(entry) and os.path.isdir(entry):
            for item in [("D", entry), *_below(entry, ())]:
                if item not in seen:
                    seen.add(item)
                    yield item


def _below(folder: str, parents: tuple[tuple[int, int], ...]) -> list[tuple[str, str]]:
    """The modules in a folder, and in its packages and namespace portions.

    parents: device and inode of each folder on the way here; a link back to one of them would never end.
    """
    found = []
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        return []
    if identity in parents:
        return []
    for entry in entries:
        if entry.name.isidentifier():
            if not _is_test_suite(folder, entry.name) and entry.name != "__pycache__" and _is_folder(entry):
                inside = _below(entry.path, (*parents, identity))
                # A folder without any module is data, though the import system would call it a namespace.
                if inside or _has_extension_module(entry.path):
                    found += [("D", entry.path), *inside]
        elif _module_name(entry.name).isidentifier() and _is_file(entry):
            found.append(("M", entry.path))
    return found


def _is_test_suite(folder: str, name: str) -> bool:
    return name in TEST_SUITES or (name == "test" and folder == STANDARD_LIBRARY)


def _module_name(file: str) -> str:
    """`x` for `x.py`; empty for anything but a source file."""
    return next((file.removesuffix(suffix) for suffix in SOURCE_SUFFIXES if file.endswith(suffix)), "")


def _has_extension_module(folder: str) -> bool:
    try:
        return any(name.endswith(tuple(EXTENSION_SUFFIXES)) for name in os.listdir(folder))
    except OSError:
        return False


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False
