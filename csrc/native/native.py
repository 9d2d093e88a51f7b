"""The native encoding, from marshalled modules to streams that were decoded again and compared."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import _native

_FLAG_REF = 0x80
_CODE_INTS = 5
"""Numbers in front of a marshalled code object (Python/marshal.c, TYPE_CODE, 3.11 to 3.14): argument counts,
stack size, flags."""


class _Skimmer:
    """Reads what marshal wrote, as far as needed to learn in which order it has the items of frozensets.

    Follows Python/marshal.c, r_object (3.11 to 3.14). Code objects come out as None, all else as itself.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.references: list[Any] = []
        self.orders: list[list[Any]] = []

    def _bytes(self, size: int) -> bytes:
        start = self.at
        self.at += size
        return self.data[start : self.at]

    def _long(self) -> int:
        self.at += 4
        return int.from_bytes(self.data[self.at - 4 : self.at], "little", signed=True)

    def object(self) -> Any:
        start = self.at
        code = self.data[start]
        self.at += 1
        kind = chr(code & ~_FLAG_REF)
        place = None
        if code & _FLAG_REF:
            place = len(self.references)
            self.references.append(None)
        value = self._value(kind, start)
        if place is not None:
            self.references[place] = value
        return value

    def _value(self, kind: str, start: int) -> Any:
        if kind == "r":
            return self.references[self._long()]
        if kind in "zZ":
            return self._bytes(self._bytes(1)[0]).decode("ascii")
        if kind in "aA":
            return self._bytes(self._long()).decode("ascii")
        if kind in "ut":
            return self._bytes(self._long()).decode("utf-8", "surrogatepass")
        if kind == "s":
            return self._bytes(self._long())
        if kind == ")":
            return tuple([self.object() for _ in range(self._bytes(1)[0])])
        if kind == "(":
            return tuple([self.object() for _ in range(self._long())])
        if kind == "c":
            return self._code()
        if kind == ">":
            return self._frozenset()
        if kind == "l":
            digits = abs(self._long())
            self.at += 2 * digits
        elif kind in "ig":
            self.at += 4 if kind == "i" else 8
        elif kind in "Iy":
            self.at += 8 if kind == "I" else 16
        elif kind not in "NTF.S":
            raise ValueError(f"marshal type {kind!r}")
        return marshal.loads(bytes([_without_flag(self.data[start])]) + self.data[start + 1 : self.at])

    def _frozenset(self) -> frozenset[Any]:
        size = self._long()
        items: list[Any] = []
        if size > 1:
            self.orders.append(items)
        items.extend(self.object() for _ in range(size))
        return frozenset(items)

    def _code(self) -> None:
        self.at += 4 * _CODE_INTS
        for _ in range(8):  # code, consts, names, localsplusnames, localspluskinds, filename, name, qualname
            self.object()
        self.at += 4  # first line
        self.object()  # linetable
        self.object()  # exceptiontable


def _without_flag(byte: int) -> int:
    return byte & ~_FLAG_REF


def frozenset_orders(marshalled: bytes) -> list[list[Any]]:
    """The items of each frozenset of two items or more, in marshal's order."""
    if b">" not in marshalled and b"\xbe" not in marshalled:
        return []
    skimmer = _Skimmer(marshalled)
    skimmer.object()
    return skimmer.orders


def encode(marshalled: Sequence[bytes], extend: bool = False) -> tuple[bytes, list[bytes | str]]:
    """The shared table, and for each marshalled module its stream, or the reason why it can't have one.

    ``extend``: the table of the open image is kept at the front of the new one. Every stream was decoded again and
    equals what marshal makes of the module.
    """
    codes = [marshal.loads(data) for data in marshalled]
    orders = [frozenset_orders(data) for data in marshalled]
    table, streams = _native.encode(codes, orders, extend)
    return table, streams


def verify(streams: Sequence[bytes | str], marshalled: Sequence[bytes]) -> Iterator[str | None]:
    """For each module, why its stream is no good, or None. The table must be open."""
    for stream, data in zip(streams, marshalled):
        if isinstance(stream, str):
            yield stream
        else:
            yield _native.verify(stream, data)
