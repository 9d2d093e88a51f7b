"""Asks a fresh Python like this one: same flags, same sys.path, nothing imported that isn't asked for."""

import ast
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from . import CommandError

# The answer goes through stdout, a temporary file: unlike at a pipe, no process that inherits it can keep us waiting.
# What the start-up files of site-packages print there comes before the mark, what imported code prints goes nowhere.
# Nothing is imported: a module of that name might lie in the current folder, and each would end up in the archive.
MARK = b"\0pycds-auto:"
PRELUDE = f"""\
import os, sys
stdout = os.dup(1)
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
os.close(null)
def answer(value):
    os.write(stdout, {MARK!r} + ascii(value).encode())
arguments = sys.argv[1:]
del sys.argv[1:]
"""

# -X options that print, or only make sense for one process.
OPTIONS_NOT_PASSED_ON = ("importtime", "showrefcount", "perf")


class NoAnswer(Exception):
    """The child ended before it answered; the message says how."""


def ask(code: str, arguments: Sequence[str]) -> Any:
    """Runs code in a child, with `arguments` as a list of that name, and returns what it gave to `answer(value)`."""
    if not sys.executable:
        raise CommandError("this Python doesn't know its own executable (sys.executable is empty)")
    command = [sys.executable, *interpreter_flags(), "-c", PRELUDE + code, *arguments]
    with tempfile.TemporaryFile() as stdout:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, check=False).returncode
        stdout.seek(0)
        _, mark, value = stdout.read().rpartition(MARK)
    if not mark:
        raise NoAnswer(ending(status))
    return ast.literal_eval(value.decode("ascii"))


def ending(status: int) -> str:
    """A process's exit status in words, as the end of a sentence about it."""
    if status >= 0:
        return f"Python ended with exit status {status}"
    try:
        return f"Python was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"Python was killed by signal {-status}"


def interpreter_flags() -> list[str]:
    """The options that make another Python behave as this one was told to."""
    flags = sys.flags
    letters = [
        ("I", flags.isolated),
        ("E", flags.ignore_environment and not flags.isolated),
        ("s", flags.no_user_site and not flags.isolated),
        ("P", flags.safe_path and not flags.isolated),
        ("S", flags.no_site),
        ("B", flags.dont_write_bytecode),
        ("O", flags.optimize),
        ("b", flags.bytes_warning),
    ]
    options = ["-" + letter * int(times) for letter, times in letters if times]
    options += [f"-W{warning}" for warning in sys.warnoptions]
    for name, value in sys._xoptions.items():  # public, for all its underscore: documented under -X
        if name not in OPTIONS_NOT_PASSED_ON:
            options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options
