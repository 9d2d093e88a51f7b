"""Child processes: started with little cost of their own, timed, and never left running in the background.

The benchmark makes itself the *subreaper* of everything it starts (Linux, prctl(2)): a detached rebuilder whose parent
has exited becomes our child, so it can be waited for before the next timed process starts, and counted.
"""

import ctypes
import os
import sys
import time
from typing import NamedTuple

from benchmarks.errors import MeasurementError, TargetError

PR_SET_CHILD_SUBREAPER = 36
BACKGROUND_LIMIT = 120.0  # seconds a background process may take before it is an error
POLL = 0.01  # seconds


class Finished(NamedTuple):
    """A child that ended well."""

    wall: float  # seconds from before the start to after the exit
    cpu: float  # seconds of user and system time, its awaited children included
    stdout: str
    stderr: str
    background: int  # processes it left behind; all have ended


def adopt_orphans() -> None:
    """Make this process the parent of all its orphaned descendants."""
    if not sys.platform.startswith("linux"):
        raise TargetError("the benchmark needs Linux")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise TargetError(f"prctl: {os.strerror(ctypes.get_errno())}")


def run(arguments: list[str], environment: dict[str, str]) -> Finished:
    """Run a program to its end in the current directory, and wait for what it left behind.

    Raises MeasurementError if it can't be started or its exit status isn't 0. Streams go to files in the current
    directory: a pipe would need reading while the clock runs.
    """
    create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    streams = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "stdout", create, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, "stderr", create, 0o600),
    ]
    begin = time.perf_counter()
    try:
        pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=streams)
    except OSError as error:
        raise MeasurementError(f"{arguments[0]}: {error.strerror}") from None
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    cpu = usage.ru_utime + usage.ru_stime
    background = wait_for_background()
    stdout, stderr = read("stdout"), read("stderr")
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        last = stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise MeasurementError(f"{' '.join(arguments[-2:])}: exit status {code}: {last[0]}")
    return Finished(wall, cpu, stdout, stderr, background)


def wait_for_background() -> int:
    """Wait until no descendant is left; return how many there were."""
    ended = 0
    limit = time.monotonic() + BACKGROUND_LIMIT
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid:
            ended += 1
        elif time.monotonic() > limit:
            raise MeasurementError(f"a background process did not end within {BACKGROUND_LIMIT:.0f} s")
        else:
            time.sleep(POLL)


def read(path: str) -> str:
    """The text of a stream's file."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
