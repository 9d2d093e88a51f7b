"""The cache folder, computed in C, is platformdirs' user_cache_dir("pycds-auto")."""

import json
import os
from pathlib import Path

import pytest

from support import REPOSITORY, Venv, run

pytestmark = pytest.mark.one_interpreter

# What differs from an empty environment. HOME and XDG_CACHE_HOME in every shape that platformdirs tells apart.
ENVIRONMENTS = {
    "nothing set": {},
    "home": {"HOME": "/home/ada"},
    "home with a slash": {"HOME": "/home/ada/"},
    "home with slashes": {"HOME": "//home//ada//"},
    "home is the root": {"HOME": "/"},
    "home is the root twice": {"HOME": "//"},
    "home is empty": {"HOME": ""},
    "home is blank": {"HOME": " "},
    "home is relative": {"HOME": "home/ada"},
    "home is a tilde": {"HOME": "~"},
    "home has spaces and accents": {"HOME": "/home/ada löve lace"},
    "xdg": {"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/cache/ada"},
    "xdg with a slash": {"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/cache/ada/"},
    "xdg with slashes": {"HOME": "/home/ada", "XDG_CACHE_HOME": "//var//ada//"},
    "xdg is the root": {"HOME": "/home/ada", "XDG_CACHE_HOME": "/"},
    "xdg is empty": {"HOME": "/home/ada", "XDG_CACHE_HOME": ""},
    "xdg is blank": {"HOME": "/home/ada", "XDG_CACHE_HOME": "  "},
    "xdg begins with a blank": {"HOME": "/home/ada", "XDG_CACHE_HOME": " /var/cache"},
    "xdg ends with a blank": {"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/cache "},
    "xdg is relative": {"HOME": "/home/ada", "XDG_CACHE_HOME": "cache"},
    "xdg is a tilde": {"HOME": "/home/ada", "XDG_CACHE_HOME": "~/cache"},
    "xdg has dots": {"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/../cache/./ada"},
    "xdg without a home": {"XDG_CACHE_HOME": "/var/cache/ada"},
    "xdg relative without a home": {"XDG_CACHE_HOME": "cache"},
    "xdg relative, home relative": {"HOME": "home", "XDG_CACHE_HOME": "cache"},
    "xdg is not utf-8": {"HOME": "/home/ada", "XDG_CACHE_HOME": b"/var/\xff\xfe"},
}

HOMES = ["/home/ada", "/home/ada/", "/", "//", "", "relative", None]

THIS_PROCESS = """
import json, os, platformdirs, pwd
from pycds_auto import _loader
try:
    right = platformdirs.user_cache_dir("pycds-auto")
except RuntimeError:
    right = None
print(json.dumps([
    right,
    _loader.state()["cache_root"],
    _loader.cache_root("linux", dict(os.environ), pwd.getpwuid(os.getuid()).pw_dir),
]))
"""


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_of_a_process(venv: Venv, tmp_path: Path, case: str) -> None:
    """A real process in the real environment: what it uses is what platformdirs answers there."""
    given = {os.fsencode(key): os.fsencode(value) for key, value in ENVIRONMENTS[case].items()}
    env = {b"PATH": os.fsencode(os.environ["PATH"]), b"PYCDS_DISABLE": b"1", b"LC_ALL": b"C.UTF-8"} | given
    right, used, pure = json.loads(run(venv.python, "-c", THIS_PROCESS, env=env, cwd=tmp_path).stdout)
    assert used == right
    assert pure == right
    assert not any(tmp_path.iterdir())


RULES = """
import json, os, pwd, sys
from types import SimpleNamespace
import ntpath, posixpath
import platformdirs.macos, platformdirs.unix, platformdirs.windows
from pycds_auto import _loader

def as_windows():
    # What of it can be evaluated elsewhere: its paths by ntpath, its folders by the environment's variables.
    windows = platformdirs.windows
    windows.os = SimpleNamespace(path=ntpath, environ=os.environ)
    windows._RESOLVE_WIN_FOLDER = windows.get_win_folder_from_env_vars
    return windows.Windows

right = {"linux": platformdirs.unix.Unix, "darwin": platformdirs.macos.MacOS, "win32": as_windows()}
answers = []
for platform, environ, home in json.loads(sys.stdin.read()):
    os.environ.clear()
    os.environ.update(environ)
    def getpwuid(uid, home=home):
        if home is None:
            raise KeyError(uid)
        return SimpleNamespace(pw_dir=home)
    pwd.getpwuid = getpwuid
    try:
        expected = right[platform]("pycds-auto").user_cache_dir
    except (RuntimeError, ValueError):
        expected = None
    answers.append([expected, _loader.cache_root(platform, environ, home)])
print(json.dumps(answers))
"""


