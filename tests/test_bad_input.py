"""Whatever lies in the cache folder, programs run as with plain Python, and the commands can say what is wrong."""

import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from layouts import DIRECTORY, DIRECTORY_BYTES, HEADER, HEADER_BYTES, MODULE, MODULE_BYTES, header_of, with_field
from support import PROBE, Result, User, Venv, age, processes_with, same, until, write

PROGRAM = """\
import probe
import csv, decimal, email.message, json
import lib.m
print(json.dumps([lib.m.VALUE]), decimal.Decimal("1.5"), email.message.Message().keys(), csv.QUOTE_ALL)
probe.show("lib", "lib.m")
"""


class Stock:
    """A program with its archive, built once for each interpreter; each test takes a copy of the cache."""

    def __init__(self, venv: Venv, root: Path) -> None:
        self.program = root / "programs" / "app.py"
        write(
            root / "programs",
            {"app.py": PROGRAM, "probe.py": PROBE.read_text(), "lib/__init__.py": "", "lib/m.py": "VALUE = 1\n"},
        )
        age(root / "programs")
        self.user = User(venv.python, root / "home")
        self.user.home.mkdir()
        self.plain = self.user.run(self.program, plain=True)
        for option in ((), ("-O",)):
            self.user.run(*option, self.program)
            self.user.build(options=option)
        observed = self.user.observe(self.program, readonly=True)
        assert observed.misses == 0 and "lib.m" in observed.served() and observed.result == self.plain
        until(lambda: not list(processes_with(str(root))), "a rebuilder does not end")
        self.image = self.user.image().read_bytes()

    def copy(self, home: Path) -> User:
        home.mkdir(exist_ok=True)
        shutil.copytree(self.user.cache, home / ".cache/pycds-auto")
        return User(self.user.python, home)


