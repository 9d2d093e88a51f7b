"""Damages images at random, and holds a program's answer against plain Python's: PYTHON tests/damage.py [--images N].

Run by an interpreter that has pycds-auto installed. No flipped bit, no lost page and no header of another release may
change what a program does, print anything or end it. Where the checksums are made right again after the damage
(`repaired`), the reader is on its bounds checks alone: there a program may get wrong code, as from anybody who can write
the cache, but no signal may end it and nothing may hang.

A tenth of the programs are whole processes. The others are forked off an interpreter that has just started and then made
to read its .pth file: half the cost.

Prints the first faults and a line of JSON; exit status 1 if there was a fault, or fewer images than asked for. An image
that did harm is kept. The programs have the PYTHONMALLOC and PYTHONWARNINGS that this was started with.
"""

import argparse
import fcntl
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from layouts import (
    DIRECTORY, DIRECTORY_BYTES, HEADER, HEADER_BYTES, LISTING_BYTES, MODULE, MODULE_BYTES, NAME, NAME_BYTES, field_of, header_of,
    with_field,
)  # fmt: skip
from support import age, age_folders, write
from support import environment as clean_environment

from pycds_auto import image as image_module
from pycds_auto._loader import checksum

DEADLINE = 120  # seconds for one program
PASSED_ON = {key: os.environ[key] for key in ("PYTHONMALLOC", "PYTHONWARNINGS") if key in os.environ}
MODULES = 24

# Every kind of constant and of statement that a code object shows; {n} makes each module another one.
TEXT = '''\
"""Module {n}"""
from other import before{n} as _before
SHARED, WIDE, LONE = "a string that all have in common", "Zoë \\u4e2d {n}", "\\ud800 {n}"
NUMBERS = ({n}, -{n}, 2**31 + {n}, 2**63 - {n}, {n} * 10**40, -0.0, {n}.5, 1e300 * 10, {n}j, True, None, ...)
NESTED = (((b"bytes {n}", "\\U0001f40d"), ()), "x", "é", b"", "")
def decide(value):
    if value in {{"one", "two", {n}, 2.5, b"y", (1, 2)}}:
        return f"{{value!r:>5}} in {n}"
    try:
        return [item * {n} for item in value if item]
    except (TypeError, ValueError) as error:
        return type(error).__name__, (lambda: (value, {n}))()
    finally:
        NUMBERS
class Kind{n}:
    """A class."""
    __slots__ = ("one", "other{n}")
    def __init__(self, one, *rest, other=-0.0, **more):
        self.one, self.other{n} = one, other
    async def wait(self):
        return self.one
    @property
    def both(self):
        def inner():
            nonlocal found
            found += 1
            yield from (self.one, self.other{n}, found, __class__.__name__)
        found = {n}
        return [*inner()]
def match(subject):
    match subject:
        case {{"key": [first, *_]}}:
            return first, SHARED
        case Kind{n}(one=1.5):
            return WIDE
    return _before(subject)
'''
BEFORE = "def before{n}(subject):\n    return 'before {n}', subject, {n} + 0.25\n"

PROGRAM = """\
import sys
import {stock}
from parts import {names}
def told(code):
    fields = (code.co_code, code.co_names, code.co_varnames, code.co_filename, code.co_linetable, code.co_flags,
              code.co_freevars, code.co_cellvars, code.co_exceptiontable, code.co_qualname, code.co_stacksize)
    return fields, [told(item) if isinstance(item, type(code)) else (type(item), repr(item)) for item in code.co_consts]
def codes(space):
    for name, value in space.items():
        value = getattr(value, "fget", value)
        if isinstance(value, type) and value.__module__ == module:
            yield from codes(vars(value))
        elif isinstance(value, type(told)) and value.__module__ == module:
            yield told(value.__code__)
for module in list(sys.modules):
    if module in {stock!r} or module.startswith(("parts", "other")):
        print(module, hash(repr([*codes(vars(sys.modules[module]))])))
for module in [{names}]:
    kind = [value for name, value in vars(module).items() if name.startswith("Kind")][0](1.5, 2)
    print(module.__name__, module.NUMBERS, module.NESTED, ascii((module.SHARED, module.WIDE, module.LONE)), kind.both,
          module.decide("one"), module.decide((0, 2)), module.decide(7.5), module.match(kind), module.match({{"key": "k"}}), module.match(7))
sys.stdout.flush()
if sys.argv[1:] == ["end at once"]:
    import os
    os._exit(0)
elif sys.argv[1:]:
    if sys.argv[4:]:  # the rebuilder's reader
        from pycds_auto.image import read
    else:
        from pycds_auto._loader import inspect_image as read
    try:
        read(*sys.argv[1:3])
    except (ValueError, FileNotFoundError):
        pass
    else:
        print("accepted", flush=True) if sys.argv[3] == "must be refused" else None
"""


