"""What pyproject.toml cannot say: the extension, and the start-up files at the root of site-packages."""

import ast
import base64
import csv
import hashlib
import io
import os
import sys
import zipfile
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

# From 3.15 on site reads .start files (PEP 829), and import lines of .pth files up to 3.17, unless there is a .start file of
# that name. For .start files it imports pkgutil, re, enum and others itself (site.StartupState._execute_start_entrypoints,
# 3.15.2), which would break promises: programs with an enum.py or keyword.py of their own would get the library's, starts with
# another `re` in PYTHONPATH would fail, site would complain while pip replaces us, all that with PYCDS_DISABLE=1, too, and each
# start would take 3 to 8 ms longer. So, for as long as import lines are run, we come by the import line.
START_FILES = ["pycds_auto.pth", "pycds_auto.start"]
if (3, 15) <= sys.version_info < (3, 18):
    START_FILES.remove("pycds_auto.start")
SOURCE_FOLDER = Path(__file__).resolve().parent / "src"


def _for_folder(start_file: str, folder: str) -> str:
    """The start-up file with the folder of the package in place of site's variable `sitedir`."""
    head, call, code = start_file.rstrip().partition("exec(")
    if not call:
        return start_file
    return f"{head}exec({ascii(ast.literal_eval(code[:-1]).replace('sitedir', ascii(folder)))})\n"


class BuildWithStartFiles(build_py):
    """Puts the start-up files beside the package, so that wheels have them at the root of site-packages."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in START_FILES:
                self.copy_file(name, os.path.join(self.build_lib, name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        own = [] if self.editable_mode else [os.path.join(self.build_lib, name) for name in START_FILES]
        return [*super().get_outputs(include_bytecode), *own]

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *START_FILES]


class EditableWheelWithStartFiles(editable_wheel):
    """Puts the start-up files into the wheel of an editable install, and into its RECORD, so that uninstalling
    removes them. There the package is not beside them: the .pth file gets the source folder's name."""

    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("*editable*.whl"):
            self._add_start_files(wheel)

    @staticmethod
    def _add_start_files(wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            members = {item.filename: archive.read(item) for item in archive.infolist()}
        for name in START_FILES:
            members[name] = _for_folder(Path(name).read_text(encoding="utf-8"), str(SOURCE_FOLDER)).encode()
        record_name = next(name for name in members if name.endswith(".dist-info/RECORD"))
        rows = [row for row in csv.reader(io.StringIO(members.pop(record_name).decode())) if row[0] not in START_FILES]
        for name in START_FILES:
            digest = base64.urlsafe_b64encode(hashlib.sha256(members[name]).digest()).rstrip(b"=").decode()
            rows.insert(0, [name, f"sha256={digest}", str(len(members[name]))])
        record = io.StringIO()
        csv.writer(record, lineterminator="\n").writerows(rows)
        members[record_name] = record.getvalue().encode()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)


# _FILE_OFFSET_BITS: pyconfig.h sets it, but not all our files include that, and the fields of `struct stat` depend on it.
compile_flags = [
    "-std=c11",
    "-D_GNU_SOURCE=1",
    "-D_FILE_OFFSET_BITS=64",
    "-O2",
    "-Wall",
    "-Wextra",
    "-fvisibility=hidden",
]
if os.environ.get("PYCDS_WERROR"):
    compile_flags.append("-Werror")

setup(
    ext_modules=[
        Extension(
            "pycds_auto._loader",
            sources=sorted(glob("csrc/*.c")),
            depends=sorted(glob("csrc/*.h")),
            extra_compile_args=compile_flags,
            # Half the segments to map: a quarter of what loading the extension costs every start.
            extra_link_args=["-Wl,-z,noseparate-code"] if sys.platform == "linux" else [],
            libraries=["dl"] if sys.platform == "linux" else [],
        )
    ],
    cmdclass={"build_py": BuildWithStartFiles, "editable_wheel": EditableWheelWithStartFiles},
)
