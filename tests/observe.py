"""Runs in the interpreter under test: executes a statement and writes down what a program can see afterwards.

    python observe.py MODE OUTPUT STATEMENT SHIFT

Modes: `state` describes all modules, functions and classes; `audit`, `profile` and `trace` list the events while the
statement runs, `late-audit`, `late-profile` and `late-trace` those of a hook that comes after other imports. OUTPUT gets
one JSON object: text -> text, or text -> list of texts for what has an order. SHIFT: a number, of which only addresses
depend. Nothing is imported before the statement.
"""

import sys


def main(mode, output, statement, shift):
    held = [bytes(size * 16) for size in range(int(shift) * 100)]  # other addresses for all that follows  # noqa: F841
    sys.argv[:] = [""]
    stand_in()
    if mode != "audit" and mode != "late-audit":
        stand_in_for_finder()
    code = compile(statement, "<statement>", "exec")
    # a module of its own: the statement's names aren't ours
    space = type(sys)("__main__").__dict__
    space["__builtins__"] = __builtins__
    if mode == "state":
        error = attempt(code, space)
        modules = dict(sys.modules)
        found = state(modules, space)
    else:
        if mode.startswith("late-"):
            import decimal, email.message, logging.handlers  # noqa: E401, F401
        events, error = EVENTS[mode.removeprefix("late-")](code, space)
        found = {mode: events}
    import json
    import re

    def clean(text):
        text = re.sub(r"\b(0x[0-9a-f]+|[0-9]{14,16})\b", "0x...", text)  # addresses, in repr and as id()
        text = re.sub(r"((?:pipe|socket|anon_inode):\[)\d+", r"\1", text)
        return re.sub(r"(PYCDS_DISABLE\W+(?:(?:bytes b|str )')?)[01]", r"\1", text)

    found["exception"] = clean(error)
    found = {
        key: clean(value) if isinstance(value, str) else [clean(item) for item in value] for key, value in found.items()
    }
    stats = getattr(sys.modules[OURS], "stats", None)
    with open(output, "w", errors="backslashreplace") as file:
        json.dump([found, stats and stats()], file)


OURS = "pycds_auto._loader"


def stand_in():
    """Another module of our extension's name and file where there is none, at the same place: programs loop over sys.modules."""
    module = sys.modules.pop(OURS, None)
    if module is None:
        os = sys.modules["os"]  # site has imported it
        module = type(sys)(OURS)
        for folder in (os.path.join(entry, "pycds_auto") for entry in sys.path):
            if os.path.isdir(folder):
                (module.__file__,) = (
                    os.path.join(folder, name) for name in os.listdir(folder) if name.startswith("_loader.")
                )
    sys.modules[OURS] = module


def stand_in_for_finder():
    """Programs loop over sys.meta_path, too. sys.audit takes what a finder takes, and returns None."""
    if not any(map(is_ours, sys.meta_path)):
        finder = type("Finder", (), {"__module__": OURS, "find_spec": staticmethod(sys.audit)})()
        sys.meta_path.insert(sys.meta_path.index(sys.modules["_frozen_importlib_external"].PathFinder), finder)


def attempt(code, space):
    try:
        exec(code, space)
    except BaseException as error:
        kept = error
    else:
        return ""
    import traceback

    return "".join(traceback.format_exception(type(kept), kept, kept.__traceback__.tb_next))


# ---- events ----


def audit(code, space):
    events, on = [], True

    def hook(event, arguments):
        if on:
            events.append((event, describe_arguments(event, arguments)))

    sys.addaudithook(hook)
    error = attempt(code, space)
    on = False
    return [f"{event} {text}" for event, text in events], error


def describe_arguments(event, arguments):
    """The arguments as text, at once: they may change later. An import's last one is sys.meta_path, with our finder."""
    if event == "import":
        name, file, path, finders, hooks = arguments
        finders = finders and [finder for finder in finders if not is_ours(finder)]
        arguments = name, file, path, finders, hooks
    try:
        text = repr(arguments)
    except Exception as error:
        text = f"{type(error).__name__} from repr"
    return text if len(text) < 2000 else f"{text[:1000]} {len(text)} characters, {hash(text)}"


