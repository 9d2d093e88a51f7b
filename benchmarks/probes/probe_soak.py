"""Runs in the measured interpreter: `probe_soak.py SCRIPT` runs a script, and tells what came of it.

As JSON on stdout: digests of what there is in every module, nothing of which depends on addresses or on hashes: names
of modules; public names and the types of their values; functions, down to the code objects inside them. And the
script's `result`, and the counts of pycds_auto. With a further argument also "details", module by module.
"""

import sys

namespace = {"__name__": "__main__"}
with open(sys.argv[1], encoding="utf-8") as file:
    exec(compile(file.read(), sys.argv[1], "exec"), namespace)
apart = {"pycds_auto", "pycds_auto._loader"}
this = sys.modules["__main__"]  # by any name: multiprocessing has another
modules = {name: module for name, module in sys.modules.items() if name not in apart and module is not this}
loader = sys.modules.get("pycds_auto._loader")
stats = loader.stats() if loader is not None else None

import hashlib  # noqa: E402
import json  # noqa: E402
import types  # noqa: E402

# What pycds_auto replaces, as README says, besides functions of importlib.
REPLACED = {("re._compiler", "compile"), ("sre_compile", "compile")}

SCALARS = (str, bytes, int, float, complex, bool, type(None), type(...))


def public_names(name, module):
    """A module's public names with the types of their values; of a stand-in for a module, its type."""
    if not isinstance(module, types.ModuleType):
        return [name, type(module).__qualname__]
    names = sorted(key for key in vars(module) if isinstance(key, str) and not key.startswith("_"))
    names = [key for key in names if (name, key) not in REPLACED]
    return [name, *(f"{key}:{type(vars(module)[key]).__qualname__}" for key in names)]


def functions(module):
    """The code objects of the functions of a module, and of the methods in its classes.

    Not importlib's own, some of which pycds_auto replaces.
    """
    contents = list(vars(module).items()) if isinstance(module, types.ModuleType) else []
    for key, value in contents:
        if (getattr(module, "__name__", None), key) in REPLACED:
            continue
        if isinstance(value, types.FunctionType):
            if not value.__code__.co_filename.startswith("<frozen importlib"):
                yield value.__code__
        elif isinstance(value, type) and value.__module__ == module.__name__:
            for method in list(vars(value).values()):
                if isinstance(method, (classmethod, staticmethod)):
                    method = method.__func__
                if isinstance(method, types.FunctionType):
                    yield method.__code__


def constant(value):
    """A constant as text; frozensets in an order that doesn't depend on hashes."""
    if isinstance(value, tuple):
        return f"({','.join(map(constant, value))})"
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(constant, value))})"
    return repr(value) if isinstance(value, SCALARS) else type(value).__qualname__


def describe(code, digest):
    """Feed all that a code object consists of to a digest, with the code objects inside it."""
    digest.update(code.co_code + code.co_linetable + code.co_exceptiontable)
    inside = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    values = (
        code.co_filename, code.co_qualname, code.co_firstlineno, code.co_flags, code.co_stacksize, code.co_argcount,
        code.co_posonlyargcount, code.co_kwonlyargcount, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars,
    )  # fmt: skip
    digest.update(repr(values).encode("utf-8", "surrogatepass"))
    digest.update(constant(code.co_consts).encode("utf-8", "surrogatepass"))
    for value in inside:
        describe(value, digest)


def hexadecimal(text):
    """A short digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def code_digest(module):
    """A digest of the code of a module's functions."""
    digest = hashlib.blake2b(digest_size=16)
    for found in functions(module):
        describe(found, digest)
    return digest.hexdigest()


names = sorted(modules)
public = [public_names(name, modules[name]) for name in names]
code = [code_digest(modules[name]) for name in names]
made = {
    "modules": hexadecimal("\n".join(names)),
    "names": hexadecimal(repr(public)),
    "code": hexadecimal(repr(code)),
    "result": repr(namespace["result"]),
}
details = list(zip(public, code, strict=True)) if len(sys.argv) > 2 else None
json.dump({"made": made, "stats": stats, "details": details}, sys.stdout)
