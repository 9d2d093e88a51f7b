"""The rebuilder: folds recorded misses into the image.

It runs detached at low priority when a program ends (``main``, started by ``csrc/rebuilder.c``), or in the foreground
for ``python -m pycds_auto build``. It holds the folder's filelock, gets code through SourceFileLoader.get_code and
never imports what it archives, never writes a pyc. What another optimisation level recorded is folded by a child
interpreter with those options, since code is compiled for the options of the interpreter that compiles it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from . import image, native, patterns, snapshot, sources, spool
from ._loader import checksum, end_with_parent, native_reason

MOST_BYTES = 512 * 1024 * 1024
"""Code beyond this many bytes is not archived."""

MOST_VARIANTS = 3
"""Images of one interpreter and venv (optimisation levels and the like) there are at most. A further variant gets none,
rather than that they drive each other out; only the ordinary one, "0", takes the place of the one written first."""

AGE_NS = 30 * 24 * 3600 * 10**9
"""Modules that nobody used for this long leave the image: a cache that only grows is the complaint about all caches.
Use is noticed without bookkeeping in every run: each time this long has passed, all modules are marked as aged, hits of
aged modules are recorded like misses, and what is still marked when the time has passed again was not used."""

FORGET_SECONDS = 7 * 24 * 3600
"""How long the folder of an environment that is gone stays."""

MOST_DOUBTFUL = 4000
"""Doubtful patterns and source texts (spool.py) that are remembered, as checksums in state.json, until they are seen
again."""

SETTLE_ROUNDS = 3
"""How often the young files are looked at again before they are left for the next rebuild."""

NOT_ENCODED = "not encoded: "
"""How the reason begins for a module that the native encoding can't hold, or that differed when decoded again."""

FOLDER_NAME = re.compile(r"[\w.-]+-[0-9a-f]{16}")
OWN_FILE = re.compile(r"image-\w+\.pycds|misses\.(spool|folding)|lock|state\.json|\.tmp-[\w.-]+")

_BOOT = "import sys; sys.path.append(sys.argv[1]); from pycds_auto.rebuild import main; main()"


class RebuildError(Exception):
    """The image could not be built; the message is for a person."""


class Busy(RebuildError):
    """Another rebuilder is at work."""


class Result(NamedTuple):
    """What a rebuild did: numbers of modules now in the image, added and dropped ones; ``changed``: a new image was
    written to ``path``; ``left_out``: source path -> reason."""

    modules: int
    added: int
    dropped: int
    left_out: dict[str, str]
    seconds: float
    path: str
    changed: bool


class Place(NamedTuple):
    """The folder of an interpreter and venv, and the variant and identity (``_loader.state()``) of one image in it."""

    folder: str
    variant: str
    prefix: str
    identity: str

    @property
    def image_path(self) -> str:
        return os.path.join(self.folder, f"image-{self.variant}.pycds")

    @property
    def state_path(self) -> str:
        return os.path.join(self.folder, "state.json")

    def of_variant(self, variant: str) -> Place:
        """The same for another variant: the last line of an identity is its variant (csrc/module.c)."""
        head, _, _ = self.identity.rpartition("variant=")
        return self._replace(variant=variant, identity=f"{head}variant={variant}\n")


Progress = Callable[[int, int], None]


