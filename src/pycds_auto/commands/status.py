"""Says whether imports come from the archive and if not, why; what is archived, and what waits to be."""

import json
import os
import site
import stat
import sys
from typing import NamedTuple

from .. import __version__, _loader, image, spool
from ..rebuild import NOT_ENCODED
from ..snapshot import same_module
from . import text

ACCELERATIONS = ("re", "source", "gc", "importlib", "classes", "frames", "exit")
"""What PYCDS_SKIP can leave out (csrc/settings.c)."""

LEFT_OUT_SHOWN = 5  # modules named by the text form
NOT_ACTIVATED = "not activated in this process"  # csrc/module.c says so
NO_IMAGE = "no archive yet"  # also what csrc/session.c says
STATE_FILE_LIMIT = 16 << 20  # bytes; a longer state.json isn't one of ours


class _Findings(NamedTuple):
    state: dict  # _loader.state()
    image: dict | None  # _loader.inspect_image()
    doubt: str | None  # why there is no image
    changed: int  # modules in it whose sources are other ones now
    pending: int
    last: dict | None  # the last rebuild: "at" (Unix seconds), "seconds", "result"
    left_out: dict[str, str]  # path -> reason

    @property
    def reason(self) -> str | None:
        """Why imports don't come from the archive."""
        reason = self.state["reason"] or self.doubt
        if reason == NO_IMAGE and self.image is None and not self.state["recording"] and self.state["record_reason"]:
            return f"{reason}, and none will be made: {self.state['record_reason']}"
        return reason


def run(as_json: bool) -> int:
    """Prints the status of this interpreter and environment."""
    findings = _look()
    print(json.dumps(_report(findings), indent=2) if as_json else "\n".join(_lines(findings)))
    return 0


def _look() -> _Findings:
    state = _loader.state()
    if state["reason"] == NOT_ACTIVATED:
        state["reason"] = f"not activated at the start of this process: {_why_not_activated()}"
    figures, doubt = _inspect(state)
    known, changed = _compare(state) if figures else (set(), 0)
    pending = _pending(state["folder"], state["variant"], known)
    record = _read_record(state["state_file"])
    return _Findings(state, figures, doubt, changed, pending, _last_rebuild(record), _left_out(record))


def _why_not_activated() -> str:
    """The likely reason why pycds_auto.pth was not run, or came to nothing."""
    folder, package = os.path.split(os.path.dirname(os.path.abspath(_loader.__file__)))
    if sys.flags.no_site:
        return "Python was told (-S) to read no .pth files"
    site_folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    started_by = [os.path.join(path, f"{package}.pth") for path in site_folders]
    if any(os.path.exists(path) for path in started_by):
        return "the installation has changed since, or another .pth file came first and failed"
    if any(os.path.isdir(path) and os.path.samefile(path, folder) for path in site_folders):
        return f"{package}.pth is missing in {folder}; install pycds-auto again"
    return f"{folder} is not a site-packages folder of this Python, and only there are .pth files read"


def _inspect(state: dict) -> tuple[dict | None, str | None]:
    """The archive's figures, or None and why there are none."""
    if state["image"] is None:
        return None, "there is no cache folder"
    try:
        return _loader.inspect_image(state["image"], state["identity"]), None
    except FileNotFoundError:
        return None, NO_IMAGE
    except OSError as error:
        return None, f"the archive can't be read: {error.strerror or error}"
    except ValueError as error:
        return None, str(error)


def _compare(state: dict) -> tuple[set[str], int]:
    """The paths of the modules that the archive has as they are now, or left out as they are; and how many it has
    otherwise."""
    try:
        modules = image.read(state["image"], state["identity"]).modules.values()
    except (OSError, ValueError):  # replaced just now
        return set(), 0
    known, changed = set(), 0
    for module in modules:
        try:
            same = same_module(module, os.stat(module.path))
        except OSError:  # gone, and soon from the archive
            continue
        if same or state["validate"] == "trust":
            known.add(module.path)
        elif not module.flags & image.LEFT_OUT:
            changed += 1
    return known, changed


def _pending(folder: str | None, variant: str, known: set[str]) -> int:
    """Modules that were imported from outside the archive of this optimisation level and aren't folded in yet."""
    if folder is None:
        return 0
    try:
        return len({miss.path for miss in spool.read(folder, variant) if miss.kind == spool.MODULE} - known)
    except (OSError, ValueError):
        return 0


