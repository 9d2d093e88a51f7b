"""What changes after the archive was built, and what programs do to the import system: plain Python is the measure.

A variant is a tree of files, a program that imports from it, and a change. For each interpreter all trees are made
once, aged (what is younger than two seconds is not archived), recorded by running their programs and built into one
archive. Each test then proves that the archive serves its variant, makes the change, and compares what the program
prints with what plain Python prints for exactly the same tree.

A variant's tree:  app/main.py, the program (so app is sys.path[0]); first and second, the entries of PYTHONPATH.
"""

import os
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import pytest

from support import OLD, PROBE, Observed, Result, User, Venv, age, age_folders, environment, run, same, write

MODULE = "VALUE = 1\ndef function():\n    raise RuntimeError(VALUE)\n"
CHANGED = MODULE.replace("1", "2")  # of the same length
OTHER = MODULE.replace("1", "3")

PRELUDE = """\
import importlib, importlib.machinery, importlib.util, os, sys
from probe import attempt, describe, failure, show
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AFTER = os.environ["PHASE"] == "after"
def path(*names):
    return os.path.join(ROOT, *names)
def write(name, text):
    with open(path(name), "w") as file:
        file.write(text)
"""


@dataclass
class Variant:
    name: str
    change: Callable[[Path], None]
    files: dict[str, str]
    program: str
    served: tuple[str, ...]  # modules that the archive must serve before the change
    paths: tuple[str, ...]  # PYTHONPATH
    paths_after: tuple[str, ...]
    prepare: Callable[[Path], None] | None


VARIANTS: dict[str, Variant] = {}


def variant(
    *files: str,
    program: str = "",
    served: str | None = None,
    paths: str = "first second",
    paths_after: str | None = None,
    prepare: Callable[[Path], None] | None = None,
    **texts: str,
) -> Callable:
    """Declare a variant; the function decorated is the change. Files get MODULE as text, or that of `texts`, by stem.

    Without a program, the modules are shown; without `served`, the modules are those of the files in first.
    """

    def declare(change: Callable[[Path], None]) -> Callable[[Path], None]:
        contents = {}
        modules = []
        for file in files:
            contents[file] = texts.get(Path(file).stem.strip("_"), MODULE if Path(file).stem != "__init__" else "")
            folder, *rest = Path(file).with_suffix("").parts
            name = ".".join(rest).removesuffix(".__init__")
            if name not in modules:
                modules.append(name)
        name = change.__name__.replace("_", " ")
        assert name not in VARIANTS
        VARIANTS[name] = Variant(
            name=name,
            change=change,
            files=contents,
            program=textwrap.dedent(program).strip() or f"show({', '.join(map(repr, modules))})",
            served=tuple(modules if served is None else served.split()),
            paths=tuple(paths.split()),
            paths_after=tuple((paths if paths_after is None else paths_after).split()),
            prepare=prepare,
        )
        return change

    return declare


def rewrite(path: Path, text: str) -> None:
    """Change a file in place: same inode, its directory untouched."""
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


# Files change


@variant("first/m.py")
def nothing(root: Path) -> None:
    pass


@variant("first/m.py", "first/n.py")
def edited_in_place_with_equal_size(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)


@variant("first/m.py")
def edited_with_equal_size_within_the_same_second(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)
    os.utime(root / "first/m.py", ns=(OLD + 1000, OLD + 1000))  # a pyc knows whole seconds only


@variant("first/m.py")
def edited_to_another_size_with_the_time_restored(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED + "MORE = 4\n")
    os.utime(root / "first/m.py", ns=(OLD, OLD))


@variant("first/m.py")
def touched(root: Path) -> None:
    os.utime(root / "first/m.py")


@variant("first/m.py")
def older_than_before(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)
    os.utime(root / "first/m.py", (1, 1))


@variant("first/m.py")
def replaced_by_rename(root: Path) -> None:
    write(root, {"first/new": CHANGED})
    os.replace(root / "first/new", root / "first/m.py")


@variant("first/m.py")
def replaced_by_a_symlink(root: Path) -> None:
    write(root, {"elsewhere/real.py": CHANGED})
    (root / "first/m.py").unlink()
    (root / "first/m.py").symlink_to("../elsewhere/real.py")


@variant("first/m.py")
def replaced_by_a_broken_symlink(root: Path) -> None:
    (root / "first/m.py").unlink()
    (root / "first/m.py").symlink_to("nowhere.py")


def a_link_to_a_source(root: Path) -> None:
    write(root, {"versions/1.py": MODULE, "versions/2.py": CHANGED + "MORE = 4\n"})
    age(root / "versions")
    (root / "first/m.py").unlink()
    (root / "first/m.py").symlink_to("../versions/1.py")


@variant("first/m.py", "first/n.py", prepare=a_link_to_a_source, served="n")
def symlink_to_a_source_swapped(root: Path) -> None:
    (root / "link").symlink_to("../versions/2.py")
    os.replace(root / "link", root / "first/m.py")


@variant("first/m.py", "first/n.py", prepare=a_link_to_a_source, served="n")
def target_of_a_symlinked_source_deleted(root: Path) -> None:
    (root / "versions/1.py").unlink()


@variant("first/m.py", "first/n.py")
def deleted(root: Path) -> None:
    (root / "first/m.py").unlink()


