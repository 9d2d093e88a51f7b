"""A finder of the program's before ours, or between ours and PathFinder (csrc/foreign_finder.c): setuptools', virtualenv's
and the AWS CLI's, which are known, and others, which are asked.

Programs run without the archive, and twice with it; what they print must be the same.
"""

import textwrap
from pathlib import Path

import pytest

from support import User, Venv, age, same, write

TREE = {
    **{f"lib/m{i}.py": f"value = {i}\n" for i in range(6)},
    "lib/botocore.py": "value = 'of the library'\n",
    "lib/pack/__init__.py": "",
    "lib/pack/one.py": "value = 1\n",
    "lib/test/__init__.py": "",
    "lib/test/part.py": "value = 2\n",
}

START = """
import sys
sys.path[:0] = {paths!r}
import _distutils_hack
finder = _distutils_hack.DISTUTILS_FINDER
sys.meta_path.insert(0, finder)
kind = type(finder)
print(kind.__name__)
import m0, m1, m2, m3, pack.one

def attempt(name):
    try:
        module = __import__(name, fromlist=["value"])
        print(name, getattr(module, "value", None), type(module).__name__)
    except Exception as error:
        print(name, type(error).__name__, error, getattr(error, "name", None))
"""

PROGRAMS = {
    "as it is": """
        for name in ("m4", "pack.two", "no_such", "test.part", "test.no_such", "distutils", "distutils.core"):
            attempt(name)
        print(sys.modules["distutils"].__name__, "setuptools._distutils" in sys.modules)
    """,
    "a method for one more name, of its class": """
        kind.spec_for_m4 = lambda self: print("asked for m4")
        attempt("m4")
        attempt("m5")
    """,
    "a method for one more name, of its own": """
        finder.spec_for_no_such = lambda: print("asked for no_such")
        attempt("no_such")
        attempt("m5")
    """,
    "a property for one more name": """
        kind.spec_for_m4 = property(lambda self: print("looked up") or (lambda: None))
        attempt("m4")
    """,
    "a find_spec of its own": """
        plain = finder.find_spec
        finder.find_spec = lambda *arguments: print("asked", arguments) or plain(*arguments)
        attempt("m4")
        attempt("pack.two")
    """,
    "another find_spec in its class": """
        plain = kind.find_spec
        def find_spec(self, name, path, target=None):
            print("asked", name)
            return plain(self, name, path, target)
        kind.find_spec = find_spec
        attempt("m4")
        attempt("pack.two")
    """,
    "another code in its find_spec": """
        def find_spec(self, fullname, path, target=None):
            print("asked", fullname)
        kind.find_spec.__code__ = find_spec.__code__
        attempt("m4")
        attempt("pack.two")
    """,
    "code that differs in a constant": """
        code = kind.find_spec.__code__
        constants = tuple("pack." if constant == "test." else constant for constant in code.co_consts)
        kind.find_spec.__code__ = code.replace(co_consts=constants)
        kind.spec_for_m4 = lambda self: print("asked for m4")
        setattr(kind, "spec_for_pack.two", lambda self: print("asked for pack.two"))
        attempt("m4")
        attempt("pack.two")
    """,
    "a lambda that returns something else": """
        code = kind.find_spec.__code__
        other = (lambda: print("the lambda")).__code__
        constants = tuple(other if hasattr(constant, "co_code") else constant for constant in code.co_consts)
        kind.find_spec.__code__ = code.replace(co_consts=constants)
        attempt("m4")
    """,
    "__getattr__ and __getattribute__": """
        kind.__getattr__ = lambda self, name: print("missing", name) or (lambda: None)
        attempt("m4")
        del kind.__getattr__
        kind.__getattribute__ = lambda self, name: print("any", name) or object.__getattribute__(self, name)
        attempt("m5")
    """,
    "builtins that it calls": """
        import builtins
        plain = builtins.getattr
        builtins.getattr = lambda *arguments: print("getattr", arguments[1]) or plain(*arguments)
        attempt("m4")
        builtins.getattr = plain
        _distutils_hack.locals = lambda: print("locals") or {"fullname": "any"}
        attempt("m5")
        attempt("pack.two")
    """,
    "a subclass": """
        class Sub(kind):
            def find_spec(self, name, path, target=None):
                print("asked", name)
                return super().find_spec(name, path, target)
        sys.meta_path[0] = Sub()
        attempt("m4")
        class Other(kind):
            def spec_for_m5(self):
                print("asked for m5")
        sys.meta_path[0] = Other()
        attempt("m5")
        attempt("pack.two")
    """,
    "a finder behind is asked for what nobody has": """
        class Last:
            @staticmethod
            def find_spec(name, path=None, target=None):
                print("at last", name)
        sys.meta_path.append(Last)
        attempt("m4")
        attempt("no_such")
        sys.meta_path.remove(Last)
        attempt("no_such")
    """,
    "builtins that were taken out of sys.modules": """
        plain = sys.modules.pop("builtins")
        attempt("m4")
        print("builtins" in sys.modules)
        import builtins
        print(builtins is plain, hasattr(builtins, "len"))
    """,
    "a path entry that says that it is a string": """
        class Lie:
            __class__ = property(lambda self: print("class asked") or str)
        sys.path.insert(0, Lie())
        attempt("m4")
        attempt("no_such")
    """,
    "events of its code only": """
        if hasattr(sys, "monitoring"):
            monitoring = sys.monitoring
            monitoring.use_tool_id(3, "test")
            monitoring.register_callback(3, monitoring.events.PY_START, lambda code, offset: print("started", code.co_name))
            monitoring.set_local_events(3, kind.find_spec.__code__, monitoring.events.PY_START)
        attempt("m4")
        attempt("no_such")
    """,
    "path entries that import when they are asked for their path": """
        from importlib.machinery import FileFinder
        number, busy = 0, True
        def more():
            global number
            number += 1
            sys.path.append(f"{sys.path[0]}/none{number}")
        def path(self):
            global busy
            if not busy and self.__dict__["path"] == sys.path[-1]:
                busy = True
                more()
                attempt(f"inner{number}")
            return self.__dict__["path"]
        FileFinder.path = property(path, lambda self, value: self.__dict__.__setitem__("path", value))
        for start in range(70):
            busy = False
            more()
            attempt(f"outer{number}")
        busy = True
        del FileFinder.path
    """,
    "methods that one FileFinder alone has": """
        finder = sys.path_importer_cache[sys.path[0]]
        finder._get_spec = lambda *arguments: print("asked for a spec")
        attempt("no_such")
        del finder._get_spec
        plain = finder._fill_cache
        finder._fill_cache = lambda: print("asked to fill") or plain()
        finder._path_mtime = -1
        attempt("no_such")
    """,
    "modules that appear and go": """
        import os
        attempt("appears")
        file = os.path.join(sys.path[0], "appears.py")
        with open(file, "w") as out:
            out.write("value = 'there'")
        attempt("appears")
        os.remove(file)
        del sys.modules["appears"]
        attempt("appears")
        os.mkdir(file[:-3])
        attempt("appears")
        os.rmdir(file[:-3])
        attempt("pack.appears")
        with open(os.path.join(sys.path[0], "pack", "appears.py"), "w") as out:
            out.write("value = 'there, too'")
        attempt("pack.appears")
        os.remove(out.name)
    """,
}


