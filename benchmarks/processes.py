"""Child processes: started with little cost of their own, timed, and never left running in the background.

The benchmark makes itself the *subreaper* of everything it starts (Linux, prctl(2)): a detached rebuilder whose parent
has exited becomes our child, so it can be waited for before the next timed process starts, and counted.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.errors import MeasurementError, TargetError

PR_SET_CHILD_SUBREAPER = 36
BACKGROUND_LIMIT = 600.0  # seconds a background process may take before it is an error; busy machines are slow
POLL = 0.01  # seconds


class Finished(NamedTuple):
    """A child that ended well."""

    wall: float  # seconds from before the start to after the exit
    cpu: float  # seconds of user and system time, its awaited children included
    ended: float  # CLOCK_MONOTONIC when it had been waited for, seconds
    stdout: str
    stderr: str
    background: int  # processes it left behind; all have ended


class Waiting(NamedTuple):
    """A process that has done its work and waits."""

    pid: int
    line: str  # what it wrote


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
    begin = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        pid = os.posix_spawn(arguments[0], arguments, environment, file_actions=streams)
    except OSError as error:
        raise MeasurementError(f"{arguments[0]}: {error.strerror}") from None
    _, status, usage = os.wait4(pid, 0)
    ended = time.clock_gettime(time.CLOCK_MONOTONIC)
    cpu = usage.ru_utime + usage.ru_stime
    background = wait_for_background()
    stdout, stderr = read("stdout"), read("stderr")
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        last = stderr.strip().splitlines()[-1:] or ["nothing on stderr"]
        raise MeasurementError(f"{' '.join(arguments[-2:])}: exit status {code}: {last[0]}")
    return Finished(ended - begin, cpu, ended, stdout, stderr, background)


@contextlib.contextmanager
def started(arguments: list[str], environment: dict[str, str], count: int) -> Iterator[list[Waiting]]:
    """COUNT processes of one program, started one after another, that have each written a line and wait for their
    stdin to end. They end with the context. Raises MeasurementError if one doesn't get as far, or fails at its end.
    """
    processes: list[subprocess.Popen[str]] = []
    try:
        waiting = []
        for _ in range(count):
            process = subprocess.Popen(
                arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            processes.append(process)
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise MeasurementError(f"{arguments[-1]}: exit status {process.wait()} before its end")
            waiting.append(Waiting(process.pid, line))
        yield waiting
    except BaseException:
        for process in processes:
            process.kill()
        raise
    finally:
        for process in processes:
            process.communicate()
    failed = [process.returncode for process in processes if process.returncode != 0]
    if failed:
        raise MeasurementError(f"{arguments[-1]}: exit status {failed[0]}")


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
