"""Compiled regular expressions (csrc/patterns.c, src/pycds_auto/patterns.py): as plain Python compiles them.

Each program runs with the archive and without; what it prints must be the same, and what should come from the archive did.
"""

import textwrap

import pytest

from pycds_auto import patterns, spool
from support import User, age, end_all_with, run, same, write

# What an import compiles: of every kind, and such that each construct of the parser and the compiler has its turn.
LIBRARY = {
    "lib/__init__.py": "import re\n",
    "lib/many.py": r"""
import re
TEXTS = [
    "", "a", "abc", "a|b|c", "abc|abd", "(a)(b)?", "(?P<first>x)(?P<second>y)?(?P=first)", "(?:ab)+", "a{2,5}?b*+c?+" if hasattr(re, "NOFLAG") else "a",
    "^start$", r"\Aall\Z", r"\bword\b\B", r"\d+\s*\w\D\S\W", "[a-z0-9_]+", "[^a-z]", "[]a]", r"[\w.-]+@[\w-]+\.\w{2,}", ".", "(?s).", "(?i)Stra\u00dfe",
    "(?x) a  b # comment\n c", "(?a)\\w+", "(?im)^x$", "(?=ahead)", "(?!not)", "(?<=behind)x", "(?<!be)y", "(a)(?(1)b|c)", "(?i:a)b(?-i:C)",
    "\u00e9t\u00e9", "[\u0400-\u04ff]+", "\U0001f600+", "[\U0001f600-\U0001f64f]", "%s %d %%", "line\nbreak\r\t", "nul\0inside", "\x01\x7f\x80",
    "[\u0131\u0130iI]", "\u212a", "(?>atomic)+", "((((((((((a))))))))))", "x" * 3000, "|".join(f"word{i}" for i in range(300)), "a*", "(?:)", "()",
    r"(?P<n\u00e4me>a)", "[a-zA-Z\u00e4\u00f6\u00fc\u4e2d]", r"\N{LATIN SMALL LETTER A}", "\\u00e9\\U0001f600\\x41\\101",
]
BYTES = [b"", b"a", b"[\x80-\xff]+", b"(?i)abc", b"(?P<name>\\w+) %d", b"\n\0%", b"(?s)^.*$", b"\\d|\\D"]
FLAGS = [0, re.I, re.M | re.S, re.X, re.A, re.I | re.M, int(re.I), re.IGNORECASE | re.ASCII, re.U, 0]
compiled = []
for pattern in TEXTS + BYTES:
    for flags in FLAGS:
        try:
            compiled.append(re.compile(pattern, flags))
        except Exception as error:
            compiled.append((pattern, flags, type(error).__name__, str(error)))
""",
    "lib/plain_ones.py": r"""
import re, warnings
class Text(str): pass
class Number(int): pass
results = []
def attempt(pattern, flags=0):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = re.compile(pattern, flags)
        except Exception as error:
            result = (type(error).__name__, str(error))
    results.append((result, [(str(item.message), item.category.__name__, item.filename[-13:], item.lineno) for item in caught]))
for pattern in ("(", "[", "a**", "(?P<1>a)", "(?P<a>x)(?P<a>y)", "[[a]]", "[a&&b]", "a(?i)b", "\\q", "(?<=a*)b", b"(?u)a", b"(?L)a", "\ud800 lone", Text("subclass"), Text("(")):
    attempt(pattern)
    attempt(pattern)
    attempt(pattern, re.I)
for flags in (re.L, re.DEBUG & 0, -1, 1 << 40, Number(2), True, None, "x", re.A | re.U):
    attempt("flagged", flags)
    attempt(b"flagged", flags)
for strange in (None, 5, ["a"], bytearray(b"a"), memoryview(b"a"), re.compile("a")):
    attempt(strange)
    attempt(strange, re.I)
""",
    "lib/debugging.py": "import re\nre.compile('a[bc]|(d)', re.DEBUG)\n",
    "lib/limited.py": r"""
import re
NESTED = "(" * 40 + "a" + ")" * 40
DIGITS = "b{" + "0" * 1000 + "1}"
LETTERS = "[a-z]x"
compiled = [re.compile(pattern).groups for pattern in (NESTED, DIGITS, LETTERS)]
""",
    "lib/direct.py": r"""
import re, re._compiler, re._parser, warnings
one = re._compiler.compile("direct (?P<x>.)")
two = re._compiler.compile("direct (?P<x>.)", 2)
three = re._compiler.compile(p="keyword", flags=2)
parsed = re._compiler.compile(re._parser.parse("parsed"))
""",
}

