"""What is in the distributions, and what installing and uninstalling them does to an interpreter."""

import csv
import io
import re
import shutil
import struct
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from support import (
    REPOSITORY,
    Result,
    User,
    Venv,
    copy_repository,
    environment,
    make_venv,
    run,
    start_files,
)

ACTIVE = "import pycds_auto, sys; print(pycds_auto.__file__, any('pycds' in repr(finder) for finder in sys.meta_path))"

ASK_VERSION = "import sys; print(*sys.version_info[:2])"


@pytest.fixture(scope="session")
def own_venv(interpreter: Path, tmp_path_factory: pytest.TempPathFactory, pip_home: Path) -> Venv:
    """A venv with the dependencies but without this project, which each test installs and uninstalls."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    made = make_venv(interpreter, tmp_path_factory.mktemp("own-venv") / "venv", pip_home)
    made.pip("install", "--quiet", *project["dependencies"])
    return made


@pytest.fixture
def owner(own_venv: Venv, tmp_path: Path) -> User:
    home = tmp_path / "home"
    home.mkdir()
    return User(own_venv.python, home)


def files_of(venv: Venv) -> set[str]:
    """Everything in the venv but pycs, which any process writes."""
    root = venv.python.parent.parent
    return {str(path.relative_to(root)) for path in root.rglob("*") if "__pycache__" not in path.parts}


def snapshot(user: User) -> Result:
    """What a start shows: the output, stderr and the modules it has loaded."""
    # site decodes any .pth file with utf_8_sig
    code = (
        "import sys; print(sorted(set(sys.modules) - {'encodings.utf_8_sig'}), sys.path, "
        "[getattr(finder, '__name__', type(finder)) for finder in sys.meta_path])"
    )
    return user.run("-c", code)


def test_contents_of_the_wheel(wheel: Path, interpreter: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (record_name,) = [name for name in names if name.endswith(".dist-info/RECORD")]
        recorded = {row[0] for row in csv.reader(io.StringIO(archive.read(record_name).decode()))}
        (metadata,) = [archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA")]
        pth = archive.read("pycds_auto.pth").decode()
        start = archive.read("pycds_auto.start").decode("utf-8") if "pycds_auto.start" in names else None
    assert recorded == names
    assert {"pycds_auto/__init__.py", "pycds_auto/__main__.py", "pycds_auto/rebuild.py"} <= names
    assert [name for name in names if re.fullmatch(r"pycds_auto/_loader\..*so", name)]
    top = {name.split("/")[0] for name in names}
    version = tuple(map(int, run(interpreter, "-c", ASK_VERSION, env={}).stdout.split()))
    expected = {"pycds_auto", "pycds_auto.pth", "pycds_auto.start"}
    if (3, 15) <= version < (3, 18):
        expected.remove("pycds_auto.start")
    assert {name for name in top if not name.endswith(".dist-info")} == expected
    assert not [name for name in names if name.endswith((".c", ".h", ".pyc")) or "test" in name.lower()]
    assert re.search(r"^License-File: LICENSE", metadata, re.M)
    requirements = {
        re.match(r"[\w-]+", line)[0] for line in re.findall(r"^Requires-Dist: (?!.*extra ==)(.*)", metadata, re.M)
    }
    assert requirements == {"platformdirs", "filelock"}
    assert "Requires-Python: >=3.11" in metadata
    lines = pth.splitlines()
    assert len(lines) == 1 and lines[0].startswith("import "), "site executes lines that begin so, and no others"
    assert "PYCDS_DISABLE" in pth and "subprocess" not in pth
    assert start is None or re.fullmatch(r"pycds_auto:activate\s*", start)


BUILD = """\
import importlib, os, sys
os.chdir(sys.argv[1])
print(importlib.import_module(sys.argv[3]).build_sdist(sys.argv[2]))
"""


@pytest.mark.one_interpreter
def test_sdist_gives_the_same_wheel(interpreter: Path, wheel: Path, tmp_path: Path, pip_home: Path) -> None:
    system = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]
    venv = make_venv(interpreter, tmp_path / "venv", pip_home)
    venv.pip("install", "--quiet", *system["requires"])
    source = copy_repository(tmp_path / "source")
    (tmp_path / "dist").mkdir()
    run(
        venv.python,
        "-c",
        BUILD,
        source,
        tmp_path / "dist",
        system["build-backend"],
        env=environment(pip_home),
        quiet=False,
    )
    (sdist,) = (tmp_path / "dist").iterdir()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "csrc/image.h", "src/pycds_auto/__init__.py"} <= names
    venv.pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path / "wheels", sdist)
    (again,) = (tmp_path / "wheels").iterdir()
    assert again.name == wheel.name
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(wheel) as direct:
        assert set(ours.namelist()) == set(direct.namelist())


def test_install_and_uninstall_leave_nothing(own_venv: Venv, owner: User, wheel: Path) -> None:
    before, start = files_of(own_venv), snapshot(owner)
    own_venv.pip("install", "--quiet", "--no-deps", wheel)
    where, active = owner.run("-c", ACTIVE).stdout.split()
    assert where.startswith(str(own_venv.packages)) and active == "True"
    owner.run("-c", "import json, decimal, email.message")
    owner.build()

    # by a pip that itself runs with the archive
    own_venv.pip("uninstall", "--quiet", "-y", "pycds-auto", env={"PYCDS_DISABLE": "", "HOME": str(owner.home)})
    assert files_of(own_venv) == before
    assert not [path for path in own_venv.packages.rglob("*pycds*")]
    assert snapshot(owner) == start
    assert owner.run("-c", "import json; print(json.dumps(1))").stdout == "1\n"


def test_reinstalling_over_itself(own_venv: Venv, owner: User, wheel: Path) -> None:
    own_venv.pip("install", "--quiet", "--no-deps", wheel)
    own_venv.pip("install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    assert owner.run("-c", ACTIVE).stdout.split()[1] == "True"
    own_venv.pip("uninstall", "--quiet", "-y", "pycds-auto")
    assert not [path for path in own_venv.packages.glob("*pycds*")]


def test_editable_install(own_venv: Venv, owner: User, tmp_path: Path) -> None:
    before, start = files_of(own_venv), snapshot(owner)
    source = copy_repository(tmp_path / "source")
    own_venv.pip("install", "--quiet", "--no-deps", "-e", source)
    try:
        where, active = owner.run("-c", ACTIVE).stdout.split()
        assert where.startswith(str(source)) and active == "True"
        files = set(start_files(own_venv.packages))
        assert "pycds_auto.pth" in files
        (record,) = own_venv.packages.glob("pycds_auto-*.dist-info/RECORD")
        assert files <= {row[0] for row in csv.reader(record.read_text().splitlines())}

        owner.run("-c", "import json, decimal, email.message")
        owner.build()
        code = "import decimal, email.message, pycds_auto; s = pycds_auto.stats(); print(s['active'], s['hits'] > 5)"
        assert owner.run("-c", code, readonly=True).stdout == "True True\n"
    finally:
        own_venv.pip("uninstall", "--quiet", "-y", "pycds-auto")
    assert files_of(own_venv) == before
    assert snapshot(owner) == start


def test_pth_without_the_package_says_nothing(own_venv: Venv, owner: User, wheel: Path) -> None:
    """As after an uninstall by hand, or in a layer that lost the package."""
    start = snapshot(owner)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            own_venv.packages, [name for name in archive.namelist() if name.endswith((".pth", ".start"))]
        )
    try:
        assert snapshot(owner) == start
        # a package without its extension module, as one of another interpreter would be
        (own_venv.packages / "pycds_auto").mkdir()
        assert snapshot(owner).stderr == ""
        with zipfile.ZipFile(wheel) as archive:
            archive.extract("pycds_auto/__init__.py", own_venv.packages)
        assert snapshot(owner).stderr == ""
        (extension,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]
        (own_venv.packages / extension).write_bytes(b"not a shared object")
        assert snapshot(owner).stderr == ""
        assert owner.run("-c", "print(1)").stdout == "1\n"
        descriptors = owner.run("-c", "import os; print(len(os.listdir('/proc/self/fd')))", plain=True).stdout
        # an installer at work, or stopped by a full disk: where it stands in the file is chance
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(own_venv.packages, [name for name in archive.namelist() if name.endswith(".py")])
            whole = archive.read(extension)
        (end_of_mapped,) = struct.unpack_from("<Q", whole, 40)  # e_shoff
        for size in [*range(0, end_of_mapped, end_of_mapped // 6), end_of_mapped]:
            (own_venv.packages / extension).write_bytes(whole[:size])
            code = "import sys; print('pycds_auto._loader' in sys.modules); import pycds_auto; print(pycds_auto.activate())"
            assert owner.run("-c", code).stdout == "False\nFalse\n", size
            refused = owner.run("-m", "pycds_auto", "status", code=None, quiet=False)
            assert refused.returncode == 2 and "only a part of the extension" in refused.stderr, size
            assert "Traceback" not in refused.stderr
            assert owner.run("-m", "pycds_auto", "status", plain=True, code=None, quiet=False) == refused
            refused = owner.run("-c", "import pycds_auto.rebuild", code=None, quiet=False)
            assert refused.returncode == 1 and "ModuleNotFoundError" in refused.stderr, size
            refused = owner.run("-c", "from pycds_auto import _loader", code=None, quiet=False)
            assert refused.returncode == 1 and "ImportError: only a part" in refused.stderr, size
        (own_venv.packages / extension).unlink()
        refused = owner.run("-m", "pycds_auto", "status", code=None, quiet=False)
        assert (refused.returncode, "isn't there" in refused.stderr, "Traceback" in refused.stderr) == (2, True, False)
        (own_venv.packages / extension).mkdir()
        assert owner.run("-c", "import os; print(len(os.listdir('/proc/self/fd')))").stdout == descriptors
        (own_venv.packages / extension).rmdir()
        (own_venv.packages / extension).write_bytes(whole)
        assert owner.run("-c", "import sys; print('pycds_auto._loader' in sys.modules)").stdout == "True\n"
    finally:
        for name in start_files(own_venv.packages):
            (own_venv.packages / name).unlink()
        shutil.rmtree(own_venv.packages / "pycds_auto", ignore_errors=True)
    assert snapshot(owner) == start


@pytest.mark.parametrize(
    ("value", "active"),
    [
        ("1", False),
        ("yes", False),
        ("false", False),
        ("00", False),
        (" ", False),
        ("", True),
        ("0", True),
        (None, True),
    ],
)
def test_opt_out(user: User, value: str | None, active: bool) -> None:
    """PYCDS_DISABLE: set, and neither empty nor 0. Then nothing of ours is even loaded."""
    extra = {} if value is None else {"PYCDS_DISABLE": value}
    loaded = user.run("-c", "import sys; print('pycds_auto._loader' in sys.modules)", env=extra).stdout
    assert loaded == f"{active}\n"
    assert user.run("-I", "-c", "import sys; print('pycds_auto._loader' in sys.modules)", env=extra).stdout == loaded
    code = "import sys, json, decimal, pycds_auto; print(any('pycds' in repr(finder) for finder in sys.meta_path))"
    assert user.run("-c", code, env=extra).stdout == f"{active}\n"
    if not active:
        assert not user.cache.exists()
        status = user.status(**extra)
        assert status["active"] is False and "PYCDS_DISABLE" in status["reason"]


def test_opt_out_with_an_image(user: User) -> None:
    user.run("-c", "import json, decimal, email.message")
    user.build()
    code = "import decimal, email.message, pycds_auto; print(pycds_auto.stats()['hits'])"
    assert int(user.run("-c", code, readonly=True).stdout) > 5
    assert user.run("-c", code, plain=True).stdout == "0\n"