def environment(home: Path, **extra: str) -> dict[str, str]:
    """As support.environment, with what the programs of a run may be given: PYTHONMALLOC and PYTHONWARNINGS."""
    return clean_environment(home, **PASSED_ON, **extra)


class Stock:
    """The program, plain Python's answer, and images of it: ordinary, of an earlier state, and with -O."""

    def __init__(self, root: Path) -> None:
        names = [f"part{number}" for number in range(MODULES)]
        files = {"other.py": "".join(BEFORE.format(n=number) for number in range(MODULES))}
        for number, name in enumerate(names):  # modules and packages of a namespace package
            files[f"parts/{name}.py" if number % 4 else f"parts/{name}/__init__.py"] = TEXT.format(n=number)
        write(root / "programs", files)
        stock = "copy, heapq, bisect, colorsys, types, weakref, contextlib, reprlib, keyword, operator, functools, struct, opcode"
        self.program = root / "programs/app.py"
        self.program.write_text(PROGRAM.format(stock=stock, names=", ".join(names)))
        age(root / "programs")
        self.root = root
        self.cache = root / "cache"
        for _ in range(2):  # the first writes the pycs: in those, a frozenset may have another order
            self.plain = self.run(self.cache, PYCDS_DISABLE="1")
        assert self.plain[:2] == (0, ""), self.plain
        age_folders(root / "programs")
        record = f"import sys; sys.path.insert(0, {str(root / 'programs')!r}); import copy, opcode, parts.part1, os; os._exit(0)"
        subprocess.run(
            [sys.executable, "-c", record], env=environment(root, PYCDS_CACHE_DIR=str(self.cache)), check=True
        )
        self.fold()
        (path,) = self.cache.glob("*/image-0.pycds")
        self.name, self.earlier = path.relative_to(self.cache), path.read_bytes()
        for options in (), ("-O",):
            # Its end would start a rebuilder, which would hold ours up.
            self.run(self.cache, "end at once", options=options)
            self.fold(*options)
        self.image = path.read_bytes()
        self.optimised = path.with_name("image-1.pycds").read_bytes()
        self.identity = self.image[HEADER_BYTES : HEADER_BYTES + header_of(self.image)["identity_bytes"]].decode()
        served = self.run(self.cache, PYCDS_LOG="1", PYCDS_READONLY="1")
        assert served[2] == self.plain[2] and "misses=0" in served[1], served
        assert self.run(self.cache, path, self.identity, "", PYCDS_READONLY="1") == self.plain
        accepted = self.run(self.cache, path, self.identity, "must be refused", PYCDS_READONLY="1")
        assert accepted[2] == self.plain[2] + "accepted\n", accepted

    def run(self, cache: Path, *arguments, options: tuple[str, ...] = (), **extra: str) -> tuple[int, str, str]:
        """Exit status, stderr, stdout."""
        env = environment(self.root, PYCDS_CACHE_DIR=str(cache), PYTHONHASHSEED="0", PYTHONIOENCODING="utf-8", **extra)
        process = subprocess.run(
            [sys.executable, *options, str(self.program), *map(str, arguments)],
            env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE, close_fds=False,
        )  # fmt: skip
        return process.returncode, process.stderr.decode(errors="replace"), process.stdout.decode(errors="replace")

    def fold(self, *options: str) -> None:
        """As `build`, which itself would be recorded."""
        subprocess.run(
            [sys.executable, *options, "-c", "from pycds_auto import _loader, rebuild; rebuild.rebuild(_loader.state(), wait=True)"],
            env=environment(self.root, PYCDS_CACHE_DIR=str(self.cache), PYCDS_DISABLE="1"), check=True,
        )  # fmt: skip


