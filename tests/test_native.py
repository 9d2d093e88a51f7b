"""The native encoding: native_cases.py in each interpreter, and clean exits of processes that decoded."""

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from support import Venv, environment, hand_made_venv, run

CASES_FILE = Path(__file__).resolve().parent / "native_cases.py"
CASES = re.findall(r"^def (test_\w+)", CASES_FILE.read_text(encoding="utf-8"), re.M)


class Ending(NamedTuple):
    """How the cases ended in one interpreter: (case, how, text) each; and the process."""

    told: dict[str, tuple[str, str]]
    in_place: bool
    process: str


def run_cases(python: Path, home: Path) -> Ending:
    done = subprocess.run(
        [python, CASES_FILE], env=environment(home, PYCDS_DISABLE="1"), capture_output=True, text=True, timeout=180
    )
    told = {name: (how, text) for name, how, text in map(json.loads, done.stdout.splitlines())}
    in_place, _ = told.pop("in place", (False, ""))
    return Ending(told, in_place, f"the process ended with {done.returncode}\n{done.stderr}")


@pytest.fixture(scope="session")
def ending(venv: Venv) -> Ending:
    return run_cases(venv.python, venv.home)


@pytest.mark.parametrize("case", CASES)
def test_native(ending: Ending, case: str) -> None:
    how, text = ending.told.get(case, ("not reached", ""))
    if how == "skipped":
        pytest.skip(text)
    assert how == "passed", f"{how}\n{text}\n{ending.process}"


def is_at_fixed_addresses(program: Path) -> bool:
    return program.read_bytes()[16] == 2  # elf(5): e_type is ET_EXEC


@pytest.mark.parametrize("suffix", ["", "d"])
def test_interpreter_at_fixed_addresses(tmp_path: Path, suffix: str) -> None:
    """The same cases where byte strings are used where they are mapped; a debug interpreter looks at more."""
    for version in ("3.15", "3.14", "3.13", "3.12", "3.11"):
        program = Path(f"/usr/bin/python{version}{suffix}")
        if program.exists() and is_at_fixed_addresses(program):
            break
    else:
        pytest.skip("no such interpreter in /usr/bin that is linked to fixed addresses")
    python = hand_made_venv(program, tmp_path / "venv", *(["Py_DEBUG"] if suffix else []))
    ending = run_cases(python, tmp_path)
    assert ending.in_place, ending.process
    wrong = {
        case: told
        for case in CASES
        if (told := ending.told.get(case, ("not reached", "")))[0] not in ("passed", "skipped")
    }
    assert wrong == {}, f"{wrong}\n{ending.process}"


# ---- whole processes ----

ENCODER = """
import glob, marshal, os, pickle, sys, sysconfig
from pycds_auto import native
files = [os.path.join(sysconfig.get_paths()["stdlib"], name + ".py") for name in sys.argv[2:]]
marshalled = [marshal.dumps(compile(open(file, encoding="utf-8").read(), file, "exec")) for file in files]
with open(sys.argv[1], "wb") as output:
    pickle.dump(native.encode(marshalled, b""), output)
"""

NAMES = [
    "textwrap",
    "fractions",
    "difflib",
    "tokenize",
    "copy",
    "bisect",
    "heapq",
    "argparse",
    "decimal",
    "typing",
    "ast",
    "_pydecimal",
]

DECODER = """
import os, pickle, sys, types
from pycds_auto._loader import native_decode
with open(sys.argv[1], "rb") as file:
    codes = native_decode(*pickle.load(file))
modules = []
for code in codes:
    module = types.ModuleType(os.path.basename(code.co_filename)[:-3] + "_decoded")
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    modules.append(module)
assert sys.modules["textwrap_decoded"].dedent("  x") == "x"
"""

ENDS = {
    "exit": "",
    "deletion": "import gc\ndel modules, codes, module, code\nfor name in [name for name in sys.modules if name.endswith('_decoded')]:\n    del sys.modules[name]\ngc.collect()\n",
    "fork": "pid = os.fork()\nif pid == 0: sys.exit(0)\nassert os.waitpid(pid, 0)[1] == 0\n",
}


@pytest.fixture(scope="session")
def encoded(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "encoded"
    run(venv.python, "-c", ENCODER, path, *NAMES, env=environment(venv.home, PYCDS_DISABLE="1"))
    return path


@pytest.mark.parametrize("variable", ["PYTHONMALLOC=debug", "PYTHONMALLOC=malloc", "PYTHONHASHSEED=1"])
@pytest.mark.parametrize("end", ENDS)
def test_clean_exit(venv: Venv, encoded: Path, variable: str, end: str) -> None:
    env = environment(venv.home, PYCDS_DISABLE="1", **dict([variable.split("=")]))
    done = run(venv.python, "-X", "dev", "-W", "ignore", "-c", DECODER + ENDS[end], encoded, env=env)
    assert done.stdout == ""
