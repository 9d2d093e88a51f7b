"""Regular expressions for the image: what ``re._compiler.compile`` computes from a pattern. ``csrc/patterns.h`` says
why.

A key is ``s2:text`` for the string ``text`` and flags 2, ``b0:bytes`` for a byte string; as a str it is like a path:
what ``os.fsdecode`` makes of the bytes.
"""

from __future__ import annotations

import _sre
import contextlib
import marshal
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator

from . import image

MOST = 5000
"""Patterns in an image at most: beyond that nothing is recorded until old ones go."""

MOST_CALLS = 48
"""Nested calls that plain Python may need for a pattern: csrc/native_layout.c uses no entry where fewer than 64 are left,
and plain Python may fail for want of them."""

_KEY = re.compile(rb"([sb])(\d{1,9}):(.*)", re.DOTALL)

_MANY_DIGITS = re.compile(rb"[0-9]{640}")
"""Numbers that sys.set_int_max_str_digits may forbid."""

_FOLDER = os.path.dirname(re.__file__)

SOURCES = [
    os.path.join(_FOLDER, f"{name}.py") for name in ("__init__", "_compiler", "_parser", "_constants", "_casefix")
]
"""The files that an entry depends on."""


def is_key(key: str) -> bool:
    """Has it the form of a key?"""
    return _KEY.fullmatch(os.fsencode(key)) is not None


def entry(key: str) -> image.Module:
    """The image's record of a pattern; flagged LEFT_OUT if plain Python is to compile it each time: it is wrong, warns,
    or depends on the locale."""
    payload = _payload(key)
    flags = image.PATTERN if payload else image.PATTERN | image.LEFT_OUT
    return image.Module(key, 0, 0, 0, 0, flags, payload)


def _payload(key: str) -> bytes:
    """marshal of (flags, code words as bytes, groups, (name, group, name, group, ...)); b"" if there can be none."""
    kind, number, text = _KEY.fullmatch(os.fsencode(key)).groups()
    if _MANY_DIGITS.search(text):
        return b""
    asked = []

    def compile_(*arguments):
        asked.append(arguments)
        return _sre.compile(*arguments)

    compiler = re._compiler
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compiler._sre = types.SimpleNamespace(**{**vars(_sre), "compile": compile_})
        try:
            pattern = text.decode() if kind == b"s" else text
            with _few_calls_left(MOST_CALLS):
                compiled = compiler.compile(pattern, int(number))
        except Exception:  # wrong, or deeply nested: plain Python says so, each time
            return b""
        finally:
            compiler._sre = _sre
    if caught or len(asked) != 1 or compiled.flags & (re.LOCALE | re.DEBUG):
        return b""
    _, flags, code, groups, group_index, index_group = asked[0]
    names = tuple(item for pair in group_index.items() for item in pair)
    words = b"".join(word.to_bytes(_sre.CODESIZE, sys.byteorder) for word in code)
    derived = [None] * (groups + 1)
    for name, group in group_index.items():
        derived[group] = name
    if tuple(derived) != index_group or _sre.CODESIZE != 4:
        return b""
    return marshal.dumps((int(flags), words, groups, names))


@contextlib.contextmanager
def _few_calls_left(calls: int) -> Iterator[None]:
    """Sets the recursion limit so that more nested calls than these fail, and back."""
    frame, depth = sys._getframe(2), 0  # our caller's, behind contextlib's
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + calls)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
