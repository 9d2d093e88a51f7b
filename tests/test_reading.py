"""Images on file systems that may lose their bytes are read, piece by piece, and not mapped: no SIGBUS, whatever happens.

Once with a real such file system (lossy.py, which needs root), and once with an extension that takes every file system
for one (PYCDS_READ_IMAGE).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import REPOSITORY, User, Venv, age, environment, hand_made_venv, same, write

pytestmark = pytest.mark.one_interpreter

FIRST = [f"first{number}" for number in range(4)]
SECOND = [f"second{number}" for number in range(40)]

# Imports some modules, does something to the image, imports the others. The image has more pieces (image.c's PIECE, 128 KB)
# than the first part needs.
PROGRAM = f"""\
import probe, os, sys
print([__import__(name).work(1) for name in {FIRST}], flush=True)
image, change = sys.argv[1:]
exec(change)
print([__import__(name).work(1) for name in {SECOND}])
import decimal, email.message, xml.dom.minidom
print(decimal.Decimal(1), os.path.basename(image))
"""


def module_text(name: str) -> str:
    functions = "".join(
        f"def function{n}(a):\n    return a + {n}, 'text {name} {n}', (a, [{n}.5, a])\n" for n in range(120)
    )
    return f"{functions}\ndef work(n):\n    return __name__, function7(n), n\n"


class Stock:
    """The program, plain Python's answer, and an archive."""

    def __init__(self, python: Path, root: Path) -> None:
        self.user = User(python, root / "home", {"PYTHONPATH": str(root / "tree")})
        self.user.home.mkdir(parents=True)
        write(root / "tree", {f"{name}.py": module_text(name) for name in FIRST + SECOND})
        write(root / "tree", {"app.py": PROGRAM, "probe.py": (REPOSITORY / "tests/probe.py").read_text()})
        age(root / "tree")
        self.program = root / "tree/app.py"
        self.plain = self.user.run(self.program, "image-0.pycds", "", plain=True)
        self.user.run(self.program, "image-0.pycds", "")
        self.user.build()
        assert self.user.image().stat().st_size > 4 * 128 * 1024

    def observe(self, user: User, change: str):
        observed = user.observe(self.program, user.image(), change, readonly=True)
        same(observed.result, self.plain)
        assert set(FIRST) <= observed.served(), "not even the beginning came from the archive"
        return observed


MAPS = "import sys; print('mapped' if '.pycds' in open('/proc/self/maps').read() else 'not mapped', file=sys.stderr)"


# ---- a real file system ----


@pytest.fixture(scope="session")
def stock(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock(venv.python, tmp_path_factory.mktemp("reading"))


class Lossy:
    """The stock's cache, behind FUSE."""

    def __init__(self, stock: Stock, root: Path) -> None:
        self.control = root / "control"
        self.mountpoint = root / "cache"
        self.mountpoint.mkdir()
        root.joinpath("home").mkdir()
        self.user = User(stock.user.python, root / "home", stock.user.extra | {"PYCDS_CACHE_DIR": str(self.mountpoint)})
        command = [sys.executable, REPOSITORY / "tests/lossy.py", self.mountpoint, stock.user.cache, self.control]
        self.server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(root, PYCDS_DISABLE="1")
        )
        if self.server.stdout.readline() != "mounted\n":
            pytest.skip(f"no FUSE here: {self.server.communicate()[1].splitlines()[-1]}")

    def lose(self, how: str) -> str:
        """What a program does to have it so."""
        return f"open({str(self.control)!r}, 'w').write({how!r})"

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.mountpoint], check=True)
        self.server.kill()
        self.server.communicate()


@pytest.fixture
def lossy(stock: Stock, tmp_path: Path) -> Iterator[Lossy]:
    file_system = Lossy(stock, tmp_path)
    yield file_system
    file_system.close()


def test_file_system_is_lossy(lossy: Lossy) -> None:
    """Who maps a file on it is ended by a signal once its bytes are lost: what the tests are about."""
    code = "import mmap, sys\nwith open(sys.argv[1], 'rb') as file:\n    map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
    code += f"map[0]\n{lossy.lose('error')}\nprint(len(set(map[300_000:])))\n"
    assert lossy.user.run("-c", code, lossy.user.image(), plain=True, code=None).returncode == -7  # SIGBUS