@pytest.fixture(scope="session")
def stock(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(venv, tmp_path_factory.mktemp("stock"))


@pytest.fixture
def own(stock: Stock, tmp_path: Path) -> User:
    """A user with a copy of the archive."""
    return stock.copy(tmp_path / "home")


def recovers(user: User, stock: Stock) -> None:
    """Ordinary runs replace what is wrong by a good image, in the background."""

    def good() -> bool:
        same(user.run(stock.program), stock.plain)
        observed = user.observe(stock.program, readonly=True)
        return observed.active and observed.misses == 0 and "lib.m" in observed.served()

    # The pause after the last rebuild is not for the tests to wait for.
    for name in ("state.json", "lock"):
        (user.folder() / name).unlink(missing_ok=True)
    until(good, "it does not recover")
    status = user.status()
    assert status["reason"] is None and status["image"]["modules"] > 20


# Damaged images


def sections(image: bytes) -> dict[str, range]:
    fields = header_of(image)
    assert fields["header_bytes"] == HEADER_BYTES
    modules, directories = fields["modules"], fields["directories"]
    found = {
        "header": range(HEADER_BYTES),
        "identity": range(HEADER_BYTES, HEADER_BYTES + fields["identity_bytes"]),
        "module table": range(fields["module_table"], fields["module_table"] + 4 * fields["module_buckets"]),
        "modules": range(modules, modules + MODULE_BYTES * fields["module_count"]),
        "directory table": range(
            fields["directory_table"], fields["directory_table"] + 4 * fields["directory_buckets"]
        ),
        "directories": range(directories, directories + DIRECTORY_BYTES * fields["directory_count"]),
        "all of the body": range(HEADER_BYTES + fields["identity_bytes"], len(image)),
        "payloads and listings": range(max(part for part in (modules, directories)), len(image)),
    }
    assert all(len(part) > 3 and part.stop <= len(image) for part in found.values())
    return found


SECTIONS = [
    "header",
    "identity",
    "module table",
    "modules",
    "directory table",
    "directories",
    "all of the body",
    "payloads and listings",
]


def flipped(image: bytes, part: range, count: int, seed: int) -> bytes:
    chance = random.Random(seed)
    damaged = bytearray(image)
    for position in chance.sample(part, min(count, len(part))):
        damaged[position] ^= 1 << chance.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("section", SECTIONS)
def test_flipped_bits(stock: Stock, own: User, section: str) -> None:
    """No flipped bit reaches the interpreter, wherever it is: one, some, or thousands of them."""
    part = sections(stock.image)[section]
    for seed, count in enumerate([1, 1, 1, 5, 2000]):
        own.image().write_bytes(flipped(stock.image, part, count, seed))
        same(own.run(stock.program, readonly=True), stock.plain)
    status = own.status()
    assert status["reason"] and status["image"] is None
    assert status["active"] is False or section not in ("header", "identity")


VERIFY = """
import random, sys
from pycds_auto import _loader
path, identity = sys.argv[1], _loader.state()["identity"]
original = open(path, "rb").read()
_loader.inspect_image(path, identity)
chance = random.Random(1)
unnoticed = []
for position in [*range(200), *chance.sample(range(len(original)), 300)]:
    damaged = bytearray(original)
    damaged[position] ^= 1 << chance.randrange(8)
    with open(path, "r+b") as file:
        file.write(damaged)
    try:
        _loader.inspect_image(path, identity)
    except ValueError as error:
        assert str(error) and "\\n" not in str(error), error
    else:
        unnoticed.append(position)
print(len(original), unnoticed)
"""


@pytest.mark.one_interpreter
def test_no_flipped_bit_goes_unnoticed(stock: Stock, own: User) -> None:
    assert own.run("-c", VERIFY, own.image(), plain=True).stdout == f"{len(stock.image)} []\n"


def test_repairs_flipped_bits(stock: Stock, own: User) -> None:
    own.image().write_bytes(flipped(stock.image, sections(stock.image)["header"], 3, 0))
    recovers(own, stock)


def test_repairs_a_damaged_payload(stock: Stock, own: User) -> None:
    """Found out only in use; the rebuild that `build` makes is good again."""
    own.image().write_bytes(flipped(stock.image, sections(stock.image)["payloads and listings"], 3000, 0))
    same(own.run(stock.program), stock.plain)
    own.build()
    observed = own.observe(stock.program, readonly=True)
    same(observed.result, stock.plain)
    assert observed.misses == 0 and "lib.m" in observed.served() and own.status()["reason"] is None


# Overwrites a field of the header or of all records of a table, corrects the checksums above it, and inspects.
FORGE = """
import json, struct, sys
from pycds_auto import _loader
path, changes = sys.argv[1], json.loads(sys.argv[2])
image = bytearray(open(path, "rb").read())
for offset, width, value in changes["fields"]:
    image[offset : offset + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
start, size, count = changes["table"]
for record in range(start, start + size * count, size):
    where, length = (int.from_bytes(image[record + at : record + at + width], "little") for at, width in changes["path"])
    text = bytes(image[where : where + length])
    checksum = _loader.checksum(bytes(image[record + 8 : record + size])) ^ _loader.checksum(text)
    struct.pack_into("<Q", image, record, checksum)
struct.pack_into("<Q", image, 24, 0)
struct.pack_into("<Q", image, 24, _loader.checksum(bytes(image[: changes["header"]])))
open(path, "r+b").write(image)
try:
    _loader.inspect_image(path)
except ValueError:
    pass
"""


def forge(
    user: User, image: bytes, fields: list[tuple[int, int, int]], table: tuple[int, int, int] = (0, 1, 0)
) -> None:
    user.image().write_bytes(image)
    path = [DIRECTORY["path"], DIRECTORY["path_bytes"]]
    assert path == [MODULE["path"], MODULE["path_bytes"]]
    forged = {
        "fields": fields,
        "table": table,
        "path": path,
        "header": HEADER_BYTES + header_of(image)["identity_bytes"],
    }
    user.run("-c", FORGE, user.image(), json.dumps(forged), plain=True)


@pytest.mark.one_interpreter
def test_forging_nothing_changes_nothing(stock: Stock, own: User) -> None:
    """The forger makes right checksums: else the next tests would test no more than the checksums."""
    fields = header_of(stock.image)
    forge(own, stock.image, [], (fields["modules"], MODULE_BYTES, fields["module_count"]))
    assert own.image().read_bytes() == stock.image
    forge(own, stock.image, [], (fields["directories"], DIRECTORY_BYTES, fields["directory_count"]))
    assert own.image().read_bytes() == stock.image


EXTREMES = [0, 0x7FFFFFFFFFFFFFF0, 0xFFFFFFFFFFFFFFFF]


@pytest.mark.one_interpreter
@pytest.mark.parametrize("field", list(HEADER)[5:])
def test_impossible_header(stock: Stock, own: User, field: str) -> None:
    """Numbers that a checksum does not catch, because it is right: they must not lead out of the mapping."""
    for value in EXTREMES:
        forge(own, stock.image, [(*HEADER[field], value)])
        same(own.run(stock.program, readonly=True), stock.plain)


# What follows the checksum of a record, without its hash and times.
RECORD_FIELDS = [
    *(("modules", name) for name in MODULE if name not in ("checksum", "path_hash", "mtime_ns", "payload_checksum")),
    *(
        ("directories", name)
        for name in DIRECTORY
        if name not in ("checksum", "path_hash", "mtime_ns", "ctime_ns", "listing_checksum")
    ),
]


@pytest.mark.one_interpreter
@pytest.mark.parametrize(("table", "field"), RECORD_FIELDS)
def test_impossible_records(stock: Stock, own: User, table: str, field: str) -> None:
    """The same for the records of all modules and directories."""
    fields = header_of(stock.image)
    if table == "modules":
        (offset, width), size, count = MODULE[field], MODULE_BYTES, fields["module_count"]
    else:
        (offset, width), size, count = DIRECTORY[field], DIRECTORY_BYTES, fields["directory_count"]
    records = range(fields[table], fields[table] + size * count, size)
    for value in EXTREMES:
        forge(own, stock.image, [(record + offset, width, value) for record in records], (fields[table], size, count))
        same(own.run(stock.program, readonly=True), stock.plain)


# Files that are no image


def truncated_to(size: int) -> Callable[[Path, bytes], None]:
    return lambda path, image: path.write_bytes(image[:size])


def set_format(path: Path, image: bytes) -> None:
    path.write_bytes(with_field(image, *HEADER["format"], 999))


def set_byte_order(path: Path, image: bytes) -> None:
    path.write_bytes(with_field(image, *HEADER["byte_order"], 0x04030201))


def of_another_variant(path: Path, image: bytes) -> None:
    (other,) = path.parent.glob("image-1*")
    shutil.copyfile(other, path)


FILES: dict[str, Callable[[Path, bytes], object]] = {
    "empty": truncated_to(0),
    "one byte": truncated_to(1),
    "31 bytes": truncated_to(31),
    "header without end": truncated_to(100),
    "half": lambda path, image: path.write_bytes(image[: len(image) // 2]),
    "a byte short": lambda path, image: path.write_bytes(image[:-1]),
    "a byte long": lambda path, image: path.write_bytes(image + b"\0"),
    "twice": lambda path, image: path.write_bytes(image + image),
    "zeros": lambda path, image: path.write_bytes(bytes(len(image))),
    "text": lambda path, image: path.write_text("Hello\n" * 1000),
    "a program": lambda path, image: path.write_bytes(Path("/bin/sh").read_bytes()),
    "another format": set_format,
    "another byte order": set_byte_order,
    "of another variant": of_another_variant,
}


@pytest.mark.one_interpreter
@pytest.mark.parametrize("kind", FILES)
def test_file_that_is_no_image(stock: Stock, own: User, kind: str) -> None:
    FILES[kind](own.image(), stock.image)
    refused(own, stock)
    if kind in ("empty", "half", "another format"):
        recovers(own, stock)


def refused(user: User, stock: Stock, readable: bool = False) -> None:
    """Not used, not complained of, and status has a reason. A readable image is in order in itself."""
    observed = user.observe(stock.program, readonly=True)
    same(observed.result, stock.plain)
    assert observed.hits == 0 and not observed.active and observed.reason
    status = user.status()
    assert status["active"] is False and (status["image"] is not None) is readable
    assert status["reason"] and "\n" not in status["reason"] and "Traceback" not in status["reason"]


def test_image_of_another_interpreter(stock: Stock, own: User) -> None:
    """The identity begins every image: another one is refused, however good the image is otherwise."""
    fields = header_of(stock.image)
    start, end = HEADER_BYTES, HEADER_BYTES + fields["identity_bytes"]
    identity = stock.image[start:end]
    assert str(own.python.parent.parent).encode() in identity
    at = start + identity.index(b"/venv")
    forge(own, stock.image, [(at, 5, int.from_bytes(b"/vonv", "little"))])
    assert b"/vonv" in own.image().read_bytes()
    refused(own, stock)
    recovers(own, stock)


# Things in place of the image that are no regular file of ours


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        os.rename(path, path.with_name("kept"))
        make(path)

    return act


def bind(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


PLACES: dict[str, Callable[[Path], object]] = {
    "directory": replaced(Path.mkdir),
    "fifo": replaced(os.mkfifo),
    "socket": replaced(bind),
    "symlink to a good image": replaced(lambda path: path.symlink_to("kept")),
    "broken symlink": replaced(lambda path: path.symlink_to("nowhere")),
    "symlink to a device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "owned by another": lambda path: os.chown(path, 65534, -1),
    "writable by the group": lambda path: path.chmod(0o620),
    "writable by all": lambda path: path.chmod(0o602),
    "folder owned by another": lambda path: os.chown(path.parent, 65534, -1),
    "folder writable by the group": lambda path: path.parent.chmod(0o720),
    "folder writable by all": lambda path: path.parent.chmod(0o702),
}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=as_root) if "owned" in kind else kind for kind in PLACES])
def test_image_that_cannot_be_trusted(stock: Stock, own: User, kind: str) -> None:
    image = own.image()
    PLACES[kind](image)
    refused(own, stock, readable="folder" in kind)
    # an ordinary run, which records and rebuilds, is not disturbed either, whether it can mend it or not
    same(own.run(stock.program), stock.plain)
    if kind in ("directory", "symlink to a good image", "folder writable by all"):
        until(lambda: not list(processes_with(str(own.home))), "a rebuilder does not end")
        same(own.run(stock.program, readonly=True), stock.plain)
        assert not [file for file in image.parent.iterdir() if "tmp" in file.name]


@as_root
def test_roots_image_serves_everyone(stock: Stock, own: User) -> None:
    """The other way round: an image that root baked is as good as one's own."""
    os.chown(own.image(), 0, 0)
    assert own.observe(stock.program, readonly=True).active


# The other files


GARBAGE_LINES = [
    b"",
    b"M",
    b"M ",
    b"M 0",
    b"M 0 ",
    b"M 0 relative.py",
    b"M 0 /nonexistent/module.py",
    b"M 9 /nonexistent/module.py",
    b"X 0 /nonexistent/module.py",
    b"M 0 /",
    b"M 0 /etc/passwd",
    b"M 0 /dev/zero",
    b"M 0 /dev/stdin",
    b"M 0 /proc/self/mem",
    b"M 0 /proc/kmsg",
    b"M 0 " + b"/x" * 5000,
    b"M 0 /\xff\xfe.py",
    b"M 0 /a\0b.py",
    b"D 0 /nonexistent",
    b"D 0 /etc/passwd",
    b"D 0 /proc/self/fd",
    b"D 0 /dev",
    b"D 0 ../..",
    b"C 0 /etc/passwd",
    bytes(range(256)),
    b"\0" * 3000,
    b"M 0 /no/newline/at/the/end",
]


def test_spool_with_garbage(stock: Stock, own: User) -> None:
    folder = own.folder()
    fifo = own.home / "fifo.py"
    os.mkfifo(fifo)
    faulty = own.home / "faulty.py"
    faulty.write_text("VALUE = (\n")
    age(own.home)
    own.image().unlink()
    (folder / "state.json").unlink()
    same(own.run(stock.program, env={"PYCDS_LOG": ""}), stock.plain)
    until(lambda: not list(processes_with(str(own.home))), "a rebuilder does not end")
    lines = [*GARBAGE_LINES[:10], f"M 0 {fifo}".encode(), f"M 0 {faulty}".encode(), *GARBAGE_LINES[10:]]
    with (folder / "misses.spool").open("ab") as spool:
        spool.write(b"\n".join(lines))
    json.loads(own.command("status", "--json", readonly=True).stdout)
    same(own.run(stock.program), stock.plain)
    result = own.build()
    assert "Traceback" not in result.stderr + result.stdout
    observed = own.observe(stock.program, readonly=True)
    same(observed.result, stock.plain)
    assert observed.misses == 0 and "lib.m" in observed.served()
    assert own.status()["pending_misses"] == 0
    assert len(list(folder.iterdir())) <= 6


OTHERS = ["misses.spool", "misses.folding", "lock", "state.json"]


@pytest.mark.one_interpreter
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", ["directory", "fifo", "broken symlink", "symlink", "garbage"])
def test_strange_file(stock: Stock, own: User, name: str, kind: str) -> None:
    """In the place of each of our other files: programs run on, status answers, commands end with a message."""
    folder = own.folder()
    own.image().unlink()
    path = folder / name
    path.unlink(missing_ok=True)
    victim = own.home / "victim"
    victim.write_text("mine\n")
    make: dict[str, Callable[[], object]] = {
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "broken symlink": lambda: path.symlink_to(own.home / "victim2"),
        "symlink": lambda: path.symlink_to(victim),
        "garbage": lambda: path.write_bytes(b"[" * 200_000 + random.Random(0).randbytes(5000)),
    }
    make[kind]()
    same(own.run(stock.program), stock.plain)
    json.loads(own.command("status", "--json", readonly=True).stdout)
    result = own.command("build", quiet=False, code=None)
    assert result.returncode in (0, 2) and "Traceback" not in result.stderr, result
    assert result.returncode == 0 or result.stderr.startswith("pycds-auto: "), result
    if "symlink" in kind:
        until(lambda: not list(processes_with(str(own.home))), "a rebuilder does not end")
    same(own.run(stock.program), stock.plain)
    assert victim.read_text() == "mine\n" and not (own.home / "victim2").exists()


# The cache folder

FOLDERS = {
    "no such place": "/proc/pycds",
    "nothing may be made there": "/sys/pycds",
    "below a device": "/dev/null/pycds",
    "a device": "/dev/null",
    "a file": "{home}/file",
    "below a file": "{home}/file/pycds",
    "broken symlink": "{home}/broken",
    "link to itself": "{home}/loop",
    "too long a name": "{home}/" + "x" * 300,
    "too long a path": "{home}" + "/x" * 4000,
    "the root": "/proc/../proc",
}


@pytest.mark.one_interpreter
@pytest.mark.parametrize("kind", FOLDERS)
def test_cache_folder_that_cannot_be(stock: Stock, tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("mine\n")
    (home / "broken").symlink_to("/proc/pycds")
    (home / "loop").symlink_to("loop")
    user = User(stock.user.python, home, {"PYCDS_CACHE_DIR": FOLDERS[kind].format(home=home)})
    same(user.run(stock.program), stock.plain)
    status = user.status()
    assert status["active"] is False and status["image"] is None and status["reason"]
    failed(user.command("build", code=2, quiet=False))
    assert "Traceback" not in user.command("clear", code=None, quiet=False).stderr
    assert sorted(path.name for path in home.iterdir()) == ["broken", "file", "loop"]
    assert (home / "file").read_text() == "mine\n"


def failed(result: Result) -> None:
    """One clear message."""
    assert "Traceback" not in result.stderr and result.stderr.strip(), result
    assert result.stderr.strip().splitlines()[-1].startswith("pycds-auto: "), result


UNUSUAL = {
    "spaces and accents": "{home}/ca ché\n",
    "not utf-8": "{home}/\udcff",
    "relative": "cache",
    "of the home folder": "~/cache",
    "the home folder": "~",
    "with dots": "{home}/a/../b/./c",
    "deep": "{home}/a/b/c/d",
    "linked": "{home}/link",
    "trailing slashes": "{home}/cache//",
}


@pytest.mark.one_interpreter
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_cache_folder(stock: Stock, tmp_path: Path, kind: str) -> None:
    """Each of them works, or is refused with a reason, like any path."""
    home = tmp_path / "home"
    (home / "real").mkdir(parents=True)
    (home / "link").symlink_to("real")
    user = User(stock.user.python, home, {"PYCDS_CACHE_DIR": UNUSUAL[kind].format(home=home)})
    same(user.run(stock.program, cwd=home), stock.plain)
    result = user.command("build", quiet=False, code=None, cwd=home)
    assert "Traceback" not in result.stderr
    observed = user.observe(stock.program, readonly=True, cwd=home)
    same(observed.result, stock.plain)
    if result.returncode == 0:
        assert observed.misses == 0 and "lib.m" in observed.served()
    else:
        failed(result)
        assert observed.reason


def test_sub_folder_is_a_file(stock: Stock, own: User) -> None:
    folder = own.folder()
    shutil.rmtree(folder)
    folder.write_text("mine\n")
    refused(own, stock)
    same(own.run(stock.program), stock.plain)
    failed(own.command("build", code=2, quiet=False))
    failed(own.command("clear", code=2, quiet=False))
    assert folder.read_text() == "mine\n"


def test_sub_folder_is_a_symlink(stock: Stock, own: User) -> None:
    """Someone else's folder must not be written to, nor mapped."""
    folder = own.folder()
    os.rename(folder, own.home / "elsewhere")
    folder.symlink_to(own.home / "elsewhere")
    before = sorted(path.name for path in (own.home / "elsewhere").iterdir())
    same(own.run(stock.program), stock.plain)
    until(lambda: not list(processes_with(str(own.home))), "a rebuilder does not end")
    same(own.run(stock.program), stock.plain)
    own.command("status", "--json", readonly=True)
    assert "Traceback" not in own.command("clear", code=None, quiet=False).stderr
    assert sorted(path.name for path in (own.home / "elsewhere").iterdir()) == before


def test_cache_removed_while_a_program_runs(stock: Stock, own: User) -> None:
    code = f"import shutil, sys; sys.path.insert(0, {str(stock.program.parent)!r}); import lib, wave; shutil.rmtree({str(own.cache)!r}); import lib.m, decimal, pprint; print(lib.m.VALUE)"
    assert own.run("-c", code).stdout == "1\n"
    same(own.run(stock.program), stock.plain)
    own.build()
    assert own.status()["active"]


# Limits


def limited(user: User, size: int, *arguments: str | Path) -> subprocess.CompletedProcess:
    """As on a full disk: no file may grow beyond this."""
    return subprocess.run(
        [str(user.python), *map(str, arguments)],
        env=user.env(PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.one_interpreter
@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_full_disk(stock: Stock, own: User, size: int) -> None:
    """A write that fails leaves no temporary file, no half image, and no trace in the program."""
    allowed = {path.name for path in own.folder().iterdir()} | {"misses.spool", "misses.folding", "lock", "state.json"}
    own.image().unlink()
    result = limited(own, size, stock.program)
    assert (result.stdout, result.stderr, result.returncode) == (stock.plain.stdout, "", 0)
    until(lambda: not list(processes_with(str(own.home))), "a rebuilder does not end")
    assert {path.name for path in own.folder().iterdir()} <= allowed

    # misses of a process that starts no rebuilder
    own.run(
        "-c",
        f"import os, runpy; runpy.run_path({str(stock.program)!r}); os._exit(0)",
        env={"PYTHONUNBUFFERED": "1"},
        cwd=stock.program.parent,
    )
    pending = own.status()["pending_misses"]
    assert pending > 20
    built = limited(own, size, "-m", "pycds_auto", "build")
    assert built.returncode == 2 and "Traceback" not in built.stderr and "pycds-auto: " in built.stderr, built
    assert {path.name for path in own.folder().iterdir()} <= allowed
    status = own.status()
    assert status["image"] is None and status["reason"] and status["pending_misses"] >= pending
    same(own.run(stock.program, readonly=True), stock.plain)
    own.build()
    assert own.observe(stock.program, readonly=True).misses == 0, "what was missed under the limit is lost"


@pytest.mark.one_interpreter
@pytest.mark.parametrize("size", [100, 20_000])
def test_full_disk_keeps_the_old_image(stock: Stock, own: User, size: int) -> None:
    own.run("-c", "import os, wave; os._exit(0)")
    assert own.status()["pending_misses"] > 0
    built = limited(own, size, "-m", "pycds_auto", "build")
    assert built.returncode == 2 and "Traceback" not in built.stderr, built
    assert own.image().read_bytes() == stock.image
    assert own.observe(stock.program, readonly=True).misses == 0


# The command line


@pytest.mark.one_interpreter
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["status", "--nonsense"],
        ["status", "extra"],
        ["clear", "extra"],
        ["build", "no_such_module_anywhere"],
        ["build", "json.no_such_module"],
        ["build", "no_such_package.module"],
        ["build", ""],
        ["build", "."],
        ["build", "a b"],
        ["build", "1x"],
        ["build", "../json"],
        ["build", "\udcff"],
        ["build", "--nonsense"],
        ["build", "--"],
        ["build", "json", "--all"],
        ["build", "json", "--", "true"],
    ],
    ids=ascii,
)
def test_wrong_command_line(user: User, arguments: list[str]) -> None:
    result = user.command(*arguments, code=2, quiet=False)
    assert result.stderr and "Traceback" not in result.stderr
    assert result.stdout == "" or arguments[:1] == ["build"]


@pytest.mark.one_interpreter
def test_command_that_cannot_be_run(user: User) -> None:
    for command in ("/nonexistent/command", "/etc/passwd", "/"):
        result = user.command("build", "--", command, code=None, quiet=False)
        assert result.returncode in (126, 127) and "Traceback" not in result.stderr and "pycds-auto: " in result.stderr


def test_commands_refuse_when_disabled(user: User) -> None:
    failed(user.command("build", plain=True, code=2, quiet=False))
    failed(user.command("build", readonly=True, code=2, quiet=False))
    assert user.status(PYCDS_DISABLE="1")["active"] is False


def test_faulty_module_is_left_out(user: User, programs: Path) -> None:
    """A syntax error is the program's business: build says so once, and archives the rest."""
    write(programs, {"faulty.py": "VALUE = (\n", "fine.py": "VALUE = 1\n"})
    age(programs)
    result = user.command(
        "build", "faulty", "fine", code=1, quiet=False, cwd=programs, env={"PYTHONPATH": str(programs)}
    )
    assert "Traceback" not in result.stderr and "faulty" in result.stderr
    code = "import probe, fine; probe.show('faulty')"
    observed = user.observe("-c", code, readonly=True, cwd=programs)
    same(observed.result, user.run("-c", code, plain=True, cwd=programs))
    assert "fine" in observed.served()


def test_status_is_for_reading(stock: Stock, own: User) -> None:
    text = own.command("status", readonly=True).stdout
    status = own.status()
    assert "active" in text and str(own.folder()) in text and str(status["image"]["modules"]) in text
    assert set(status) == {
        "active",
        "reason",
        "python",
        "prefix",
        "cache_dir",
        "image",
        "pending_misses",
        "last_rebuild",
    }
    assert set(status["image"]) == {"path", "bytes", "modules", "encoding", "built"}
    assert set(status["last_rebuild"]) == {"at", "seconds", "result"}
    assert re.fullmatch(r"20\d\d-.*", status["image"]["built"])
