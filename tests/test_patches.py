"""Programs that change importlib, its finders or its loaders see what plain Python would show them.

Each program runs with the archive and without; what it prints must be the same. Most are by a hostile tester.
"""

import pytest

from support import User, age, same, write

TREE = {
    "lib/alpha.py": "X = 'lib'\n",
    "lib/beta.py": "X = 'beta'\n",
    "lib/pack/__init__.py": "",
    "lib/pack/sub.py": "X = 'sub'\n",
    "lib2/alpha.py": "X = 'lib2'\n",
}

PROGRAMS = {
    "get_data of a loader": """
        import importlib.util
        spec = importlib.util.find_spec('alpha')
        def get_data(path):
            if path.endswith('.pyc'): raise OSError
            return b"X = 'own get_data'"
        spec.loader.get_data = get_data
        spec.loader._cache_bytecode = lambda *arguments, **keywords: None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print(module.X)
    """,
    "find_spec of a finder": """
        import importlib.machinery as m
        import alpha
        finder = sys.path_importer_cache[LIB]
        finder.find_spec = lambda name, target=None: (print('own', name), m.FileFinder.find_spec(finder, name, target))[1]
        import beta
        print(beta.X)
    """,
    "loaders of a finder": """
        import importlib.machinery as m
        import alpha
        class Loader(m.SourceFileLoader): pass
        sys.path_importer_cache[LIB]._loaders.insert(0, ('.py', Loader))
        import beta
        print(type(beta.__loader__).__name__)
    """,
    "loaders of a finder that only compare equal": """
        import alpha
        standard = sys.path_importer_cache[LIB]._loaders
        class Suffix(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        class Loader(type(standard[-1][1])):
            def __eq__(self, other): return True
            __hash__ = type.__hash__
        class Source(standard[1][1], metaclass=Loader): pass
        class Pair(tuple):
            def __iter__(self): return iter(('.nothing', None))
        class Pairs(list):
            def __iter__(self): return iter(())
        kinds = ([(Suffix('.nothing'), loader) for suffix, loader in standard],
                 [(suffix, Source) for suffix, loader in standard], [Pair(pair) for pair in standard], Pairs(standard))
        for is_new in False, True:
            for kind in kinds:
                if is_new: sys.path_importer_cache[LIB] = sys.path_hooks[-1](LIB)
                sys.path_importer_cache[LIB]._loaders = kind
                try:
                    import beta
                    print(type(beta.__loader__).__name__)
                except Exception as error: print(type(error).__name__, error)
                sys.modules.pop('beta', None)
    """,
    "loaders of a finder that are no list": """
        import alpha
        finder = sys.path_importer_cache[LIB]
        kept = finder._loaders
        for odd in tuple(kept), iter(kept), [], [('.py',)], [kept[0] + (1,)], None, dict(kept):
            finder._loaders = odd
            try:
                import beta
                print(beta.X)
            except Exception as error:
                print(type(error).__name__, error)
            sys.modules.pop('beta', None)
    """,
    "get_code patched late": """
        import alpha, importlib.machinery as m
        m.SourceFileLoader.get_code = lambda self, name: compile("X = 'patched'", 'patched', 'exec')
        print(alpha.__loader__.get_code('alpha').co_filename)
        alpha.__spec__.loader.exec_module(alpha)
        print(alpha.X)
    """,
    "source_to_code patched": """
        import importlib.machinery as m
        plain = m.SourceFileLoader.source_to_code
        def source_to_code(self, data, path, **keywords):
            print('compiling', os.path.basename(path))
            return plain(self, data, path, **keywords)
        m.SourceFileLoader.source_to_code = source_to_code
        import alpha
        print(alpha.X)
    """,
    "PathFinder patched": """
        import importlib.machinery as m
        plain = m.PathFinder.find_spec
        m.PathFinder.find_spec = classmethod(lambda cls, *a: (print('asked', a[0]), plain(*a))[1])
        import alpha
        print(alpha.X)
    """,
    "a path that can be gone through once": """
        import types
        p = types.ModuleType('p'); p.__path__ = iter(['/nonexistent', LIB]); sys.modules['p'] = p
        import p.alpha
        print(p.alpha.X)
    """,
    "a path with a str subclass": """
        import types
        class S(str): pass
        q = types.ModuleType('q'); q.__path__ = ['/nonexistent', S(LIB)]; sys.modules['q'] = q
        import q.alpha
        print(q.alpha.X)
    """,
    "a path that is a str": """
        import types
        q = types.ModuleType('q'); q.__path__ = LIB; sys.modules['q'] = q
        try: import q.alpha
        except ImportError as error: print(error)
    """,
    "hooks before the first look-up": """
        import _frozen_importlib_external as m
        class Loader(m.SourceFileLoader):
            def get_data(self, path):
                if path.endswith('.pyc'): raise OSError
                return b"X = 'custom loader'"
            def _cache_bytecode(self, *arguments): pass
        sys.path_hooks.insert(1, m.FileFinder.path_hook((Loader, ['.py'])))
        sys.path_importer_cache.clear()
        import alpha
        print(alpha.X, type(alpha.__loader__).__name__)
    """,
    "subclasses of the loader's class": """
        import alpha, importlib.machinery as m
        T = type(alpha.__loader__)
        class S(T): pass
        print(S == T, S == m.SourceFileLoader, S != T, len({S, T}), type(S).__name__)
        print(T == m.SourceFileLoader, {m.SourceFileLoader: 1}.get(T), issubclass(T, m.SourceFileLoader))
    """,
    "copies of a loader": """
        import alpha, copy, pickle
        loader = alpha.__loader__
        loader.extra = 5
        print(sorted(vars(copy.copy(loader))), sorted(vars(pickle.loads(pickle.dumps(loader)))))
        print(copy.copy(loader) == loader, copy.copy(loader).get_filename('alpha') == alpha.__file__)
    """,
    "signature of get_code": """
        import alpha, inspect
        print(inspect.signature(alpha.__loader__.get_code), alpha.__loader__.get_source('alpha'))
        try: alpha.__loader__.get_code('beta')
        except ImportError as error: print(error, error.name)
        try: alpha.__loader__.get_code()
        except TypeError as error: print(error)
    """,
    "_path_stat patched": """
        import importlib._bootstrap_external as external
        plain = external._path_stat
        def stat(path):
            if path.endswith('alpha.py') and path.startswith(LIB + os.sep): raise OSError('hidden')
            return plain(path)
        external._path_stat = stat
        import alpha
        print(alpha.X)
    """,
    "cache_from_source patched": """
        import importlib._bootstrap_external as external
        external.cache_from_source = lambda path, *a, **k: '/proc/nonexistent/own.pyc'
        import alpha
        print(getattr(alpha, '__cached__', None), alpha.__spec__.cached)
    """,
    "no cache tag": """
        sys.implementation.cache_tag = None
        import alpha
        print(alpha.X, alpha.__spec__.cached, hasattr(alpha, '__cached__'))
    """,
    "a foreign finder is asked once": """
        class Finder:
            def find_spec(self, name, target=None): print('asked', name)
        def hook(path):
            if path == 'special:': return Finder()
            raise ImportError
        sys.path_hooks.append(hook)
        sys.path.append('special:')
        try: import nonexistent
        except ImportError as error: print(error)
        import alpha
        print(alpha.X)
    """,
    "a hook looks at its callers": """
        def callers():
            frame, names = sys._getframe(2), []
            while frame: names.append(frame.f_code.co_name); frame = frame.f_back
            return names
        class Finder:
            def find_spec(self, name, target=None):
                print('asked', name, callers())
                if name == 'raises': raise RuntimeError('finder')
        def hook(path):
            print('hook', path == 'special:', callers())
            if path != 'special:': raise ImportError
            return Finder()
        import traceback
        for place in 2, 0:
            sys.path_hooks.insert(place, hook)
            sys.path_importer_cache.clear()
            sys.path.insert(0, 'special:')
            import alpha
            try: import raises
            except RuntimeError: traceback.print_exc(file=sys.stdout)
            import beta, pack.sub
            for name in 'alpha', 'beta', 'pack', 'pack.sub': del sys.modules[name]
            sys.path.remove('special:')
            sys.path_hooks.remove(hook)
    """,
    "the current directory with a hook that follows": """
        import traceback
        sys.path_hooks.append(lambda path: print('hook', path))
        os.chdir(LIB)
        sys.path[:0] = ['', '/nonexistent']
        import alpha, pack.sub
        print(alpha.__file__ == os.path.join(LIB, 'alpha.py'), pack.__path__ == [os.path.join(LIB, 'pack')])
        print([path for path in sys.path_importer_cache if path in ('', LIB, '/nonexistent')])
    """,
    "path entries that make importlib raise": """
        import tempfile, traceback
        folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)
        for entry in '.', 'relative', LIB + chr(0), '':
            sys.path.insert(0, entry)
            try: import alpha
            except Exception as caught: error = caught
            else: error = None
            sys.path.remove(entry)
            sys.modules.pop('alpha', None)
            print(repr(error), [(line.name, line.lineno) for line in traceback.extract_tb(error and error.__traceback__)])
    """,
    "a finder whose listing can't be read": """
        import resource, tempfile, traceback
        sys.path.insert(0, tempfile.mkdtemp())
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        error = None
        try: import alpha
        except OSError as caught: error = caught
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        print(type(error), error.errno, [(line.name, line.lineno) for line in traceback.extract_tb(error.__traceback__)])
    """,
    "the path of a finder is a str of the program's": """
        import importlib.machinery as m, traceback
        class S(str):
            def endswith(self, *arguments): return 1 / 0
            def rstrip(self, *arguments): return 1 / 0
        finder = m.FileFinder(LIB, *[(m.ExtensionFileLoader, m.EXTENSION_SUFFIXES), (m.SourceFileLoader, ['.py']),
                                     (m.SourcelessFileLoader, ['.pyc'])])
        finder.path = S(LIB)
        sys.path_importer_cache[LIB] = finder
        try: import alpha
        except ZeroDivisionError as error:
            del sys.path_importer_cache[LIB]
            print([(line.name, line.lineno) for line in traceback.extract_tb(error.__traceback__)])
    """,
    "loaders of a finder look at their callers": """
        import importlib.machinery as m
        class Loader(m.SourceFileLoader):
            def __init__(self, *arguments):
                frame, names = sys._getframe(1), []
                while frame: names.append(frame.f_code.co_name); frame = frame.f_back
                print(names)
                super().__init__(*arguments)
        sys.path_importer_cache[LIB] = m.FileFinder(LIB, (Loader, ['.py']))
        import alpha
        print(alpha.X)
    """,
    "a finder between": """
        import importlib.machinery as m
        class Finder:
            def find_spec(self, name, path=None, target=None): print('asked', name)
        sys.meta_path.insert(sys.meta_path.index(m.PathFinder), Finder())
        import alpha
        print(alpha.X)
    """,
    "no PathFinder": """
        import importlib.machinery as m
        sys.meta_path.remove(m.PathFinder)
        try: import alpha
        except ImportError as error: print(error)
    """,
    "suffixes changed": """
        import importlib.machinery as m
        m.SOURCE_SUFFIXES.append('.source')
        open(os.path.join(os.environ['HOME'], 'gamma.source'), 'w').write("X = 'gamma'")
        sys.path.insert(0, os.environ['HOME'])
        sys.path_importer_cache.clear()
        import alpha
        print(alpha.X)
    """,
    "lazy loader": """
        import importlib.util
        spec = importlib.util.find_spec('alpha')
        loader = importlib.util.LazyLoader(spec.loader)
        spec.loader = loader
        module = importlib.util.module_from_spec(spec)
        sys.modules['alpha'] = module
        loader.exec_module(module)
        print(type(module).__name__, module.X, type(module).__name__)
    """,
    "what importlib calls is replaced by functions that tell": """
        import builtins, marshal, _imp, posix, _io, importlib
        import decimal, argparse  # hits enough for all that is put in place
        external, bootstrap = importlib._bootstrap_external, importlib._bootstrap
        places = [(builtins, "__import__ isinstance len getattr"), (marshal, "loads"),
                  (_imp, "_fix_co_filename"), (posix, "stat fspath"), (_io, "open_code"),
                  (external, "_path_join spec_from_file_location _classify_pyc _compile_bytecode _get_cached"),
                  (bootstrap, "_get_module_lock _verbose_message _call_with_frames_removed")]
        number = 0
        for owner, names in places:
            for name in names.split():
                plain, calls = getattr(owner, name), []
                def told(*arguments, calls=calls, plain=plain, **keywords):
                    calls.append(sys._getframe(1).f_code.co_name)
                    return plain(*arguments, **keywords)
                for module in "alpha", "pack", "pack.sub":
                    sys.modules.pop(module, None)
                setattr(owner, name, told)
                import alpha
                from pack import sub
                setattr(owner, name, plain)
                print(name, calls)
        for module in "alpha", "pack", "pack.sub":
            sys.modules.pop(module, None)
        import alpha
        print(alpha.X, getattr(alpha, '__cached__', 1) is not None)
    """,
    "classes behind importlib tell of calls": """
        import decimal, argparse, importlib
        external, bootstrap = importlib._bootstrap_external, importlib._bootstrap
        functions = [(bootstrap, "_ModuleLock", "acquire"), (bootstrap, "_ModuleLock", "release"), (bootstrap, "ModuleSpec", "__init__"),
                     (bootstrap, "_BlockingOnManager", "__enter__"), (bootstrap, "_ImportLockContext", "__enter__")]
        added = [(bootstrap, "ModuleSpec", "__setattr__", object.__setattr__), (external, "SourceFileLoader", "__setattr__", object.__setattr__),
                 (bootstrap, "ModuleSpec", "__getattribute__", object.__getattribute__)]
        for owner, kind, name, *plain in functions + added:
            kind, calls = getattr(owner, kind, None), []
            if kind is None or not (plain or name in vars(kind)): continue
            def told(*arguments, calls=calls, plain=plain[0] if plain else getattr(kind, name), **keywords):
                calls.append(len(arguments))
                return plain(*arguments, **keywords)
            for module in "alpha", "pack", "pack.sub":
                sys.modules.pop(module, None)
            setattr(kind, name, told)
            import alpha
            from pack import sub
            (delattr(kind, name) if plain else setattr(kind, name, told.__kwdefaults__ and told.__kwdefaults__["plain"] or told.__defaults__[1]))
            # each finder in the loop over sys.meta_path is one turn more
            print(kind.__name__, name, len(calls) if "Lock" in kind.__name__ and "Import" not in kind.__name__ else len(calls) > 8)
        for module in "alpha", "pack", "pack.sub":
            sys.modules.pop(module, None)
        import alpha
        print(alpha.X)
    """,
    "importlib's namespace is made anew, and has one name more": """
        import decimal, argparse, importlib
        external = importlib._bootstrap_external
        names, calls = vars(external), 0
        def told(*arguments):
            global calls
            calls += 1
            return max(*arguments)
        for times in range(4):
            for module in "alpha", "beta", "pack", "pack.sub":
                sys.modules.pop(module, None)
            names['added'] = 1
            import alpha
            del names['added']
            import beta
            for _ in range(times):
                kept = dict(names)
                names.clear()
                names.update(kept)
            external.max = told
            from pack import sub
            del external.max
            print(calls > 0)
            calls = 0
    """,
    "which modules may be imported is decided by __import__": """
        from unittest import mock
        plain = __import__
        def only_alpha(name, *arguments):
            if name != "alpha": raise ImportError(f"not allowed: {name}")
            return plain(name, *arguments)
        with mock.patch("builtins.__import__", side_effect=only_alpha) as patched:
            try: import alpha; print("imported")
            except ImportError as error: print(error)
        print([call.args[0] for call in patched.call_args_list])
    """,
    "constants of importlib": """
        import importlib
        importlib._bootstrap_external._PYCACHE = "elsewhere"
        sys.dont_write_bytecode = True
        import alpha
        print(getattr(alpha, '__cached__', None), alpha.__spec__.cached)
    """,
    "a missing module's error": """
        import traceback
        for statement in 'import nonexistent', 'import pack.nonexistent', 'from pack import nonexistent', 'import alpha.x':
            try: exec(statement)
            except ImportError as error: print(traceback.format_exc(), type(error), error.name, error.path, error.args)
        import importlib
        try: importlib.import_module('nonexistent')
        except ImportError: print(traceback.format_exc())
        print(importlib.util.find_spec('nonexistent') if hasattr(importlib, 'util') else None)
    """,
}


