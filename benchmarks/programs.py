"""The programs that are measured: import statements of well-known packages."""

import os
import shutil
from typing import NamedTuple

PROBES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probes")

STATEMENTS = {
    "requests": "import requests",
    "django": "import django.core.management, django.db.models, django.http, django.urls, django.template",
    "boto3": "import boto3",
    "sympy": "import sympy",
    "sqlalchemy": "import sqlalchemy.orm",
    "fastapi": "import fastapi",
    "flask": "import flask",
    "rich": "import rich.console, rich.table, rich.progress, rich.markdown",
    "pytest": "import pytest",
    "pandas": "import pandas",
}


class Program(NamedTuple):
    """A script on disk that runs one import statement and nothing else; probes beside it run the same statement."""

    name: str
    statement: str
    script: str

    def probe(self, kind: str) -> str:
        """The path of a probe, such as "import" for probe_import.py."""
        return os.path.join(os.path.dirname(self.script), f"probe_{kind}.py")


def write_programs(names: list[str], folder: str) -> list[Program]:
    """Write each program into a folder of its own, which is what `sys.path[0]` will be."""
    programs = []
    for name in names:
        program = write_program(name, STATEMENTS[name], folder)
        programs.append(program)
    return programs


def write_program(name: str, statement: str, folder: str) -> Program:
    """Write one program to FOLDER/NAME/program.py, and the probes beside it: all see the same small `sys.path[0]`."""
    home = os.path.join(folder, name)
    shutil.copytree(PROBES, home, ignore=shutil.ignore_patterns("__pycache__"))
    script = os.path.join(home, "program.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(statement + "\n")
    return Program(name, statement, script)