@variant("first/m.py", "second/m.py")
def deleted_with_another_behind(root: Path) -> None:
    (root / "first/m.py").unlink()


def delete_unseen(path: Path) -> None:
    before = path.parent.stat()
    path.unlink()
    os.utime(path.parent, ns=(before.st_atime_ns, before.st_mtime_ns))


@variant("first/m.py", "first/n.py")
def deleted_and_the_directorys_time_restored(root: Path) -> None:
    delete_unseen(root / "first/m.py")


@variant("first/m.py", "second/m.py")
def deleted_and_time_restored_with_another_behind(root: Path) -> None:
    delete_unseen(root / "first/m.py")


@variant("first/p/__init__.py", "first/p/m.py")
def deleted_from_a_package_and_time_restored(root: Path) -> None:
    delete_unseen(root / "first/p/m.py")


@variant("second/m.py", "first/n.py", served="m n")
def shadowed_and_the_directorys_time_restored(root: Path) -> None:
    before = (root / "first").stat()
    write(root, {"first/m.py": CHANGED})
    os.utime(root / "first", ns=(before.st_atime_ns, before.st_mtime_ns))


@variant("first/m.py")
def source_becomes_a_directory_of_its_name(root: Path) -> None:
    (root / "first/m.py").unlink()
    (root / "first/m.py").mkdir()


@variant("first/m.py", "first/n.py", "first/o.py")
def source_becomes_faulty(root: Path) -> None:
    write(root, {"first/m.py": "VALUE = (\n"})
    (root / "first/n.py").write_bytes(b"# coding: utf-8\nVALUE = '\xff'\n")
    (root / "first/o.py").write_bytes(b"VALUE = 1\0\n")


@variant("first/m.py")
def pycs_deleted(root: Path) -> None:
    shutil.rmtree(root / "first/__pycache__")


@variant("first/m.py")
def pyc_damaged(root: Path) -> None:
    (pyc,) = (root / "first/__pycache__").glob("m.*.pyc")
    pyc.write_bytes(pyc.read_bytes()[:16])
    os.utime(root / "first/m.py")  # so that both read the source


# Something appears


@variant("second/m.py")
def shadowed_by_an_earlier_entry(root: Path) -> None:
    write(root, {"first/m.py": CHANGED})


@variant("second/m.py")
def shadowed_by_the_programs_folder(root: Path) -> None:
    write(root, {"app/m.py": CHANGED})


@variant("second/m.py")
def shadowed_by_a_package(root: Path) -> None:
    write(root, {"first/m/__init__.py": CHANGED})


@variant("second/m.py")
def not_shadowed_by_a_folder_without_init(root: Path) -> None:
    write(root, {"first/m/n.py": CHANGED})


@variant("second/m.py")
def not_shadowed_by_another_case(root: Path) -> None:
    write(root, {"first/M.py": CHANGED})


@variant("first/n.py", program="show('absent', 'n', 'absent')", served="n")
def missing_module_appears(root: Path) -> None:
    write(root, {"first/absent.py": MODULE})


@variant(
    "first/p/__init__.py",
    program="show('p', 'p.extra'); attempt('from p import extra')",
    init="try:\n    from . import extra\n    FOUND = 1\nexcept ImportError as error:\n    FOUND = str(error)\n",
)
def missing_submodule_appears(root: Path) -> None:
    write(root, {"first/p/extra.py": MODULE})


@variant("first/n.py", paths="late first", program="show('m', 'n')", served="n")
def missing_path_entry_appears(root: Path) -> None:
    write(root, {"late/m.py": MODULE, "late/n.py": CHANGED})


@variant("first/p/__init__.py", "first/p/m.py")
def path_entry_vanishes(root: Path) -> None:
    shutil.rmtree(root / "first")


@variant("first/m.py", "second/m.py")
def path_entry_becomes_a_file(root: Path) -> None:
    shutil.rmtree(root / "first")
    write(root, {"first": "not a directory"})


def run_plain(root: Path, code: str, *arguments: str | Path) -> str:
    """The stdout of a snippet that the interpreter under test runs, for what depends on its version."""
    return run(root.parent / "python", "-I", "-c", code, *arguments, env=environment(root, PYCDS_DISABLE="1")).stdout


EXTENSION = """
import glob, os, sysconfig
pattern = os.path.join(sysconfig.get_path("platstdlib"), "lib-dynload", "%s.*.so")
print([file for name in ("_lsprof", "xxlimited", "_queue", "termios") for file in glob.glob(pattern % name)][0])
"""


def put_extension(root: Path, folder: str) -> None:
    """Copies an extension module of the standard library, one that start-up does not import."""
    shutil.copy(run_plain(root, EXTENSION).strip(), root / folder)


# A program that imports whatever module of that kind the folder has or may get.
ANY_EXTENSION = """
for name in ('_lsprof', 'xxlimited', '_queue', 'termios'):
    show('p.' + name)
"""


@variant(
    "first/p/__init__.py",
    "first/p/_lsprof.py",
    "first/p/xxlimited.py",
    program=ANY_EXTENSION,
    served="p p._lsprof p.xxlimited",
)
def extension_module_appears(root: Path) -> None:
    put_extension(root, "first/p")


