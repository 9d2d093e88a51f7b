"""The image file: writing one, and reading one back. The format, and why it is so, is in ``csrc/image.h``; the two
change together. The loader reads images in C; this reader serves the rebuilder, which takes over what is still valid.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ._loader import checksum, inspect_image

MAGIC = b"\x89PYCDS\r\n"
FORMAT = 4
BYTE_ORDER = 0x01020304
ENCODING_MARSHAL = 1
ENCODING_NATIVE = 2
NATIVE_REVISION = 5
"""csrc/native_format.h"""

LEFT_OUT = 1
"""Flag of a module or directory that the rebuilder looked at and left to plain Python."""

AGED = 2
"""Flag of a module that nobody is known to have used since the image's ``aged_ns``."""

PATTERN = 4
"""Flag of a module that is none but a regular expression (patterns.py)."""

SOURCE = 8
"""Flag of a module that is none but a source text (sources.py)."""

NAME_DIRECTORY = 1
NAME_SOURCE = 2
NAME_BYTECODE = 4
NAME_UNCERTAIN = 8
NAME_EXTENSION_SHIFT = 8

_HEADER = struct.Struct("=8sIIQQ IIqqIIIIII QQQQQ QQQQ")
_MODULE = struct.Struct("=QQQIIqqQQQQQ")
_DIRECTORY = struct.Struct("=QQQIIqqQQQQQ")
_LISTING = struct.Struct("=II")
_NAME = struct.Struct("=IIHHII")
_ALIGNMENT = 16
_MASK = (1 << 64) - 1


class Module(NamedTuple):
    """A source file and its code as bytes of the image's encoding; ``payload`` is empty where flags say LEFT_OUT."""

    path: str
    mtime_ns: int
    ctime_ns: int
    inode: int
    size: int
    flags: int
    payload: bytes | memoryview


class Directory(NamedTuple):
    """A directory's identity (``os.stat``) and its importable names with their NAME_ flags."""

    path: str
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    flags: int
    names: dict[str, int]


def _buckets(hashes: list[int]) -> bytes:
    """The open-addressing table (uint32 index + 1) for items with these hashes, at most half full."""
    if not hashes:
        return b""
    count = 4
    while count < 2 * len(hashes):
        count *= 2
    table = [0] * count
    for index, value in enumerate(hashes):
        slot = value & (count - 1)
        while table[slot]:
            slot = (slot + 1) & (count - 1)
        table[slot] = index + 1
    return struct.pack(f"={count}I", *table)


class _File:
    """The bytes of an image as they grow; blocks are aligned."""

    def __init__(self, start: int) -> None:
        self._parts: list[bytes | memoryview] = []
        self.size = start

    def align(self) -> int:
        self._append(bytes(-self.size % _ALIGNMENT))
        return self.size

    def block(self, data: bytes | memoryview) -> int:
        """Appends an aligned block; returns its offset."""
        offset = self.align()
        self._append(data)
        return offset

    def text(self, data: bytes) -> int:
        offset = self.size
        self._append(data)
        return offset

    def _append(self, data: bytes | memoryview) -> None:
        self._parts.append(data)
        self.size += len(data)

    def content(self) -> bytes:
        return b"".join(self._parts)


