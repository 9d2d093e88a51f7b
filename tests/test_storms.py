"""The storms of storms.py, small: what it is that must hold is told there."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import storms
from support import User, Venv, age, processes_with, until, write


@pytest.fixture(scope="session")
def twins(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> list[Venv]:
    """Two venvs of one interpreter, ours to change."""
    root = tmp_path_factory.mktemp("twins")
    both = [storms.twin(venv, root / name) for name in ("one", "two")]
    for one in both:
        storms.own_module(one)
    return both


@pytest.fixture(scope="session")
def program(twins: list[Venv], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = storms.make_program(tmp_path_factory.mktemp("storms") / "programs")
    time.sleep(2.1)
    return made


@pytest.fixture
def users(twins: list[Venv], tmp_path: Path) -> list[User]:
    """One home, and the two venvs."""
    home = tmp_path / "home"
    home.mkdir()
    return [User(venv.python, home) for venv in twins]


def test_crowd_on_an_empty_cache(users: list[User], program: Path, tmp_path: Path) -> None:
    """In two venvs, with and without -O, all at once."""
    runners = [storms.Runner(user, options) for user in users for options in ((), ("-O",))]
    watch = storms.crowd(runners, program, 24, tmp_path / "output")
    assert {folder for _, folder in watch.seen} == {os.fsencode(folder) for folder in users[0].cache.iterdir()}
    storms.all_is_well(runners, program)


def test_killed_rebuilders(users: list[User], program: Path) -> None:
    assert storms.kill_rebuilders(users[0], program, 3).killed == 3


@pytest.mark.one_interpreter
def test_clock_set_back(users: list[User], program: Path, tmp_path: Path) -> None:
    storms.clock_set_back(users[0], program, tmp_path, (storms.DAY, 0, -storms.DAY))


@pytest.mark.one_interpreter
def test_pip_at_work(users: list[User], twins: list[Venv], wheel: Path, tmp_path: Path) -> None:
    """The last wheel that it installs is our own, over itself."""
    assert storms.pip_at_work(users[1], twins[1], tmp_path, 1, wheel) > 1


@pytest.mark.one_interpreter
def test_worker_ends_with_its_rebuilder(users: list[User], tmp_path: Path) -> None:
    """What another variant recorded is folded by a child, without the lock: it must not outlive who has that."""
    user = users[0]
    tree = tmp_path / "tree"
    write(tree, {f"module{number}.py": storms.module_text(number) for number in range(50)})
    age(tree)
    time.sleep(2.1)
    user.extra["PYTHONPATH"] = str(tree)
    names = ", ".join(f"module{number}" for number in range(50))
    user.run("-O", "-c", f"import {names}, os; os._exit(0)")
    user.run("-c", "import module1, os; os._exit(0)")

    def worker() -> int | None:
        return next((pid for pid, command in processes_with(str(user.cache)) if "--worker" in command), None)

    image = user.folder() / "image-1.pycds"
    build = os.posix_spawn(user.python, [str(user.python), "-m", "pycds_auto", "build"], user.env())
    while (child := worker()) is None:
        assert os.waitpid(build, os.WNOHANG) == (0, 0), "there was no worker"
    os.kill(child, signal.SIGSTOP)
    assert not image.exists(), "stopped too late: the test shows nothing"
    os.kill(build, signal.SIGKILL)
    os.waitpid(build, 0)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGCONT)
    until(lambda: not list(processes_with(str(user.cache))), "the worker lives on")
    assert not image.exists(), "the worker went on without the lock"
    user.build()
    assert image.exists() and {file.name for file in user.folder().iterdir()} <= storms.OWN_FILES
    assert (
        user.run(
            "-O",
            "-c",
            f"import {names}, sys; print(sys.modules['pycds_auto._loader'].stats()['misses'])",
            readonly=True,
        ).stdout
        == "0\n"
    )


@pytest.mark.one_interpreter
def test_a_second_rebuilder_is_seen(users: list[User], program: Path) -> None:
    """The watch can tell: two are started by hand."""
    user = users[0]
    shutil.rmtree(user.cache, ignore_errors=True)
    (user.cache / "folder").mkdir(parents=True)
    watch = storms.Watch(user.cache)
    code = "'pycds_auto.rebuild'; import sys; sys.stdin.read()"
    gate, opening = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, gate, 0), (os.POSIX_SPAWN_CLOSE, opening)]
    both = [
        os.posix_spawn(
            user.python,
            [str(user.python), "-c", code, str(user.cache / "folder")],
            user.env(plain=True),
            file_actions=actions,
        )
        for _ in range(2)
    ]
    until(lambda: watch.look() and watch.most_at_once == 2, "they are not seen")
    os.close(opening)
    os.close(gate)
    for process in both:
        os.waitpid(process, 0)
    assert not watch.look()