def rebuild(state: dict, *, wait: bool, settle: bool = True, progress: Progress | None = None) -> Result:
    """Folds all recorded misses of an environment (``_loader.state()``) into its images.

    ``wait``: wait for a running rebuilder, else raise Busy. ``settle``: wait, some seconds at most, until no file
    concerned is younger than two seconds; younger ones are left for another time. ``progress(done, total)`` is called
    for each module looked at. Raises RebuildError with a message for a person.
    """
    if not state["folder"] or not state["identity"]:
        raise RebuildError(state["reason"] or "there is no cache folder")
    place = Place(state["folder"], state["variant"], state["prefix"], state["identity"])
    try:
        os.makedirs(place.folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise RebuildError(f"cannot create the cache folder: {error}") from error
    return _rebuild(place, wait=wait, settle=settle, progress=progress)


def _rebuild(place: Place, *, wait: bool, settle: bool, progress: Progress | None) -> Result:
    started = time.time()
    try:
        import filelock
    except ImportError as error:
        _write_state(place, started, f"failed: {error}", {})
        raise RebuildError(f"filelock is needed, and cannot be imported: {error}") from error
    try:
        lock = filelock.FileLock(os.path.join(place.folder, "lock"), timeout=-1 if wait else 0, mode=0o600)
        with lock:
            return _rebuild_locked(place, started, settle, progress)
    except filelock.Timeout as error:
        raise Busy("another rebuilder is at work") from error
    except OSError as error:
        raise RebuildError(f"cannot write the cache: {error}") from error


def _rebuild_locked(place: Place, started: float, settle: bool, progress: Progress | None) -> Result:
    seen: list[str] = []
    try:
        _remove_temporary(place.folder)
        spool.take(place.folder)
        misses = spool.read(place.folder)
        variants = {miss.variant for miss in misses} - {place.variant}
        seen = _seen_once(place.folder)
        result = fold(place, seen, settle=settle, progress=progress)
        for variant in sorted(variants):
            _fold_elsewhere(place.of_variant(variant))
        spool.drop_taken(place.folder)
        _drop_dead_neighbours(place.folder, place.prefix)
    except OSError as error:
        _remove_temporary(place.folder)
        _write_state(place, started, f"failed: {error}", {}, seen)
        raise
    except RebuildError as error:
        _write_state(place, started, f"failed: {error}", {}, seen)
        raise
    text = f"ok: {result.modules} modules" if result.changed else "nothing to do"
    _write_state(place, started, text, result.left_out, _remember(seen, misses))
    return result._replace(seconds=time.time() - started)


# ---- one image ----


def fold(place: Place, seen: list[str], *, settle: bool, progress: Progress | None = None) -> Result:
    """Makes the image of one variant anew from the old one and the misses put aside; ``seen``: see _seen_once. Needs
    the lock."""
    if not _has_place(place):
        return Result(0, 0, 0, {}, 0.0, place.image_path, False)
    found = _read_old(place)
    misses = spool.read(place.folder, place.variant)
    old = _age(found, {miss.path for miss in misses}, time.time_ns())
    paths = dict.fromkeys([*old.modules, *(miss.path for miss in misses if miss.kind == spool.MODULE)])
    modules, reasons = _collect_modules(old, list(paths), settle, progress)
    modules, encoding = _encode(old, modules, reasons)
    results = _collect_results(old, modules, _keys(misses, seen))
    folders = dict.fromkeys(
        [
            *old.directories,
            *(miss.path.rstrip("/") for miss in misses if miss.kind == spool.DIRECTORY),
            *(os.path.dirname(path) for path in modules),
        ]
    )
    directories = _collect_directories(list(folders), settle)
    # A folder beside a module of its name decides about that name, too (is it a package?).
    beside = (f"{directory.path}/{name}" for directory in directories.values() for name in _doubles(directory))
    directories |= _collect_directories([path for path in beside if path not in directories], settle=False)
    good = [path for path, module in modules.items() if not module.flags & image.LEFT_OUT]
    before = [path for path, module in found.modules.items() if not module.flags & image.LEFT_OUT]
    added = sum(path not in old.modules or not _same_source(modules[path], old.modules[path]) for path in good)
    dropped = sum(path not in modules for path in before)
    changed = (
        found.content == b"" or modules != found.modules or results != found.results or directories != found.directories
    )
    if changed and (good or found.content):
        _write(
            place.image_path,
            image.build(
                place.identity,
                [*modules.values(), *results.values()],
                directories.values(),
                old.aged_ns,
                encoding,
                _full(results),
            ),
        )
    else:
        changed = False
    return Result(len(good), added, dropped, reasons, 0.0, place.image_path, changed)


def _doubles(directory: image.Directory) -> list[str]:
    """Names that are both a folder and a module's file in a directory."""
    return [
        name
        for name, flags in directory.names.items()
        if flags & image.NAME_DIRECTORY and flags != image.NAME_DIRECTORY
    ]


def _read_old(place: Place) -> image.Image:
    try:
        return image.read(place.image_path, place.identity)
    except FileNotFoundError:
        pass
    except (ValueError, OSError):
        pass  # damaged, or of another build of the interpreter: what it held comes back as misses
    return image.Image({}, {}, {}, time.time_ns(), image.Encoding(image.ENCODING_MARSHAL), b"")


def _age(old: image.Image, used: set[str], now_ns: int) -> image.Image:
    """The old image with used modules unmarked, and, if it is time, unused ones dropped and the others marked."""

    def unmarked(all_of_them: dict[str, image.Module]) -> dict[str, image.Module]:
        return {
            path: module._replace(flags=module.flags & ~image.AGED)
            if module.flags & image.AGED and path in used
            else module
            for path, module in all_of_them.items()
        }

    def marked(all_of_them: dict[str, image.Module]) -> dict[str, image.Module]:
        return {
            path: module._replace(flags=module.flags | image.AGED)
            for path, module in all_of_them.items()
            if not module.flags & image.AGED
        }

    modules, results = unmarked(old.modules), unmarked(old.results)
    if 0 <= now_ns - old.aged_ns < AGE_NS:
        return old._replace(modules=modules, results=results)
    return old._replace(modules=marked(modules), results=marked(results), aged_ns=now_ns)


def _collect_modules(
    old: image.Image, paths: list[str], settle: bool, progress: Progress | None
) -> tuple[dict[str, image.Module], dict[str, str]]:
    """The modules of these sources, those that vanished or will not settle left away, and why some are left out."""
    modules: dict[str, image.Module] = {}
    reasons: dict[str, str] = {}
    unsettled: list[str] = paths
    total_bytes = 0
    for last_round in (*[False] * (SETTLE_ROUNDS - 1), True):
        waiting, unsettled = unsettled, []
        for path in waiting:
            try:
                status = os.stat(path)
                known = old.modules.get(path)
                if known and not known.flags & image.LEFT_OUT and snapshot.same_module(known, status):
                    modules[path] = known
                else:
                    modules[path] = snapshot.module(path)
                total_bytes += len(modules[path].payload)
                if total_bytes > MOST_BYTES:
                    raise snapshot.LeaveOut("the archive is full")
            except snapshot.Unsettled:
                unsettled.append(path)
            except snapshot.LeaveOut as reason:
                modules[path] = snapshot.left_out(path, status)
                reasons[path] = str(reason)
            except OSError:
                pass  # gone, or not to be read: so is its record
            if progress is not None:
                progress(len(modules), len(paths))
        if not unsettled or not settle or last_round:
            break
        time.sleep(snapshot.SETTLE_SECONDS)
    return {path: modules[path] for path in paths if path in modules}, reasons


def _keys(misses: list[spool.Miss], seen: list[str]) -> list[str]:
    """The keys of results that were missed, of doubtful ones those that had been seen before."""
    known = set(seen)
    return [
        miss.path
        for miss in misses
        if miss.kind in (spool.PATTERN, spool.SOURCE) or (miss.kind == spool.DOUBTFUL and _mark(miss) in known)
    ]


def _mark(miss: spool.Miss) -> str:
    return f"{checksum(os.fsencode(f'{miss.variant} {miss.path}')):016x}"


def _seen_once(folder: str) -> list[str]:
    """Marks of doubtful results that were seen once, the latest at the end."""
    marks = read_state(folder).get("seen_once")
    return [mark for mark in marks if isinstance(mark, str)] if isinstance(marks, list) else []


def _remember(seen: list[str], misses: list[spool.Miss]) -> list[str]:
    marks = dict.fromkeys(seen)
    for miss in misses:
        if miss.kind == spool.DOUBTFUL:
            marks[_mark(miss)] = None
    return list(marks)[-MOST_DOUBTFUL:]


def _collect_results(old: image.Image, modules: dict[str, image.Module], keys: list[str]) -> dict[str, image.Module]:
    """The regular expressions and source texts of the old image and of these keys, as many as there is room for. The
    former are all made anew if the package that compiles them changed."""
    changed = any(
        path not in old.modules or path not in modules or not _same_source(modules[path], old.modules[path])
        for path in patterns.SOURCES
    )
    results: dict[str, image.Module] = {}
    room, bytes_left = {image.PATTERN: patterns.MOST, image.SOURCE: sources.MOST}, sources.MOST_BYTES
    for key in dict.fromkeys([*old.results, *keys]):
        kind = image.PATTERN if patterns.is_key(key) else image.SOURCE
        if room[kind] == 0:
            continue
        if key in old.results and not (changed and kind == image.PATTERN):
            result = old.results[key]
        else:
            result = patterns.entry(key) if kind == image.PATTERN else sources.entry(key)
        if kind == image.SOURCE:
            bytes_left -= _size(result)
            if bytes_left < 0:
                room[kind] = 0
                continue
        results[key] = result
        room[kind] -= 1
    return results


def _size(result: image.Module) -> int:
    return len(result.path) + len(result.payload)


def _full(results: dict[str, image.Module]) -> int:
    """The kinds of which there is no room for more: a text of the largest size, and its code."""
    kinds = [result.flags & (image.PATTERN | image.SOURCE) for result in results.values()]
    size = sum(map(_size, results.values()))
    is_full = size > sources.MOST_BYTES - 256 * 1024 or kinds.count(image.SOURCE) >= sources.MOST
    return (image.PATTERN if kinds.count(image.PATTERN) >= patterns.MOST else 0) | (image.SOURCE if is_full else 0)


def _same_source(one: image.Module, other: image.Module) -> bool:
    return one._replace(payload=b"") == other._replace(payload=b"")


def _encode(
    old: image.Image, modules: dict[str, image.Module], reasons: dict[str, str]
) -> tuple[dict[str, image.Module], image.Encoding]:
    """The modules with payloads of the best encoding that this interpreter can use; those taken over from the old image
    have its encoding, the others marshal's. What can't be encoded is left out, with the reason in ``reasons``.

    New modules make the shared table grow at its end, so that what is there stays as it is. Entries that nobody needs
    any more, and strings that only new modules have in common, are put right by encoding all anew now and then.
    """
    kind = image.ENCODING_MARSHAL if native_reason() else image.ENCODING_NATIVE
    taken = [path for path, module in modules.items() if _is_taken_over(old, module)]
    came = [path for path, module in modules.items() if module.payload and not _is_taken_over(old, module)]
    table_age = old.encoding.table_age + len(came) + len(old.modules.keys() - modules.keys())
    anew = kind != old.encoding.kind or 2 * table_age > len(modules)
    if taken and anew:
        # Without what is being encoded anew for: its marshal form is in pyc and source.
        again, more_reasons = _collect_modules(old._replace(modules={}), taken, False, None)
        unread = set(taken) - again.keys()  # gone meanwhile
        modules = {
            path: again[path]._replace(flags=again[path].flags | module.flags & image.AGED) if path in again else module
            for path, module in modules.items()
            if path not in unread
        }
        reasons |= more_reasons
        came = [path for path, module in modules.items() if module.payload]
    if kind == image.ENCODING_MARSHAL:
        return modules, image.Encoding(kind)
    table, streams = native.encode([bytes(modules[path].payload) for path in came], b"" if anew else old.encoding.table)
    for path, stream in zip(came, streams):
        if isinstance(stream, str):
            reasons[path] = f"{NOT_ENCODED}{stream}"
            modules[path] = modules[path]._replace(flags=image.LEFT_OUT, payload=b"")
        else:
            modules[path] = modules[path]._replace(payload=stream)
    return modules, image.Encoding(kind, table, 0 if anew else table_age)


def _is_taken_over(old: image.Image, module: image.Module) -> bool:
    known = old.modules.get(module.path)
    return known is module and not module.flags & image.LEFT_OUT


def _collect_directories(paths: list[str], settle: bool) -> dict[str, image.Directory]:
    directories: dict[str, image.Directory] = {}
    unsettled = paths
    for last_round in (False, True):
        waiting, unsettled = unsettled, []
        for path in waiting:
            try:
                directories[path] = snapshot.directory(path)
            except snapshot.Unsettled:
                unsettled.append(path)
            except OSError:
                pass
        if not unsettled or not settle or last_round:
            break
        time.sleep(snapshot.SETTLE_SECONDS)
    return {path: directories[path] for path in paths if path in directories}


def _fold_elsewhere(place: Place) -> None:
    """Folds another variant's misses, in an interpreter with its options. Failing, they will be recorded again."""
    level = {"0": [], "1": ["-O"], "2": ["-OO"]}[place.variant[0]]
    ranges = ["-Xno_debug_ranges"] if place.variant.endswith("n") else []
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    arguments = [parent, place.folder, place.variant, place.prefix, place.identity, "--worker", str(os.getpid())]
    environment = {**os.environ, "PYCDS_DISABLE": "1", "PYCDS_REBUILDER": "1"}
    subprocess.run(
        [sys.executable, "-I", "-S", "-B", *level, *ranges, "-c", _BOOT, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, check=False,
    )  # fmt: skip


# ---- files ----


def _write(path: str, content: bytes) -> None:
    """Replaces a file as a whole; on any failure the old one stays and nothing is left behind."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".tmp-{name}-{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def _write_state(
    place: Place, started: float, result: str, left_out: dict[str, str], seen: list[str] | None = None
) -> None:
    now = time.time()
    state = {
        "last_rebuild": {"at": now, "seconds": round(now - started, 3), "result": result},
        "left_out": left_out,
        "prefix": place.prefix,
        "python": sys.executable,
        "seen_once": _seen_once(place.folder) if seen is None else seen,
    }
    try:
        _write(place.state_path, json.dumps(state, indent=1).encode("utf-8", "surrogateescape"))
    except OSError:
        pass  # a full disk: the image says enough


def read_state(folder: str) -> dict:
    """The rebuilder's report in a folder; {} if there is none or it makes no sense."""
    try:
        state = json.loads(spool.content(os.path.join(folder, "state.json")))
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def _remove_temporary(folder: str) -> None:
    """Removes what killed rebuilders left. Needs the lock."""
    with os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(".tmp-")]
    for path in left:
        try:
            os.unlink(path)
        except OSError:
            pass


def _has_place(place: Place) -> bool:
    """Is there room for the image of this variant? Makes some for the ordinary variant."""
    with os.scandir(place.folder) as entries:
        others = sorted(
            (entry.stat().st_mtime_ns, entry.path)
            for entry in entries
            if entry.name.endswith(".pycds") and entry.path != place.image_path
        )
    if len(others) >= MOST_VARIANTS and place.variant == "0":
        os.unlink(others.pop(0)[1])
    return len(others) < MOST_VARIANTS


def _drop_dead_neighbours(folder: str, own_prefix: str) -> None:
    """Removes folders that nobody else ever would: those of environments that no longer exist, and those of other
    builds of this interpreter. Only after a while: an environment may be out of sight for now (a shared cache, a disk
    that isn't mounted), and the other build may be in use."""
    root = os.path.dirname(folder)
    with os.scandir(root) as entries:
        neighbours = [
            entry.path
            for entry in entries
            if entry.path != folder and FOLDER_NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        ]
    for neighbour in neighbours:
        prefix = read_state(neighbour).get("prefix")
        if isinstance(prefix, str) and os.path.isabs(prefix) and _unwritten_since(neighbour) > FORGET_SECONDS:
            if prefix == own_prefix or not os.path.lexists(prefix):
                remove_folder(neighbour)


def _unwritten_since(folder: str) -> float:
    """Seconds since the rebuilder last wrote its report in a folder."""
    try:
        return time.time() - os.stat(os.path.join(folder, "state.json")).st_mtime
    except OSError:
        return 0.0


def remove_folder(folder: str) -> int:
    """Removes our files in a folder, and the folder if nothing else is in it. Returns the bytes freed."""
    freed = 0
    with os.scandir(folder) as entries:
        own = [entry for entry in entries if OWN_FILE.fullmatch(entry.name)]
    for entry in own:
        try:
            if not entry.is_file(follow_symlinks=False):
                continue  # nothing that we made
            size = entry.stat(follow_symlinks=False).st_size
            os.unlink(entry.path)
            freed += size
        except FileNotFoundError:
            pass
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
    return freed


# ---- the detached process ----


def _add_library_folders(prefix: str) -> None:
    """Puts site-packages at the end of sys.path, without running any .pth file: filelock lies there."""
    import site

    known = set(sys.path)
    for folder in site.getsitepackages([prefix, sys.base_prefix]):
        if folder not in known and os.path.isdir(folder):
            sys.path.append(folder)
    user = site.getusersitepackages()
    if user not in known and os.path.isdir(user):
        sys.path.append(user)


def main() -> None:
    """Entry of the detached process: ``sys.argv[1:]`` is package folder, cache folder, variant, prefix, identity."""
    _, folder, variant, prefix, identity, *worker = sys.argv[1:]
    sys.dont_write_bytecode = True
    os.umask(0o077)  # not the program's, which may leave nothing of a mode
    place = Place(folder, variant, prefix, identity)
    if worker:  # "--worker" and the process that holds the lock: without it, somebody else may be at work
        if end_with_parent(int(worker[1])):
            fold(place, _seen_once(folder), settle=False)
        return
    _add_library_folders(prefix)
    time.sleep(snapshot.SETTLE_SECONDS)  # the program that ended has just made its __pycache__ folders
    if not os.path.isdir(folder):
        return  # cleared meanwhile, or the whole home is gone: it is not for us to bring it back
    try:
        _rebuild(place, wait=False, settle=True, progress=None)
    except RebuildError:
        pass  # written to state.json where that was possible; there is nobody to tell
