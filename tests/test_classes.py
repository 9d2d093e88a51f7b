"""Classes made with the slots of their bases (csrc/classes.c): the same as type.__new__ makes them, to the last slot.

A program makes classes of all kinds and imports much of the standard library, and tells what its classes are: every word of
each class's structure, addresses as places in libraries, and what happened while they were made. It runs with and without
the archive.
"""

import json

from support import User, age, same, write

CLASSES = """
import abc, collections, enum, typing, sys, warnings
told = []
class Plain: pass
class Documented(Plain):
    "Text."
    __eq__ = lambda self, other: self is other
class Hashed(Documented):
    __hash__ = object.__hash__
class HashedAgain(Documented):
    __hash__ = Plain.__hash__
class Unhashed(Plain):
    __hash__ = None
class Below(Unhashed): pass
class Compares(Plain):
    def __lt__(self, other): return True
class Called(Plain):
    def __call__(self): return 1
    def __getattr__(self, name): return name
class Reads(Called):
    def __getattribute__(self, name): return super().__getattribute__(name)
class Writes(Called):
    def __setattr__(self, name, value): told.append(name)
    def __delattr__(self, name): told.append(name)
class Number(Plain):
    def __add__(self, other): return 1
    __radd__ = __add__
    def __index__(self): return 3
class Container(Plain):
    def __len__(self): return 0
    def __getitem__(self, key): return key
    def __contains__(self, key): return True
    def __iter__(self): return iter(())
class Descriptor(Plain):
    def __get__(self, instance, owner): return 5
    def __set_name__(self, owner, name): told.append((owner.__name__, name))
class Uses(Plain):
    one = Descriptor()
    two = Descriptor()
    three = property(lambda self: 3)
class Final(Plain):
    def __del__(self): pass
class New(Plain):
    def __new__(cls, *arguments): return super().__new__(cls)
    def __init_subclass__(cls, **keywords): told.append((cls.__name__, keywords))
    def __class_getitem__(cls, item): return item
class Subclass(New, word=1): pass
class Names(Plain):
    def f(self): return __class__
class Qualified:
    class Inner(Plain): pass
class Async(Plain):
    def __await__(self): return iter(())
    def __aiter__(self): return self
    async def __anext__(self): raise StopAsyncIteration
class Next(Plain):
    def __next__(self): raise StopIteration
class Buffer(Plain):
    def __buffer__(self, flags): return memoryview(b"x")
class NoSlots(Plain): __slots__ = ()
class Slots: __slots__ = ("a", "b")
class BelowSlots(Slots): pass
class SlotsAndDict: __slots__ = ("__dict__",)
class BelowDict(SlotsAndDict): pass
class SlotsAndWeak: __slots__ = ("__weakref__",)
class BelowWeak(SlotsAndWeak): pass
class Bare: __slots__ = ()
class BelowBare(Bare): pass
class BareMixin(Bare):
    __slots__ = ()
    def __len__(self): return 4
class Both(Number, Container): pass
class BothOther(Container, Number):
    def __len__(self): return 2
class Mixed(BareMixin, Number): pass
class MixedOther(Number, BareMixin): pass
class Diamond(Compares, Called, Both): pass
class Wide(Compares, New, Uses): pass
class Error(Exception): pass
class ErrorAgain(Exception): pass
class ErrorBelow(ErrorAgain):
    def __str__(self): return "text"
class MixedError(Number, Exception): pass
class Dict(dict): pass
class DictAgain(dict):
    def __missing__(self, key): return key
class DictThird(dict):
    def __getitem__(self, key): return key
class Int(int): pass
class IntAgain(int): pass
class Tuple(tuple): pass
class TupleAgain(tuple):
    def __len__(self): return 1
class Text(str): pass
class TextAgain(str): __str__ = str.__str__
class List(list): __len__ = list.__len__
class ListAgain(list): pass
class ListThird(list): pass
class WithWrapper(Plain): __repr__ = object.__repr__
class WithBuiltin(Plain): __len__ = len
class WithNew(Plain): __new__ = object.__new__
class Meta(type):
    def __call__(cls, *arguments): return super().__call__(*arguments)
    def __setattr__(cls, name, value): told.append(name); super().__setattr__(name, value)
class OfMeta(metaclass=Meta):
    def __len__(self): return 1
class BelowMeta(OfMeta): pass
class Order(type):
    def mro(cls): return [cls, object] if cls.__name__ == "Short" else super().mro()
class Short(Container, metaclass=Order): pass
class Long(Container, metaclass=Order): pass
class Owner(type):
    @property
    def __len__(cls): return 7
    @__len__.setter
    def __len__(cls, value): told.append("set")
class OfOwner(metaclass=Owner):
    def __len__(self): return 2
class Space(dict): pass
class Prepares(type):
    @classmethod
    def __prepare__(metaclass, name, bases): return Space()
class Prepared(metaclass=Prepares):
    def __int__(self): return 1
class Abstract(abc.ABC):
    @abc.abstractmethod
    def f(self): pass
    def __len__(self): return 0
class Concrete(Abstract, collections.abc.Iterable):
    def f(self): pass
    def __iter__(self): return iter(())
class Map(collections.abc.MutableMapping):
    def __getitem__(self, key): raise KeyError(key)
    def __setitem__(self, key, value): pass
    def __delitem__(self, key): pass
    def __iter__(self): return iter(())
    def __len__(self): return 0
T = typing.TypeVar("T")
class Generic(typing.Generic[T]): pass
class GenericBelow(Generic[int], Number): pass
class Protocol(typing.Protocol):
    def f(self) -> int: ...
class Pair(typing.NamedTuple):
    a: int
    b: str = ""
class BelowPair(Pair): pass
class Typed(typing.TypedDict):
    a: int
class Colour(enum.Enum):
    RED = 1
class Flags(enum.IntFlag):
    ONE = 1
class MixedEmpty(BareMixin, Bare): __slots__ = ()
class MixedFull(BareMixin, Number): __slots__ = ()
class MixedPlain(Number, BareMixin): __slots__ = ()
class SlotsBelow(Slots): __slots__ = ()
class TwoSlots(Slots, BareMixin): pass
P1, P2, P3 = (collections.namedtuple(f"P{i}", "a b") for i in range(3))
class BelowP(P3): __slots__ = ()
class Float(float): __slots__ = ()
class FloatAgain(float):
    __slots__ = ()
    def __add__(self, other): return 1
class FloatThird(float): pass
class FloatFourth(float): pass
class KeyErr(KeyError): __slots__ = ()
class KeyErrAgain(KeyError): pass
class KeyErrThird(KeyError): pass
import ast, decimal, functools, _random, _thread, types, weakref
class SlotList: __slots__ = ["b", "a", "c"]
class SlotText: __slots__ = "one"
class SlotMangled: __slots__ = ("__hidden", "_shown")
class SlotAll: __slots__ = ("__weakref__", "x", "__dict__")
class SlotTwice: __slots__ = ("same", "same")
class SlotMore(Slots): __slots__ = ("z", "c")
class SlotEverything(SlotMore): pass
class SlotSpecial: __slots__ = ("__len__", "a")
class SlotWithMethods(SlotMore):
    __slots__ = ("d",)
    def __eq__(self, other): return True
    def __len__(self): return 6
class SlotError(Exception): __slots__ = ("code",)
class SlotDict(dict): __slots__ = ("more",)
class SlotBoth(SlotMore, BareMixin): __slots__ = ("e",)
class SlotBothWeak(SlotMore, SlotsAndWeak): __slots__ = ()
class SlotBothDict(BareMixin, SlotMore, Plain): __slots__ = ()
class SlotsEmpty(ABCLike := abc.ABC): __slots__ = ()
class SlotsFull(SlotsEmpty): __slots__ = ("f",)
class Numbered(int, Plain): pass
class NumberedOther(Plain, int): pass
class NumberedThird(Number, int): pass
class TextEnum(str, enum.Enum): A = "a"
class IntegerEnum(enum.IntEnum): A = 1
class ErrorOfTwo(KeyError, AttributeError): pass
class ErrorOfThree(Plain, ValueError, KeyError): pass
class ErrorWithMixin(BareMixin, OSError): pass
class ErrorOther(OSError, BareMixin): pass
class ErrorSystem(ErrorBelow, OSError): pass
class DequeFirst(collections.deque): pass
class DequeAgain(collections.deque): pass
class DequeWrapper(collections.deque): __getitem__ = collections.deque.__getitem__
class Borrows: __getitem__ = collections.deque.__getitem__
class Getter:
    def __getitem__(self, key): return key
class DequeBoth(collections.deque, Getter): pass
class DequeOther(Getter, collections.deque): pass
class Adds:
    def __radd__(self, other): return "added"
class TextWrapper(str): __add__ = str.__add__
class TextBoth(str, Adds): pass
class TextOther(Adds, str): pass
class ListBoth(list, Number): pass
class ListDeleter(list):
    def __delitem__(self, index): pass
class Partial(functools.partial): pass
class PartialAgain(functools.partial): pass
class PartialWrapper(functools.partial): __call__ = functools.partial.__call__
class PartialBoth(functools.partial, Called): pass
class PartialOther(Called, functools.partial): pass
class Node(ast.AST): pass
class NodeAgain(ast.AST): _fields = ("a",)
class NodeThird(ast.AST): pass
ast.AST.__len__ = lambda self: 5
class NodeFourth(ast.AST): pass
class NodeFifth(ast.AST): pass
del ast.AST.__len__
class NodeSixth(ast.AST): pass
class Expression(ast.expr, Number): pass
class Rand(_random.Random): pass
class RandAgain(_random.Random): pass
class Local(_thread._local): pass
class LocalAgain(_thread._local): x = 1
class Ref(weakref.ref): __slots__ = ("key",)
class RefAgain(weakref.ref): __slots__ = ()
class Mod(types.ModuleType): pass
class ModAgain(types.ModuleType): pass
class MetaAgain(type): pass
class MetaThird(type): pass
class Dec(decimal.Decimal): pass
class DecAgain(decimal.Decimal): pass
class Mapped(dict, collections.abc.MutableMapping): pass
class MappedOther(collections.abc.MutableMapping, dict): pass
class GenericFirst(typing.Generic[T], Number): pass
class GenericDict(dict, typing.Generic[T]): pass
class GenericSlots(typing.Generic[T]): __slots__ = ("g",)
class MroMeta(type):
    def mro(cls): return [cls, Getter, *cls.__base__.__mro__]
class Broken(BrokenPipeError, metaclass=MroMeta): pass
class BrokenAgain(BrokenPipeError): pass
class BrokenThird(BrokenPipeError): pass
class SetsAndDeletes:
    def __set_name__(self, owner, name):
        owner.__getitem__ = lambda self, key: key
        del owner.__getitem__
class OrderedTaught(collections.OrderedDict): x = SetsAndDeletes()
class OrderedAgain(collections.OrderedDict): pass
class OrderedThird(collections.OrderedDict): pass
class Dies(type):
    def __del__(cls): told.append(("dies", cls.__name__))
    @property
    def __len__(cls): return 3
    @__len__.setter
    def __len__(cls, value): told.append("set")
class DiesNot(Compares, Container, metaclass=Dies): pass
class Keyed1: pass
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    vars_of_keyed = type("Keyed2", (), {1: 2})
class DiesNeither(Plain, vars_of_keyed, metaclass=Dies): pass
later = type("Later", (Plain,), {"__len__": lambda self: 9, "x" + "y": 1})
fresh = type("Fresh", (), {})
keyed = type("Keyed", (), dict([("_" + "_eq__", None)]))
dotted = type("a.b", (Number,), {"__module__": None, "__doc__": 3, "__qualname__": "q"})
Number.__bool__ = lambda self: False
Container.__repr__ = lambda self: "changed"
del Container.__contains__
class After(Both): pass
class AfterAll(Container): pass
with_nul = [
    type("Nul", (Plain,), {name: value})
    for name, value in [("__len__\\0__", 1), ("__hash__\\0__", None), ("__call__\\0_", None), ("__slots__\\0_", ())]
]
class Key:
    "A key of a class's dictionary; comparing it takes the special method of another base away."
    armed = False
    def __hash__(self): return hash("__len__")
    def __repr__(self): return "key"
    def __eq__(self, other):
        if Key.armed and isinstance(other, str) and "__len__" in vars(Other):
            del Other.__len__
        return False
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    Odd = type("Odd", (), {Key(): 1})
Other = type("Other", (), {"".join(["__le", "n__"]): lambda self: 5})
Key.armed = True
Between = type("Between", (Odd, Other), {})
Key.armed = False
told.append((hasattr(Other, "__len__"), hasattr(Between, "__len__")))
class Content:
    "What is in a __classcell__: its end sees the class, and changes it."
    def __del__(self):
        cell.cell_contents.__len__ = lambda self: 7
        namespace.clear()
        told.append(("cell", cell.cell_contents.__name__))
import types
cell = types.CellType(Content())
namespace = {"__classcell__": cell, "".join(["__it", "er__"]): lambda self: iter(())}
celled = type("Celled", (Plain,), namespace)
told.append(len(celled()))
class Name:
    def __set_name__(self, owner, name): told.append((owner.__name__, name))
exec("type('InOddModule', (), {})", {"__name__": Name(), "type": type})
"""