def _read_record(path: str | None) -> dict:
    """The rebuilder's state.json; {} if it is missing, or anything but what a rebuilder writes."""
    try:
        # A pipe of that name would block, a device might never end.
        if path is None or not stat.S_ISREG(os.lstat(path).st_mode):
            return {}
        with open(path, "rb") as file:
            record = json.loads(file.read(STATE_FILE_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _last_rebuild(record: dict) -> dict | None:
    """The last rebuild; None if there was none, or the record of it is damaged."""
    last = record.get("last_rebuild")
    if not isinstance(last, dict):
        return None
    at, seconds, result = last.get("at"), last.get("seconds"), last.get("result")
    if text.iso(at) is None or not text.is_number(seconds) or not isinstance(result, str):
        return None
    return {"at": at, "seconds": seconds, "result": result}


def _left_out(record: dict) -> dict[str, str]:
    left_out = record.get("left_out")
    if not isinstance(left_out, dict):
        return {}
    return {path: reason for path, reason in left_out.items() if isinstance(reason, str)}


def _report(findings: _Findings) -> dict:
    """What `--json` prints; its keys are a contract."""
    state, archive, last = findings.state, findings.image, findings.last
    return {
        "active": state["active"],
        "reason": findings.reason,
        "python": state["python"],
        "prefix": state["prefix"],
        "cache_dir": state["folder"],
        "image": archive
        and {
            "path": state["image"],
            "bytes": archive["bytes"],
            "modules": archive["modules"],
            "encoding": archive["encoding"],
            "built": text.iso(archive["built"]),
        },
        "pending_misses": findings.pending,
        "last_rebuild": last and {**last, "at": text.iso(last["at"])},
    }


def _lines(findings: _Findings) -> list[str]:
    """The form for people: a headline, then one labelled line a subject."""
    state, left_out = findings.state, findings.left_out
    lines = [f"pycds-auto {__version__} is {text.printable(_headline(findings))}"]

    def say(label: str, value: str) -> None:
        lines.append(f"  {label:<13} {text.printable(value)}")

    say("Python", state["python"] or "unknown")
    say("environment", state["prefix"])
    say("cache folder", state["folder"] or "none (PYCDS_CACHE_DIR can name one)")
    say("archive", _archive_line(findings))
    say("waiting", _waiting_line(findings))
    say("last rebuild", _rebuild_line(findings.last))
    if state["validate"] == "trust":
        say("validation", "off (PYCDS_VALIDATE=trust): a changed file isn't noticed")
    if state["unknown_validate"]:
        say("validation", f"PYCDS_VALIDATE={state['unknown_validate']} means nothing; it is stat or trust")
    if state["skip"]:
        say("skipped", _skipped_line(state["skip"]))
    if left_out:
        refused = sum(reason.startswith(NOT_ENCODED) for reason in left_out.values())
        told = f", {refused:,} of them not encoded" if refused else ""
        say("left out", f"{text.count(len(left_out), 'module')}, imported the ordinary way{told}")
        for path, reason in list(left_out.items())[:LEFT_OUT_SHOWN]:
            say("", f"{path}: {reason}")
        if len(left_out) > LEFT_OUT_SHOWN:
            say("", f"and {len(left_out) - LEFT_OUT_SHOWN:,} more")
    if state["active"] or state["recording"]:
        lines.append("To switch it off for one run, set PYCDS_DISABLE=1.")
    return lines


def _headline(findings: _Findings) -> str:
    state, reason = findings.state, findings.reason
    if state["active"]:
        if state["bypassed"]:
            return f"active, but this process left imports to plain Python: {state['bypassed']}"
        return "active: imports come from the archive"
    if reason == NO_IMAGE and findings.image is not None:
        return "active from the next start on: the archive was made just now"
    if reason == NO_IMAGE and state["recording"]:
        if findings.last and findings.last["result"].startswith("failed"):
            return "not active: no archive yet, since the last rebuild failed (see below); it is tried again"
        return "ready: what programs import is noted, and archived in the background (or now, by `build`)"
    if reason and reason.startswith("archive") and state["recording"]:
        reason += "; it will be made anew, in the background or now by `build`"
    return f"not active: {reason}"


def _skipped_line(names: str) -> str:
    """What PYCDS_SKIP leaves out, and what in it means nothing."""
    named = names.replace(",", " ").split()
    known = [name for name in ACCELERATIONS if name in named]
    unknown = sorted(set(named).difference(ACCELERATIONS))
    line = f"{', '.join(known) or 'nothing'} (PYCDS_SKIP)"
    if unknown:
        line += f"; {', '.join(unknown)} in it means nothing: there are {', '.join(ACCELERATIONS)}"
    return line


def _archive_line(findings: _Findings) -> str:
    archive = findings.image
    if archive is None:
        told_by_the_headline = not findings.state["active"] and findings.reason.startswith(findings.doubt)
        return "none" if told_by_the_headline else f"none: {findings.doubt}"
    counts = [text.count(archive[f"{noun}s"], noun) for noun in ("module", "pattern", "source")]
    if findings.changed:
        counts[0] += (
            f" ({findings.changed:,} of them changed since, and imported the ordinary way until they are renewed)"
        )
    figures = ", ".join([*counts, text.size(archive["bytes"]), f"{archive['encoding']} encoding"])
    if archive["encoding"] == "marshal" and (reason := _loader.native_reason()):
        figures += f" (not native: {reason})"
    return f"{figures}, built {text.when(archive['built'])}"


def _waiting_line(findings: _Findings) -> str:
    line = "nothing"
    if findings.pending:
        line = f"{text.count(findings.pending, 'module')} to be added by a coming run, or now by `build`"
    reason = findings.state["record_reason"]
    return f"{line}; not recording: {reason}" if reason else line


def _rebuild_line(last: dict | None) -> str:
    if last is None:
        return "none yet"
    return f"{text.when(last['at'])}, {last['result']}, took {text.duration(last['seconds'])}"