def test_image_on_a_lossy_file_system(stock: Stock, lossy: Lossy) -> None:
    observed = stock.observe(lossy.user, "")
    assert observed.misses == observed.stale == 0 and set(SECOND) <= observed.served()
    told = [
        user.run("-c", f"import first1; {MAPS}", readonly=True, quiet=False).stderr for user in (stock.user, lossy.user)
    ]
    assert told == ["mapped\n", "not mapped\n"]


@pytest.mark.parametrize("how", ["error", "short", "gone"])
def test_bytes_that_are_lost_while_in_use(stock: Stock, lossy: Lossy, how: str) -> None:
    observed = stock.observe(lossy.user, lossy.lose(how))
    assert "email.message" in observed.unserved(), "nothing was lost: the test shows nothing"
    for _ in range(2):  # and for those who start then
        same(lossy.user.run(stock.program, "image-0.pycds", "", readonly=True), stock.plain)
        assert lossy.user.status()["reason"]
    lossy.control.unlink()
    assert stock.observe(lossy.user, "").misses == 0


def test_server_that_dies(stock: Stock, lossy: Lossy) -> None:
    """What is left of the file system fails every call."""
    change = f"import signal, time; os.kill({lossy.server.pid}, signal.SIGKILL)\nwhile os.path.exists(image): time.sleep(0.01)"
    observed = stock.observe(lossy.user, change)
    assert "email.message" in observed.unserved()
    same(lossy.user.run(stock.program, "image-0.pycds", "", readonly=True), stock.plain)


# ---- any file system, taken for such a one ----


@pytest.fixture(scope="session")
def reader(interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    root = tmp_path_factory.mktemp("reader")
    return Stock(hand_made_venv(interpreter, root / "venv", "PYCDS_READ_IMAGE"), root)


@pytest.fixture
def own(reader: Stock, tmp_path: Path) -> User:
    home = tmp_path / "home"
    shutil.copytree(reader.user.home, home)
    return User(reader.user.python, home, reader.user.extra)


REWRITE = "status = os.stat(image)\nwith open(image, 'r+b') as file:\n    file.seek(200_000); file.write(b'x' * 10**6)\n    file.truncate(status.st_size)\n"
CHANGES = {
    "truncated": "os.truncate(image, 1000)",
    "emptied": "os.truncate(image, 0)",
    "truncated by a byte": "os.truncate(image, os.path.getsize(image) - 1)",
    "removed": "os.unlink(image)",
    "replaced by itself": "import shutil; shutil.copy(image, image + '2'); os.replace(image + '2', image)",
    "replaced by a folder": "os.unlink(image); os.mkdir(image)",
    "replaced by a link": "os.rename(image, image + '2'); os.symlink(image + '2', image)",
    "replaced by a fifo": "os.unlink(image); os.mkfifo(image)",
    "overwritten": REWRITE,
    "overwritten, with its old times": f"{REWRITE}os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))",
    "moved with its folder": "os.rename(os.path.dirname(image), os.path.dirname(image) + '2')",
}


def test_image_is_read(reader: Stock) -> None:
    observed = reader.observe(reader.user, "")
    assert observed.misses == observed.stale == 0 and set(SECOND) <= observed.served()
    assert reader.user.run("-c", f"import first1; {MAPS}", readonly=True, quiet=False).stderr == "not mapped\n"
    assert reader.user.status()["image"]["modules"] > len(SECOND)


def test_only_what_is_needed_is_read(reader: Stock) -> None:
    """Of its pieces, a program that imports little reads few."""
    code = "import first1\nprint(open('/proc/self/io').read().split()[1])"
    read = [int(reader.user.run("-c", code, plain=plain, readonly=True).stdout) for plain in (True, False)]
    assert read[1] - read[0] < reader.user.image().stat().st_size / 2


@pytest.mark.parametrize("change", CHANGES)
def test_image_that_changes_while_in_use(reader: Stock, own: User, change: str) -> None:
    observed = reader.observe(own, CHANGES[change])
    assert "email.message" in observed.unserved(), "the rest of the image was not asked for: the test shows nothing"


def test_no_descriptor_is_left_for_the_next_piece(reader: Stock, own: User) -> None:
    """Plain Python's import may fail then, too; what the program sees once there are descriptors again is as ever."""
    change = (
        "held = []\ntry:\n    while True:\n        held.append(os.open('/dev/null', os.O_RDONLY))\nexcept OSError:\n    pass\n"
        "try:\n    import second1\nexcept OSError:\n    pass\nfor fd in held:\n    os.close(fd)\n"
    )
    reader.observe(own, change)
