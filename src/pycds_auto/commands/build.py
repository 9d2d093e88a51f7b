"""Brings the archive up to date: has imports recorded if asked to, then folds what was recorded into the image."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

from .. import _loader, environment, rebuild, spool
from . import CommandError, child, text

SILENT_WAIT = 1  # seconds that a running rebuilder may take before we say that we wait for it
RETRY = 0.05  # seconds
LEFT_OUT_SHOWN = 5  # modules named, with the reason why they aren't in the archive
NOT_EXECUTABLE, NOT_FOUND = 126, 127  # a shell's exit statuses for commands that can't be started

# Run in children, see child.py. Only top-level names can be looked up without running a package's code.
FIND_UNKNOWN = """\
from importlib.util import find_spec
def unknown(name):
    try:
        return find_spec(name) is None
    except Exception:  # a finder of the user's; the import will tell
        return False
answer([name for name in arguments if unknown(name.partition(".")[0])])
"""
IMPORT = """\
name, = arguments
try:
    __import__(name)
except KeyboardInterrupt:
    os._exit(130)
except BaseException as error:
    missing = isinstance(error, ModuleNotFoundError) and error.name == name
    try:
        message = str(error)
    except Exception:
        message = ""
    message = f"{type(error).__name__}: {message}".rstrip(": ")
    answer("missing" if missing else message)
else:
    answer("imported")
"""


def run(modules: Sequence[str], program: Sequence[str] | None, everything: bool) -> int:
    """Builds the archive; modules, program and everything (at most one of them) say what to record before."""
    state = _usable_state()
    if modules or program:
        _require_recording(state)
    if program:
        return _build_with_program(state, program)
    status = 0
    if modules:
        status = _record_modules(modules)
    elif everything:
        _record_everything(state)
    print("\n".join(_fold(state)))
    return status


def _usable_state() -> dict:
    """The state of this interpreter; refuses where nothing could be recorded or written."""
    state = _loader.state()
    if os.environ.get("PYCDS_DISABLE", "") not in ("", "0"):
        raise CommandError("PYCDS_DISABLE is set: nothing would be recorded; unset it to build")
    if state["readonly"]:
        raise CommandError("PYCDS_READONLY is set: the archive isn't to be changed")
    if state["folder"] is None:
        raise CommandError(state["reason"] or "there is no cache folder")
    reason = state["record_reason"] or ""
    if reason.startswith("cache folder"):  # so begin the refusals of csrc/session.c and csrc/recorder.c
        existing = _existing_part(state["folder"])
        missing = "" if existing == state["folder"] else f" (of that there is {text.printable(existing)})"
        raise CommandError(f"{reason}: {text.printable(state['folder'])}{missing}")
    _refuse_unwritable(state["folder"])
    return state


def _existing_part(folder: str) -> str:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return folder


def _refuse_unwritable(folder: str) -> None:
    """Tells before anything is run that its result couldn't be written."""
    existing = _existing_part(folder)
    if not os.path.isdir(existing):
        raise CommandError(f"the cache folder can't be used: {text.printable(existing)} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CommandError(f"the cache folder can't be used: no permission to write in {text.printable(existing)}")


def _require_recording(state: dict) -> None:
    """Refuses where Pythons like this one wouldn't record what they load."""
    if not state["recording"]:
        reason = state["record_reason"] or "pycds-auto isn't active in this Python"
        hint = "; `build` without arguments empties it" if "full" in reason else ""
        raise CommandError(f"nothing would be recorded: {reason}{hint}")


def _record_modules(modules: Sequence[str]) -> int:
    """Imports each module in a Python of its own, where the finder records what is missing; returns the status."""
    for module in _unknown(modules):
        raise CommandError(_no_module(module))
    status = 0
    for module in modules:
        outcome = _import(module)
        if outcome == "missing":
            text.complain(f"error: {_no_module(module)}")
            status = 2
        elif outcome != "imported":
            text.complain(f"warning: importing {module} failed: {outcome}")
            status = status or 1
    return status


def _unknown(modules: Sequence[str]) -> list[str]:
    """The names among them that can't be imported because there is no such top-level module."""
    impossible = [name for name in modules if not all(name.split(".")) or _is_script(name)]
    if impossible:
        return impossible
    try:
        return child.ask(FIND_UNKNOWN, modules)
    except child.NoAnswer as ending:
        raise CommandError(f"can't look for modules: {ending}") from None


def _import(module: str) -> str:
    """Imports a module in a child: "imported", "missing", or what went wrong."""
    try:
        return text.printable(child.ask(IMPORT, [module]).partition("\n")[0])
    except child.NoAnswer as ending:
        return str(ending)


def _is_script(name: str) -> bool:
    return name.endswith(".py") and os.path.isfile(name)


def _no_module(name: str) -> str:
    hint = ""
    if _is_script(name):
        hint = f" (to run a script: build -- python {name})"
    elif shutil.which(name):
        hint = f" (to run a command: build -- {name} ...)"
    return f"no module named {name!r}{hint}"


def _record_everything(state: dict) -> None:
    """Records every module of this environment, as if each had been imported."""
    path_entries = sys.path
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        # Put there by `python -m`. The current folder isn't the environment's: it might be / or a home folder.
        path_entries = sys.path[1:]
    found = environment.importable(path_entries)
    spool.append(state["folder"], (spool.Miss(kind, state["variant"], path) for kind, path in found))


def _build_with_program(state: dict, program: Sequence[str]) -> int:
    """Runs a command and folds what it loaded, whatever became of it; its exit status is passed on."""
    status = _run_program(program)
    try:
        # stdout belongs to the command.
        _print_on_stderr(_fold(state))
    except (CommandError, OSError) as error:
        if status == 0:
            raise
        text.complain(f"error: {error}")
    return status


def _run_program(program: Sequence[str]) -> int:
    """Runs a command to its end; an interrupt is its own affair, so that stopping a server completes its build."""
    interrupt = signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the command would inherit
    try:
        with subprocess.Popen(program, env=_environment()) as process:
            terminate = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            try:
                status = process.wait()
            finally:
                signal.signal(signal.SIGTERM, terminate)
    except FileNotFoundError:
        hint = f" (a script is run by its Python: build -- python {program[0]})" if _is_script(program[0]) else ""
        raise CommandError(f"command not found: {text.printable(program[0] + hint)}", NOT_FOUND) from None
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"can't run {text.printable(program[0])}: {reason}", NOT_EXECUTABLE) from None
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return status if status >= 0 else 128 - status


