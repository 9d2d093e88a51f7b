"""The difference finder on the standard library: a short run of what difference_finder.py does for any package."""

import pytest

from difference_finder import Finder

STATEMENTS = [
    "import asyncio, ctypes",
    "import xml.etree.ElementTree, zoneinfo, concurrent.futures",
    "import email.message, nonexistent",
]


@pytest.fixture(scope="module")
def finder(venv, tmp_path_factory) -> Finder:
    finder = Finder(venv.python, tmp_path_factory.mktemp("differences"))
    finder.prepare(STATEMENTS, jobs=2)
    return finder


def check(finder: Finder, statement: str) -> None:
    found = finder.compare(statement)
    assert found.differences == []
    assert found.hits > found.modules / 3


def test_statement(finder: Finder) -> None:
    check(finder, STATEMENTS[0])


@pytest.mark.one_interpreter
@pytest.mark.parametrize("statement", STATEMENTS[1:])
def test_more_statements(finder: Finder, statement: str) -> None:
    check(finder, statement)


@pytest.mark.one_interpreter
def test_it_sees_differences(finder: Finder) -> None:
    """What is different only with it: the value of PYCDS_DISABLE."""
    told = finder.compare("import json, os; json.mode = int(os.environ['PYCDS_DISABLE']) and 'plain'; print(json.mode)")
    assert any(line.startswith("[state] module json.mode:") for line in told.differences)
    assert any(line.startswith("[python] stdout:") for line in told.differences)
