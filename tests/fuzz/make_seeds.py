"""Seeds for the fuzz target: make_seeds.py FOLDER, run by an interpreter that has pycds-auto and an image. Writes
FOLDER/table, a shared table, and FOLDER/seeds/: streams out of that image, streams of single functions of the same
modules (small inputs are changed to more effect), constants of every kind, and small tables.
"""

import marshal
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

from pycds_auto import image, native
from pycds_auto._loader import native_decode, state

AGAINST_TABLE, AS_TABLE = b"\0", b"\1"
"""What the fuzz target does with the rest of an input: see fuzz_decode.c."""

MOST_BYTES = 12_000
"""Longer streams are left out: the fuzzer needs room to add."""

SOURCES = [
    "x = 1\n",
    "def f(a, *b, c=1.5, **d):\n    return {1, 'é', b'x'} and a in {1, 2, 'a'} and (1, (2, frozenset()))\n",
    "a = 1e308j; b = 1 << 200; c = -1 << 70; d = '\\ud800', '\\U0001f600', 'ŵ' * 3, '', 'q', ...\n",
    "x = a in {1, 2} or b in {(1, 2), (3, 4)} or b in {(1, 2), (3, 4)}, ({1, 2}, 3)\n",
    "class A:\n    def f(self):\n        def g():\n            nonlocal self\n            return __class__, lambda: self\n",
]


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code objects inside a code object."""
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield const
            yield from functions(const)


def main(folder: Path) -> None:
    here = state()
    archive = image.read(f"{here['folder']}/image-{here['variant']}.pycds", here["identity"])
    if archive.encoding.kind != image.ENCODING_NATIVE:
        sys.exit("the image isn't of the native encoding")
    streams = [bytes(module.payload) for module in archive.modules.values() if 0 < len(module.payload) <= MOST_BYTES]
    codes = native_decode(archive.encoding.table, streams[:60])
    small = [marshal.dumps(inner) for code in codes for inner in functions(code)][:600]
    constants = [marshal.dumps(compile(source, "/x.py", "exec")) for source in SOURCES]
    table, added = native.encode(constants + small, bytes(archive.encoding.table))
    (folder / "table").write_bytes(table)
    seeds = folder / "seeds"
    seeds.mkdir(exist_ok=True)
    for number, stream in enumerate([*added, *streams[:: max(1, len(streams) // 300)]]):
        if isinstance(stream, bytes):
            (seeds / f"stream{number}").write_bytes(AGAINST_TABLE + stream)
    for number in range(1, 4):
        (seeds / f"table{number}").write_bytes(AS_TABLE + native.encode((constants + small[:20]) * number, b"")[0])


os.umask(0o077)
main(Path(sys.argv[1]))