def with_an_extension(root: Path) -> None:
    put_extension(root, "first/p")


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    program=ANY_EXTENSION + "show('p.m')",
    prepare=with_an_extension,
    served="p p.m",
)
def extension_module_stays(root: Path) -> None:
    pass


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    program=ANY_EXTENSION + "show('p.m')",
    prepare=with_an_extension,
    served="p p.m",
)
def extension_module_vanishes(root: Path) -> None:
    for file in (root / "first/p").glob("*.so"):
        file.unlink()


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    program=ANY_EXTENSION + "show('p.m')",
    prepare=with_an_extension,
    served="p p.m",
)
def extension_module_becomes_a_source(root: Path) -> None:
    for file in (root / "first/p").glob("*.so"):
        write(file.parent, {file.name.split(".")[0] + ".py": CHANGED})
        file.unlink()


COMPILE = """
import sys, py_compile
py_compile.compile(sys.argv[1], sys.argv[2], doraise=True, invalidation_mode=py_compile.PycInvalidationMode[sys.argv[3]])
"""


def compile_to(root: Path, source: str, target: Path, mode: str = "TIMESTAMP") -> None:
    run_plain(root, COMPILE, root / source, target, mode)


@variant("first/m.py")
def sourceless_pyc_appears_beside_the_source(root: Path) -> None:
    write(root, {"other.py": CHANGED})
    compile_to(root, "other.py", root / "first/m.pyc")


@variant("first/m.py")
def sourceless_pyc_replaces_the_source(root: Path) -> None:
    write(root, {"other.py": CHANGED})
    compile_to(root, "other.py", root / "first/m.pyc")
    (root / "first/m.py").unlink()


@variant("second/m.py")
def sourceless_pyc_shadows(root: Path) -> None:
    write(root, {"other.py": CHANGED})
    compile_to(root, "other.py", root / "first/m.pyc")


def cache_file(root: Path, name: str) -> Path:
    (pyc,) = (root / "first/__pycache__").glob(f"{name}.*.pyc")
    return pyc


def unchecked_pyc(root: Path) -> None:
    """A pyc that Python takes whatever the source says, and here it says something else."""
    write(root, {"other.py": OTHER})
    compile_to(root, "other.py", cache_file(root, "m"), "UNCHECKED_HASH")


@variant("first/m.py", "first/n.py", prepare=unchecked_pyc, served="n")
def unchecked_pyc_stays(root: Path) -> None:
    pass


@variant("first/m.py", "first/n.py", prepare=unchecked_pyc, served="n")
def source_of_an_unchecked_pyc_edited(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)


@variant("first/m.py", "first/n.py", prepare=unchecked_pyc, served="n")
def unchecked_pyc_compiled_anew(root: Path) -> None:
    compile_to(root, "first/m.py", cache_file(root, "m"), "UNCHECKED_HASH")


@variant("first/m.py", "first/n.py", prepare=unchecked_pyc, served="n")
def unchecked_pyc_deleted(root: Path) -> None:
    cache_file(root, "m").unlink()


def checked_pyc(root: Path) -> None:
    compile_to(root, "first/m.py", cache_file(root, "m"), "CHECKED_HASH")


@variant("first/m.py", "first/n.py", prepare=checked_pyc, served="n")
def source_of_a_checked_pyc_edited(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)


@variant("first/m.py", "first/n.py", prepare=checked_pyc, served="n")
def source_of_a_checked_pyc_edited_with_time_restored(root: Path) -> None:
    rewrite(root / "first/m.py", CHANGED)
    os.utime(root / "first/m.py", ns=(OLD, OLD))


# Packages and namespaces


@variant("first/m.py", program="show('m', 'm.sub')")
def module_becomes_a_package(root: Path) -> None:
    (root / "first/m.py").unlink()
    write(root, {"first/m/__init__.py": CHANGED, "first/m/sub.py": MODULE})


@variant("first/m.py", program="show('m', 'm.sub')")
def package_appears_beside_its_module(root: Path) -> None:
    write(root, {"first/m/__init__.py": CHANGED, "first/m/sub.py": MODULE})


@variant("first/p/__init__.py", "first/p/sub.py", program="show('p', 'p.sub')")
def package_becomes_a_module(root: Path) -> None:
    shutil.rmtree(root / "first/p")
    write(root, {"first/p.py": CHANGED})


@variant("first/p/__init__.py", "first/p/sub.py", program="show('p', 'p.sub')")
def package_loses_its_init(root: Path) -> None:
    (root / "first/p/__init__.py").unlink()


@variant("first/p/__init__.py", "first/p/sub.py", "second/p.py", program="show('p', 'p.sub')", served="p p.sub")
def package_loses_its_init_before_a_module(root: Path) -> None:
    (root / "first/p/__init__.py").unlink()


@variant("first/p/q/__init__.py", "first/p/q/m.py", "first/p/__init__.py", program="show('p', 'p.q', 'p.q.m')")
def subpackage_becomes_a_module(root: Path) -> None:
    shutil.rmtree(root / "first/p/q")
    write(root, {"first/p/q.py": CHANGED})


@variant("first/p/__init__.py", "first/p/m.py", program="show('p.m')")
def package_replaced_by_another_of_equal_times(root: Path) -> None:
    write(root, {"new/__init__.py": "", "new/m.py": CHANGED})
    age(root / "new")
    os.rename(root / "first/p", root / "old")
    os.rename(root / "new", root / "first/p")


@variant("first/ns/a.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a")
def namespace_portion_appears(root: Path) -> None:
    write(root, {"second/ns/b.py": MODULE})