CHECKS = """
def attempt(*arguments, **keywords):
    try:
        return type(*arguments, **keywords).__name__
    except BaseException as error:
        return f"{type(error).__name__}: {error}", getattr(error, "__notes__", None), repr(error.__cause__)
def attempt_call(function):
    try:
        return repr(function())[:60].partition(" at 0x")[0]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
class Bad:
    def __set_name__(self, owner, name): raise KeyError(name)
class Refuses:
    def __init_subclass__(cls): raise ValueError("no")
warnings.simplefilter("error")
tries = [attempt("A", (Plain,), {1: 2})] + [
    attempt("A", (Plain,), {"x": Bad()}), attempt("A", (Refuses,), {}), attempt("A", (Plain,), {}, word=1),
    attempt("A", (Plain, Plain), {}), attempt("A", (Plain, Both), {}), attempt("A", (bool,), {}), attempt("A", (1,), {}),
    attempt("A\\0", (Plain,), {}), attempt("A", (Plain,), {"__qualname__": 1}), attempt("A", (Plain,), {"__doc__": "\\udc00"}),
    attempt("A", (Plain,), {"__slots__": ("a",), "a": 1}), attempt("A", (Plain,), {"__classcell__": 1}), attempt("A", [], {}),
    attempt("A", (Slots, SlotsAndWeak), {}), attempt("A", (int, str), {}), attempt("A", (Slots, SlotList), {}), attempt("A", (int,), {"__slots__": ("a",)}),
    *(attempt("A", bases, {"__slots__": names}) for bases in ((), (Plain,), (SlotAll,), (Slots, BareMixin)) for names in (
        ("__dict__",), ("__weakref__", "__weakref__"), ("1",), (1,), 5, ("a b",), ("__qualname__",), ("__classcell__", "a"), iter(("b", "a")), {"a": 1}, ("a", "__module__"), "", "x")),
    attempt("\\udc00", (Plain,), {}), attempt("A", (OfMeta,), {}), attempt("A", (OfMeta, Abstract), {}), attempt(1, (), {}),
]
behaviour = [
    len(Both()), bool(Number()), repr(AfterAll()), Reads().x, Called()(), OfOwner.__len__,
    Names().f().__name__, hash(Hashed()) != 0, Short.__mro__ == (Short, object), hasattr(Short(), "__len__"), len(Long()), list(Map()), len(Mixed()),
    len(MixedOther()), int(Prepared()), len(later()), Pair(1)._asdict(), str(ErrorBelow()), Typed(a=1), Uses.one, New.__class_getitem__(3),
    isinstance(Concrete(), collections.abc.Iterable), isinstance(NoSlots(), Plain),
    [attempt_call(f) for f in (
        lambda: DequeWrapper("abc")["a"], lambda: iter(Borrows()), lambda: TextWrapper("a") + Adds(), lambda: TextBoth("a") + "b", lambda: "a" + TextOther("b"),
        lambda: DequeBoth("abc")["a"], lambda: DequeOther("abc")["a"], lambda: bool(BrokenAgain()), lambda: OrderedAgain()["x"], lambda: OrderedThird(a=1)["a"],
        lambda: len(NodeSixth()), lambda: Partial(len)("abc"), lambda: PartialWrapper(len)("abc"), lambda: PartialBoth(len)("abc"), lambda: PartialOther(len)(),
        lambda: ErrorOfThree(1, 2).args, lambda: ErrorSystem(2, "x").errno, lambda: TextEnum("a"), lambda: IntegerEnum(1) + 1, lambda: ListBoth([1]) + [2],
        lambda: SlotSpecial().a, lambda: SlotWithMethods().d, lambda: len(SlotWithMethods()), lambda: SlotBoth.e, lambda: vars(SlotAll()), lambda: SlotMangled._SlotMangled__hidden,
        lambda: NumberedThird(3) + 4, lambda: NumberedOther(5) + 1, lambda: Mapped(a=1), lambda: MappedOther(), lambda: SlotDict(a=1).more, lambda: ListDeleter([1]).__delitem__(0),
    )],
    [(cls.__name__, cls.__basicsize__, cls.__dictoffset__, cls.__weakrefoffset__, cls.__itemsize__, cls.__base__.__name__) for cls in list(globals().values()) if isinstance(cls, type)],
    sorted(c.__name__ for c in Plain.__subclasses__() if c.__name__ != "A"), "x" in [c.__name__ for c in object.__subclasses__()],
]
import weakref
for kind in (Plain, Both, Mixed, BelowBare, BelowSlots, MixedFull, ErrorBelow, DictThird, GenericBelow, FloatFourth, KeyErrThird):
    instance = kind()
    instance.attribute = 1
    behaviour.append((sys.getsizeof(instance), weakref.ref(instance)() is instance, vars(instance), sys.getsizeof(kind)))
"""

