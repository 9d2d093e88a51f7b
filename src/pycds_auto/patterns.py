"""Regular expressions for the image: what ``re._compiler.compile`` computes from a pattern. ``csrc/patterns.h`` says
why.

A key is ``s2:text`` for the string ``text`` and flags 2, ``b0:bytes`` for a byte string; as a str it is like a path:
what ``os.fsdecode`` makes of the bytes.
"""

from __future__ import annotations

import _sre
import marshal
import os
import re
import sys
import types
import warnings

from . import image

MOST = 5000
"""Patterns in an image at most: beyond that nothing is recorded until old ones go."""

_KEY = re.compile(rb"([sb])(\d{1,9}):(.*)", re.DOTALL)
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
            compiled = compiler.compile(pattern, int(number))
        except Exception:  # wrong: plain Python says so, each time
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
