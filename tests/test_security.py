"""What SECURITY.md promises and no other test shows; and that the tests it names exist."""

import ast
import os
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from support import REPOSITORY, User, age, end_all_with, processes_with, run, same, until, write
from test_bad_input import as_root
from test_surroundings import MAPPED, STRANGER, give, mapped, snapshot, stranger

pytestmark = pytest.mark.one_interpreter

TESTS = REPOSITORY / "tests"


def test_named_tests_exist() -> None:
    """Every row of a table names one at least, and each is there."""
    text = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not re.match(r"\| (---|What)", line)]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(\w+\.py)::(\w+)`", row)
        assert named, f"no test: {row}"
        for file, test in named:
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            assert test in {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}, f"{file}::{test}"
    sources = set(re.findall(r"`((?:csrc|src)/[\w/]+\.\w+)`", text))
    assert len(sources) > 5
    for path in sources:
        assert (REPOSITORY / path).exists(), path


def test_rebuilder_runs_no_foreign_code(user: User, tmp_path: Path) -> None:
    """Neither what it archives, nor what environment, current folder or site-packages offer a Python that starts."""
    marks = tmp_path / "marks"
    marks.mkdir()
    told = (
        f"import os, sys\nopen({str(marks)!r} + f'/{{__name__}}-{{os.getpid()}}-{{sys.flags.isolated}}', 'w').close()\n"
    )
    hostile = ["sitecustomize", "usercustomize", "filelock", "json", "typing", "pycds_auto", "recorded"]
    folder = tmp_path / "folder"
    write(folder, {f"{name}.py": told for name in hostile} | {"honest.py": ""})
    age(folder)
    code = f"import sys; sys.path.append({str(folder)!r}); import honest, wave, colorsys"
    user.run("-c", code)
    end_all_with(str(user.home))
    (spool,) = user.cache.glob("*/misses.spool")
    (spool.parent / "lock").unlink(missing_ok=True)  # the next attempt need not wait
    with spool.open("a") as file:
        file.write(f"M 0 {folder}/recorded.py\n")
    user.run("-c", "import tabnanny", env={"PYTHONPATH": str(folder)}, cwd=folder)
    until(lambda: not list(processes_with(str(user.home))), "the rebuilder does not end")
    names = [mark.name for mark in marks.iterdir()]
    assert any(name.startswith("sitecustomize") for name in names), "not even the program itself ran any of it"
    assert not [name for name in names if name.endswith("-1") or name.startswith("recorded")], names
    held = user.run(
        "-c",
        "from pycds_auto import _loader, image\nstate = _loader.state()\nprint(*image.read(state['image'], state['identity']).modules)",
        plain=True,
    )
    assert str(folder / "recorded.py") in held.stdout.split(), "it was not archived: the test shows nothing"


def test_spool_does_not_grow_for_ever(user: User) -> None:
    """Where no rebuilder can run, what is recorded ends at two megabytes."""
    user.run("-c", "import wave, os; os._exit(0)")
    (spool,) = user.cache.glob("*/misses.spool")
    limit, line = 2 * 1024 * 1024, "M 0 /nowhere.py\n"
    with spool.open("a") as file:
        file.write(line * ((limit - spool.stat().st_size) // len(line) - 20))
    before = spool.stat().st_size
    for _ in range(5):
        user.run("-c", "import wave, csv, decimal, email.message, os; os._exit(0)")
    assert before < spool.stat().st_size <= limit


@as_root
def test_program_with_capabilities(user: User, tmp_path: Path) -> None:
    """A file with capabilities (setcap) gives its user rights that they have not: the cache they chose is not for it."""
    root = tmp_path / "application"
    (root / "bin").mkdir(parents=True)
    shutil.copy(user.python.resolve(), root / "bin/python3")
    (root / "lib").symlink_to(user.python.parent.parent / "lib")
    (root / "pyvenv.cfg").write_text((user.python.parent.parent / "pyvenv.cfg").read_text())
    powerful = User(root / "bin/python3", user.home)
    powerful.run("-c", MAPPED)
    powerful.build()
    give(user.home)
    assert mapped(stranger(powerful.python, "-c", MAPPED, env=powerful.env())) > 0
    read_everything = struct.pack("<5I", 0x02000001, 1 << 2, 0, 0, 0)  # capabilities(7), cap_dac_read_search+ep
    try:
        os.setxattr(powerful.python, "security.capability", read_everything)
    except OSError as error:
        pytest.skip(f"no file capabilities here: {error}")
    before = snapshot(user.home)
    assert mapped(stranger(powerful.python, "-c", MAPPED, env=powerful.env(PYCDS_CACHE_DIR=str(user.cache)))) == 0
    told = stranger(powerful.python, "-c", "import pycds_auto; print(pycds_auto.stats()['reason'])", env=powerful.env())
    assert "capabilities" in told.stdout
    assert not list(processes_with(str(user.home))) and snapshot(user.home) == before


@as_root
def test_dropped_privileges(user: User) -> None:
    """A server that gives up root's rights imports, from then on, what its new user may read."""
    with tempfile.TemporaryDirectory() as reachable:  # pytest's own folders are closed to others
        os.chmod(reachable, 0o755)
        dropped_privileges(user, Path(reachable) / "tree")


def dropped_privileges(user: User, tree: Path) -> None:
    write(tree, {"public.py": "VALUE = 1\n", "secret.py": "VALUE = 2\n"})
    age(tree)
    (tree / "secret.py").chmod(0o600)
    user.run("-c", "import public, secret", env={"PYTHONPATH": str(tree)})
    user.build()
    for pyc in (tree / "__pycache__").glob("secret*"):
        pyc.unlink()
    code = (
        f"import os, sys, public\nos.setresgid({STRANGER}, {STRANGER}, {STRANGER})\nos.setresuid({STRANGER}, {STRANGER}, {STRANGER})\n"
        "try:\n    import secret\nexcept ImportError as error:\n    print('refused')\nexcept OSError as error:\n    print('refused')\n"
    )
    served = "import sys, public, secret; print(sys.modules['pycds_auto._loader'].stats()['hits'])"
    assert int(user.run("-c", served, env={"PYTHONPATH": str(tree)}, readonly=True).stdout) >= 2, (
        "the test shows nothing"
    )
    plain = user.run("-c", code, env={"PYTHONPATH": str(tree)}, plain=True)
    assert plain.stdout == "refused\n"
    assert user.run("-c", code, env={"PYTHONPATH": str(tree)}) == plain


IMPORTS = """\
import importlib, os, sys
def attempt(*names):
    for name in names:
        try:
            module = importlib.import_module(name)
            print(name, module.__file__, module.__spec__.origin)
        except Exception as error:
            print(type(error).__name__, error)
"""


def as_without(user: User, code: str, **env: str) -> str:
    plain = user.run("-c", IMPORTS + code, env=env, plain=True)
    same(user.run("-c", IMPORTS + code, env=env, readonly=True), plain)
    return plain.stdout


@as_root
def test_folders_that_may_not_be_read_any_more(user: User) -> None:
    """Privileges given up, or a group that is missing this time: what can't be listed, or searched, isn't found."""
    with tempfile.TemporaryDirectory() as reachable:
        os.chmod(reachable, 0o755)
        tree = Path(reachable).resolve() / "tree"
        write(tree, {"closed/one.py": "", "closed/other.py": "", "searched/two.py": "", "searched/another.py": ""})
        age(tree)
        (tree / "closed").chmod(0o700)
        (tree / "searched").chmod(0o711)
        env = {"PYTHONPATH": f"{tree / 'closed'}:{tree / 'searched'}"}
        user.run("-c", "import one, two, other, another", env=env)
        user.build()
        served = "import sys, one, two; print(sys.modules['pycds_auto._loader'].stats()['hits'])"
        assert int(user.run("-c", served, env=env, readonly=True).stdout) >= 2
        give_up = f"os.setgroups([]); os.setresgid(*[{STRANGER}] * 3); os.setresuid(*[{STRANGER}] * 3)\n"
        path = f"sys.path[:0] = [{str(tree / 'closed')!r}, {str(tree / 'searched')!r}]\n"
        told = as_without(user, f"{give_up}{path}attempt('one', 'two')")
        assert [line.split()[0] for line in told.splitlines()] == ["ModuleNotFoundError"] * 2
        # what importlib has listed before is found, where it can be reached
        told = as_without(user, f"{path}attempt('one', 'two')\n{give_up}attempt('other', 'another')")
        assert [line.split()[0] for line in told.splitlines()] == ["one", "two", "ModuleNotFoundError", "another"]


@as_root
def test_something_is_mounted_over_a_listed_file(user: User, tmp_path: Path) -> None:
    """As `docker run -v /dev/null:/app/top.py` does."""
    write(tmp_path, {"code/top.py": "VALUE = 1\n", "code/package/__init__.py": "VALUE = 2\n"})
    age(tmp_path / "code")
    user.run("-c", "import top, package", env={"PYTHONPATH": str(tmp_path / "code")})
    user.build()
    mounts = "".join(f"mount --bind /dev/null {tmp_path}/code/{name}\n" for name in ("top.py", "package/__init__.py"))
    script = f'{mounts}exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-ec", script, "sh", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    code = f"{IMPORTS}attempt('top', 'package', 'json')"
    results = [
        run(
            "unshare",
            "-m",
            "sh",
            "-ec",
            script,
            "sh",
            user.python,
            "-c",
            code,
            env=user.env(plain=plain, PYTHONPATH=str(tmp_path / "code")),
        )
        for plain in (True, False)
    ]
    same(results[1], results[0])
    assert results[0].stdout.splitlines()[:2] == ["ModuleNotFoundError No module named 'top'", "package None None"]


def test_files_of_ours_that_are_links(user: User, tmp_path: Path) -> None:
    """A temporary file's name that somebody took before: nothing is written through it."""
    user.run("-c", "import wave, os; os._exit(0)")
    folder = user.folder()
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    for name in ("image-0.pycds", "state.json"):
        (folder / f".tmp-{name}-1").symlink_to(victim)
    code = (
        "import os, sys\nfrom pycds_auto import rebuild\n"
        f"for name in 'image-0.pycds', 'state.json':\n    os.symlink({str(victim)!r}, f'{folder}/.tmp-{{name}}-{{os.getpid()}}')\n"
        f"try:\n    rebuild._write('{folder}/image-0.pycds', b'x' * 100)\nexcept FileExistsError:\n    print('refused')\n"
    )
    assert run(user.python, "-c", code, env=user.env(plain=True)).stdout == "refused\n"
    user.build()
    assert victim.read_text() == "mine\n" and user.status()["image"]
    assert not list(folder.glob(".tmp-*"))