def _environment() -> dict[str, str]:
    """That of the command: in a virtual environment that isn't activated, `python` is still the environment's."""
    variables = dict(os.environ)
    if sys.prefix != sys.base_prefix:
        folder = os.path.dirname(sys.executable)
        variables["PATH"] = os.pathsep.join(filter(None, [folder, variables.get("PATH", os.defpath)]))
    return variables


def _fold(state: dict) -> list[str]:
    """Folds what is recorded into the image; returns what to tell about it."""
    os.umask(0o077)  # one that leaves nothing of a mode would leave an archive that nobody can read
    progress = text.Progress("building the archive")
    try:
        result = _rebuild(state, progress)
    except rebuild.RebuildError as error:
        raise CommandError(str(error)) from None
    finally:
        progress.close()
    return list(_summary(result, text.printable(state["prefix"] or "this Python")))


def _rebuild(state: dict, progress: text.Progress) -> rebuild.Result:
    """Rebuilds, after a rebuilder that may be running."""
    patience = time.monotonic() + SILENT_WAIT
    while time.monotonic() < patience:
        try:
            return rebuild.rebuild(state, wait=False, progress=progress)
        except rebuild.Busy:
            time.sleep(RETRY)
    text.complain("waiting for a running rebuild to end")
    return rebuild.rebuild(state, wait=True, progress=progress)


def _summary(result: rebuild.Result, prefix: str) -> Iterable[str]:
    modules = text.count(result.modules, "module")
    if result.changed:
        size = text.size(os.path.getsize(result.path))
        change = f"{result.added:,} added, {result.dropped:,} dropped"
        yield f"Archived {modules} ({change}) in {text.duration(result.seconds)}."
        yield f"{size} in {text.printable(result.path)}"
    elif result.modules:
        yield f"Nothing to do: the archive of {prefix} is up to date with {modules}."
    else:
        # of another Python's programs, say: naming the environment tells
        yield f"Nothing to do: nothing has been recorded for {prefix}."
    if result.changed and result.left_out:
        yield f"Left out, and imported the ordinary way: {text.count(len(result.left_out), 'module')}."
        for path, reason in list(result.left_out.items())[:LEFT_OUT_SHOWN]:
            yield text.printable(f"  {path}: {reason}")
        if len(result.left_out) > LEFT_OUT_SHOWN:
            yield f"  and {len(result.left_out) - LEFT_OUT_SHOWN:,} more (`status` names some)"


def _print_on_stderr(lines: Iterable[str]) -> None:
    if sys.stderr is not None:
        print("\n".join(lines), file=sys.stderr)