def test_the_rules_of_unix_and_macos(venv: Venv, tmp_path: Path) -> None:
    """The pure function against platformdirs' classes, with every answer the password database can give."""
    cases = [
        (platform, environ, home)
        for platform in ("linux", "darwin")
        for environ in ENVIRONMENTS.values()
        if not any(isinstance(value, bytes) for value in environ.values())
        for home in HOMES
    ]
    compare(venv, tmp_path, cases)


LOCAL = {
    "usual": r"C:\Users\ada\AppData\Local",
    "with a backslash": "C:\\Users\\ada\\AppData\\Local\\",
    "with slashes": "C:/Users/ada/AppData/Local/",
    "a drive": "D:\\",
    "a share": r"\\server\share\ada",
    "empty": "",
}


def test_the_rule_of_windows(venv: Venv, tmp_path: Path) -> None:
    compare(
        venv, tmp_path, [("win32", {"LOCALAPPDATA": value}, None) for value in LOCAL.values()] + [("win32", {}, None)]
    )


def compare(venv: Venv, tmp_path: Path, cases: list) -> None:
    env = {"PATH": os.environ["PATH"], "PYCDS_DISABLE": "1", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    answers = json.loads(run(venv.python, "-c", RULES, env=env, input=json.dumps(cases)).stdout)
    different = [
        f"{case}: {ours!r}, platformdirs says {right!r}" for case, (right, ours) in zip(cases, answers) if ours != right
    ]
    assert len(answers) == len(cases)
    assert not different, "\n".join(different)


@pytest.mark.parametrize(
    ("platform", "environ", "home", "root"),
    [
        ("linux", {"HOME": "/home/ada"}, None, "/home/ada/.cache/pycds-auto"),
        ("linux", {"HOME": "/home/ada", "XDG_CACHE_HOME": "/cache"}, None, "/cache/pycds-auto"),
        ("linux", {}, "/home/ada", "/home/ada/.cache/pycds-auto"),
        ("linux", {}, None, None),
        ("darwin", {"HOME": "/Users/ada"}, None, "/Users/ada/Library/Caches/pycds-auto"),
        ("darwin", {"HOME": "/Users/ada", "XDG_CACHE_HOME": "/cache"}, None, "/cache/pycds-auto"),
        ("win32", {"LOCALAPPDATA": LOCAL["usual"]}, None, LOCAL["usual"] + r"\pycds-auto\pycds-auto\Cache"),
        ("win32", {"HOME": "/home/ada"}, "/home/ada", None),
    ],
)
def test_documented_values(venv: Venv, tmp_path: Path, platform: str, environ: dict, home: str, root: str) -> None:
    """What platformdirs' documentation promises, so that a change of both sides at once is seen."""
    env = {"PATH": os.environ["PATH"], "PYCDS_DISABLE": "1", "HOME": str(tmp_path)}
    code = f"from pycds_auto import _loader; print(repr(_loader.cache_root({platform!r}, {environ!r}, {home!r})))"
    assert run(venv.python, "-c", code, env=env).stdout == f"{root!r}\n"


def test_pycds_cache_dir_goes_before(venv: Venv, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYCDS_DISABLE": "1", "HOME": str(tmp_path), "PYCDS_CACHE_DIR": "/srv/cache"}
    code = "from pycds_auto import _loader; print(_loader.state()['cache_root'])"
    assert run(venv.python, "-c", code, env=env).stdout == "/srv/cache\n"
    assert run(venv.python, "-E", "-c", code, env=env).stdout == f"{tmp_path}/.cache/pycds-auto\n"
    assert run(venv.python, "-c", code, env=env | {"PYCDS_CACHE_DIR": ""}).stdout == f"{tmp_path}/.cache/pycds-auto\n"
    roots = {
        "~": tmp_path,
        "~/": tmp_path,
        "~/a/cache": tmp_path / "a/cache",
        "~nobody-of-that-name/cache": None,
    }
    for value, root in roots.items():
        assert run(venv.python, "-c", code, env=env | {"PYCDS_CACHE_DIR": value}, cwd=REPOSITORY).stdout == f"{root}\n"
