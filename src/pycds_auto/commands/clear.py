"""Removes archives and what was recorded for them, and nothing else, whatever lies beside them."""

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase

import filelock
import platformdirs

from .. import _loader
from . import CommandError, text

OUR_FILES = ("image-*.pycds", "misses.spool", "misses.folding", "state.json", ".tmp-*")
LOCK = "lock"
OUR_FOLDER = re.compile(r"[A-Za-z][\w.]*(-[\w.]+)*-[0-9a-f]{16}")  # <cache tag>-<hash of interpreter and venv>
SILENT_WAIT = 1  # seconds
LONGEST_WAIT = 60  # seconds; a rebuild takes less


def run(everything: bool) -> int:
    """Clears the folder of this interpreter and environment, or, with everything, all of the cache's."""
    state = _loader.state()
    if state["readonly"]:
        raise CommandError("PYCDS_READONLY is set: nothing is removed")
    folders = _all_folders(state) if everything else [_own_folder(state)]
    removed = [_clear(folder) for folder in folders if _exists(folder)]
    files, size = sum(files for files, _ in removed), sum(size for _, size in removed)
    if files:
        where = folders[0] if len(folders) == 1 else text.count(len(removed), "folder")
        print(f"Removed {text.count(files, 'file')} from {text.printable(where)}: {text.size(size)} freed.")
    else:
        print("There was nothing to clear.")
    return 0


def _own_folder(state: dict) -> str:
    if state["folder"] is None:
        raise CommandError(f"there is no cache folder: {state['reason']}")
    return state["folder"]


def _all_folders(state: dict) -> list[str]:
    root = state["cache_root"] or platformdirs.user_cache_dir("pycds-auto")
    if not os.path.isabs(root):
        raise CommandError("there is no cache folder: no home folder is known, and PYCDS_CACHE_DIR isn't set")
    try:
        with os.scandir(root) as entries:
            # A link's target isn't ours to clear.
            return sorted(e.path for e in entries if OUR_FOLDER.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _exists(folder: str) -> bool:
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        raise CommandError(f"not a folder: {text.printable(folder)}")
    return True


def _clear(folder: str) -> tuple[int, int]:
    """Removes our files from one folder, and the folder if that leaves it empty; returns how many, and their bytes."""
    files = size = 0
    with _locked(os.path.join(folder, LOCK)):
        for path, length in _our_files(folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
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
            if entry.is_file(follow_symlinks=False) and any(fnmatchcase(entry.name, ours) for ours in OUR_FILES)
        ]


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds a folder's lock: a rebuilder would write an archive into what is being cleared."""
    lock = filelock.FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=SILENT_WAIT)
    except filelock.Timeout:
        text.complain("waiting for a running rebuild to end")
        try:
            lock.acquire(timeout=LONGEST_WAIT)
        except filelock.Timeout:
            raise CommandError(f"a rebuild still holds {text.printable(path)}; nothing was removed there") from None
    try:
        yield
    finally:
        lock.release()
