"""Programs that look on while imports run: they see what plain Python shows them."""

import pytest

from support import User, same

MODULES = "asyncio, decimal, difflib, email.message, html.parser, json, logging.handlers, xml.dom.minidom, zipfile"

# Each prints what the import of LATER showed to it; EARLIER was imported before. `log` prints without addresses.
PROLOGUE = """
import re, sys
def log(*texts): print(re.sub("0x[0-9a-f]+", "0x", " ".join(map(str, texts))))
import decimal, json, email.message
"""

PROGRAMS = {
    "an audit hook, half way": """
        events = []
        told = {'import': 1, 'builtins.id': 0}  # how many arguments: an id is an address
        sys.addaudithook(lambda event, arguments: events.append((event, repr(arguments[:told.get(event)]))))
        import asyncio, xml.dom.minidom
        for event in list(events): log(*event)
    """,
    "an audit hook that forbids": """
        def hook(event, arguments):
            if event == 'open' and 'minidom' in str(arguments[0]): raise PermissionError('no ' + event)
        sys.addaudithook(hook)
        try: import xml.dom.minidom
        except PermissionError as error: print(error)
    """,
    "a profiler": """
        import cProfile, pstats
        profile = cProfile.Profile()
        profile.enable()
        import asyncio, xml.dom.minidom
        profile.disable()
        counts = {key: value[:2] for key, value in pstats.Stats(profile).stats.items()}
        # the loop over sys.meta_path has one turn more
        loop = ('__enter__', '__exit__', '__init__', 'acquire_lock', 'release_lock', 'find_spec')
        for key in sorted(counts):
            if not any(name in key[2] for name in loop): log(key, *counts[key])
    """,
    "a tracer": """
        seen = []
        def trace(frame, event, argument):
            name = frame.f_code.co_name
            if name not in ('_find_spec', '__enter__', '__exit__'):
                seen.append((event, frame.f_code.co_filename, name, frame.f_lineno))
                return trace
        sys.settrace(trace)
        import html.parser, zipfile
        sys.settrace(None)
        for item in seen: log(*item)
    """,
    "a profiler in between": """
        import html.parser
        seen = []
        def profile(frame, event, argument):
            if event == 'call': seen.append(frame.f_code.co_qualname)
        sys.setprofile(profile)
        import logging.handlers
        sys.setprofile(None)
        import zipfile, pprint
        for item in seen:
            if 'ImportLock' not in item: log(item)
    """,
    "a helper of importlib patched under a profiler": """
        import _frozen_importlib as bootstrap
        import difflib
        sys.setprofile(lambda *arguments: None)
        import html.parser
        plain = bootstrap._find_spec
        log(type(plain).__name__)
        def find(name, *arguments):
            print('find', name)
            return plain(name, *arguments)
        bootstrap._find_spec = find
        sys.setprofile(None)
        import zipfile, xml.dom.minidom
        log(bootstrap._find_spec is find)
    """,
    "a profiler of what is no import": """
        import importlib.util, html.parser, difflib, re
        spec = importlib.util.find_spec('colorsys')
        def profile(frame, event, argument):
            seen.append((event, argument.__qualname__ if event[:2] == 'c_' else frame.f_code.co_name))
        for work in (
            lambda: importlib.util.module_from_spec(spec), lambda: re.compile('x+y'), lambda: re.compile('y+x'),
            lambda: importlib.__import__('html', fromlist=['parser']),
        ):
            seen = []
            sys.setprofile(profile)
            work()
            sys.setprofile(None)
            for item in seen: log(*item)
            import sched, wave, csv, netrc
    """,
    "tracemalloc": """
        import tracemalloc
        tracemalloc.start()
        import asyncio
        snapshot = tracemalloc.take_snapshot()
        names = {statistic.traceback[0].filename for statistic in snapshot.statistics('filename')}
        log(sorted(name for name in names if 'importlib' in name))
    """,
}


