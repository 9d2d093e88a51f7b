"""The rebuilder: what goes into an image, what leaves it, and what it must not do."""

import os
import time

from support import User, age, processes_with, until, write

MODULES = """
import json, sys
from pycds_auto import _loader, image, rebuild
state = _loader.state()
held = image.read(state["image"], state["identity"])
if sys.argv[1:]:
    content = image.build(
        state["identity"], held.modules.values(), held.directories.values(), held.aged_ns - int(sys.argv[1]) * 10**9)
    rebuild._write(state["image"], content)
print(json.dumps({module.path: module.flags for module in held.modules.values()}))
"""

MONTH = 31 * 24 * 3600  # seconds: a day more than modules are kept unused


def flags(user: User, *older_by: int) -> dict[str, int]:
    """Flags of the image's modules by path; then the image is made as many seconds older as told."""
    import json

    return json.loads(user.run("-c", MODULES, *map(str, older_by), plain=True).stdout)


def test_unused_modules_leave_the_image(user: User, tmp_path) -> None:
    tree = tmp_path / "tree"
    write(tree, {"used.py": "", "unused.py": ""})
    age(tree)
    user.extra["PYTHONPATH"] = str(tree)
    used, unused = str(tree / "used.py"), str(tree / "unused.py")
    user.run("-c", "import used, unused")
    user.build()
    assert flags(user, MONTH)[unused] == 0
    user.build()
    assert flags(user)[used] == flags(user)[unused] == 2  # marked as aged, still served
    served = "import used, pycds_auto; print(pycds_auto.stats()['misses'])"
    assert user.run("-c", served).stdout == "0\n"
    user.build()
    assert flags(user)[used] == 0 and flags(user, MONTH)[unused] == 2
    user.build()
    assert used in flags(user) and unused not in flags(user)


def test_a_fifo_in_place_of_a_module_holds_nobody_up(user: User, tmp_path) -> None:
    tree = tmp_path / "tree"
    write(tree, {"odd.py": "", "even.py": ""})
    age(tree)
    user.extra["PYTHONPATH"] = str(tree)
    user.run("-c", "import odd, even")
    (tree / "odd.py").unlink()
    os.mkfifo(tree / "odd.py")
    age(tree)
    user.build()
    held = flags(user)
    assert held[str(tree / "even.py")] == 0 and held[str(tree / "odd.py")] == 1


def test_a_folder_beside_a_module_is_known_from_the_first_image(user: User, tmp_path) -> None:
    tree = tmp_path / "tree"
    write(tree, {"twice.py": "VALUE = 1\n", "twice/readme.txt": ""})
    age(tree)
    user.extra["PYTHONPATH"] = str(tree)
    user.run("-c", "import twice")
    age(tree)  # a pyc was written
    user.build()
    spool = user.folder() / "misses.spool"
    assert user.run("-c", "import twice; print(twice.VALUE)").stdout == "1\n"
    assert not spool.exists() or str(tree) not in spool.read_text()


def test_a_pyc_that_does_not_agree_is_left_out(user: User, tmp_path) -> None:
    tree = tmp_path / "tree"
    write(tree, {"module.py": "VALUE = 1\n"})
    age(tree)
    user.extra["PYTHONPATH"] = str(tree)
    user.run("-c", "import module")  # writes the pyc
    write(tree, {"module.py": "VALUE = 2\n"})
    age(tree)
    program = "import module; print(module.VALUE)"
    assert user.run("-c", program, plain=True).stdout == "1\n"
    user.build()
    assert user.run("-c", program).stdout == "1\n"
    for pyc in (tree / "__pycache__").iterdir():
        pyc.unlink()
    assert user.run("-c", program, plain=True, env={"PYTHONDONTWRITEBYTECODE": "1"}).stdout == "2\n"
    assert user.run("-c", program).stdout == "2\n"


def test_a_home_that_is_gone_stays_away(venv, tmp_path) -> None:
    import shutil

    home = tmp_path / "short-lived"
    home.mkdir()
    user = User(venv.python, home)
    user.run("-c", "import json")
    assert list(processes_with(str(home))), "no rebuilder was started: the test shows nothing"
    shutil.rmtree(home)
    until(lambda: not list(processes_with(str(home))), "the rebuilder ends")
    time.sleep(0.1)
    assert not home.exists()


def test_without_filelock_there_is_a_reason_and_no_storm(user: User, tmp_path) -> None:
    broken = tmp_path / "broken"
    write(broken, {"filelock/__init__.py": "raise ImportError('no filelock here')\n"})
    result = user.run("-m", "pycds_auto", "build", env={"PYTHONPATH": str(broken)}, code=None, quiet=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr and "filelock" in result.stderr