TELL = """
import bisect, ctypes, gc, importlib, json, os
warnings.simplefilter("ignore")
for name in "argparse asyncio configparser csv dataclasses decimal difflib email.message fractions http.client inspect ipaddress json " \\
        "logging.config pathlib pickle random statistics string tarfile tempfile threading unittest.mock urllib.request uuid zipfile xml.dom.minidom".split():
    importlib.import_module(name)
POINTER, WORDS = 8, type.__basicsize__ // 8
NAMES = {"tp_name": 3, "tp_new": 39, "tp_bases": 42, "tp_mro": 43, "tp_cache": 44, "tp_subclasses": 45, "tp_weaklist": 46, "tp_version_tag": 48}
places = {}
for line in open("/proc/self/maps"):
    area, _, offset, _, _, *path = line.split()
    if path and path[0].startswith("/"):
        start, end = (int(number, 16) for number in area.split("-"))
        places[range(start, end)] = os.path.basename(path[0]), start - int(offset, 16)
def place(word):
    for area, (name, start) in places.items():
        if word in area:
            return name, word - start
    return word if word < 1 << 20 or word >> 40 == 0xFFFFFF else "somewhere"
def words(kind):
    found = [known.get(word) or known.setdefault(word, place(word)) for word in (ctypes.c_uint64 * WORDS).from_address(id(kind))]
    flags = found.index(kind.__flags__) if kind.__flags__ in found else 21
    found[flags] = kind.__flags__ & ~(1 << 19)  # Py_TPFLAGS_VALID_VERSION_TAG
    # counts of references, what look-ups leave behind (version tags, caches), and tp_new, which may be ours
    return [word for index, word in enumerate(found) if index not in (0, 39, 45, 48, 51) and index < WORDS - 4]
known = {}
def all_classes(kind, seen):
    for below in type.__subclasses__(kind):
        if below not in seen and below.__flags__ & 1 << 9:
            seen.add(below)
            all_classes(below, seen)
    return seen
dead = gc.collect()
report = sorted(
    ([kind.__module__, kind.__qualname__, [c.__qualname__ for c in kind.__mro__], list(kind.__dict__), str(kind.__doc__), words(kind)]
     for kind in all_classes(object, set()) if "pycds" not in str(kind.__module__) and "importlib" not in str(kind.__module__)
     and kind.__module__ not in ("_sitebuiltins", "ctypes")),
    key=lambda row: [str(row[0]), str(row[1]), row[2], row[3], str(row[5])])
import pycds_auto
print(pycds_auto.stats()["hits"] > 100, file=sys.stderr)
print(json.dumps([report, told, tries, behaviour], default=repr))
"""


