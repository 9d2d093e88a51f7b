"""The rebuilder: what goes into an image, what leaves it, and what it must not do."""

import json
import os
import time
from pathlib import Path

import pytest

from support import User, age, processes_with, same, until, write

MODULES = """
import json, sys
from pycds_auto import _loader, image, rebuild
state = _loader.state()
held = image.read(state["image"], state["identity"])
if sys.argv[1:]:
    content = image.build(
        state["identity"], held.modules.values(), held.directories.values(), held.aged_ns - int(sys.argv[1]) * 10**9,
        held.encoding)
    rebuild._write(state["image"], content)
print(json.dumps({module.path: module.flags for module in held.modules.values()}))
"""

MONTH = 31 * 24 * 3600  # seconds: a day more than modules are kept unused


def flags(user: User, *older_by: int) -> dict[str, int]:
    """Flags of the image's modules by path; then the image is made as many seconds older as told."""
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


def test_what_the_compiler_warns_of_is_said_again(user: User, tmp_path) -> None:
    """As plain Python does whenever it finds no pyc: it's gone, or looked for elsewhere."""
    tree = tmp_path / "tree"
    write(tree, {"doubtful.py": "VALUE = 1 is 1\n", "fine.py": "VALUE = 2\n"})
    code = f"import sys; sys.path.insert(0, {str(tree)!r})\nimport doubtful, fine; print(doubtful.VALUE, fine.VALUE)\n"
    write(tmp_path, {"program.py": code})
    age(tree)
    user.extra["PYTHONDONTWRITEBYTECODE"] = ""
    user.run(tmp_path / "program.py", quiet=False)  # writes the pycs
    user.build()
    ask = "from importlib.machinery import SourceFileLoader as Plain; print(*(type(x.__loader__) is Plain for x in (doubtful, fine)))"
    assert user.run("-c", code + ask).stdout == "True 2\nTrue False\n", "only what warns is left to plain Python"
    for env in ({"PYTHONPYCACHEPREFIX": str(tmp_path / "none")}, {}):
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        plain = user.run(tmp_path / "program.py", plain=True, env=env, quiet=False)
        same(user.run(tmp_path / "program.py", env=env, quiet=False), plain)
        assert "SyntaxWarning" in plain.stderr
        for pyc in (tree / "__pycache__").iterdir():
            pyc.unlink()


def test_a_home_that_is_gone_stays_away(venv, tmp_path) -> None:
    import shutil

    for attempt in range(20):  # a rebuilder may have ended, or not be in the listing yet, when it's looked for
        home = tmp_path / f"short-lived-{attempt}"
        home.mkdir()
        User(venv.python, home).run("-c", "import json")
        if list(processes_with(str(home))):
            break
    else:
        raise AssertionError("no rebuilder was seen: the test shows nothing")
    shutil.rmtree(home)
    until(lambda: not list(processes_with(str(home))), "the rebuilder ends")
    time.sleep(0.1)
    assert not home.exists()


def test_without_filelock_there_is_a_reason_and_no_storm(user: User, tmp_path) -> None:
    broken = tmp_path / "broken"
    write(broken, {"filelock/__init__.py": "raise ImportError('no filelock here')\n"})
    result = user.run("-m", "pycds_auto", "build", env={"PYTHONPATH": str(broken)}, code=None, quiet=False)
    assert result.returncode == 2 and "Traceback" not in result.stderr and "filelock" in result.stderr


# ---- the native encoding's shared table ----

INSPECT = """
import hashlib, json
from pycds_auto import _loader, image
state = _loader.state()
held = image.read(state["image"], state["identity"])
print(json.dumps({
    "kind": held.encoding.kind, "table_bytes": len(held.encoding.table), "table_age": held.encoding.table_age,
    "payloads": {path: hashlib.sha256(module.payload).hexdigest() for path, module in held.modules.items()},
    "flags": {path: module.flags for path, module in held.modules.items()},
}))
"""

NUMBER_OF_MODULES = 130  # more than there are of the standard library and our own


class Grown:
    """A tree of modules that a user imports step by step, so that the image grows with each build."""

    def __init__(self, user: User, tree: Path, modules: dict[str, str]) -> None:
        self.user, self.tree, self.modules = user, tree, modules
        write(tree, {f"{name}.py": text for name, text in modules.items()})
        age(tree)
        user.extra["PYTHONPATH"] = str(tree)

    def path(self, name: str) -> str:
        return str(self.tree / f"{name}.py")

    def build(self, *names: str) -> dict:
        """Imports the modules, builds, shows that each is served and does the same; what is in the image then."""
        program = "import sys\nprint([__import__(name).work(3) for name in sys.argv[1:]])\n"
        plain = self.user.run("-c", program, *names, plain=True)
        assert self.user.run("-c", program, *names) == plain
        self.user.build()
        ask = "import pycds_auto; before = pycds_auto.stats()\n" + program
        ask += "after = pycds_auto.stats(); print(after['hits'] - before['hits'], after['misses'] - before['misses'], after['reason'])"
        ours = self.user.run("-c", ask, *names, readonly=True)
        assert ours.stdout == plain.stdout + f"{len(names)} 0 None\n"
        held = json.loads(self.user.run("-c", INSPECT, plain=True).stdout)
        assert held["kind"] == 2
        return held