@variant("second/ns/a.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a")
def namespace_portion_appears_before(root: Path) -> None:
    write(root, {"first/ns/b.py": MODULE, "first/ns/a.py": CHANGED})


@variant("first/ns/a.py", "second/ns/b.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a ns.b")
def namespace_portion_vanishes(root: Path) -> None:
    shutil.rmtree(root / "first/ns")


@variant("first/ns/a.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a")
def module_appears_in_a_namespace(root: Path) -> None:
    write(root, {"first/ns/b.py": MODULE})


@variant("first/ns/a.py", "second/ns/b.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a ns.b")
def init_appears_in_the_first_portion(root: Path) -> None:
    write(root, {"first/ns/__init__.py": CHANGED})


@variant("first/ns/a.py", "second/ns/b.py", program="show('ns', 'ns.a', 'ns.b')", served="ns.a ns.b")
def init_appears_in_the_last_portion(root: Path) -> None:
    write(root, {"second/ns/__init__.py": CHANGED})


@variant("first/ns/a.py", program="show('ns', 'ns.a')", served="ns.a")
def module_appears_beside_a_namespace(root: Path) -> None:
    write(root, {"second/ns.py": CHANGED})


@variant("first/ns/deep/a.py", program="show('ns', 'ns.deep', 'ns.deep.a', 'ns.deep.b')", served="ns.deep.a")
def nested_namespace_portion_appears(root: Path) -> None:
    write(root, {"second/ns/deep/b.py": MODULE})


@variant("first/n.py", program="show('n', 'ns', 'ns.a')", served="n")
def namespace_appears(root: Path) -> None:
    write(root, {"first/ns/a.py": MODULE})


@variant(
    "first/p/__init__.py",
    "first/p/a.py",
    program="show('p', 'p.a', 'p.b')",
    init="__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n",
)
def portion_of_an_extended_path_appears(root: Path) -> None:
    write(root, {"second/p/__init__.py": "", "second/p/b.py": MODULE})


# Directories and links


def copy_with_changes(source: Path, target: Path) -> None:
    """The same tree without pycs, sizes and times included, of which the sources say 2 instead of 1."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file in target.rglob("*.py"):
        file.write_text(file.read_text().replace("1", "2"))
    age(target)


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py")
def directory_swapped_for_a_symlink(root: Path) -> None:
    shutil.copytree(root / "first", root / "real")
    rewrite(root / "real/m.py", CHANGED)
    rewrite(root / "real/p/m.py", CHANGED)
    shutil.rmtree(root / "first")
    (root / "first").symlink_to("real")


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py")
def directory_swapped_for_a_symlink_to_equal_times(root: Path) -> None:
    copy_with_changes(root / "first", root / "real")
    shutil.rmtree(root / "first")
    (root / "first").symlink_to("real")


def releases(root: Path) -> None:
    os.rename(root / "first", root / "release1")
    (root / "first").symlink_to("release1")
    copy_with_changes(root / "release1", root / "release2")
    shutil.copytree(root / "release1", root / "release3")
    rewrite(root / "release3/m.py", OTHER)


def switch(root: Path, release: str) -> None:
    (root / "link").symlink_to(release)
    os.replace(root / "link", root / "first")


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", prepare=releases)
def symlink_swapped(root: Path) -> None:
    switch(root, "release3")


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", prepare=releases)
def symlink_swapped_to_equal_times(root: Path) -> None:
    switch(root, "release2")


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", prepare=releases)
def symlink_swapped_for_its_target(root: Path) -> None:
    (root / "first").unlink()
    os.rename(root / "release1", root / "first")


@variant("first/m.py", paths_after="moved second")
def directory_moved(root: Path) -> None:
    os.rename(root / "first", root / "moved")


def an_alias(root: Path) -> None:
    (root / "alias").symlink_to("first")


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", prepare=an_alias, paths_after="alias first")
def the_same_directory_by_another_name(root: Path) -> None:
    pass


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", paths_after="first/ second/../first//")
def entry_with_a_slash(root: Path) -> None:
    pass


@variant("first/m.py", "first/p/__init__.py", "first/p/m.py", paths_after="second/../first")
def entry_with_dots(root: Path) -> None:
    pass


@variant("first/p/__init__.py", "first/p/m.py")
def package_directory_swapped_for_a_symlink(root: Path) -> None:
    shutil.copytree(root / "first/p", root / "p")
    rewrite(root / "p/m.py", CHANGED)
    shutil.rmtree(root / "first/p")
    (root / "first/p").symlink_to("../p")


def a_link_to_a_package(root: Path) -> None:
    os.rename(root / "first/p", root / "p1")
    shutil.copytree(root / "p1", root / "p2")
    rewrite(root / "p2/m.py", CHANGED)
    (root / "first/p").symlink_to("../p1")


@variant("first/p/__init__.py", "first/p/m.py", "first/n.py", prepare=a_link_to_a_package, served="n")
def symlinked_package_swapped_out_of_sight(root: Path) -> None:
    os.rename(root / "p1", root / "p0")
    os.rename(root / "p2", root / "p1")


@variant("first/p/__init__.py", "first/p/m.py", "first/n.py", prepare=a_link_to_a_package, served="n")
def symlinked_package_loses_its_target(root: Path) -> None:
    shutil.rmtree(root / "p1")


# The program changes sys.path


@variant("first/m.py", "second/m.py", paths_after="second first", program="show('m')", served="m")
def order_of_the_path_changed(root: Path) -> None:
    pass


@variant("first/m.py", "second/m.py", program="if AFTER: sys.path.reverse()\nshow('m')", served="m")
def path_reversed_by_the_program(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    "third/m.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.path.insert(0, path('third'))
    show('m')
""",
)
def path_entry_inserted(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.path.remove(path('first'))
    show('m')
""",
)
def path_entry_removed(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    import pathlib
    if AFTER:
        sys.path[:0] = [None, 1, pathlib.Path(path('second')), os.fsencode(path('second')), '\\udcff']
    show('m', 'n', 'absent')
""",
)
def path_entries_of_other_types(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    if AFTER:
        os.chdir(path('second'))
        sys.path.insert(0, '')
    show('m')
    if AFTER:
        os.chdir(path('third'))
        show('n', 'o')
        os.chdir(path('second'))
        show('o')
""",
)
def current_directory_changes(root: Path) -> None:
    write(root, {"second/m.py": CHANGED, "second/o.py": OTHER, "third/n.py": OTHER})


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    if AFTER:
        sys.path = [entry for entry in sys.path if entry != path('first')] + [path('third')]
    show('m', 'n')
""",
)
def path_replaced(root: Path) -> None:
    write(root, {"third/m.py": CHANGED})


