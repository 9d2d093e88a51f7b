"""Looking at files for the image: code of modules, listings of directories. Imports none of them, writes no pyc."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import marshal
import os
import stat
import time
import warnings
from types import CodeType

from .image import (
    LEFT_OUT,
    NAME_BYTECODE,
    NAME_DIRECTORY,
    NAME_EXTENSION_SHIFT,
    NAME_SOURCE,
    NAME_UNCERTAIN,
    Directory,
    Module,
)

SETTLE_SECONDS = 2.0
"""A file or directory younger than this may change again without its times showing it: it is not believed."""

_PYC_HEADER = 16
"""Bytes before the code in a pyc (importlib/_bootstrap_external.py, _code_to_timestamp_pyc)."""

CLOCK_TICK_NS = 10_000_000
"""The step of the clock that file times are taken from, at most (a kernel with 100 ticks a second)."""

MOST_NAMES = 50_000
"""A directory with more entries is left to FileFinder: listing it would cost more than it gives."""


class Unsettled(Exception):
    """The file or directory is too young, or changed while it was looked at."""


class LeaveOut(Exception):
    """The file is left to plain Python; the message is the reason."""


def age(status: os.stat_result, now: float) -> float:
    """Seconds since the last change of content or status; a time in the future counts as just now."""
    return min(now - status.st_mtime, now - status.st_ctime)


class _Loader(importlib.machinery.SourceFileLoader):
    """Remembers the pyc that get_code took the code from, and writes none."""

    bytecode: bytes | None = None

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if path != self.path:
            self.bytecode = data
        return data

    def source_to_code(self, *arguments, **keywords):  # from 3.15 on with the module's name
        self.bytecode = None  # it was no good
        return super().source_to_code(*arguments, **keywords)

    def set_data(self, path: str, data: bytes, *, _mode: int = 0o666) -> None:
        pass

    def marshalled(self, code: CodeType) -> bytes:
        """The code get_code gave, in marshal's form: as in the pyc where it came from one, since what is marshalled
        again may differ in what no program should look at (the order of a frozenset's items)."""
        if self.bytecode is not None:
            payload = self.bytecode[_PYC_HEADER:]
            if marshal.loads(payload).co_filename == code.co_filename:  # else the pyc was made elsewhere
                return payload
        return marshal.dumps(code)


def module(path: str) -> Module:
    """The code of a source file, as SourceFileLoader.get_code gives it in this interpreter.

    Raises Unsettled, OSError if the file is not there, or LeaveOut.
    """
    before = os.stat(path)
    if not stat.S_ISREG(before.st_mode):
        raise LeaveOut("it is not a regular file")
    # The clock may be set back, or a file unpacked with a time to come: only the recent past is unsettled.
    if 0 <= time.time() - before.st_mtime < SETTLE_SECONDS:
        raise Unsettled(path)
    _refuse_hash_based(path)
    name = os.path.splitext(os.path.basename(path))[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            loader = _Loader(name, path)
            code = loader.get_code(name)
            payload = loader.marshalled(code)
            if loader.bytecode is not None:
                # What the compiler warns of, plain Python says again when the pyc is gone, or elsewhere (a prefix).
                compiled = loader.source_to_code(loader.get_data(path), path)
                if _pyc_may_be_wrong(path, before) and code != compiled:
                    # What a wrong pyc says goes for as long as it is there. We could not tell when it goes.
                    raise LeaveOut("its pyc does not agree with the source")
            if caught:
                raise LeaveOut(f"compiling it warns, which plain Python says again: {caught[0].message}")
        except (OSError, LeaveOut):
            raise
        except Exception as error:  # what plain Python raises at the import, it is to raise itself
            raise LeaveOut(f"{type(error).__name__}: {error}") from error
    after = os.stat(path)
    made = _module(path, after, 0, payload)
    if not same_module(made, before):
        raise Unsettled(path)
    return made


def _module(path: str, status: os.stat_result, flags: int, payload: bytes) -> Module:
    return Module(path, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size, flags, payload)


def same_module(known: Module, status: os.stat_result) -> bool:
    """Does a stat show the source as it was recorded? The rule is csrc/image.h's, and csrc/image.c's module_matches."""
    return (known.mtime_ns, known.inode, known.size) == (status.st_mtime_ns, status.st_ino, status.st_size) and (
        status.st_nlink > 1 or known.ctime_ns == status.st_ctime_ns
    )


def _pyc_may_be_wrong(path: str, source: os.stat_result) -> bool:
    """A pyc goes by the source's size and whole seconds: two edits in one second, and it holds the first. One that was
    written after the source's last change of any kind (ctime) was made from what is there now."""
    try:
        pyc = os.stat(importlib.util.cache_from_source(path))
    except (OSError, NotImplementedError):
        return False  # none: the code came from the source just now
    return pyc.st_mtime_ns <= max(source.st_mtime_ns, source.st_ctime_ns) + CLOCK_TICK_NS


def _refuse_hash_based(path: str) -> None:
    """A hash-based pyc (PEP 552) is believed by other rules than the source's time: left to plain Python."""
    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            head = file.read(8)
    except (OSError, NotImplementedError):
        return
    if len(head) == 8 and head[:4] == importlib.util.MAGIC_NUMBER and head[4] & 1:
        raise LeaveOut("its pyc is hash-based")


def left_out(path: str, status: os.stat_result) -> Module:
    """The record that says: looked at, not in the image."""
    return _module(path, status, LEFT_OUT, b"")


def directory(path: str) -> Directory:
    """The listing of a directory ("" is the root). Raises Unsettled, or OSError if it is not there."""
    place = path or "/"
    before = os.stat(place)
    names: dict[str, int] | None = {}
    try:
        names = _names(place)
    except PermissionError:
        names = None
    after = os.stat(place)
    # Whoever set the clock back has directories of the future; they are never "within" two seconds of now, and any
    # change gives them another time, so they can be believed.
    if _identity(before) != _identity(after) or 0 <= age(after, time.time()) < SETTLE_SECONDS:
        raise Unsettled(path)
    return Directory(path, *_identity(after), 0 if names is not None else LEFT_OUT, names or {})


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def same_directory(known: Directory, status: os.stat_result) -> bool:
    """Does a stat show the directory as it was recorded?"""
    return _identity(status) == (known.mtime_ns, known.ctime_ns, known.inode, known.device)


_SUFFIXES = [
    *((suffix, 1 << NAME_EXTENSION_SHIFT + i) for i, suffix in enumerate(importlib.machinery.EXTENSION_SUFFIXES)),
    *((suffix, NAME_SOURCE) for suffix in importlib.machinery.SOURCE_SUFFIXES),
    *((suffix, NAME_BYTECODE) for suffix in importlib.machinery.BYTECODE_SUFFIXES),
]


def _names(place: str) -> dict[str, int] | None:
    """The names that an import could ask for (csrc/image.h, ``enum name_flag``); None: too many entries."""
    names: dict[str, int] = {}
    with os.scandir(place) as entries:
        for count, entry in enumerate(entries):
            if count > MOST_NAMES:
                return None
            regular = entry.is_file(follow_symlinks=False)
            text = entry.name
            if not _is_text(text):
                continue
            if not regular and "." not in text:
                names[text] = names.get(text, 0) | NAME_DIRECTORY
            for suffix, flag in _SUFFIXES:
                stem = text[: -len(suffix)]
                if text.endswith(suffix) and stem and "." not in stem:
                    names[stem] = names.get(stem, 0) | flag | (0 if regular else NAME_UNCERTAIN)
    return names


def _is_text(name: str) -> bool:
    """Can the name be the tail of a module's name (no undecodable bytes)?"""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