VIRTUALENV = """
plain = sys.meta_path[:]
import virtualenv_{release} as virtualenv
added = [finder for finder in sys.meta_path if finder not in plain]
if not added:
    sys.meta_path.insert(0, virtualenv._Finder())
finder = sys.meta_path.pop(0)
sys.meta_path.insert(0, finder)
"""

VIRTUALENV_PROGRAM = """
virtualenv.patch_dist = lambda module: print("patched", module.__name__)
for name in ("m4", "pack.two", "no_such", "setuptools.dist", "distutils.dist"):
    attempt(name)
virtualenv._DISTUTILS_PATCH = ("m5",)
attempt("m5")
virtualenv._DISTUTILS_PATCH = type("Names", (tuple,), {{"__contains__": lambda self, name: print("in", name)}})()
attempt("pack.one")
del sys.modules["m3"], virtualenv._DISTUTILS_PATCH
attempt("m3")
"""

AWSCLI = """
import awscli_init
kind = awscli_init.TopLevelImportAliasFinder
finder = sys.meta_path[-2]
"""

AWSCLI_PROGRAMS = {
    "awscli: as it is": """
        for name in ("m4", "pack.two", "pack.one", "no_such", "botocore", "s3transfer", "test.part"):
            attempt(name)
    """,
    "awscli: other names": """
        finder._PACKAGES = ["m4"]
        attempt("m4")
        attempt("m5")
        del finder._PACKAGES
        kind._PACKAGES = type("Names", (list,), {"__contains__": lambda self, name: print("in", name)})()
        attempt("test.part")
        class Name(str):
            def __eq__(self, other):
                return print("equal", other)
            __hash__ = str.__hash__
        kind._PACKAGES = [Name("any")]
        attempt("no_such")
    """,
    "awscli: another finder below": """
        class Below:
            def find_spec(self, name, path, target):
                print("below", name)
        plain = finder._underlying_finder
        finder._underlying_finder = Below()
        attempt("m4")
        finder._underlying_finder = plain
        kind._underlying_finder = property(lambda self: print("asked") or Below())
        attempt("m5")
    """,
    "awscli: another find_spec": """
        plain = kind.find_spec
        kind.find_spec = lambda self, *arguments: print("asked", arguments[0]) or plain(self, *arguments)
        attempt("m4")
        kind.find_spec = plain
        finder.find_spec = lambda *arguments: print("asked", arguments[0]) or plain(finder, *arguments)
        attempt("m5")
        del finder.find_spec
        attempt("test.part")
    """,
    "awscli: more finders around": """
        class Last:
            @staticmethod
            def find_spec(name, path=None, target=None):
                print("asked", name)
        for place in (-1, -2, -3, len(sys.meta_path), 0):
            sys.meta_path.insert(place, Last)
            attempt("m4")
            attempt("no_such")
            del sys.modules["m4"]
            sys.meta_path.remove(Last)
        sys.meta_path.append(sys.meta_path.pop(-2))
        attempt("m5")
        attempt("no_such")
    """,
}

