"""The command line: what it accepts, and what its exit statuses mean.

Each sub-command is a module of `commands` with a function `run`. Exit statuses: 0 done; 1 done, but importing a module
given to `build` failed; 2 not done (a wrong command line, a module that doesn't exist, an unusable cache folder);
130 interrupted; `build -- COMMAND` passes on the command's own, and answers 126 and 127 as a shell does.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import __version__
from .commands import CommandError, build, clear, status
from .commands.text import complain, printable

INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended

DESCRIPTION = """\
Makes every import of this Python faster with a memory-mapped archive of code objects.
It works by itself; these commands look at it and help it along."""

EPILOG = """\
To switch pycds-auto off for one run, set PYCDS_DISABLE=1 in its environment;
to remove it, `pip uninstall pycds-auto`, and then the cache folder that `status` shows."""

STATUS_DESCRIPTION = """\
Says whether imports of this Python come from the archive and if not, why; what is archived,
since when and how large; how many modules wait to be added; and what the last rebuild did."""

BUILD_DESCRIPTION = """\
Brings the archive of this interpreter and environment up to date now, in the foreground.
This happens by itself after a run or two; `build` is for container images and the impatient.

  build                  add what earlier runs recorded
  build MODULE...        import each module in a Python of its own, and add what it loaded
  build -- COMMAND...    run a command, and add what it loaded
  build --all            add every importable module of this environment, without importing any

Exit status: 0 done; 1 importing a MODULE failed, and the rest is done; 2 a MODULE that doesn't exist, a wrong
command line, or nothing could be done; with -- the command's own."""

ALL_MODULES_HELP = """\
every module of the standard library and of every folder on sys.path; left out are test suites (packages named
`tests`) and the current folder (PYTHONPATH=. brings that in)"""

CLEAR_DESCRIPTION = """\
Removes the archive of this interpreter and environment, and what was recorded for it.
Running programs aren't disturbed; the next ones begin anew."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors carry the product's name, however Python was started."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"pycds-auto: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of everything up to a `--`, which main() takes off before argparse can interpret it."""
    plain = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(prog="python -m pycds_auto", description=DESCRIPTION, epilog=EPILOG, **plain)
    parser.add_argument("--version", action="version", version=f"pycds-auto {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    status_parser = commands.add_parser(
        "status", help="is it active, and if not, why; what is archived", description=STATUS_DESCRIPTION, **plain
    )
    status_parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")

    build_parser = commands.add_parser(
        "build",
        help="bring the archive up to date now",
        description=BUILD_DESCRIPTION,
        usage="%(prog)s [-h] [--all | MODULE ... | -- COMMAND ...]",
        **plain,
    )
    build_parser.add_argument("modules", nargs="*", metavar="MODULE", help="a module to import, by its dotted name")
    build_parser.add_argument("--all", action="store_true", help=ALL_MODULES_HELP)

    build_parser.set_defaults(refuse=build_parser.error)

    clear_parser = commands.add_parser("clear", help="remove the archive", description=CLEAR_DESCRIPTION, **plain)
    clear_parser.add_argument("--all", action="store_true", help="the archives of every interpreter and environment")
    return parser


def _split_at_separator(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What stands before the first `--`, and the command after it (None if there is no `--`)."""
    if "--" not in arguments:
        return list(arguments), None
    at = list(arguments).index("--")
    return list(arguments[:at]), list(arguments[at + 1 :])


def _run(arguments: Sequence[str]) -> int:
    own, program = _split_at_separator(arguments)
    parser = make_parser()
    options, unknown = parser.parse_known_args(own)
    if unknown:
        hint = " (to run a command: build -- COMMAND ...)" if options.command == "build" and options.modules else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    if program is not None and options.command != "build":
        parser.error(f"{options.command} takes no command after --")
    if options.command == "status":
        return status.run(as_json=options.json)
    if options.command == "clear":
        return clear.run(everything=options.all)
    if program is not None and not program:
        options.refuse("no command after --")
    if (program is not None) + bool(options.modules) + options.all > 1:
        options.refuse("build takes modules, or --all, or -- and a command: one of them")
    return build.run(modules=options.modules, program=program, everything=options.all)


def _discard_stdout() -> None:
    """Points stdout at nothing, so that the interpreter's own flush at exit can't fail a second time."""
    with contextlib.suppress(OSError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _in_words(error: OSError) -> str:
    """An error of the system without its number, and with the file it is about."""
    what = error.strerror or str(error)
    return printable(what if error.filename is None else f"{what}: {os.fsdecode(error.filename)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line (default: sys.argv's) and returns its exit status. No error leaves a traceback."""
    if sys.stdout is not None:
        # A path may hold anything, and the terminal's encoding may be ASCII.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except CommandError as error:
        complain(f"error: {error}")
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # `status | head -1`: the reader has what it wanted.
        _discard_stdout()
        return 1
    except OSError as error:
        _discard_stdout()
        complain(f"error: {_in_words(error)}")
        return 2