TOLD = """
def told(p):
    if not isinstance(p, re.Pattern):
        return repr(p)
    words = ["abc", "ABC", "stra\\u00dfe", "aab word1 word299", "x y x", "line\\nbreak", "\\U0001f600\\u0439", "me@example.org", ""]
    found = [m and (m.span(), m.groups(), m.groupdict(), m.lastgroup, m.lastindex) for w in words for m in [p.search(w if isinstance(p.pattern, str) else w.encode())]]
    return repr((p, p.pattern, p.flags, type(p.flags), p.groups, dict(p.groupindex), list(p.groupindex), found))
"""

PROGRAMS = {
    "many": ("""
        import lib.many
        for p in lib.many.compiled: print(told(p))
        print(len(re._cache), [key[1:] for key in list(re._cache)[-3:]])
        before = list(lib.many.compiled)
        re.purge()
        for p in before:
            if isinstance(p, re.Pattern):
                again = re.compile(p.pattern, p.flags & ~re.U if isinstance(p.pattern, str) and p.flags & re.A else p.flags)
                print(again == p, again is p, hash(again) == hash(p))
        import copy, pickle
        print([pickle.loads(pickle.dumps(p)) == p for p in before[:40] if isinstance(p, re.Pattern)], copy.copy(before[3]) is before[3])
    """, 300),
    "what the parser imports": ("""
        import lib.many
        print('unicodedata' in sys.modules)
    """, 300),
    "_sre is patched": ("""
        import _sre
        plain, calls = _sre.compile, []
        _sre.compile = lambda *arguments: calls.append(arguments) or plain(*arguments)
        import lib.many
        print(len(calls))
    """, 0),
    "left to plain": ("""
        import lib.plain_ones
        for p, caught in lib.plain_ones.results: print(told(p), caught)
    """, 0),
    "debugging": ("import lib.debugging", 0),
    "what the interpreter limits": ("""
        import lib.limited, sys
        sys.set_int_max_str_digits(640)
        re.purge()
        try: print(re.compile(lib.limited.DIGITS))
        except ValueError as error: print(error)
        def deep(calls): return re.compile(lib.limited.NESTED).groups if calls == 0 else deep(calls - 1)
        frame, used = sys._getframe(), 0
        while frame: frame, used = frame.f_back, used + 1
        try: print(deep(sys.getrecursionlimit() - used - 80))
        except RecursionError: print("too deep")
    """, 1),
    "builtins are patched": ("""
        import lib.limited, builtins
        re.purge()
        calls, plain = [], builtins.ord
        builtins.ord = lambda letter: calls.append(letter) or plain(letter)
        re.compile(lib.limited.LETTERS)
        builtins.ord = plain
        print(calls)
    """, 1),
    "direct": ("""
        import lib.direct
        for name in ("one", "two", "three", "parsed"): print(told(getattr(lib.direct, name)))
    """, 0),
    "names in groups are fresh": ("""
        import lib.many
        p = re.compile("(?P<first>x)(?P<second>y)?(?P=first)")
        print(p.groupindex, type(p.groupindex).__name__, p.match("xx").lastgroup)
        try: p.groupindex["z"] = 1
        except TypeError as error: print(error)
    """, 1),
    "a method of the parser's classes is replaced": ("""
        import re._parser
        State = re._parser.State
        plain = State.opengroup
        State.opengroup = lambda self, name=None: print("opened", name) or plain(self, name)
        print(re.compile("(?P<first>x)(?P<second>y)?(?P=first)").groupindex)
        State.opengroup = plain
        re.purge()
        print(re.compile("(?P<first>x)(?P<second>y)?(?P=first)").groupindex)
    """, 0),
    "tracebacks": ("""
        import traceback
        import lib.many
        for wrong in ("(", "[z-a]", "(?P<a>x)(?P<a>y)"):
            try: re.compile(wrong)
            except re.error as error:
                print(error.msg, error.pos, error.pattern, [(f.name, f.lineno) for f in traceback.extract_tb(error.__traceback__)])
    """, 1),
    "the parser is patched": ("""
        import lib
        plain = re._parser.parse
        def parse(*arguments, **keywords):
            print("parse", arguments[0][:30])
            return plain(*arguments, **keywords)
        re._parser.parse = parse
        print(told(re.compile("patched one")), told(re.compile("abc")))
        re._parser.parse = plain
        print(told(re.compile("[a-z0-9_]+")))
    """, 0),
    "a table of the parser is changed": ("""
        import lib
        categories = re._parser.CATEGORIES
        categories[r"\\d"] = categories[r"\\w"]
        print(told(re.compile(r"\\d+\\s*\\w\\D\\S\\W")), re.compile(r"\\d+\\s*\\w\\D\\S\\W").search("a b c."))
    """, 0),
    "the compiler is patched": ("""
        import lib
        plain = re._compiler._code
        re._compiler._code = lambda *arguments: (print("code"), plain(*arguments))[1]
        print(told(re.compile("abc")))
        re._compiler._code = plain
        sre = re._compiler._sre
        class Other: pass
        other = Other(); other.__dict__.update(vars(sre)); other.compile = lambda *arguments: (print("sre", arguments[0]), sre.compile(*arguments))[1]
        re._compiler._sre = other
        print(told(re.compile("a|b|c")))
    """, 0),
    "something looks on": ("""
        import lib, sys
        seen = []
        def profile(frame, event, argument):
            if event == "call" and "/re/" in frame.f_code.co_filename: seen.append(frame.f_code.co_name)
        sys.setprofile(profile)
        import lib.many
        sys.setprofile(None)
        print(len(seen), sorted(set(seen)))
        import lib.direct
        print(told(lib.direct.two))
    """, 0),
    "threads": ("""
        import lib, threading
        texts = ["[a-z0-9_]+", "a|b|c", "(a)(b)?", "x" * 3000, "(?i)Stra\\u00dfe"]
        found = []
        def work():
            for text in texts:
                re.purge()
                found.append(told(re.compile(text)))
        threads = [threading.Thread(target=work) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(sorted(set(found)), len(found))
    """, 5),
}  # fmt: skip

