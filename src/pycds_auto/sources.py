"""Source texts for the image: the code objects that ``compile``, ``exec`` and ``eval`` make of them. ``csrc/sources.h``
says why.

A key is ``xm-0:file\\0text``: ``m`` for a module's text (``exec``) or ``e`` for an expression (``eval``), the
optimisation level or ``-`` for the interpreter's own, flags, and the file name; as a str it is like a path: what
``os.fsdecode`` makes of the bytes.
"""

from __future__ import annotations

import _ast
import keyword
import marshal
import os
import re
import struct
import sys
import types
import warnings
from collections.abc import Callable, Iterator

from . import image
from ._loader import source_code, source_set_copies

MOST = 5000
"""Texts in an image at most: beyond that nothing is recorded until old ones go."""

MOST_BYTES = 16 * 1024 * 1024
"""Likewise, keys and code together."""

MOST_NESTED = 100
"""The compiler compares the depth of a syntax tree with what is left of the recursion limit, at two or three levels a
call (Python/symtable.c, 3.11 to 3.13). The loader uses no entry where fewer than 64 calls are left
(csrc/native_layout.c)."""

_KEY = re.compile(rb"x([me])([-012])(\d{1,10}):([^\0]*)\0([^\0]*)", re.DOTALL)

_MOST_COPIES = source_set_copies()

_NAME = re.compile(r"[A-Za-z0-9_]+")
"""What the compiler interns (Objects/codeobject.c, all_name_chars)."""

_MANY_DIGITS = re.compile(rb"[0-9_]{640}")
"""Numbers that sys.set_int_max_str_digits may forbid."""


def is_key(key: str) -> bool:
    """Has it the form of a key?"""
    return _KEY.fullmatch(os.fsencode(key)) is not None


def entry(key: str) -> image.Module:
    """The image's record of a text; flagged LEFT_OUT if plain Python is to compile it each time."""
    payload = _payload(key)
    flags = image.SOURCE if payload else image.SOURCE | image.LEFT_OUT
    return image.Module(key, 0, 0, 0, 0, flags, payload)


def _payload(key: str) -> bytes:
    """marshal of the code object, with the sets in it told apart (csrc/sources.c, WITH_SETS); b"" if plain Python is to
    compile the text each time: it is wrong, or warns, or may not be compiled to the same in every process. The loader
    puts the file's name in; here it is another, since what marshal reads becomes interned and, in 3.13, immortal."""
    mode, level, number, file, encoded = _KEY.fullmatch(os.fsencode(key)).groups()
    optimise = -1 if level == b"-" else int(level)
    if _MANY_DIGITS.search(encoded):
        return b""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            file.decode()
            arguments = encoded.decode(), "<string>", "exec" if mode == b"m" else "eval"
            tree = compile(*arguments, int(number) | _ast.PyCF_ONLY_AST, True)
            if _depth(tree) > MOST_NESTED:
                return b""
            payload = _payload_of(
                arguments[0], tree, lambda text: compile(text, *arguments[1:], int(number), True, optimise)
            )
        except Exception:  # wrong: plain Python says so, each time
            return b""
    return b"" if caught else payload


def _payload_of(text: str, tree: _ast.AST, compiled: Callable[[str], types.CodeType]) -> bytes:
    sets = _sets_of_names(tree)
    for names in sets.values():
        list(map(sys.intern, names))  # as where they are used: attributes have these names
    code = compiled(text)
    if not all(map(_is_always_the_same, _all_code(code))):
        return b""
    places = list(_set_places(code, sets))
    if not places:
        payload = marshal.dumps(code)
        return payload if is_same_code(code, marshal.loads(payload)) else b""
    copies = {
        names: _copies(text, tree, compiled, names, _objects_at(code, [path for path, at in places if at is names]))
        for _, names in places
    }
    # Strings that aren't interned, so that marshal doesn't intern them when it reads them; of each set's names one
    # tuple.
    spelt = {names: tuple("".join(list(name)) for name in names) for names in copies}
    apart = marshal.dumps(tuple((path, spelt[names], copies[names]) for path, names in places))
    payload = b"\x01" + struct.pack("=I", len(apart)) + apart + marshal.dumps(code)
    return payload if is_same_code(code, source_code(payload)) else b""


# ---- constant sets: see csrc/sources.c ----


def _sets_of_names(tree: _ast.AST) -> dict[frozenset[str], tuple[str, ...]]:
    """The sets in a text that consist of names only, in the source's order; not those that are there in several
    orders."""
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for node in _nodes(tree):
        values = (
            [item.value if isinstance(item, _ast.Constant) else None for item in node.elts]
            if isinstance(node, _ast.Set)
            else []
        )
        if (
            values
            and all(isinstance(value, str) and _NAME.fullmatch(value) for value in values)
            and len(max(values, key=len)) > 1
        ):
            names = frozenset(values)
            found[names] = tuple(values) if found.get(names, tuple(values)) == tuple(values) else ()
    return {names: order for names, order in found.items() if order}