RELEASES = {"20.34.0": "older", "20.39.1": "newer"}  # of virtualenv


@pytest.fixture(scope="session")
def setuptools(venv: Venv, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with setuptools and what it brings, and virtualenv's _virtualenv.py of the known kinds."""
    folder = tmp_path_factory.mktemp("setuptools")
    venv.pip("install", "--quiet", "--target", folder, "setuptools>=70")
    for release, name in RELEASES.items():
        other = tmp_path_factory.mktemp("virtualenv")
        venv.pip("install", "--quiet", "--no-deps", "--target", other, f"virtualenv=={release}")
        text = (other / "virtualenv/create/via_global_ref/_virtualenv.py").read_text()
        (folder / f"virtualenv_{name}.py").write_text(text)
    other = tmp_path_factory.mktemp("awscli")
    venv.pip("install", "--quiet", "--no-deps", "--target", other, "awscli==1.46.3")
    (folder / "awscli_init.py").write_text((other / "awscli/__init__.py").read_text())
    (folder / "botocore.py").write_text("value = 'of the alias'\n")
    age(folder)
    return folder


def prepare(root: Path, setuptools: Path, text: str) -> Path:
    write(root, TREE)
    program = root / "program.py"
    program.write_text(START.format(paths=[str(root / "lib"), str(setuptools)]) + textwrap.dedent(text))
    age(root)
    return program


def test_programs_see_what_plain_python_shows(user: User, tmp_path: Path, setuptools: Path) -> None:
    texts = PROGRAMS | {name: (VIRTUALENV + VIRTUALENV_PROGRAM).format(release=name) for name in RELEASES.values()}
    texts |= {name: AWSCLI + textwrap.dedent(text) for name, text in AWSCLI_PROGRAMS.items()}
    programs = {
        name: prepare(tmp_path / str(number), setuptools, text) for number, (name, text) in enumerate(texts.items())
    }
    for program in programs.values():
        user.run(program)
    user.build()
    differences = []
    for name, program in programs.items():
        plain = user.run(program, plain=True)
        for _ in range(2):
            try:
                same(user.run(program), plain)
            except AssertionError as error:
                differences.append(f"{name}: {error}")
    assert not differences, "\n\n".join(differences)


BEHIND = """
for name in ("no_such", "nor_this"):
    attempt(name)
for path in sys.path[:2]:
    print(sys.path_importer_cache[path]._path_mtime == -1)  # never asked: FileFinder.__init__'s value
"""

COUNTED = """
loader = sys.modules["pycds_auto._loader"]
before = loader.stats()["hits"]
attempt("m4")
print(loader.stats()["hits"] - before)
"""

UNKNOWN = """
class Unknown:
    def find_spec(self, fullname, path, target=None):
        return None
sys.meta_path.insert(0, Unknown())
"""


def test_it_is_in_use(user: User, tmp_path: Path, setuptools: Path) -> None:
    """Neither a known finder nor a name that nobody has sends a look-up to FileFinders; a finder that isn't known does."""
    program = prepare(tmp_path / "known", setuptools, BEHIND)
    others = {
        name: prepare(tmp_path / name, setuptools, VIRTUALENV.format(release=name) + BEHIND)
        for name in RELEASES.values()
    }
    unknown = prepare(tmp_path / "unknown", setuptools, UNKNOWN + BEHIND)
    for path in (program, *others.values(), unknown):
        user.run(path)
    user.build()

    def spared(program: Path, **keywords) -> list[str]:
        return user.run(program, **keywords).stdout.splitlines()[-2:]

    assert spared(program) == spared(others["older"]) == spared(others["newer"]) == ["True", "True"]
    assert spared(program, env={"PYCDS_SKIP": "importlib"}) == ["False", "False"]
    assert spared(program, plain=True) == spared(unknown) == ["False", "False"]


def test_a_finder_that_only_asks_path_finder_hides_nothing(user: User, tmp_path: Path, setuptools: Path) -> None:
    patched = "kind.find_spec = lambda self, *rest: self._underlying_finder.find_spec(*rest)\n"
    known = prepare(tmp_path / "known", setuptools, AWSCLI + COUNTED)
    unknown = prepare(tmp_path / "unknown", setuptools, AWSCLI + patched + COUNTED)
    for program in (known, unknown):
        user.run(program)
    user.build()
    assert user.run(known).stdout.endswith("m4 4 module\n1\n")
    assert user.run(unknown).stdout.endswith("m4 4 module\n0\n")