@variant(
    "first/m.py",
    served="m",
    program="""
    import zipfile
    if AFTER:
        archive = path('modules.zip')
        with zipfile.ZipFile(archive, 'w') as file:
            file.writestr('m.py', 'VALUE = 7')
            file.writestr('p/__init__.py', 'VALUE = 8')
        sys.path.insert(0, archive)
    show('m', 'p')
""",
)
def zip_shadows(root: Path) -> None:
    pass


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    "second/more/extra.py",
    served="p p.m",
    program="""
    show('p')
    if AFTER:
        sys.modules['p'].__path__.append(path('second', 'more'))
    show('p.m', 'p.extra')
""",
)
def package_path_extended(root: Path) -> None:
    pass


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    served="p p.m",
    program="""
    show('p')
    if AFTER:
        sys.modules['p'].__path__ = path('first', 'p')
    show('p.m', 'p.absent')
    sys.modules['p'].__path__ = [path('second')]
    show('p.n')
    sys.modules['p'].__path__ = ()
    show('p.n')
    del sys.modules['p'].__path__
    show('p.o')
""",
)
def package_path_is_a_string(root: Path) -> None:
    pass


@variant(
    "first/ns/a.py",
    "second/ns/b.py",
    served="ns.a ns.b",
    program="""
    show('ns', 'ns.a')
    if AFTER:
        sys.path.remove(path('second'))
    show('ns.b', 'ns')
    if AFTER:
        sys.path.append(path('third'))
    show('ns.c', 'ns')
""",
)
def namespace_follows_the_path(root: Path) -> None:
    write(root, {"third/ns/c.py": MODULE})


# The program changes the import system

