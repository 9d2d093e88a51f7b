"""The interpreter under test: what it is, and the environments it is run in."""

import json
import os
import subprocess
from typing import Any, NamedTuple

from benchmarks.errors import TargetError
from benchmarks.programs import STATEMENTS

# Runs in the target. Debian's and Ubuntu's builds are profile-guided without saying so in their build variables, and
# say that libpython is shared, which their executable doesn't use.
INTERROGATE = """
import importlib.util, json, platform, sys, sysconfig
from importlib.metadata import version

def mentions(words):
    variables = ["CONFIG_ARGS", "PY_CFLAGS_NODIST", "DEF_MAKE_ALL_RULE"]
    text = " ".join(str(sysconfig.get_config_var(name)) for name in variables)
    return any(word in text for word in words)

debian = "deb_system" in sysconfig.get_scheme_names()
present = importlib.util.find_spec("pycds_auto") is not None
json.dump({
    "version": platform.python_version(),
    "implementation": platform.python_implementation(),
    "bits": sys.maxsize.bit_length() + 1,
    "executable": sys.executable,
    "prefix": sys.prefix,
    "base_prefix": sys.base_prefix,
    "site_packages": sysconfig.get_path("platlib"),
    "pgo": "yes (as Debian builds)" if debian else
        "yes" if mentions(["--enable-optimizations", "-fprofile-use", "profile-opt"]) else "no",
    "debug": hasattr(sys, "gettotalrefcount"),
    "shared": "/libpython" in open("/proc/self/maps").read(),
    "pycds": version("pycds-auto") if present else None,
    "missing": [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None],
}, sys.stdout)
"""

# Runs in the target: the pycs of the modules whose code is in an image, or would be there if they were compiled.
LIST_PYCS = """
import importlib.util, json, sys
from pycds_auto import _loader, image
modules = image.read(sys.argv[1], _loader.state()["identity"]).modules
sources = [path for path, module in modules.items() if not module.flags & image.LEFT_OUT]
json.dump([importlib.util.cache_from_source(path) for path in sources], sys.stdout)
"""


class Target(NamedTuple):
    """An interpreter, by its path, and what it says of itself."""

    python: str
    version: str
    implementation: str
    bits: int
    executable: str
    prefix: str
    base_prefix: str
    site_packages: str
    pgo: str
    debug: bool
    shared: bool
    pycds: str | None  # version of pycds-auto, None if it isn't installed
    missing: list[str]  # benchmark packages it hasn't got


class Setting(NamedTuple):
    """What both sides of a comparison share: interpreter, cache folder, further environment.

    control: "pycds" is plain too, so that ratios show the machine's noise.
    """

    target: Target
    cache: str
    extra: dict[str, str]
    control: bool

    def plain(self) -> dict[str, str]:
        """The environment of the plain side."""
        return clean_environment() | self.extra | {"PYCDS_CACHE_DIR": self.cache, "PYCDS_DISABLE": "1"}

    def pycds(self) -> dict[str, str]:
        """The environment of the other side."""
        if self.control:
            return self.plain()
        return clean_environment() | self.extra | {"PYCDS_CACHE_DIR": self.cache}


def clean_environment() -> dict[str, str]:
    """This process's environment without what would steer Python or pycds-auto (such as PYTHONDONTWRITEBYTECODE)."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYCDS"))}


def interrogate(python: str) -> Target:
    """Ask an interpreter what it is."""
    environment = clean_environment() | {"PYCDS_DISABLE": "1"}
    command = [python, "-c", INTERROGATE, *STATEMENTS]
    try:
        answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    except OSError as error:
        raise TargetError(f"{python}: {error.strerror}") from None
    if answer.returncode != 0:
        raise TargetError(f"{python}: {(answer.stderr.strip() or 'no answer').splitlines()[-1]}")
    return Target(python=python, **json.loads(answer.stdout))


def status(setting: Setting) -> dict[str, Any]:
    """What `python -m pycds_auto status --json` says; asked read-only, so that asking leaves nothing to fold."""
    answer: dict[str, Any] = json.loads(ask(setting, True, "-m", "pycds_auto", "status", "--json"))
    return answer


def build(setting: Setting) -> None:
    """Fold everything recorded into the image, in the foreground."""
    ask(setting, False, "-m", "pycds_auto", "build")


def pycs_of_image(setting: Setting, image: str) -> list[str]:
    """Where the pycs of the modules in an image belong."""
    answer: list[str] = json.loads(ask(setting, True, "-c", LIST_PYCS, image))
    return answer


def ask(setting: Setting, readonly: bool, *arguments: str) -> str:
    """The output of the target run with these arguments, with pycds-auto; raises TargetError if it fails."""
    environment = setting.pycds() | ({"PYCDS_READONLY": "1"} if readonly else {})
    answer = subprocess.run([setting.target.python, *arguments], env=environment, capture_output=True, text=True)
    if answer.returncode != 0:
        said = (answer.stderr.strip() or answer.stdout.strip() or "nothing said").splitlines()[-1]
        raise TargetError(f"{' '.join(arguments[1:])[-60:].strip()}: exit status {answer.returncode}: {said}")
    return answer.stdout