def is_ours(value):
    return type(value).__module__ == "pycds_auto._loader"


def where(frame):
    return f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}:{frame.f_lineno}"


def profile(code, space):
    events = []

    def hook(frame, event, argument):
        called = getattr(argument, "__qualname__", "?") if event.startswith("c_") else ""
        ours = event.startswith("c_") and (argument is sys.audit or is_ours(getattr(argument, "__self__", None)))
        events.append((None if ours else event, where(frame), called))

    sys.setprofile(hook)
    error = attempt(code, space)
    sys.setprofile(None)
    return without_our_turn(events), error


def without_our_turn(events):
    """Without the turn of our finder in importlib's loop over sys.meta_path: a lock is taken and released for each."""
    kept, skip = [], 0
    for event, place, called in events:
        if event is None:  # c_call, then c_return
            if skip == 0:
                del kept[-4:]  # call of __enter__, c_call and c_return of acquire_lock, return
            skip = 4  # of __exit__, likewise
        elif skip > 0:
            skip -= 1
        else:
            kept.append(f"{event} {place} {called}")
    return kept


def trace(code, space):
    events = []

    def hook(frame, event, argument):
        events.append(f"{event} {where(frame)}")
        # lines of importlib, too, but for its loop over finders: the place of ours in sys.meta_path is known
        inside = frame.f_code.co_filename.startswith("<frozen importlib") and frame.f_code.co_name != "_find_spec"
        return hook if inside else None

    sys.settrace(hook)
    error = attempt(code, space)
    sys.settrace(None)
    return without_empty_turns(events), error


def without_empty_turns(events):
    """Without turns of that loop in which no Python code ran between taking the lock and releasing it."""
    import re

    entering, leaving = (
        rf"call .*:_ImportLockContext.{name}:\d+\n(?:(?:line|return) .*:_ImportLockContext.{name}:\d+\n)*"
        for name in ("__enter__", "__exit__")
    )
    return re.sub(f"^{entering}{leaving}", "", "\n".join([*events, ""]), flags=re.MULTILINE).splitlines()


EVENTS = {"audit": audit, "profile": profile, "trace": trace}


# ---- state ----

# What csrc/shortcuts.h tells of; importlib.util has one of them by name.
REPLACED = ("_ModuleLockManager", "_get_module_lock", "_init_module_attrs", "_find_spec", "_handle_fromlist")