SYNTHETIC = """
import types
class Finder:
    def __init__(self, *names):
        self.names = names
    def find_spec(self, name, path=None, target=None):
        if name in self.names:
            return importlib.util.spec_from_loader(name, Loader(), origin='synthetic')
    def __repr__(self):
        return 'Finder'
class Loader:
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        module.VALUE = 'synthetic'
"""


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program=SYNTHETIC
    + """
def hook(entry):
    if entry == path('first'):
        return Finder('m')
    raise ImportError
show('n')
if AFTER:
    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
show('m', 'absent')
""",
)
def path_hook_inserted(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    "second/o.py",
    served="m n o",
    program=SYNTHETIC
    + """
def hook(entry):
    if not entry.startswith(ROOT):
        raise ImportError
    print('hook asked for', os.path.basename(entry))
    return Finder('m', 'o')
show('n')
if AFTER:
    sys.path_hooks.insert(0, hook)
show('m', 'o', 'absent')
""",
)
def path_hook_inserted_after_entries_were_searched(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.path_hooks.clear()
    show('m')
    sys.path_importer_cache.clear()
    show('o')
""",
)
def path_hooks_emptied(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program=SYNTHETIC
    + """
show('n')
if AFTER:
    sys.path_importer_cache[path('first')] = Finder('m')
show('m')
""",
)
def finder_of_an_entry_replaced(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    "second/m.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.path_importer_cache[path('first')] = None
    show('m', 'absent')
""",
)
def finder_of_an_entry_removed(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program=SYNTHETIC
    + """
show('n')
if AFTER:
    sys.meta_path.insert(0, Finder('m', 'absent'))
show('m', 'absent')
""",
)
def finder_inserted_first(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="n",
    program=SYNTHETIC
    + """
show('n')
if AFTER:
    sys.meta_path.insert(sys.meta_path.index(importlib.machinery.PathFinder), Finder('m', 'absent'))
show('absent')
""",
)
def finder_inserted_before_the_path_finder(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program=SYNTHETIC
    + """
show('n')
if AFTER:
    sys.meta_path.append(Finder('m', 'absent'))
show('m', 'absent')
""",
)
def finder_appended(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.meta_path.remove(importlib.machinery.PathFinder)
    show('m')
""",
)
def path_finder_removed(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.meta_path = [finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder]
    show('m')
""",
)
def meta_path_replaced_without_the_path_finder(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        sys.meta_path.clear()
    show('m')
""",
)
def meta_path_emptied(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program=SYNTHETIC
    + """
class Faulty:
    def find_spec(self, name, path=None, target=None):
        if name == 'm':
            raise ZeroDivisionError(name)
show('n')
if AFTER:
    sys.meta_path.insert(0, Faulty())
show('m', 'absent')
""",
)
def faulty_finder_inserted(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('n')
    if AFTER:
        original = importlib.machinery.PathFinder.find_spec
        def find_spec(name, path=None, target=None):
            print('path finder asked for', name)
            return original(name, path, target)
        importlib.machinery.PathFinder.find_spec = find_spec
    show('m', 'absent')
""",
)
def path_finder_patched(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "second/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        original = importlib.machinery.FileFinder.find_spec
        def find_spec(self, name, target=None):
            if self.path.startswith(ROOT):
                print('file finder of', os.path.basename(self.path), 'asked for', name)
            return original(self, name, target)
        importlib.machinery.FileFinder.find_spec = find_spec
    show('n', 'absent')
""",
)
def file_finder_patched(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        original = importlib.machinery.SourceFileLoader.get_code
        def get_code(self, name):
            print('loader asked for', name)
            return original(self, name)
        importlib.machinery.SourceFileLoader.get_code = get_code
    show('n')
""",
)
def source_loader_patched(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        original = importlib.machinery.SourceFileLoader.exec_module
        def exec_module(self, module):
            print('loader runs', module.__name__)
            original(self, module)
            module.PATCHED = True
        importlib.machinery.SourceFileLoader.exec_module = exec_module
    show('n')
""",
)
def execution_patched(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    import builtins
    show('m')
    if AFTER:
        original = builtins.__import__
        def traced(name, globals=None, locals=None, fromlist=(), level=0):
            if name in ('n', 'absent'):  # opening a file imports io, which an archive saves
                print('__import__', name, level, fromlist)
            return original(name, globals, locals, fromlist, level)
        builtins.__import__ = traced
    show('n', 'absent')
""",
)
def import_function_replaced(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        sys.modules['n'] = None
    show('n')
""",
)
def module_forbidden(root: Path) -> None:
    pass


# Files change while the program runs


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    if AFTER:
        write('first/new.py', 'VALUE = 9')
    show('new')
""",
)
def module_written_by_the_program(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m', 'new')
    if AFTER:
        write('first/new.py', 'VALUE = 9')
        importlib.invalidate_caches()
    show('new')
""",
)
def module_written_by_the_program_and_caches_invalidated(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    if AFTER:
        before = os.stat(path('first'))
        write('first/new.py', 'VALUE = 9')
        os.utime(path('first'), ns=(before.st_atime_ns, before.st_mtime_ns))
    show('new')
""",
)
def module_written_and_the_directorys_time_restored(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    if AFTER:
        before = os.stat(path('first'))
        write('first/new.py', 'VALUE = 9')
        os.utime(path('first'), ns=(before.st_atime_ns, before.st_mtime_ns))
        importlib.invalidate_caches()
    show('new')
""",
)
def module_written_time_restored_and_caches_invalidated(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    if AFTER:
        sys.path.insert(0, path('late'))
        show('new')
        os.mkdir(path('late'))
        write('late/new.py', 'VALUE = 9')
    show('new')
    importlib.invalidate_caches()
    show('new')
""",
)
def path_entry_created_by_the_program(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        os.unlink(path('first', 'n.py'))
    show('n')
""",
)
def module_deleted_by_the_program(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    show('m')
    if AFTER:
        write('first/n.py', 'VALUE = 9')
    show('n')
""",
)
def module_edited_by_the_program(root: Path) -> None:
    pass


BODY = """\
import os
if os.environ["PHASE"] == "after":
    with open(os.path.join(os.path.dirname(os.path.dirname(__file__)), "app", "n.py"), "w") as file:
        file.write("VALUE = 'shadow'")
import n
VALUE = n.VALUE
"""


