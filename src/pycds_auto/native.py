"""The native encoding, from marshalled modules to streams that were decoded again and compared."""

from __future__ import annotations

import marshal
from collections.abc import Sequence
from typing import Any

from ._loader import native_encode, native_verify

CHUNK = 2000
"""Modules encoded at a time: their code objects are all in memory then, some 40 KB each."""

_FLAG_REF = 0x80
_CODE_INTS = 5
"""Numbers in front of a marshalled code object (Python/marshal.c, TYPE_CODE, 3.11 to 3.15): argument counts,
stack size, flags."""


class _Skimmer:
    """Reads what marshal wrote, as far as needed to learn in which order it has the items of frozensets.

    Follows Python/marshal.c, r_object (3.11 to 3.15). Code objects come out as None, all else as itself.
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
        if kind == ":":
            return slice(self.object(), self.object(), self.object())
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


def _orders_or_reason(marshalled: bytes) -> list[list[Any]] | str:
    """marshal reads what is nested deeper than Python code can follow; the encoder gives up earlier."""
    try:
        return frozenset_orders(marshalled)
    except RecursionError:
        return "constants are nested too deeply"


def encode(marshalled: Sequence[bytes], table: bytes) -> tuple[bytes, list[bytes | str]]:
    """The shared table, and for each marshalled module its stream, or the reason why it can't have one.

    The new table begins with ``table`` (empty: none), so that streams encoded for that are good for the new one. Every
    stream was decoded again by the loader's own decoder, and equals what marshal makes of the module. Raises ValueError
    if the table is damaged or the native encoding can't be used here (``_loader.native_reason()``).
    """
    streams: list[bytes | str] = []
    for start in range(0, len(marshalled), CHUNK):
        chunk = marshalled[start : start + CHUNK]
        orders = [_orders_or_reason(data) for data in chunk]
        fit = [index for index, order in enumerate(orders) if not isinstance(order, str)]
        codes = [marshal.loads(chunk[index]) for index in fit]
        table, encoded = native_encode(codes, [orders[index] for index in fit], table)
        results = iter(encoded)
        streams += [order if isinstance(order, str) else next(results) for order in orders]
    good = [index for index, stream in enumerate(streams) if isinstance(stream, bytes)]
    faults = native_verify(table, [streams[index] for index in good], [marshalled[index] for index in good])
    for index, fault in zip(good, faults):
        if fault is not None:
            streams[index] = f"decoded again, it differs: {fault}"
    return table, streams