@pytest.fixture(scope="module")
def primed(venv, tmp_path_factory) -> User:
    home = tmp_path_factory.mktemp("observers") / "home"
    home.mkdir()
    user = User(venv.python, home)
    user.run("-c", f"import {MODULES}, cProfile, pstats, tracemalloc, pprint")
    user.build()
    return user


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(primed: User, name: str) -> None:
    lines = PROGRAMS[name].splitlines()
    program = PROLOGUE + "\n".join(line[8:] for line in lines)
    ours, plain = (primed.run("-c", program, plain=plain, readonly=True) for plain in (False, True))
    same(ours, plain)
    assert plain.stdout


def test_only_while_something_looks_on(primed: User) -> None:
    program = """
import sys, pycds_auto
def hits():
    global last
    before, last = last, pycds_auto.stats()['hits']
    return last > before
last = 0
import json; print(hits())
sys.setprofile(lambda *arguments: None)
import difflib; print(hits())
sys.setprofile(None)
import decimal, zipfile; print(hits())
sys.addaudithook(lambda *arguments: None)
import asyncio; print(hits())
"""
    assert primed.run("-c", program, readonly=True).stdout.split() == ["True", "False", "True", "False"]


def test_after_imports_of_the_start_alone(venv, tmp_path) -> None:
    """Another .pth file's imports put our helpers in place before what importlib calls is taken note of."""
    user = User(venv.python, tmp_path / "home")
    user.home.mkdir()
    program = """
import sys, html
loader = sys.modules["pycds_auto._loader"]
sys.setprofile(lambda *arguments: None)
import difflib
sys.setprofile(None)
before = loader.stats()["hits"]
import decimal, zipfile
print(loader.stats()["hits"] > before + 2)
"""
    other = venv.packages / "zzz.pth"
    other.write_text("import json, argparse, csv, wave, tabnanny\n")
    try:
        user.run("-c", "import html, difflib, decimal, zipfile")
        user.build()
        assert user.run("-c", program, readonly=True).stdout == "True\n"
    finally:
        other.unlink()


REASONS = {
    "something looks on": "sys.addaudithook(lambda *arguments: None)",
    "another finder stands before PathFinder": "sys.meta_path.insert(-1, Other)",
    "importlib, or what it calls, was changed": "builtins.__import__ = lambda *arguments: plain(*arguments)",
}


@pytest.mark.parametrize("reason", REASONS)
def test_the_summary_says_why_nothing_was_served(primed: User, reason: str) -> None:
    class_ = "class Other: find_spec = staticmethod(lambda *arguments: None)\n"
    start = f"import builtins, sys, decimal\nplain = builtins.__import__\n{class_}"
    told = [
        primed.run("-c", f"{start}{text}\nimport html.parser, zipfile", env={"PYCDS_LOG": "1"}, quiet=False).stderr
        for text in (REASONS[reason], "")
    ]
    assert f" look-ups left to plain Python: {reason}" in told[0]
    assert "look-ups" not in told[1] and "active; hits=" in told[1]


def test_near_the_recursion_limit(primed: User) -> None:
    """Whether an import fails for want of frames, and where, doesn't depend on the archive."""
    program = """
import sys, traceback
def deep(frames):
    if frames: return deep(frames - 1)
    import html.parser
print(sys.getrecursionlimit())
for left in range(2, 90, 3):
    for name in list(sys.modules):
        if name.startswith(('html', '_markupbase')): del sys.modules[name]
    sys.path_importer_cache.clear()
    try: deep(sys.getrecursionlimit() - left)
    except RecursionError as error:
        frames = traceback.extract_tb(error.__traceback__)
        print(left, error, [(f.name, f.lineno) for f in frames if f.name != 'deep'])
    else: print(left, 'done')
"""
    same(*(primed.run("-c", program, plain=plain, readonly=True) for plain in (False, True)))