def module_text(number: int) -> str:
    names = [f"shared_name_{other}" for other in range(number, number + 20)]  # in common with the neighbours
    return "".join(f"{name} = 'a text of {name}'\n" for name in names) + (
        f"def work(own_name_{number}):\n    return own_name_{number} * {number}, {names[3]}, {{'a', 'text of {number}'}} == {{'a'}}, (1, {number}.5)\n"
    )


@pytest.fixture
def grown(user: User, tmp_path: Path) -> Grown:
    user.extra["PYTHONHASHSEED"] = "0"
    return Grown(
        user, tmp_path / "tree", {f"grown{number}": module_text(number) for number in range(NUMBER_OF_MODULES)}
    )


def test_shared_table_grows_at_its_end(grown: Grown) -> None:
    """A few new modules leave what is there as it is, down to the bytes; many make all of it anew."""
    names = list(grown.modules)
    held = grown.build(*names[:4])
    assert held["table_age"] == 0
    count = len(held["payloads"])  # the standard library's and our own are in it, too
    step, age_before = 20, 0
    grew = anew = 0
    for start in range(4, NUMBER_OF_MODULES, step):
        some = names[start : start + step]
        before, held = held, grown.build(*names[: start + step])
        count = len(held["payloads"])
        came = len(held["payloads"].keys() - before["payloads"].keys())
        assert len(some) <= came
        due = age_before + came
        if 2 * due > count:
            assert held["table_age"] == 0
            assert any(held["payloads"][path] != digest for path, digest in before["payloads"].items())
            anew += 1
        else:
            assert held["table_age"] == due
            assert {path: held["payloads"][path] for path in before["payloads"]} == before["payloads"]
            assert held["table_bytes"] > before["table_bytes"]
            grew += 1
        age_before = held["table_age"]
    assert grew >= 2 and anew >= 1, (grew, anew, count)


def test_dropped_modules_age_the_shared_table(grown: Grown) -> None:
    names = list(grown.modules)
    before = grown.build(*names)
    for name in names[:3]:
        os.unlink(grown.path(name))
    held = grown.build(*names[3:])
    assert before["payloads"].keys() - held["payloads"].keys() == {grown.path(name) for name in names[:3]}
    assert held["table_age"] == 3 and held["table_bytes"] == before["table_bytes"]
    assert all(
        held["payloads"][path] == digest for path, digest in before["payloads"].items() if path in held["payloads"]
    )


def test_flags_outlast_an_encoding_anew(grown: Grown, tmp_path: Path) -> None:
    names = list(grown.modules)
    grown.build(names[0])
    flags(grown.user, MONTH)
    grown.user.build()  # marks all
    marked = json.loads(grown.user.run("-c", INSPECT, plain=True).stdout)
    assert marked["flags"][grown.path(names[0])] == 2
    held = grown.build(*names[1:])
    assert held["table_age"] == 0 and held["payloads"][grown.path(names[0])] != marked["payloads"][grown.path(names[0])]
    assert held["flags"][grown.path(names[0])] == 2 and held["flags"][grown.path(names[1])] == 0


def test_modules_that_cannot_be_encoded_are_left_out(grown: Grown) -> None:
    """Their constants are nested deeper than the decoder follows: tuples in functions in functions. Of the second one
    not even the frozenset can be found by Python code."""
    for name, functions in ("deep", 20), ("deeper", 85):
        nested = "lambda: " * functions + "(" * 185 + "'deep'," + ")," * 184 + ")"
        write(grown.tree, {f"{name}.py": f"nested = {nested}\ndef work(n):\n    return n in {{'two', 'words'}}\n"})
    age(grown.tree)
    user, paths = grown.user, [grown.path("deep"), grown.path("deeper")]
    program = "import deep, deeper, grown1; print(deep.work(1), deeper.work('two'), grown1.work(2))"
    plain = user.run("-c", program, plain=True)
    assert user.run("-c", program) == plain
    told = user.build().stdout
    user.build()
    status = user.command("status", readonly=True).stdout
    for path in paths:
        reason = f"{path}: not encoded: constants are nested too deeply"
        assert reason in told and reason in status
    assert "2 modules, imported the ordinary way, 2 of them not encoded" in status
    held = json.loads(user.run("-c", INSPECT, plain=True).stdout)
    assert [held["flags"][path] for path in (*paths, grown.path("grown1"))] == [1, 1, 0]
    ask = (
        f"import pycds_auto; before = pycds_auto.stats()['hits']; {program}; print(pycds_auto.stats()['hits'] - before)"
    )
    assert user.run("-c", ask).stdout == plain.stdout + "1\n"
    assert user.status()["pending_misses"] == 0  # nobody asks for them again