@variant("first/m.py", "second/n.py", served="m n", m=BODY)
def body_writes_a_shadowing_module(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    first = sys.modules['m'].__spec__.loader
    if AFTER:
        write('first/m.py', 'VALUE = 9')
    importlib.reload(sys.modules['m'])
    show('m')
    importlib.reload(sys.modules['m'])
    show('m')
""",
)
def reloaded_after_an_edit(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    show('m')
    importlib.reload(sys.modules['m'])
    show('m')
    del sys.modules['m']
    show('m')
    sys.modules['m'].function.__code__ is None
    attempt('import m; m.function()')
""",
)
def reloaded_without_a_change(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    spec = importlib.util.find_spec('m')
    if AFTER:
        write('first/m.py', 'VALUE = 9')
    module = importlib.util.module_from_spec(spec)
    sys.modules['m'] = module
    spec.loader.exec_module(module)
    describe(module)
""",
)
def edited_between_finding_and_executing(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    served="m",
    program="""
    spec = importlib.util.find_spec('m')
    if AFTER:
        os.unlink(path('first', 'm.py'))
    module = importlib.util.module_from_spec(spec)
    sys.modules['m'] = module
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        print(error)
    describe(module)
""",
)
def deleted_between_finding_and_executing(root: Path) -> None:
    pass


# No change at all: what programs see of modules and loaders


@variant(
    "first/p/__init__.py",
    "first/p/m.py",
    "first/p/data.txt",
    served="p p.m",
    program="""
    import importlib.resources, inspect, pkgutil, runpy, warnings
    import p.m
    module = p.m
    loader = module.__spec__.loader
    print(loader.get_filename('p.m'), loader.is_package('p.m'), p.__spec__.loader.is_package('p'))
    print(loader.get_source('p.m'))
    print(loader.get_data(path('first', 'p', 'data.txt')))
    print(loader.path_stats(module.__file__))
    print(inspect.getsource(module.function), inspect.getsourcefile(module), inspect.getmodule(module.function))
    code = loader.get_code('p.m')
    print(code.co_filename, code.co_names, code.co_consts[0], [type(c) for c in code.co_consts])
    print(code == compile(loader.get_source('p.m'), loader.path, 'exec', dont_inherit=True))
    print(code == importlib.machinery.SourceFileLoader('p.m', loader.path).get_code('p.m'))
    for wrong in ('other', 'p'):
        try:
            loader.get_code(wrong)
        except ImportError as error:
            print(error, error.name, error.path)
    print(importlib.resources.files('p').joinpath('data.txt').read_text())
    print(sorted(entry.name for entry in loader.get_resource_reader('p.m').files().iterdir()))
    print([info.name for info in pkgutil.iter_modules([path('first')])], [info.name for info in pkgutil.walk_packages(p.__path__, 'p.')])
    print(pkgutil.get_data('p', 'data.txt'))
    print(sorted(name for name in dir(loader) if not name.startswith('_')))
    print(loader == type(loader)('p.m', loader.path), loader == type(loader)('p.n', loader.path))
    print(len({loader, type(loader)('p.m', loader.path)}))
    print(sorted(vars(loader)))
    warnings.simplefilter('ignore')
    print(runpy.run_module('p.m')['VALUE'], sorted(runpy.run_path(module.__file__)))
    lazy = importlib.util.LazyLoader.factory(type(loader))
    again = importlib.util.spec_from_file_location('lazy', module.__file__, loader=lazy('lazy', module.__file__))
    made = importlib.util.module_from_spec(again)
    sys.modules['lazy'] = made
    again.loader.exec_module(made)
    print(made.VALUE, type(made))
""",
)
def loader_protocol(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m",
    n="import m\nm.function()\n",
    program="""
    show('m', 'n')
    attempt('import m; m.function()')
    attempt('import importlib; importlib.import_module("n")')
    attempt('import importlib; importlib.import_module("absent")')
    attempt('import importlib; importlib.import_module("m.absent")')
    attempt('from m import absent')
    attempt('from . import absent')
    attempt('import m.absent')
""",
)
def exceptions(root: Path) -> None:
    pass


@variant(
    "first/a.py",
    "first/b.py",
    "first/c.py",
    "first/d.py",
    served="b d",
    program="show('a', 'b', 'c', 'd'); attempt('import a')",
    a="import b\nfrom b import NAME\nNAME\n",
    b="import c\nNAME = 1\n",
    c="from b import NAME\n",
    d="import sys\nbefore = 'd' in sys.modules\n",
)
def circular_imports(root: Path) -> None:
    pass


@variant(
    "first/swap.py",
    "first/again.py",
    "first/gone.py",
    "first/native.py",
    "first/native/__init__.py",
    served="native",
    program="""
        import swap
        print(type(swap), swap.VALUE, swap is sys.modules['swap'])
        show('again', 'gone', 'native')
    """,
    swap="import sys\nclass Swap:\n    VALUE = 5\n    __spec__ = __spec__\nsys.modules[__name__] = Swap()\n",
    again="import sys\nCOUNT = globals().get('COUNT', 0) + 1\nif COUNT == 1 and 'seen' not in sys.__dict__:\n    sys.seen = 1\n    del sys.modules['again']\n    import again\n    sys.modules['again'] = again\n",
    gone="import sys\ndel sys.modules[__name__]\n",
)
def modules_that_replace_themselves(root: Path) -> None:
    pass


@variant(
    "first/dé/é.py",
    "first/dé/päck/__init__.py",
    "first/dé/päck/süb.py",
    *(f"first/dé/m{number}.py" for number in range(30)),  # shared keys get their final size by so many instances
    served="",
    program="""
    sys.path.insert(0, path("first", "dé"))
    import é, päck.süb
    modules = [é, päck, päck.süb, *(importlib.import_module(f"m{number}") for number in range(30))]
    size = sys.getsizeof
    for module in modules:
        spec, loader = module.__spec__, module.__loader__
        print(size(vars(loader)), size(vars(spec)), [size(value) for value in (
            loader.path, loader.name, spec.name, spec.origin, spec.cached, module.__file__, module.__name__,
            *module.__dict__.get("__path__", ()))])
    print([size(entry) for entry in sys.path], [size(entry) for entry in sys.path_importer_cache])
""",
)
def sizes(root: Path) -> None:
    pass


@variant(
    "first/é.py",
    "first/ﬁ.py",
    "first/with-dash.py",
    served="é",
    program="""
    show('é', 'ﬁ')
    for name in ('with-dash', 'é', 'e\\u0301', '', '.', 'a..b', 'é.', '\\udcff', 'a/b', 'm\\0'):
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(ascii(name), type(error), ascii(str(error)))
        else:
            print(ascii(name), 'imported')
""",
)
def names_of_all_kinds(root: Path) -> None:
    pass


@variant(
    "first/m.py",
    "first/n.py",
    served="m n",
    program="""
    for name in ('m', 'n', 'absent', 'm.absent'):
        try:
            print(name, importlib.util.find_spec(name) is not None)
        except ImportError as error:
            print(name, type(error), error)
    print([name for name in sys.modules if name in ('m', 'n')])
    show('n', 'm')
    print([name for name in sys.modules if name in ('m', 'n')])
    before = set(sys.modules)
    attempt('import absent')
    print(set(sys.modules) - before)
    print(importlib.machinery.PathFinder.find_spec('m').name)
""",
)
def specs(root: Path) -> None:
    pass


# The machinery


class Trees:
    """All variants for one interpreter: recorded, built, and then changed one by one."""

    def __init__(self, venv: Venv, root: Path) -> None:
        home = root / "home"
        home.mkdir(parents=True)
        self.user = User(venv.python, home, {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"})
        self.support = root / "support"
        write(self.support, {"probe.py": PROBE.read_text()})
        self.root = root
        self.changed: dict[str, bool] = {}
        (root / "python").symlink_to(venv.python)
        age(self.support)
        for variant in VARIANTS.values():
            write(self.tree(variant), variant.files | {"app/main.py": PRELUDE + variant.program + "\n"})
            for folder in ("first", "second"):
                (self.tree(variant) / folder).mkdir(exist_ok=True)
            age(self.tree(variant))
        # the pycs that plain Python would have written
        run_plain(home, "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=2)", root)
        for variant in VARIANTS.values():
            self.prepare(variant)
        for variant in VARIANTS.values():
            self.run(variant, "before")
        self.user.build()

    def tree(self, variant: Variant) -> Path:
        return self.root / variant.name.replace(" ", "-")

    def prepare(self, variant: Variant) -> None:
        tree = self.tree(variant)
        if variant.prepare:
            variant.prepare(tree)
        for path in tree.rglob("*"):
            if path.is_symlink():
                os.utime(path, ns=(OLD, OLD), follow_symlinks=False)
        age_folders(tree)

    def arguments(self, variant: Variant, phase: str) -> tuple[Path, dict[str, str]]:
        tree = self.tree(variant)
        entries = variant.paths if phase == "before" else variant.paths_after
        path = os.pathsep.join(f"{tree}/{entry}" for entry in entries)
        return tree / "app/main.py", {"PHASE": phase, "PYTHONPATH": f"{path}{os.pathsep}{self.support}"}

    def run(self, variant: Variant, phase: str, **keywords) -> Result:
        program, env = self.arguments(variant, phase)
        return self.user.run(program, env=env, **keywords)

    def observe(self, variant: Variant, phase: str, **keywords) -> Observed:
        program, env = self.arguments(variant, phase)
        return self.user.observe(program, env=env, **keywords)

    def change(self, variant: Variant) -> bool:
        """Make the change, once; does it leave anything in the tree that the archive would have to learn?"""
        if variant.name not in self.changed:
            before = self.contents(variant)
            variant.change(self.tree(variant))
            self.changed[variant.name] = before != self.contents(variant)
        return self.changed[variant.name]

    def contents(self, variant: Variant) -> list[tuple]:
        paths = [(path, path.lstat()) for path in sorted(self.tree(variant).rglob("*"))]
        return [(str(path), status.st_ino, status.st_size, status.st_mtime_ns) for path, status in paths]

    def compare(self, variant: Variant) -> None:
        """The archive's run first, on the very directories that it knows; then, for plain Python, the tree as before."""
        tree = self.tree(variant)
        kept = tree.with_name(tree.name + ".kept")
        shutil.copytree(tree, kept, symlinks=True)
        archived = self.run(variant, "after", readonly=True, code=None, quiet=False)
        shutil.rmtree(tree)
        shutil.copytree(kept, tree, symlinks=True)
        shutil.rmtree(kept)
        plain = self.run(variant, "after", plain=True, code=None, quiet=False)
        same(archived, plain)


@pytest.fixture(scope="session")
def trees(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(venv, tmp_path_factory.mktemp("trees"))


@pytest.mark.parametrize("name", VARIANTS)
def test_change(trees: Trees, name: str) -> None:
    variant = VARIANTS[name]
    before = trees.observe(variant, "before", readonly=True)
    assert before.active and before.stale == 0
    assert set(variant.served) <= before.served(), "the archive does not serve what is to change"

    trees.change(variant)
    trees.compare(variant)


def test_changed_trees_after_a_rebuild(trees: Trees) -> None:
    """What the changes left is folded into the archive, and again nothing differs."""
    changed = [variant for variant in VARIANTS.values() if trees.change(variant)]
    assert len(changed) > 50
    for variant in changed:
        trees.run(variant, "after")
    trees.user.build()
    for name in (
        "edited in place with equal size",
        "module becomes a package",
        "shadowed by an earlier entry",
        "symlink swapped",
    ):
        observed = trees.observe(VARIANTS[name], "after", readonly=True)
        assert "m" in observed.served() and observed.misses == observed.stale == 0, name
    different = []
    for variant in changed:
        try:
            trees.compare(variant)
        except AssertionError as error:
            different.append(f"{variant.name}: {error}")
    assert not different, "\n\n".join(different)
