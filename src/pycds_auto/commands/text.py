"""Numbers, times and paths in the form people read, and the terminal's progress line."""

import datetime
import sys
import time


def complain(message: str) -> None:
    """One line on stderr, under the product's name."""
    if sys.stderr is not None:
        print(f"pycds-auto: {printable(message)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text itself, or, where it holds control characters or undecodable bytes, an escaped form."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def count(number: int, noun: str) -> str:
    """`1 module`, `1,412 modules`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(number: int) -> str:
    """A number of bytes as `812 bytes`, `3.4 kB`, `12.0 MB` (powers of ten, as disks and networks count)."""
    if number < 1000:
        return count(number, "byte")
    value = float(number)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        # 999.95 would be rounded to 1000.0.
        if value < 999.95:
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """`0.31 s`, `12 s`, `3 min`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def is_number(value: object) -> bool:
    """Whether a value read from a file is a number to calculate with (JSON knows NaN, and integers of any length)."""
    return isinstance(value, (int, float)) and -1e300 < value < 1e300


def _moment(at: object) -> datetime.datetime | None:
    """Unix seconds as a time; None for anything that isn't one."""
    if not is_number(at):
        return None
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return None


def iso(at: object) -> str | None:
    """Unix seconds as ISO 8601, `2026-11-23T15:04:05Z`; None for anything that isn't a time."""
    moment = _moment(at)
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def when(at: object) -> str:
    """Unix seconds as `3 minutes ago (2026-11-23 16:04:05 CET)`."""
    moment = _moment(at)
    if moment is None:
        return "at an unknown time"
    try:
        absolute = moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z").rstrip()
    except (ValueError, OverflowError, OSError):
        # The first and last hours of the calendar have no local time.
        absolute = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{_distance(time.time() - at)} ({absolute})"


def _distance(seconds: float) -> str:
    if seconds < -60:
        return "in the future"
    if seconds < 2:
        return "just now"
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= length * 2 or length == 1:
            return f"{count(int(seconds // length), unit)} ago"
    raise AssertionError("every distance has a unit")


class Progress:
    """A percentage on one line of the terminal, rewritten in place; nothing at all where stderr is no terminal."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if self._terminal and percent != self._shown:
            self._shown = percent
            print(f"\r{self._label} {percent:3d} %", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the line off the terminal again."""
        if self._shown >= 0:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._shown = -1