def state(modules, space):
    import atexit
    import gc
    import os
    import signal
    import warnings
    from types import FunctionType

    gc.collect()  # when that happens by itself depends on how many objects were made, and imports from the archive put it off
    order = [name for name in modules if not name.startswith("pycds_auto")]
    found = {"sys.modules": order, "statement's names": sorted(space)}
    found["sys.path"] = list(map(repr, sys.path))
    found["sys.path_hooks"] = list(map(repr, sys.path_hooks))
    found["sys.meta_path"] = [repr(finder) for finder in sys.meta_path if not is_ours(finder)]
    cache = sys.path_importer_cache.items()
    found["sys.path_importer_cache"] = sorted(f"{key} {type(value)} {value!r}" for key, value in cache)
    found["warnings.filters"] = list(map(repr, warnings.filters))
    found["warnings' registry"] = repr(warnings.onceregistry)
    found["atexit"] = str(atexit._ncallbacks())
    found["threads"] = str(len(os.listdir("/proc/self/task")))
    files = (os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
    found["open files"] = sorted(os.readlink(file) for file in files if os.path.islink(file))
    found["signals"] = [f"{number} {signal.getsignal(number)!r}" for number in sorted(signal.valid_signals())]
    found["collector"] = (
        f"{gc.isenabled()} {gc.get_threshold()} {gc.get_debug()} {gc.callbacks} {gc.get_freeze_count()}"
    )
    found["interpreter"] = (
        f"{sys.getrecursionlimit()} {sys.getswitchinterval()} {sys.flags} {sys._xoptions} {sys.dont_write_bytecode}"
    )
    found["working directory"] = os.getcwd()
    for name in order:
        if name not in ("__main__", "__mp_main__"):
            describe_module(name, modules[name], found)
    gc.collect()
    objects = gc.get_objects()
    functions, classes = {}, {}
    for value in objects:
        if type(value) is FunctionType:
            if value.__code__.co_filename != __file__:
                functions.setdefault(
                    f"function {value.__module__}:{value.__qualname__}:{value.__code__.co_firstlineno}", []
                ).append(value)
        elif type(value) is type and value.__name__ in REPLACED:  # not isinstance: lazy objects would do things
            pass
        elif (
            issubclass(type(value), type)
            and not is_ours(value)
            and type.__dict__["__module__"].__get__(value) != "pycds_auto._loader"
        ):
            module = type.__dict__["__module__"].__get__(value)
            name = f"class {module if isinstance(module, str) else type(module)}:{type.__dict__['__qualname__'].__get__(value)}"
            classes.setdefault(name, []).append(value)
    del objects
    cache = {}
    for name, values in functions.items():
        found[name] = sorted(describe_function(value, cache) for value in values)
    for name, values in classes.items():
        # ours, of SourceFileLoader's name, is not counted: two classes equal, one of them ours
        found[name] = sorted({describe_class(value) for value in values})
    return found


def describe_module(name, module, found):
    key = f"module {name}"
    found[key] = f"{type(module)} {safe_repr(module)}"
    try:
        space = vars(module)
    except TypeError:
        return
    found[f"{key} names"] = list(map(repr, space))
    for variable in list(space):
        if variable in REPLACED and name.startswith(("_frozen_importlib", "importlib")):
            continue
        if variable == "compile" and name in ("re._compiler", "sre_compile"):  # csrc/patterns.h
            continue
        if not (
            variable == "__builtins__"
            or name == "sys"
            and variable in ("modules", "meta_path", "path_importer_cache", "last_exc", "last_value")
        ):
            found[f"{key}.{variable}"] = describe_value(space[variable])
    describe_spec(key, name, space.get("__spec__"), space, found)


def safe_repr(value):
    try:
        return repr(value)
    except Exception as error:
        return f"{type(error).__name__} from repr"


SIMPLE = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
NESTED = (tuple, list, dict, set, frozenset)


def describe_value(value, depth=0):
    """Simple values with their types, of others the type only."""
    kind = type(value)
    if kind in SIMPLE:
        text = repr(value)
        return f"{kind.__name__} " + (text if len(text) < 500 else f"{text[:100]} {len(text)} {hash(text)}")
    if kind in NESTED and depth < 3:
        if len(value) > 200:
            return f"{kind.__name__} of {len(value)}"
        items = value.items() if kind is dict else value
        try:
            items = list(items)
        except RuntimeError:  # changed meanwhile
            return f"{kind.__name__} of changing size"
        texts = [describe_value(item, depth + 1) for item in items]
        if kind in (set, frozenset) and any(type(item) not in SIMPLE for item in items):
            texts.sort()  # their order is that of addresses
        return f"{kind.__name__} [{', '.join(texts)}]"
    return f"{kind.__module__}.{kind.__qualname__}"


def describe_spec(key, name, spec, space, found):
    if spec is None or not hasattr(spec, "loader"):
        found[f"{key} spec"] = safe_repr(spec)
        return
    loader = spec.loader
    text = [safe_repr(spec)]
    for field in (
        "name",
        "origin",
        "cached",
        "parent",
        "has_location",
        "loader_state",
        "_initializing",
        "_set_fileattr",
    ):
        value = getattr(spec, field, "(none)")
        text.append(f"{field}={safe_repr(value)}")
    locations = spec.submodule_search_locations
    text.append(f"locations={type(locations)} {locations if locations is None else list(locations)}")
    text.append(f"fields={sorted(vars(spec)) if hasattr(spec, '__dict__') else None}")
    text.append(f"same loader={space.get('__loader__') is loader}")
    found[f"{key} spec"] = text
    path = space.get("__path__")
    found[f"{key} path"] = f"{type(path)} {path if path is None or isinstance(path, str) else list(path)}"
    found[f"{key} loader"] = describe_loader(loader, name)


def describe_loader(loader, name):
    import importlib.machinery as machinery
    import copy
    import pickle

    kind = loader if isinstance(loader, type) else type(loader)
    text = [f"{kind.__module__}.{kind.__qualname__} {kind!r} {safe_repr(loader)} {kind.__name__} {kind.__doc__!r}"]
    for known in ("SourceFileLoader", "ExtensionFileLoader", "SourcelessFileLoader"):
        cls = getattr(machinery, known)
        text.append(f"{known}: {isinstance(loader, cls)} {kind == cls} {kind in {cls: 1}} {hash(kind) == hash(cls)}")
    if not isinstance(loader, machinery.SourceFileLoader) or not kind.__module__.startswith("_frozen_importlib"):
        return text
    text.append(f"attributes={sorted(vars(loader).items())} {dir(loader)}")
    other = machinery.SourceFileLoader(loader.name, loader.path)
    text.append(f"equal={loader == other} {other == loader} {hash(loader) == hash(other)}")
    for method in ("get_filename", "is_package", "path_stats", "get_source", "get_resource_reader", "get_code"):
        argument = loader.path if method == "path_stats" else name
        if method in ("get_code", "get_source") and hash(name) % 8:
            continue  # slow: a sample will do
        try:
            result = getattr(loader, method)(argument)
        except Exception as error:
            text.append(f"{method}: {error!r}")
        else:
            code = describe_code(result, {}) if method == "get_code" else safe_repr(result)
            text.append(f"{method}: {code if len(code) < 2000 else hash(code)}")
    for what, make in (("pickle", lambda: pickle.loads(pickle.dumps(loader))), ("copy", lambda: copy.copy(loader))):
        try:
            text.append(f"{what}: {make()!r} {make() == loader}")
        except Exception as error:
            text.append(f"{what}: {error!r}")
    return text


def describe_function(function, cache):
    code = function.__code__
    text = describe_code(code, cache)
    defaults = describe_value(function.__defaults__), describe_value(function.__kwdefaults__)
    scope = function.__globals__.get("__name__")
    return f"{text};{hash(str(defaults)):x};{scope};{hash(str(function.__doc__)):x};{sorted(vars(function))}"


def describe_code(code, cache):
    """Every field, as field:hash. Hashes are equal in processes of one PYTHONHASHSEED."""
    if id(code) in cache:
        return cache[id(code)][1]
    text = []
    for name in dir(code):
        if not name.startswith("co_") or name == "co_lnotab":  # deprecated: warns
            continue
        value = getattr(code, name)
        if callable(value):
            # slow, and made of co_linetable and co_exceptiontable: a sample will do
            value = list(value()) if hash(code.co_code) % 16 == 0 else ()
        text.append(f"{name}:{hash(describe_deep(value, cache)):x}")
    text.append(f"size:{sys.getsizeof(code)}")
    for name in ("co_names", "co_varnames", "co_freevars", "co_cellvars"):
        text.append(f"interned {name}:{[sys.intern(item) is item for item in getattr(code, name)].count(False)}")
    result = ";".join(text)
    cache[id(code)] = code, result  # held, so that the id stays its
    return result


def describe_deep(value, cache):
    kind = type(value)
    if kind in (tuple, frozenset):
        return f"{kind.__name__}[{','.join(describe_deep(item, cache) for item in value)}]"
    if hasattr(value, "co_code"):
        return describe_code(value, cache)
    return f"{kind.__name__} {value!r}"


def describe_class(value):
    space = type.__dict__["__dict__"].__get__(value)
    items = list(space.items())
    if items and items[0][0] != "__module__":  # no class statement made it; Rust's order is chance
        items.sort(key=lambda item: item[0])
    names = [f"{name}:{type(item).__name__}" for name, item in items]
    simple = [f"{name}={describe_value(item)}" for name, item in items if type(item) in SIMPLE or type(item) in NESTED]
    bases = [base.__qualname__ for base in type.__dict__["__mro__"].__get__(value)]
    metaclass = "type" if is_ours(value) else type(value).__qualname__
    return f"{metaclass} {bases} {type.__dict__['__flags__'].__get__(value) & ~(1 << 19)} {names} {simple}"


if __name__ == "__main__":
    main(*sys.argv[1:])
