"""Tools that come with Python, and an embedding host: the short part of tools.py, which tries many more."""

import re
import shutil
from pathlib import Path

import pytest

from support import User
from tools import Bench, Report, compare, cprofile, embedding, interactive, module_option, pdb, zipapps


def tools_of_python(bench: Bench) -> Report:
    return [tool(bench) for tool in (pdb, cprofile, module_option, interactive, zipapps, embedding)]


@pytest.mark.one_interpreter
@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_tools(user: User, tmp_path: Path) -> None:
    differences, hits = compare(tools_of_python, user.python, tmp_path / "tools")
    assert differences == []
    assert hits > 20
    logging = User(user.python, tmp_path / "tools/home", {"PYCDS_LOG": "1"})
    told = embedding(Bench(logging, tmp_path / "tools/work", plain=False))[-1]
    assert len(re.findall(r"hits=[1-9]\d+ misses=0", told)) == 2, told  # the archive serves both of its interpreters
