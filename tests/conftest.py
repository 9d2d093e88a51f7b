"""Interpreters of this machine, each with a venv that has this project installed from a wheel.

PYCDS_TEST_PYTHONS restricts the interpreters: versions (3.11) or executables, separated by commas.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import PROBE, User, Venv, copy_repository, end_all_with, environment, make_venv, run

SUPPORTED = ("3.11", "3.12", "3.13", "3.14", "3.15")


def _version(executable: str) -> str | None:
    try:
        result = run(
            executable,
            "-c",
            "import sys, venv; print(*sys.version_info[:3], sys.implementation.name)",
            env=environment(Path.home()),
            code=None,
            quiet=False,
        )
    except OSError:
        return None
    match = re.fullmatch(r"(\d+) (\d+) \d+ cpython\n", result.stdout)
    return f"{match[1]}.{match[2]}" if match else None


def _interpreters() -> dict[str, str]:
    """Version ("3.12") -> executable. One each: the running one, else pyenv's newest, else PATH's."""
    wanted = [item.strip() for item in os.environ.get("PYCDS_TEST_PYTHONS", "").split(",") if item.strip()]
    named = [item for item in wanted if os.sep in item]
    if named:
        return {_version(item) or item: item for item in named}
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for version in SUPPORTED:
        installed = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
        newest_first = sorted(
            installed, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])], reverse=True
        )
        for candidate in [*map(str, newest_first), shutil.which(f"python{version}")]:
            if version not in found and candidate and _version(candidate) == version:
                found[version] = candidate
    missing = [item for item in wanted if item not in found]
    if missing:
        raise pytest.UsageError(f"PYCDS_TEST_PYTHONS: no such interpreter here: {', '.join(missing)}")
    by_number = sorted(found, key=lambda version: [int(number) for number in version.split(".")])
    return {version: found[version] for version in by_number if not wanted or version in wanted}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FOUND] = _interpreters()
    config.addinivalue_line(
        "markers", "one_interpreter: what no version of Python has a part in; runs with the newest only"
    )


_FOUND = pytest.StashKey[dict[str, str]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "interpreter" in metafunc.fixturenames:
        found = metafunc.config.stash[_FOUND]
        if metafunc.definition.get_closest_marker("one_interpreter"):
            found = dict(list(found.items())[-1:])
        metafunc.parametrize("interpreter", list(found.values()), ids=list(found), scope="session", indirect=True)


# Most of a test is waiting, for files to be two seconds old or for rebuilders, so several workers of pytest-xdist share two
# cores well. Each worker makes its own wheel and venv for an interpreter: a test file and version is one worker's.
# (--dist loadgroup would do, but for pytest 9.2, whose ids its marks don't reach.)
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadScopeScheduling

    class ByInterpreter(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            version = re.search(r"[\[-](3\.\d+)[\]-]", test)
            return f"{version[1] if version else ''} {Path(file).name in HALF}"

    return ByInterpreter(config, log)


HALF = {"test_changes.py", "test_patches.py", "test_rebuild.py", "test_cachedir.py"}  # of the time, about


def pytest_report_header(config: pytest.Config) -> str:
    return "interpreters: " + ", ".join(f"{v} {path}" for v, path in config.stash[_FOUND].items())


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Leave nothing behind, unless there is a failure to look at."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if exitstatus == 0 and factory is not None and factory._basetemp is not None:
        shutil.rmtree(factory._basetemp, ignore_errors=True)


@pytest.fixture(scope="session")
def interpreter(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


@pytest.fixture(scope="session")
def pip_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pip-home")


@pytest.fixture(scope="session")
def _bare_venv(interpreter: Path, tmp_path_factory: pytest.TempPathFactory, pip_home: Path) -> Venv:
    return make_venv(interpreter, tmp_path_factory.mktemp("venv") / "venv", pip_home)


@pytest.fixture(scope="session")
def wheel(_bare_venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree for this interpreter, built once."""
    root = tmp_path_factory.mktemp("wheel")
    source = copy_repository(root / "source")
    _bare_venv.pip("wheel", "--quiet", "--no-deps", "--wheel-dir", root / "dist", source)
    (built,) = (root / "dist").iterdir()
    return built


@pytest.fixture(scope="session")
def venv(_bare_venv: Venv, wheel: Path) -> Venv:
    """A venv into which the wheel was installed, shared by all tests, that must not change it."""
    _bare_venv.pip("install", "--quiet", wheel)
    time.sleep(2.1)  # its files are young otherwise, and a young file is not archived
    return _bare_venv


@pytest.fixture
def user(venv: Venv, tmp_path: Path) -> User:
    """Someone with the shared venv and an empty home."""
    home = tmp_path / "home"
    home.mkdir()
    return User(venv.python, home)


@pytest.fixture(autouse=True)
def nothing_runs_on(tmp_path: Path) -> Iterator[None]:
    """Background rebuilders end with the test: they take two seconds and more, and their folders go."""
    yield
    end_all_with(str(tmp_path))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for programs, with probe.py in it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    shutil.copy(PROBE, folder)
    return folder
