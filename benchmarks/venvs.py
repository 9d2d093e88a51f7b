"""Making the venv that is measured: pinned packages and this project."""

import os
import subprocess
import sys

from benchmarks.errors import TargetError
from benchmarks.target import clean_environment

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(REPOSITORY, "benchmarks", "requirements.txt")


def install(python: str, folder: str) -> str:
    """Make or renew a venv of PYTHON in FOLDER and return its python. The project is always installed anew."""
    venv_python = os.path.join(folder, "bin", "python")
    step([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11) and 'pycds-auto needs Python 3.11 or later')"])
    print(f"benchmarks: installing into {folder} (400 MB, some minutes)", file=sys.stderr, flush=True)
    if not os.path.exists(venv_python):
        step([python, "-m", "venv", folder])
    pip = [venv_python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    step([*pip, "-r", REQUIREMENTS])
    step([*pip, "--force-reinstall", "--no-deps", REPOSITORY])
    return venv_python


def step(command: list[str]) -> None:
    """Run one command of the installation."""
    try:
        finished = subprocess.run(command, env=clean_environment() | {"PYCDS_DISABLE": "1"})
    except OSError as error:
        raise TargetError(f"{command[0]}: {error.strerror}") from None
    if finished.returncode != 0:
        raise TargetError(f"failed: {' '.join(command)}")