# Reads paths, two a line: of a file for a program's output, and the program's arguments; ends with the last line. A fork runs
# the .pth file and the program, and ends as any interpreter does.
FORKED = """\
import os, sys
program, pth, sitedir = sys.argv[1:]
while True:
    line = b""
    while not line.endswith(b"\\n"):
        more = os.read(0, 65536)
        if not more:
            os._exit(0)
        line += more
    out, *arguments = os.fsdecode(line[:-1]).replace("\\1", "\\n").split("\\0")
    child = os.fork()
    if child == 0:
        break
    os.write(1, b"%d\\n" % os.waitpid(child, 0)[1])
for fd in 1, 2:
    os.dup2(os.open(out + "12"[fd - 1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), fd)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
sys.argv = [program, *arguments]
sys.path.insert(0, os.path.dirname(program))
del os.environ["PYCDS_DISABLE"], child, line, more, out, arguments, fd
exec(open(pth).read())
exec(compile(open(program).read(), program, "exec"))
"""


class Forks:
    """Runs the program in forks of an interpreter that was started for one cache."""

    def __init__(self, stock: "Stock", cache: Path) -> None:
        self.output = cache / "output"
        pth = Path(image_module.__file__).parent.parent / "pycds_auto.pth"
        env = environment(stock.root, PYCDS_CACHE_DIR=str(cache), PYTHONHASHSEED="0", PYTHONIOENCODING="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKED, str(stock.program), str(pth), str(pth.parent)],
            env=env | {"PYCDS_DISABLE": "1", "PYCDS_READONLY": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: object) -> tuple[int, str, str]:
        line = "\0".join(map(str, [self.output, *arguments])).replace("\n", "\1")
        self.process.stdin.write(os.fsencode(line) + b"\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], DEADLINE)[0]:
            raise subprocess.TimeoutExpired("a fork", DEADLINE)
        status = os.waitstatus_to_exitcode(int(self.process.stdout.readline()))
        out, err = (Path(f"{self.output}{fd}").read_text(encoding="utf-8", errors="replace") for fd in (1, 2))
        return status, err, out

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


# Damage. Each function gives a damaged copy of an image.


def part(image: bytes, chance: random.Random) -> range:
    """Some part of the image: all of it, or a part with a meaning of its own."""
    fields = header_of(image)
    modules, directories = fields["modules"], fields["directories"]
    record = modules + MODULE_BYTES * chance.randrange(fields["module_count"])
    payload = field_of(image, record, MODULE["payload"])
    folder = directories + DIRECTORY_BYTES * chance.randrange(fields["directory_count"])
    listing = field_of(image, folder, DIRECTORY["listing"])
    parts = [
        range(len(image)),
        range(HEADER_BYTES),
        range(HEADER_BYTES + fields["identity_bytes"]),
        range(fields["module_table"], fields["module_table"] + 4 * fields["module_buckets"]),
        range(fields["directory_table"], fields["directory_table"] + 4 * fields["directory_buckets"]),
        range(modules, modules + MODULE_BYTES * fields["module_count"]),
        range(directories, directories + DIRECTORY_BYTES * fields["directory_count"]),
        range(fields["shared_table"], fields["shared_table"] + fields["shared_table_bytes"]),
        range(payload, payload + field_of(image, record, MODULE["payload_bytes"])),
        range(listing, listing + field_of(image, folder, DIRECTORY["listing_bytes"])),
    ]
    return chance.choice([found for found in parts if len(found)])


def flipped(image: bytes, chance: random.Random) -> bytes:
    where = part(image, chance)
    damaged = bytearray(image)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 10, 100, 1000])):
        damaged[chance.choice(where)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def run_of(fill: Callable[[random.Random, int], bytes]) -> Callable[[bytes, random.Random], bytes]:
    def damage(image: bytes, chance: random.Random) -> bytes:
        where = part(image, chance)
        start = chance.choice(where)
        size = min(chance.choice([1, 2, 4, 8, 16, 64, 512, 4096, 65536]), where.stop - start)
        return image[:start] + fill(chance, size) + image[start + size :]

    return damage


def page(image: bytes, chance: random.Random) -> int:
    return chance.randrange(len(image) // PAGE) * PAGE


PAGE = 4096


def pages_swapped(image: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(image)
    for _ in range(chance.choice([1, 1, 2, 10])):
        one, other = page(image, chance), page(image, chance)
        damaged[one : one + PAGE], damaged[other : other + PAGE] = (
            damaged[other : other + PAGE],
            damaged[one : one + PAGE],
        )
    return bytes(damaged)


def page_lost(image: bytes, chance: random.Random) -> bytes:
    """Written by nobody after a crash of the machine: zeros, or what another page has."""
    at, other = page(image, chance), page(image, chance)
    return image[:at] + chance.choice([bytes(PAGE), image[other : other + PAGE]]) + image[at + PAGE :]


def truncated(image: bytes, chance: random.Random) -> bytes:
    return image[
        : chance.choice([chance.randrange(len(image)), chance.randrange(300), len(image) - 1, page(image, chance)])
    ]


def lengthened(image: bytes, chance: random.Random) -> bytes:
    return image + chance.choice([b"\0", bytes(PAGE), image, chance.randbytes(chance.randrange(1, 10_000))])


def moved(image: bytes, chance: random.Random) -> bytes:
    """Bytes put in or taken out, the size as it was."""
    at, size = chance.choice(part(image, chance)), chance.choice([1, 2, 4, 8, 16, 88])
    if chance.random() < 0.5:
        return (image[:at] + chance.randbytes(size) + image[at:])[: len(image)]
    return image[:at] + image[at + size :] + bytes(len(image) - len(image[:at] + image[at + size :]))


def field_changed(image: bytes, chance: random.Random) -> bytes:
    """A header of other formats, byte orders, encodings, revisions, sizes."""
    offset, width = chance.choice(list(HEADER.values()))
    return with_field(image, offset, width, number(image, chance, width))


def number(image: bytes, chance: random.Random, width: int) -> int:
    """A number that is likely to hurt."""
    limit = (1 << 8 * width) - 1
    near = chance.choice([0, len(image), limit, limit >> 1, 1 << 31, 1 << 32, 1 << 63, chance.randrange(len(image))])
    return (near + chance.choice([0, 0, 1, -1, 2, 16, -16, 88, -144])) & limit


def repeatedly_changed(image: bytes, chance: random.Random) -> bytes:
    return field_changed(field_changed(image, chance), chance)


def torn(one: str) -> Callable[[bytes, random.Random], bytes]:
    """The beginning of an image and the rest of another."""

    def damage(image: bytes, chance: random.Random) -> bytes:
        other = getattr(stock, one)
        at = chance.choice([chance.randrange(len(image)), page(image, chance), HEADER_BYTES])
        return chance.choice([other[:at] + image[at:], image[:at] + other[at:]])

    return damage


def of_other_options(image: bytes, chance: random.Random) -> bytes:
    return stock.optimised


DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits flipped": flipped,
    "run zeroed": run_of(lambda chance, size: bytes(size)),
    "run of ones": run_of(lambda chance, size: b"\xff" * size),
    "run random": run_of(lambda chance, size: chance.randbytes(size)),
    "pages swapped": pages_swapped,
    "page lost": page_lost,
    "truncated": truncated,
    "lengthened": lengthened,
    "moved": moved,
    "header field": field_changed,
    "header fields": repeatedly_changed,
    "torn with an earlier image": torn("earlier"),
    "torn with an image of -O": torn("optimised"),
    "image of -O": of_other_options,
}


# Damage with the checksums made right.


def seal_record(image: bytearray, at: int, size: int) -> None:
    where, length = field_of(image, at, MODULE["path"]), field_of(image, at, MODULE["path_bytes"])
    text = bytes(image[where : where + length]) if length <= 1 << 16 else b""
    value = checksum(bytes(image[at + 8 : at + size])) ^ checksum(text)
    image[at : at + 8] = value.to_bytes(8, "little")


def seal(image: bytes) -> bytes:
    """The header's checksum and, so that the rebuilder's reader goes on as well, the body's."""
    fields = header_of(image)
    covered = HEADER_BYTES + fields["identity_bytes"]
    image = with_field(image, *HEADER["body_checksum"], checksum(image[covered:]))
    image = with_field(image, *HEADER["header_checksum"], 0)
    return with_field(image, *HEADER["header_checksum"], checksum(image[:covered]))


def sealed_header(image: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice([1, 1, 2, 3])):
        offset, width = chance.choice(list(HEADER.values())[5:])
        image = with_field(image, offset, width, number(image, chance, width))
    return image


def sealed_records(image: bytes, chance: random.Random) -> bytes:
    fields = header_of(image)
    members, size, table, count, left = chance.choice([
        (MODULE, MODULE_BYTES, fields["modules"], fields["module_count"], ("checksum", "payload_checksum")),
        (DIRECTORY, DIRECTORY_BYTES, fields["directories"], fields["directory_count"], ("checksum", "listing_checksum")),
    ])  # fmt: skip
    names = chance.sample([name for name in members if name not in left], chance.choice([1, 1, 2, 3]))
    damaged = bytearray(image)
    for record in range(count) if chance.random() < 0.5 else chance.sample(range(count), min(count, 5)):
        at = table + record * size
        for name in names:
            offset, width = members[name]
            damaged[at + offset : at + offset + width] = number(image, chance, width).to_bytes(width, "little")
        seal_record(damaged, at, size)
    return bytes(damaged)


def sealed_listings(image: bytes, chance: random.Random) -> bytes:
    """Damage in the heads, buckets, entries and text of listings."""
    fields = header_of(image)
    damaged = bytearray(image)
    kind = chance.choice(["head", "buckets", "entries", "anything"])
    for record in range(fields["directory_count"]):
        at = fields["directories"] + record * DIRECTORY_BYTES
        listing, size = field_of(image, at, DIRECTORY["listing"]), field_of(image, at, DIRECTORY["listing_bytes"])
        if size == 0 or chance.random() < 0.3:
            continue
        buckets, names = (int.from_bytes(image[listing + where : listing + where + 4], "little") for where in (0, 4))
        entries = listing + LISTING_BYTES + 4 * buckets
        for _ in range(chance.choice([1, 1, 5, 50])):
            where, width = listing + chance.randrange(size), 1
            if kind == "head":
                where, width = listing + chance.choice([0, 4]), 4
            elif kind == "buckets":
                where, width = listing + LISTING_BYTES + 4 * chance.randrange(buckets), 4
            elif kind == "entries" and names:
                offset, width = chance.choice(list(NAME.values()))
                where = entries + NAME_BYTES * chance.randrange(names) + offset
            value = chance.choice(
                [number(image, chance, width), chance.randrange(1 << 8 * width), chance.randrange(1, 64)]
            )
            damaged[where : where + width] = value.to_bytes(width, "little")
        if chance.random() < 0.1:  # a listing of another size
            offset, width = DIRECTORY["listing_bytes"]
            size = chance.randrange(min(size, LISTING_BYTES), size + 1)
            damaged[at + offset : at + offset + width] = size.to_bytes(width, "little")
        offset, width = DIRECTORY["listing_checksum"]
        value = checksum(bytes(damaged[listing : listing + size]))
        damaged[at + offset : at + offset + width] = value.to_bytes(width, "little")
        seal_record(damaged, at, DIRECTORY_BYTES)
    return bytes(damaged)


def sealed_hash_tables(image: bytes, chance: random.Random) -> bytes:
    fields = header_of(image)
    damaged = bytearray(image)
    for table in "module", "directory":
        count = fields[f"{table}_buckets"]
        for _ in range(chance.choice([1, 5, count, 4 * count])):
            at = fields[f"{table}_table"] + 4 * chance.randrange(count)
            value = chance.choice([number(image, chance, 4), chance.randrange(1, fields[f"{table}_count"] + 2)])
            damaged[at : at + 4] = value.to_bytes(4, "little")
    return bytes(damaged)


def sealed_shared_table(image: bytes, chance: random.Random) -> bytes:
    """Its head and block records (csrc/native_format.h); what is in the blocks keeps its checksums."""
    table = header_of(image)["shared_table"]
    if header_of(image)["shared_table_bytes"] == 0:
        return sealed_header(image, chance)
    damaged = bytearray(image)
    blocks = int.from_bytes(image[table + 4 : table + 8], "little")
    if chance.random() < 0.5:
        at = table + chance.choice([0, 4])
        damaged[at : at + 4] = number(image, chance, 4).to_bytes(4, "little")
        damaged[table + 8 : table + 16] = checksum(bytes(damaged[table : table + 8])).to_bytes(8, "little")
    else:
        for block in range(blocks):
            record = table + 16 + 16 * block
            for field in range(2):
                if chance.random() < 0.5:
                    damaged[record + 4 * field : record + 4 * field + 4] = number(image, chance, 4).to_bytes(
                        4, "little"
                    )
            start, size = (int.from_bytes(damaged[record + at : record + at + 4], "little") for at in (0, 4))
            content = bytes(damaged[table + start : table + start + size]) if size < len(image) else b""
            value = checksum(content) ^ checksum(bytes(damaged[record : record + 8]) + block.to_bytes(4, "little"))
            damaged[record + 8 : record + 16] = value.to_bytes(8, "little")
    return bytes(damaged)


REPAIRED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "repaired: header": sealed_header,
    "repaired: records": sealed_records,
    "repaired: listings": sealed_listings,
    "repaired: hash tables": sealed_hash_tables,
    "repaired: shared table": sealed_shared_table,
}


class Fault(NamedTuple):
    number: int
    kind: str
    what: str


def damaged_image(number: int, seed: int) -> tuple[str, bytes]:
    """The image of a number: two in three damaged without repair."""
    chance = random.Random(f"{seed} {number}")
    kinds = REPAIRED if number % 3 == 2 else DAMAGE
    kind = chance.choice(list(kinds))
    image = stock.image
    while image in (stock.image, stock.earlier):  # torn at its beginning: not damaged
        image = kinds[kind](stock.image, chance)
    return kind, seal(image) if kinds is REPAIRED else image


def try_one(number: int, seed: int, cache: Path, forks: Forks) -> tuple[str, bool, Fault | None]:
    """Kind, whether the answer was plain Python's, and what was wrong."""
    kind, image = damaged_image(number, seed)
    path = cache / stock.name
    path.unlink(missing_ok=True)
    path.write_bytes(image)
    path.chmod(0o600)
    arguments = path, stock.identity, "" if kind in REPAIRED else "must be refused"
    try:
        if number % 500 == 499:
            result = mended(image, cache.with_name(f"{cache.name}-{number}"))
        elif number % 10:
            result = forks.run(*arguments)
        else:
            result = stock.run(cache, *arguments, "read", PYCDS_READONLY="1")
    except subprocess.TimeoutExpired:
        return kind, False, Fault(number, kind, "it hangs")
    same = result == stock.plain
    if same or (kind in REPAIRED and result[0] in (0, 1)):
        return kind, same, None
    return (
        kind,
        False,
        Fault(number, kind, f"exit {result[0]}, stderr: {result[1][-1000:]!r}, stdout: {result[2][-300:]!r}"),
    )


def mended(image: bytes, cache: Path) -> tuple[int, str, str]:
    """Runs of the program that record, and the rebuilder in the background: they end with plain Python's answer."""
    shutil.copytree(stock.cache, cache)
    for file in (cache / stock.name).parent.iterdir():
        if not file.name.endswith(".pycds"):
            file.unlink()  # the pause after the last rebuild
    (cache / stock.name).write_bytes(image)
    result = stock.run(cache)
    folder = os.open((cache / stock.name).parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # until the rebuilder has ended
    os.close(folder)
    again = stock.run(cache, PYCDS_READONLY="1")
    shutil.rmtree(cache)
    return result if result != stock.plain else again


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first image, to see a fault again")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm") if os.path.isdir("/dev/shm") else None)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="pycds-damage-", dir=options.folder))
    global stock
    stock = Stock(root)
    counts: Counter[str] = Counter()
    others: Counter[str] = Counter()  # repaired images that gave another answer: allowed
    faults: list[Fault] = []
    numbers = iter(range(options.first, options.first + options.images))
    lock = threading.Lock()

    def work(worker: int) -> None:
        cache = root / f"worker{worker}"
        shutil.copytree(stock.cache, cache)
        forks = Forks(stock, cache)
        if forks.run() != stock.plain:
            print(f"without damage, a fork gives another answer than plain Python: {forks.run()}, {stock.plain}")
            return
        while len(faults) < 10:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            kind, same, fault = try_one(number, options.seed, cache, forks)
            with lock:
                counts[kind] += 1
                others[kind] += not same
                if fault:
                    faults.append(fault)
                    shutil.copy(cache / stock.name, root / f"fault-{number}.pycds")
                    print(*fault, sep=": ", flush=True)
        forks.close()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(options.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {
        "python": sys.version.split()[0],
        "images": sum(counts.values()),
        "faults": len(faults),
        "seed": options.seed,
    }
    print(json.dumps(told | {"kinds": counts, "other answers": {kind: n for kind, n in others.items() if n}}))
    if faults:
        print(f"the images are in {root}")
    else:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if faults or (told["images"] < options.images) else 0


if __name__ == "__main__":
    sys.exit(main())