def _set_places(
    code: types.CodeType, sets: dict[frozenset[str], tuple[str, ...]], path: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Where constant sets are: indices of constants, from the outermost code object to the set; and their names."""
    for index, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            yield from _set_places(constant, sets, (*path, index))
        elif isinstance(constant, frozenset):
            if constant not in sets:
                raise ValueError("a set whose order in the source isn't known")
            yield (*path, index), sets[constant]


def _objects_at(code: types.CodeType, paths: list[tuple[int, ...]]) -> list[object]:
    found = []
    for path in paths:
        item: object = code
        for index in path:
            item = item.co_consts[index]
        found.append(item)
    return found


def _copies(
    text: str, tree: _ast.AST, compiled: Callable[[str], types.CodeType], names: tuple[str, ...], sets: list[object]
) -> int:
    """How many times the compiler makes this set in this text: whether a last time, for each place anew, depends on
    whether the strings are the identifiers of some argument as well. Found out with other names, whose order tells."""
    if (
        not text.isascii()
        or any(map(keyword.iskeyword, names))
        or any(isinstance(node, _ast.ClassDef) for node in _nodes(tree))
    ):
        raise ValueError("other names might not be treated alike")  # normalised; "return", of annotations; mangled
    if len(names) == 1:
        return _MOST_COPIES if len(sets) == len({id(item) for item in sets}) else _MOST_COPIES - 1
    for attempt in range(10000):
        others = {name: f"_{attempt}_{index}_" for index, name in enumerate(names) if len(name) > 1}
        renamed = tuple(sys.intern(others.get(name, name)) for name in names)
        fewer, most = list(_made(renamed, _MOST_COPIES - 1)), list(_made(renamed, _MOST_COPIES))
        if fewer != most and not any(other in text for other in others.values()):
            pattern = rf"\b(?:{'|'.join(others)})\b"
            code = compiled(re.sub(pattern, lambda match: others[match[0]], text))
            orders = [
                list(item)
                for part in _all_code(code)
                for item in part.co_consts
                if isinstance(item, frozenset) and item == set(renamed)
            ]
            if orders and all(order == fewer for order in orders):
                return _MOST_COPIES - 1
            if orders and all(order == most for order in orders):
                return _MOST_COPIES
            break
    raise ValueError("how often a set is made can't be told")


def _made(names: tuple[str, ...], times: int) -> frozenset[str]:
    made = frozenset(names)
    for _ in range(times - 1):
        made = frozenset(tuple(made))
    return made


def _depth(tree: _ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth += 1
        level = [child for node in level for child in _children(node)]
    return depth


def _nodes(tree: _ast.AST) -> Iterator[_ast.AST]:
    level = [tree]
    while level:
        yield from level
        level = [child for node in level for child in _children(node)]


def _children(node: _ast.AST) -> Iterator[_ast.AST]:
    for name in node._fields:
        value = getattr(node, name, None)
        yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, _ast.AST))


def _all_code(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _all_code(constant)


def _is_always_the_same(code: types.CodeType) -> bool:
    """Is nothing of it in the order of a set, but for constants that are sets? In 3.13, the names of attributes that
    the methods of a class assign are (Python/compile.c, compiler_class_body)."""
    return not any(map(_tuple_holds_set, code.co_consts)) and "__static_attributes__" not in code.co_names


def _tuple_holds_set(constant: object) -> bool:
    return isinstance(constant, tuple) and any(
        isinstance(item, frozenset) or _tuple_holds_set(item) for item in constant
    )


_METHODS = ("co_positions", "co_lines")
# Without co_lnotab, which is deprecated (gone in 3.15) and made of co_linetable, and methods.
_COMPARED = [
    name
    for name, member in vars(types.CodeType).items()
    if name.startswith("co_") and name != "co_lnotab" and not callable(member)
]


def is_same_code(one: types.CodeType, other: types.CodeType) -> bool:
    """Are they equal in every field, and do they share objects alike? That names which the compiler gives ("<lambda>")
    and the file name are one object each is the loader's doing."""
    return _Comparison().is_same(one, other)


class _Comparison:
    def __init__(self) -> None:
        self._counterparts: dict[int, object] = {}
        self._originals: dict[int, object] = {}

    def is_same(self, one: object, other: object) -> bool:
        if type(one) is not type(other):
            return False
        if isinstance(one, types.CodeType):
            return all(self._is_same_field(name, one, other) for name in _COMPARED) and all(
                list(getattr(one, name)()) == list(getattr(other, name)()) for name in _METHODS
            )
        if (
            self._counterparts.setdefault(id(one), other) is not other
            or self._originals.setdefault(id(other), one) is not one
        ):
            return False
        if isinstance(one, tuple):
            return len(one) == len(other) and all(map(self.is_same, one, other))
        return one == other and repr(one) == repr(other)

    def _is_same_field(self, name: str, one: types.CodeType, other: types.CodeType) -> bool:
        mine, its = getattr(one, name), getattr(other, name)
        if name == "co_consts":
            return type(its) is tuple and len(mine) == len(its) and all(map(self.is_same, mine, its))
        return type(mine) is type(its) and mine == its
