"""The spool: what running programs did not find in their image, a line each (written by ``csrc/recorder.c``)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from . import patterns, sources

SPOOL = "misses.spool"
FOLDING = "misses.folding"
"""The spool's name while a rebuilder folds it; what a killed rebuilder leaves, the next one folds too."""

LIMIT = 8 * 1024 * 1024
"""Bytes of a spool that are read at most; writers stop earlier (csrc/recorder.h)."""

MODULE, DIRECTORY, PATTERN, SOURCE = "M", "D", "R", "S"
DOUBTFUL = "?"
"""What may never be asked for again: the key of a PATTERN or SOURCE."""

VARIANTS = frozenset(level + ranges for level in "012" for ranges in ("", "n"))


_ESCAPE = re.compile(rb"%([0-9a-f]{2})")


_RESULTS = {
    b"R": (PATTERN, patterns.is_key),
    b"r": (PATTERN, patterns.is_key),
    b"S": (SOURCE, sources.is_key),
    b"s": (SOURCE, sources.is_key),
}
"""By the letters of csrc/recorder.h: the small ones are doubtful."""


class Miss(NamedTuple):
    """A source file (MODULE) or directory (DIRECTORY) that an image of ``variant`` should have; or a regular expression
    (PATTERN) or source text (SOURCE), whose key (patterns.py, sources.py) takes the place of the path."""

    kind: str
    variant: str
    path: str


def parse(lines: bytes) -> list[Miss]:
    """The misses of a spool's content, each once, in order; whatever is not a whole, sensible line is skipped."""
    misses: dict[Miss, None] = {}
    doubtful: set[Miss] = set()
    for line in lines.split(b"\n")[:-1]:
        kind, _, rest = line.partition(b" ")
        variant, _, path = rest.partition(b" ")
        if kind in _RESULTS and variant.decode("latin-1") in VARIANTS:
            key = os.fsdecode(_ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), path))
            result, is_key = _RESULTS[kind]
            if is_key(key):
                miss = Miss(result, variant.decode(), key)
                if kind.isupper() or miss in doubtful:  # two processes asked for it
                    misses[miss] = None
                else:
                    doubtful.add(miss)
            continue
        text = os.fsdecode(path)
        if not text.startswith("/") or "\0" in text or variant.decode("latin-1") not in VARIANTS:
            continue
        if (kind == b"M" and text.endswith(".py")) or kind == b"D":
            misses[Miss(kind.decode(), variant.decode(), text)] = None
    return [*misses, *(Miss(DOUBTFUL, *miss[1:]) for miss in sorted(doubtful - misses.keys()))]


def content(path: str) -> bytes:
    """The content of a file of ours; b"" if it is not there, not a regular file, or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return file.read(LIMIT) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""


def read(folder: str, variant: str | None = None) -> list[Miss]:
    """All misses waiting in a folder (of one variant), each once."""
    lines = content(os.path.join(folder, FOLDING)) + content(os.path.join(folder, SPOOL))
    return [miss for miss in parse(lines) if variant is None or miss.variant == variant]


def take(folder: str) -> None:
    """Puts the waiting misses aside for folding: what is recorded from here on goes to a new spool. Needs the lock."""
    spool, folding = os.path.join(folder, SPOOL), os.path.join(folder, FOLDING)
    try:
        if not stat.S_ISREG(os.lstat(spool).st_mode):
            return  # somebody else's: the recorder refuses it too
        left_over = content(folding)
        os.replace(spool, folding)
    except FileNotFoundError:
        return
    if left_over:
        with open(folding, "ab", opener=_private) as file:
            file.write(left_over)


def drop_taken(folder: str) -> None:
    """Forgets the misses put aside. Needs the lock."""
    try:
        os.unlink(os.path.join(folder, FOLDING))
    except FileNotFoundError:
        pass


def append(folder: str, misses: Iterable[Miss]) -> None:
    """Adds misses to the spool of a folder, which is created if need be. Raises OSError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lines = b"".join(
        b"%s %s %s\n" % (miss.kind.encode(), miss.variant.encode(), os.fsencode(miss.path))
        for miss in misses
        if "\n" not in miss.path
    )
    with open(os.path.join(folder, SPOOL), "ab", opener=_private) as file:
        file.write(lines)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