def test_classes_are_the_same_to_the_last_slot(user: User, tmp_path) -> None:
    write(
        tmp_path,
        {
            "classes.py": CLASSES,
            "program.py": "import bisect, argparse, decimal\n" + "from classes import *\n" + CHECKS + TELL,
        },
    )
    age(tmp_path)
    program = tmp_path / "program.py"
    user.run(program, quiet=False)
    user.build()
    plain, ours = user.run(program, plain=True, quiet=False), user.run(program, quiet=False)
    assert (plain.stderr, ours.stderr) == ("False\n", "True\n")
    _compare(json.loads(ours.stdout), json.loads(plain.stdout))


def _compare(ours: list, plain: list) -> None:
    assert len(plain[0]) > 700
    assert [row[:5] for row in ours[0]] == [row[:5] for row in plain[0]]
    different = [
        (a[1], [(x, y) for x, y in zip(a[5], b[5]) if x != y]) for a, b in zip(ours[0], plain[0]) if a[5] != b[5]
    ]
    assert not different
    assert ours[1:] == plain[1:]


def test_it_is_in_use_and_can_be_left_out(user: User, tmp_path) -> None:
    """What type.__new__ calls lies in our extension, unless it was left out."""
    write(
        tmp_path,
        {
            "program.py": "import bisect, colorsys, sched, argparse, ctypes\nprint((ctypes.c_uint64 * 51).from_address(id(type))[39])\n"
            "print(open('/proc/self/maps').read())\n"
        },
    )
    age(tmp_path)
    user.run(tmp_path / "program.py")
    user.build()

    def library_of_tp_new(**env: str) -> str:
        address, *lines = user.run(tmp_path / "program.py", env=env).stdout.splitlines()
        for line in filter(None, lines):
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= int(address) < end:
                return line.split()[-1]
        return ""

    assert "_loader" in library_of_tp_new()
    assert "_loader" not in library_of_tp_new(PYCDS_SKIP="classes")


def test_metaclasses_that_were_there_before(user: User, tmp_path) -> None:
    """type.__new__ wants a metaclass to have the tp_new that `type` has, and C code may look, too."""
    text = """
class Before(type): pass
class OwnNew(Before):
    def __new__(metaclass, *arguments): return type.__new__(metaclass, *arguments)
class BelowOwn(OwnNew): pass
import sys, bisect, colorsys, sched, argparse, ctypes, abc
class After(Before): pass
for kind in Before, OwnNew, BelowOwn, After, abc.ABCMeta:
    one = type.__new__(kind, "One", (), {})
    two = kind("Two", (one,), {"__len__": lambda self: 2})
    print(kind.__name__, type(one) is kind, type(two) is kind, len(two()))
class Structure(ctypes.Structure): _fields_ = [("a", ctypes.c_int)]
print(Structure(3).a, type(Structure).__name__)
print([sys.getrefcount(base) for base in (ctypes.Structure, ctypes.Array)])
"""
    write(tmp_path, {"program.py": text})
    age(tmp_path)
    user.run(tmp_path / "program.py")
    user.build()
    same(user.run(tmp_path / "program.py"), user.run(tmp_path / "program.py", plain=True))