def _listing(directory: Directory, modules: dict[str, int], directories: dict[str, int]) -> bytes:
    """The listing block of a directory; modules and directories map paths to indices."""
    encoded = [(name.encode(), flags, name) for name, flags in sorted(directory.names.items())]
    hashes = [checksum(name) & 0xFFFFFFFF for name, _, _ in encoded]
    table = _buckets(hashes) or struct.pack("=4I", 0, 0, 0, 0)
    offset = _LISTING.size + len(table) + _NAME.size * len(encoded)
    records, texts = [], []
    for (name, flags, text), value in zip(encoded, hashes):
        path = f"{directory.path}/{text}"
        module = modules.get(path + ".py", -1) + 1 if flags & NAME_SOURCE else 0
        folder = directories.get(path, -1) + 1 if flags & NAME_DIRECTORY else 0
        records.append(_NAME.pack(value, offset, len(name), flags, module, folder))
        texts.append(name)
        offset += len(name)
    return b"".join([_LISTING.pack(len(table) // 4, len(encoded)), table, *records, *texts])


class Encoding(NamedTuple):
    """What the payloads of an image are (ENCODING_MARSHAL or ENCODING_NATIVE), the shared table that native ones belong
    to, and how many modules came or went since that was made as a whole."""

    kind: int
    table: bytes | memoryview = b""
    table_age: int = 0


def build(
    identity: str,
    modules: Iterable[Module],
    directories: Iterable[Directory],
    aged_ns: int,
    encoding: Encoding,
    full: int = 0,
) -> bytes:
    """The bytes of an image; ``aged_ns``: when modules were last marked AGED (since the epoch); ``full``: PATTERN or
    SOURCE if it takes no more of these. Paths are unique and absolute, directories without a trailing slash ("" is the
    root)."""
    modules, directories = list(modules), list(directories)
    identity_text = identity.encode()
    start = _HEADER.size + len(identity_text)
    file = _File(start)
    module_index = {module.path: index for index, module in enumerate(modules)}
    directory_index = {directory.path: index for index, directory in enumerate(directories)}
    # Start-up and every look-up touch the tables: together at the front. Payloads follow in order of first use.
    module_paths = [os.fsencode(module.path) for module in modules]
    directory_paths = [os.fsencode(directory.path) for directory in directories]
    module_hashes, directory_hashes = [*map(checksum, module_paths)], [*map(checksum, directory_paths)]
    module_table_bytes, directory_table_bytes = _buckets(module_hashes), _buckets(directory_hashes)
    module_table = file.block(module_table_bytes)
    directory_table = file.block(directory_table_bytes)
    module_records_at = file.align()
    directory_records_at = module_records_at + _aligned(_MODULE.size * len(modules))
    tail = _File(directory_records_at + _aligned(_DIRECTORY.size * len(directories)))
    shared_table = tail.block(encoding.table)
    module_text = [tail.text(path) for path in module_paths]
    directory_text = [tail.text(path) for path in directory_paths]
    directory_records = []
    for directory, path, text, value in zip(directories, directory_paths, directory_text, directory_hashes):
        listing = b"" if directory.flags & LEFT_OUT else _listing(directory, module_index, directory_index)
        offset = tail.block(listing)
        record = _DIRECTORY.pack(
            0, value, text, len(path), directory.flags, directory.mtime_ns, directory.ctime_ns, directory.inode,
            directory.device, offset, len(listing), checksum(listing),
        )  # fmt: skip
        directory_records.append(_sealed(record, path))
    module_records = []
    for module, path, text, value in zip(modules, module_paths, module_text, module_hashes):
        offset = tail.block(module.payload)
        record = _MODULE.pack(
            0, value, text, len(path), module.flags, module.mtime_ns, module.ctime_ns, module.inode, module.size, offset,
            len(module.payload), checksum(module.payload),
        )  # fmt: skip
        module_records.append(_sealed(record, path))
    tail.align()
    file.block(b"".join(module_records))
    file.block(b"".join(directory_records))
    file.align()
    body = file.content() + tail.content()
    fields = [
        MAGIC, FORMAT, BYTE_ORDER, tail.size, 0, _HEADER.size, len(identity_text), time.time_ns(), aged_ns, encoding.kind,
        len(modules), len(directories), len(module_table_bytes) // 4, len(directory_table_bytes) // 4,
        NATIVE_REVISION if encoding.kind == ENCODING_NATIVE else 0,
        module_table, module_records_at, directory_table, directory_records_at, checksum(body),
        shared_table, len(encoding.table), encoding.table_age, full,
    ]  # fmt: skip
    fields[4] = checksum(_HEADER.pack(*fields) + identity_text)
    return _HEADER.pack(*fields) + identity_text + body


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


def _sealed(record: bytes, path: bytes) -> bytes:
    """The record with its checksum in front (csrc/image.c, ``record_checksum``)."""
    return struct.pack("=Q", checksum(record[8:]) ^ checksum(path)) + record[8:]


class Image(NamedTuple):
    """What an image holds, in its own order; payloads are views of ``content``. ``results``: patterns and source texts,
    by their keys."""

    modules: dict[str, Module]
    results: dict[str, Module]
    directories: dict[str, Directory]
    aged_ns: int
    encoding: Encoding
    content: bytes


def read(path: str, identity: str) -> Image:
    """Reads an image whole. Raises FileNotFoundError, or ValueError with the reason why it is of no use."""
    inspect_image(path, identity)  # every checksum
    with open(path, "rb") as file:
        content = file.read()
    fields = _HEADER.unpack_from(content)
    aged_ns, module_count, directory_count = fields[8], fields[10], fields[11]
    modules_at, directories_at, (table, table_bytes, table_age) = fields[16], fields[18], fields[20:23]
    view = memoryview(content)
    encoding = Encoding(fields[9], view[table : table + table_bytes], table_age)
    modules, results, directories = {}, {}, {}
    try:
        for module in _read_modules(view, modules_at, module_count):
            (results if module.flags & (PATTERN | SOURCE) else modules)[module.path] = module
        for directory in _read_directories(view, directories_at, directory_count):
            directories[directory.path] = directory
    except struct.error as error:  # replaced between the two openings by something else
        raise ValueError("archive damaged") from error
    return Image(modules, results, directories, aged_ns, encoding, content)


def _read_modules(view: memoryview, at: int, count: int) -> Iterator[Module]:
    for index in range(count):
        record = _MODULE.unpack_from(view, at + index * _MODULE.size)
        _, _, text, text_bytes, flags, mtime_ns, ctime_ns, inode, size, payload, payload_bytes, _ = record
        path = os.fsdecode(bytes(view[text : text + text_bytes]))
        yield Module(path, mtime_ns, ctime_ns, inode, size, flags, view[payload : payload + payload_bytes])


def _read_directories(view: memoryview, at: int, count: int) -> Iterator[Directory]:
    for index in range(count):
        record = _DIRECTORY.unpack_from(view, at + index * _DIRECTORY.size)
        _, _, text, text_bytes, flags, mtime_ns, ctime_ns, inode, device, listing, listing_bytes, _ = record
        path = os.fsdecode(bytes(view[text : text + text_bytes]))
        names = {} if flags & LEFT_OUT else _read_names(view[listing : listing + listing_bytes])
        yield Directory(path, mtime_ns, ctime_ns, inode, device, flags, names)


def _read_names(listing: memoryview) -> dict[str, int]:
    bucket_count, name_count = _LISTING.unpack_from(listing)
    at = _LISTING.size + 4 * bucket_count
    names = {}
    for index in range(name_count):
        _, offset, length, flags, _, _ = _NAME.unpack_from(listing, at + index * _NAME.size)
        names[bytes(listing[offset : offset + length]).decode()] = flags
    return names
