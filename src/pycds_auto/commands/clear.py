"""Removes archives and what was recorded for them, and nothing else, whatever lies beside them."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator

from .. import _loader
from ..rebuild import FOLDER_NAME, OWN_FILE
from . import CommandError, text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "lock"
SILENT_WAIT = 1  # seconds
LONGEST_WAIT = 60  # seconds; a rebuild takes less
RETRY = 0.05  # seconds


def run(everything: bool) -> int:
    """Clears the folder of this interpreter and environment, or, with everything, all of the cache's."""
    state = _loader.state()
    if state["readonly"]:
        raise CommandError("PYCDS_READONLY is set: nothing is removed")
    _loader.stop_recording()  # what this process imports would be recorded, and a rebuilder started at its end
    folders = _all_folders(state) if everything else [_own_folder(state)]
    own_spool = state["spool"] if state["made_spool"] else None
    removed = [_clear(folder, own_spool) for folder in folders if _exists(folder)]
    files, size = sum(files for files, _ in removed), sum(size for _, size in removed)
    if files:
        where = folders[0] if len(folders) == 1 else text.count(len(removed), "folder")
        print(f"Removed {text.count(files, 'file')} from {text.printable(where)}: {text.size(size)} freed.")
    else:
        print("There was nothing to clear.")
    return 0


def _own_folder(state: dict) -> str:
    if state["folder"] is None:
        raise CommandError(state["reason"] or "there is no cache folder")
    return state["folder"]


def _all_folders(state: dict) -> list[str]:
    root = state["cache_root"] or _platform_root()
    if root is None:
        raise CommandError(state["reason"] or "there is no cache folder")
    try:
        with os.scandir(root) as entries:
            # A link's target isn't ours to clear.
            return sorted(e.path for e in entries if FOLDER_NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _platform_root() -> str | None:
    """platformdirs' answer, for a platform whose rule csrc/cachedir.c doesn't know; None where there is no home."""
    import platformdirs

    try:
        root = platformdirs.user_cache_dir("pycds-auto")
    except RuntimeError:
        return None
    return root if os.path.isabs(root) else None  # older releases answer "~/.cache" where there is no home


def _exists(folder: str) -> bool:
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise CommandError(f"not a folder: {text.printable(folder)}")
    return True


def _clear(folder: str, own_spool: str | None) -> tuple[int, int]:
    """Removes our files from one folder, and the folder if that leaves it empty; returns how many, and their bytes.
    What this process itself recorded as it started, in a file of its own, doesn't count."""
    files = size = 0
    with _locked(folder):
        for path, length in _our_files(folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
                if path != own_spool:
                    files, size = files + 1, size + length
        # Unlinked while it is held: whoever waits for it finds it gone and makes a new one (filelock looks at
        # st_nlink). Windows can't unlink an open file: there it stays, empty.
        with contextlib.suppress(PermissionError):
            os.unlink(os.path.join(folder, LOCK))
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return files, size


def _our_files(folder: str) -> list[tuple[str, int]]:
    """Path and size of each regular file whose name is one of ours, the lock excepted."""
    with os.scandir(folder) as entries:
        return [
            (entry.path, entry.stat(follow_symlinks=False).st_size)
            for entry in entries
            if OWN_FILE.fullmatch(entry.name) and entry.name != LOCK and entry.is_file(follow_symlinks=False)
        ]


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keeps rebuilders away from a folder: one would write an archive into what is being cleared."""
    import filelock

    lock = filelock.FileLock(os.path.join(folder, LOCK), mode=0o600)
    with _claimable(folder) as descriptor:
        start = time.monotonic()
        told = False
        while not (_claim(descriptor) and _acquire(lock)):
            waited = time.monotonic() - start
            if waited > LONGEST_WAIT:
                raise CommandError(f"a rebuild is still at work in {text.printable(folder)}; nothing was removed there")
            if waited > SILENT_WAIT and not told:
                told = True
                text.complain("waiting for a running rebuild to end")
            time.sleep(RETRY)
        try:
            yield
        finally:
            lock.release()


@contextlib.contextmanager
def _claimable(folder: str) -> Iterator[int | None]:
    """The folder, opened for _claim(); None where folders can't be opened (Windows)."""
    if fcntl is None:
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _claim(descriptor: int | None) -> bool:
    """Takes the claim that a program's end lays on the folder for the rebuilder it starts (csrc/rebuilder.c, claim):
    for its first seconds that one hasn't got the lock yet. False: one was started."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without locks has no claims either
    return True


def _acquire(lock: "filelock.BaseFileLock") -> bool:
    import filelock

    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True