COUNT = """
import atexit, os, sys
def count():
    loader = sys.modules.get("pycds_auto._loader")
    if loader and "COUNT" in os.environ:
        with open(os.environ["COUNT"], "w") as file: file.write(str(loader.state()["pattern_hits"]))
atexit.register(count)
"""


def program(text: str) -> str:
    return COUNT + "import re\n" + TOLD + textwrap.dedent(text)


def test_nothing_is_recorded_for_nothing(user: User, venv, tmp_path) -> None:
    """Where `re` is there before us, patterns can't be served, so they aren't asked for again and again."""
    write(tmp_path, {"code/many.py": "import re, textwrap\nPATTERN = re.compile('of(many)*more')\n"})
    age(tmp_path / "code")

    def kinds() -> set[str]:
        return {miss.kind for miss in spool.read(str(user.folder()))}

    first = venv.packages / "aaa.pth"
    first.write_text("import re\n")
    try:
        user.extra["PYTHONPATH"] = str(tmp_path / "code")
        user.run("-c", "import many")
        assert kinds() >= {spool.MODULE} and not kinds() & {spool.PATTERN, spool.DOUBTFUL}
        user.build()
        assert (
            user.run("-c", "import many, sys; print(sys.modules['pycds_auto._loader'].stats()['misses'])").stdout
            == "0\n"
        )
        assert not kinds() & {spool.PATTERN, spool.DOUBTFUL}
    finally:
        first.unlink()


@pytest.fixture(scope="module")
def primed(venv, tmp_path_factory) -> User:
    """An archive with the library and the patterns that its import compiled."""
    root = tmp_path_factory.mktemp("patterns")
    write(root / "programs", LIBRARY)
    write(
        root / "programs",
        {
            "all.py": "import lib, lib.many, lib.plain_ones, lib.direct, lib.limited, traceback, copy, pickle, threading\n"
        },
    )
    age(root / "programs")
    user = User(venv.python, root / "home", {"PYTHONPATH": str(root / "programs")})
    user.home.mkdir()
    user.run(root / "programs/all.py")
    user.build()
    end_all_with(str(root))
    return user


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(primed: User, tmp_path, name: str) -> None:
    text, least = PROGRAMS[name]
    script = tmp_path / "program.py"
    script.write_text(program(text))
    plain = primed.run(script, plain=True, quiet=False)
    same(primed.run(script, readonly=True, env={"COUNT": str(tmp_path / "count")}, quiet=False), plain)
    assert plain.stdout and not plain.stderr
    if least:
        assert int((tmp_path / "count").read_text()) >= least


def test_skipped(primed: User, tmp_path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program("import lib.many\nprint(type(re._compiler.compile).__module__)"))
    for skip, kind in ("", "pycds_auto._loader"), ("re", "builtins"):
        told = primed.run(script, readonly=True, env={"PYCDS_SKIP": skip, "COUNT": str(tmp_path / "count")})
        assert told.stdout == kind + "\n"
        assert (int((tmp_path / "count").read_text()) > 0) == (not skip)