@pytest.fixture(scope="module")
def primed(venv, tmp_path_factory) -> tuple[User, str, str]:
    """A user whose archive serves the tree, and the tree's two folders."""
    root = tmp_path_factory.mktemp("patches")
    write(root, TREE)
    age(root / "lib", root / "lib2")
    lib, lib2 = str(root / "lib"), str(root / "lib2")
    home = root / "home"
    home.mkdir()
    user = User(venv.python, home, {"PYTHONPATH": f"{lib}:{lib2}"})
    program = (
        "import alpha, beta, pack.sub, pycds_auto; print(pycds_auto.stats()['stale'] + pycds_auto.stats()['misses'])"
    )
    others = "inspect, pickle, importlib.util, traceback, decimal, argparse, unittest.mock"
    for statement in f"import alpha, beta, pack.sub, {others}", program:
        user.run("-c", statement)
        age(root / "lib", root / "lib2")  # pycs were written
        user.build()
    assert user.run("-c", program).stdout == "0\n"
    return user, lib, lib2


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(primed, name: str) -> None:
    user, lib, _ = primed
    lines = PROGRAMS[name].splitlines()
    text = "\n".join(line[8:] for line in lines)
    program = f"import os, sys\nLIB = {lib!r}\n{text}"
    same(*(user.run("-c", program, plain=plain, readonly=True) for plain in (False, True)))


def test_an_unexecuted_extension_does_no_harm(venv, tmp_path) -> None:
    program = """
import importlib.util
module = importlib.util.module_from_spec(importlib.util.find_spec("pycds_auto._loader"))
for call in module.stats, module.state, module.stop_recording:
    try:
        call()
    except SystemError as error:
        print(error)
print(module.activate())
"""
    user = User(venv.python, tmp_path)
    assert user.run("-c", program, plain=True).stdout.splitlines()[-1] == "False"