def test_development_mode(primed: User, tmp_path) -> None:
    """The parser makes texts of bytes by a codec, which the interpreter then looks for."""
    script = tmp_path / "program.py"
    script.write_text(program("import lib.many\nprint('encodings.latin_1' in sys.modules)"))
    plain = primed.run("-X", "dev", script, plain=True)
    assert plain.stdout == "True\n"
    same(primed.run("-X", "dev", script, readonly=True, env={"COUNT": str(tmp_path / "count")}), plain)
    assert int((tmp_path / "count").read_text()) > 0


def test_another_package_of_that_name(primed: User, tmp_path) -> None:
    """A copy of `re` that a program has first in sys.path is archived as any module; its results aren't the library's."""
    library = primed.run("-c", "import re, os; print(os.path.dirname(re.__file__))", plain=True).stdout.strip()
    files = {
        f"own/re/{name}.py": open(f"{library}/{name}.py").read()
        for name in ("__init__", "_compiler", "_parser", "_constants", "_casefix")
    }
    files["own/re/_parser.py"] += '\nCATEGORIES[r"\\d"] = CATEGORIES[r"\\w"]\n'
    write(tmp_path, files)
    age(tmp_path / "own")
    path = f"{tmp_path / 'own'}:{primed.extra['PYTHONPATH']}"
    script = tmp_path / "program.py"
    script.write_text(
        program(
            "import lib.many\nprint(re.__file__, re.compile(r'\\d+\\s*\\w\\D\\S\\W').search('a b c.'))\nfor p in lib.many.compiled: print(told(p))"
        )
    )
    env = {"PYTHONPATH": path}
    plain = primed.run(script, plain=True, env=env)
    assert "<re.Match object" in plain.stdout.splitlines()[0]
    same(primed.run(script, env=env), plain)
    primed.build()
    same(primed.run(script, readonly=True, env=env), plain)


def test_only_imports_are_recorded(user: User, tmp_path) -> None:
    """What a program compiles as it runs is its own, and may be without end."""
    write(tmp_path, {
        "code/imported.py": "import re, os\nre.compile('in the import')\nre.compile('%s\\n' % os.getpid())\n",
        "code/program.py": "import json, imported, re\nfor i in range(500): re.compile(f'number {i}')\n",
    })  # fmt: skip
    age(tmp_path / "code")
    user.run(tmp_path / "code/program.py", env={"PYTHONPATH": str(tmp_path / "code")})
    noted = [miss.path for miss in spool.read(str(user.folder())) if miss.kind == spool.PATTERN]
    # nothing is in place during the first import of all, or two
    assert len(noted) < 60 and not any("number" in key for key in noted), noted
    user.build()
    user.run(tmp_path / "code/program.py", env={"PYTHONPATH": str(tmp_path / "code")})
    noted = [miss.path for miss in spool.read(str(user.folder())) if miss.kind == spool.PATTERN]
    assert not noted, noted  # a few that are others in each run: nothing to be gained
    text = "import re, sys\nfor i in range(20): re.compile(f'{sys.argv[1]} {i}')\n"
    write(tmp_path, {"code/generated.py": text, "code/more.py": COUNT + "import generated\n"})
    age(tmp_path / "code")
    for argument in ("module is new", "argument is new"):
        user.run(tmp_path / "code/more.py", argument, env={"PYTHONPATH": str(tmp_path / "code")})
        user.run(tmp_path / "code/more.py", argument, env={"PYTHONPATH": str(tmp_path / "code")})
        user.build()
        env = {"PYTHONPATH": str(tmp_path / "code"), "COUNT": str(tmp_path / "count")}
        user.run(tmp_path / "code/more.py", argument, env=env)
        assert int((tmp_path / "count").read_text()) >= 20 and not spool.read(str(user.folder()))


def test_status_counts_them(primed: User) -> None:
    assert "patterns, " in primed.command("status", readonly=True).stdout


def test_keys_and_entries() -> None:
    """In this interpreter: what entries hold is what the compiler asked for."""
    assert (
        patterns.is_key("s0:")
        and patterns.is_key("b2:a\nb")
        and not patterns.is_key("/s0:a")
        and not patterns.is_key("s:a")
    )
    assert patterns.entry("s0:a").payload and not patterns.entry("s0:(").payload
    assert (
        not patterns.entry("s0:[[a]]").payload
        and not patterns.entry("b4:a").payload
        and not patterns.entry("b0:(?L)a").payload
    )


def test_escapes_in_the_spool() -> None:
    misses = spool.parse(b"R 0 s0:100%25%0anext\nR 0 no key\nR x s0:a\nR 0 b0:\xff%00\nM 0 /a.py\n")
    assert misses == [
        spool.Miss("R", "0", "s0:100%\nnext"),
        spool.Miss("R", "0", "b0:\udcff\0"),
        spool.Miss("M", "0", "/a.py"),
    ]
