"""Programs whose output tells how code objects behave; test_native_behaviour.py compares it with and without an archive.

Each imports `probe`, and `lib` below, and prints the same whenever it runs. No one prints what is documented to differ:
addresses, counts of references, and when a code object is freed (native_decode.h: never).
"""

import textwrap

SUBJECT = '''
"""A module with a bit of everything."""
import functools

NUMBERS = (1, -1, 2**40, 10**30, 0.5, -0.0, 1e300, 3j, True, None, ...)
TEXTS = ("plain", "two words", "gr\\u00fcn", "\\u65e5\\u672c", "\\U0001f600", "", "x", b"", b"y", b"some bytes")
NESTED = (1, ("a", (2.5, (b"b", frozenset()))), "two words")

def loop(n):
    total = 0
    for i in range(n):
        if i % 2:
            total += i
        else:
            total -= i * 2
    while total > 100:
        total //= 2
    return total

def constants():
    return ("two words", 10**30, 2.5, (1, ("two words", b"z")), "two words", b"z", "name_like")

def members(x):
    return x in {1, 2, "three", "four words here"}, x in ("a", "b"), x in {5}

def closure(a):
    b = [a]
    def inner(c, *, d="default text"):
        nonlocal a
        a += c
        b.append(a)
        return lambda: (a, b, d)
    return inner

def generator(n):
    try:
        for i in range(n):
            got = yield i
            if got:
                yield got
    finally:
        pass

async def coroutine(x):
    async def step(y):
        return y + 1
    return [await step(y) async for y in agen(x)]

async def agen(n):
    for i in range(n):
        yield i

def comprehensions(n):
    return [i * j for i in range(n) for j in range(i)], {i: str(i) for i in range(n)}, {i // 2 for i in range(n)}

def failing(divisor):
    values = [1, 2, 3]
    return (values[0] +
            values[1] / divisor) + (
        values[2])

def handled(x):
    try:
        try:
            failing(x)
        except ZeroDivisionError as error:
            raise ValueError("no " + str(x)) from error
    except (ValueError, KeyError) as error:
        return repr(error), repr(error.__cause__)
    else:
        return "fine"

def matched(x):
    match x:
        case {"key": [first, *rest]}:
            return first, rest
        case Point(x=0, y=y) | Point(x=y, y=0):
            return "axis", y
        case str() as text if text:
            return f"{text!r:>12}|{len(text)}"
    return None

class Point:
    """A point."""
    __match_args__ = ("x", "y")
    __slots__ = ("x", "y")
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)
    def __hash__(self):
        return hash((self.x, self.y))
    @property
    def size(self):
        return (self.x ** 2 + self.y ** 2) ** 0.5
    @classmethod
    def origin(cls):
        return cls(0, 0)

class Special(Point):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
    def moved(self, by: int = 1, /, *rest: int, scale: float = 1.0) -> "Special":
        """Moves."""
        return __class__(self.x + by * scale, self.y)

@functools.lru_cache(maxsize=None)
def recursive(n):
    return n if n < 2 else recursive(n - 1) + recursive(n - 2)

def attributes(n):
    p, items, table = Point(1, 2), [1, 2, 3], {"k": 5}
    total = 0
    for i in range(n):
        p.x = i
        total += p.x + p.y + items[i % 3] + table["k"] + len(items) + min(i, 2)
        a, b = i, total
        total += a - b if a < b else b
        text = f"{a}" + "x"
        total += len(text) + isinstance(text, str)
    return total

def drive(coro):
    try:
        coro.send(None)
    except StopIteration as stop:
        return stop.value

def run():
    first = closure(1)
    again = generator(3)
    return [
        loop(30), constants(), members(1), members("b"), first(2)(), first(3, d=4)(), list(generator(4)),
        (next(again), again.send("sent"), list(again)), drive(coroutine(4)), comprehensions(5), handled(0), handled(1),
        matched({"key": [1, 2, 3]}), matched(Point(0, 5)), matched("text"), matched(3), Point.origin() == Point(0, 0),
        Special(3, 4).size, Special(1, 2).moved(2, scale=3).x, recursive(30), attributes(20), NUMBERS, TEXTS, NESTED,
    ]

FUNCTIONS = [
    loop, constants, members, closure, generator, coroutine, agen, comprehensions, failing, handled, matched, attributes,
    drive, run, Point.__init__, Point.size.fget, Special.moved, recursive.__wrapped__,
]
'''  # fmt: skip

LIBRARY = {"lib/__init__.py": '"""The library."""\n', "lib/subject.py": SUBJECT} | {
    f"lib/part{number}.py": f"from lib.subject import loop, Point\nNAME = 'part {number}'\ndef value(note=('a default', b'bytes in all')):\n    return loop({number}), NAME, Point({number}, 2).size, {{'set', 'of texts', {number}}}\n"
    for number in range(12)
}

# `codes(function)`: its code object and those inside, by name.
HEAD = """
import probe
import sys
from types import CodeType
def codes(function):
    found = [function.__code__]
    for code in found:
        found += [const for const in code.co_consts if isinstance(const, CodeType)]
    return found
def of_library(code):
    return "/programs/lib/" in code.co_filename
"""

PROGRAMS = {
    "results": """
        import lib.subject as s
        print(s.run(), s.run() == s.run())
        print([vars(f) | {"doc": f.__doc__, "defaults": f.__defaults__, "kw": f.__kwdefaults__} for f in s.FUNCTIONS])
        print(s.Special.moved.__annotations__, s.Special.__qualname__, s.__doc__)
    """,
    "fields": """
        import lib.subject as s
        for f in s.FUNCTIONS:
            for code in codes(f):
                for name in sorted(dir(code)):
                    # co_branches(): an assertion of 3.14's debug build itself fails
                    value = None if name in ("co_lnotab", "co_consts", "co_branches") else getattr(code, name)
                    if name.startswith("co_"):
                        print(name, list(value()) if callable(value) else value)
                print(probe.clean(repr(code)), sys.getsizeof(code), [(type(c).__name__, sys.getsizeof(c)) for c in code.co_consts])
                print(hash(code) == hash(code.replace()), len({code, code.replace()}))
    """,
    "settrace": """
        import lib.subject as s
        seen = []
        def trace(frame, event, argument):
            if of_library(frame.f_code):
                seen.append((event, frame.f_code.co_name, frame.f_lineno, frame.f_lasti))
                frame.f_trace_opcodes = opcodes
                return trace
        for opcodes in (False, True):
            for first in (True, False):
                sys.settrace(trace)
                if first:
                    import lib.part1, lib.part2
                else:
                    s.run()
                sys.settrace(None)
                print(opcodes, first, len(seen), seen)
                seen.clear()
        def line_jumper(frame, event, argument):
            if frame.f_code is s.loop.__code__:
                if event == "line" and frame.f_lineno == s.loop.__code__.co_firstlineno + 7:
                    frame.f_lineno += 2
                return line_jumper
        sys.settrace(line_jumper)
        print(s.loop(1000))
        sys.settrace(None)
    """,
    "setprofile": """
        import lib.subject as s
        seen = []
        def profile(frame, event, argument):
            if of_library(frame.f_code):
                seen.append((event, frame.f_code.co_name, frame.f_lineno, getattr(argument, "__name__", None) if event[0] == "c" else repr(argument)))
        sys.setprofile(profile)
        import lib.part1
        sys.setprofile(None)
        print(len(seen), probe.clean(str(seen)))
        seen.clear()
        s.run()
        sys.setprofile(profile)
        s.run()
        sys.setprofile(None)
        print(len(seen), probe.clean(str(seen)))
    """,
    "monitoring": """
        if sys.version_info < (3, 12):
            print("came with 3.12")
            sys.exit()
        import lib.subject as s
        monitoring, events = sys.monitoring, sys.monitoring.events
        kinds = [name for name in ("PY_START", "PY_RESUME", "PY_RETURN", "PY_YIELD", "CALL", "LINE", "INSTRUCTION", "JUMP", "BRANCH", "STOP_ITERATION", "C_RETURN", "RAISE", "RERAISE", "EXCEPTION_HANDLED", "PY_UNWIND") if hasattr(events, name)]
        wanted = 0
        seen = []
        monitoring.use_tool_id(3, "test")
        for kind in kinds:
            def told(code, *rest, kind=kind):
                if of_library(code):
                    seen.append((kind, code.co_name, rest[0]))
                    return monitoring.DISABLE if switch_off and kind in ("LINE", "CALL") else None
            monitoring.register_callback(3, getattr(events, kind), told)
            wanted |= getattr(events, kind)
        here = events.PY_START | events.PY_RETURN | events.LINE | events.CALL | events.INSTRUCTION
        for switch_off in (False, True, False):
            monitoring.set_events(3, wanted & ~events.C_RETURN | events.CALL)
            import lib.part3
            s.run()
            monitoring.set_events(3, 0)
            print(switch_off, len(seen), seen)
            seen.clear()
            monitoring.restart_events()
        s.run()
        assert not seen
        for f in (s.loop, s.handled, s.generator, s.attributes):
            monitoring.set_local_events(3, f.__code__, here)
        s.run()
        print("local", len(seen), seen)
        seen.clear()
        for f in (s.loop, s.handled, s.generator, s.attributes):
            monitoring.set_local_events(3, f.__code__, 0)
        print(s.run(), seen)
    """,
    "specialisation": """
        import dis, lib.subject as s
        for _ in range(100):
            s.run()
            list(map(s.attributes, (3, 4)))
        for f in s.FUNCTIONS:
            for code in codes(f):
                print(code.co_name)
                for line in dis.get_instructions(code, adaptive=True):
                    print("  ", line.offset, line.opname, probe.clean(line.argrepr))
        print(s.run())
    """,
    "swap": """
        import lib.subject as s, types, weakref
        def other(n):
            return "other", n
        kept = s.loop.__code__
        for _ in range(3):
            s.loop.__code__ = other.__code__
            print(s.loop(3))
            s.loop.__code__ = kept.replace(co_name="renamed", co_consts=(None, 5, *kept.co_consts[2:]))
            print(s.loop(9), s.loop.__code__.co_name, s.loop.__code__ == kept)
            s.loop.__code__ = kept
            print(s.loop(9))
        other.__code__ = kept
        print(other(9), other.__code__ is s.loop.__code__)
        for code in codes(s.run):
            same = code.replace()
            print(same == code, hash(same) == hash(code), same is code, same.co_code == code.co_code)
        print(types.FunctionType(s.recursive.__wrapped__.__code__, {"recursive": lambda n: n})(10))
        print(list(types.FunctionType(s.closure.__code__, s.__dict__)(1)(2)()))
        try:
            s.loop.__code__ = s.closure(1).__code__
        except ValueError as error:
            print(error)
        print(eval(compile("1", "x", "eval").replace(co_consts=s.members.__code__.co_consts)))
    """,
    "weak_references": """
        import gc, lib.subject as s, weakref
        table = weakref.WeakKeyDictionary()
        dead = []
        for f in s.FUNCTIONS:
            for code in codes(f):
                table[code] = code.co_name
                plain = weakref.ref(code)
                called = weakref.ref(code, dead.append)
                print(plain() is code, called() is code, weakref.getweakrefcount(code), plain is weakref.ref(code), hash(plain) == hash(code))
                del plain, called
                print(weakref.getweakrefcount(code), weakref.proxy(code).co_name)
        gc.collect()
        print(sorted(table.values()), len(table), dead)
        table.clear()
        print([weakref.getweakrefcount(f.__code__) for f in s.FUNCTIONS])
    """,
    "collector": """
        import gc, lib.subject as s
        for _ in range(8):  # each takes the outermost layer of nested tuples out of its sight: ours were never in it
            gc.collect()
        for f in s.FUNCTIONS:
            for code in codes(f):
                print(code.co_name, gc.is_tracked(code), gc.get_referents(code), gc.get_referrers(code) == [f] or "no function, or others")
                known = set(map(id, gc.get_objects()))
                for const in (*code.co_consts, code.co_names, code.co_varnames, s.NESTED, *s.NESTED[1]):
                    print("  ", type(const).__name__, gc.is_tracked(const), id(const) in known, probe.clean(repr(gc.get_referents(const))))
        def kept(value):
            return sorted(type(holder).__name__ for holder in gc.get_referrers(value) if holder is not sys._getframe())
        print(kept(s.NESTED), kept(s.NESTED[1]), kept(s.TEXTS), kept(s.constants()), kept(s.Point.__init__), kept(s.loop.__code__))
        gc.freeze()
        gc.collect()
        gc.unfreeze()
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for value in range(5):
            cycle = [s.closure(1), s.generator(3), s.Special(1, 2), s.NESTED, s.loop.__code__]
            cycle.append(cycle)
            del cycle
        print(gc.collect() > 0, sorted(type(x).__name__ for x in gc.garbage))
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()
        print(s.run())
    """,
    "collector_at_every_allocation": """
        import gc
        gc.set_threshold(1, 1, 1)
        seen = []
        gc.callbacks.append(lambda phase, info: seen.append(phase))
        import lib.subject as s, lib.part1, lib.part2, email.message
        print(s.run(), s.run(), len(seen) > 10)
    """,
    "marshal": """
        import lib.subject as s, marshal
        for f in s.FUNCTIONS:
            code = f.__code__
            again = marshal.loads(marshal.dumps(code))
            print(code.co_name, again == code, hash(again) == hash(code), again.co_linetable == code.co_linetable)
            print(hash(marshal.dumps(code, 2)) == hash(marshal.dumps(again, 2)), marshal.dumps(code, 2))  # no references in that version
        print(marshal.dumps([s.NUMBERS, s.TEXTS, s.NESTED], 2))
    """,
    "copies": """
        import copy, json, lib.subject as s, pickle, pickletools
        values = [s.NUMBERS, s.TEXTS, s.NESTED, s.constants(), s.loop.__code__.co_consts, s.members.__code__.co_consts, s.loop.__code__.co_varnames]
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            told = pickle.dumps(values, protocol)
            print(protocol, told)
            again = pickle.loads(told)
            print(again == values, [type(value) for value in again])
        print(pickle.dumps(s.Point.origin), pickle.loads(pickle.dumps(s.loop)) is s.loop)
        for value in values:
            print(copy.copy(value) is value, copy.deepcopy(value) == value, copy.deepcopy(value) is value)
        print(copy.copy(s.loop.__code__) is s.loop.__code__)
        try:
            pickle.dumps(s.loop.__code__)
        except TypeError as error:
            print(error)
        print(json.dumps(s.TEXTS[:7]), str.__add__(s.TEXTS[1], "!"), bytes(s.TEXTS[-1]) is s.TEXTS[-1])
        text = s.TEXTS[1]
        text += " and more"
        data = s.TEXTS[-1]
        data += b" and more"
        pair = s.NESTED
        pair += (1,)
        number = s.NUMBERS[3]
        number += 1
        print(text, data, pair, number, s.TEXTS, s.NESTED, s.NUMBERS)
    """,
    "identity": """
        import lib.subject as s, lib.part1, lib.part2
        def walk(value, place):
            yield place, value
            if isinstance(value, tuple):
                for i, item in enumerate(value):
                    yield from walk(item, place + (i,))
        everything = []
        for f in s.FUNCTIONS:
            for number, code in enumerate(codes(f)):
                for name in ("co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_name", "co_qualname", "co_filename", "co_linetable", "co_exceptiontable"):
                    everything += walk(getattr(code, name), (f.__qualname__, number, name))
        everything += [*walk(s.NUMBERS, ("N",)), *walk(s.TEXTS, ("T",)), *walk(s.NESTED, ("X",))]
        first = {}
        keep = []
        for place, value in everything:
            keep.append(value)
            if place[-1] not in ("co_varnames", "co_freevars", "co_cellvars"):  # made anew when asked for
                print(place, first.setdefault(id(value), place))
        interned = [value for _, value in everything if isinstance(value, str) and sys.intern("".join(value)) is value]
        print(sorted(set(interned)))
        if hasattr(sys, "_is_interned"):
            print([(value, sys._is_interned(value)) for _, value in everything if isinstance(value, str)])
        print(s.loop.__name__ is sys.intern("loop"), s.TEXTS[0] is sys.intern("pl" + "ain"), lib.part1.NAME is sys.intern("part 1"))
        print(s.constants()[0] is s.constants()[4], s.constants()[0] is s.NESTED[2], s.NUMBERS[0] is int("1"), s.TEXTS[6] is chr(120), s.TEXTS[5] is str())
        print(next(k for k in vars(s) if k == "loop") is sys.intern("loop"), s.closure.__code__.co_filename is s.loop.__code__.co_filename)
    """,
    "interned_later": """
        import marshal, lib.subject as s
        for text in [s.__doc__, *s.TEXTS, *(function.__doc__ for function in s.FUNCTIONS)]:
            if isinstance(text, str):
                interned = sys.intern(text)
                print(interned == text, marshal.loads(marshal.dumps([interned])) == [text])  # immortal from now on
    """,
    "identity_across_modules": """
        import itertools, pickle, lib.part0, lib.part1, lib.subject
        def leaves(code):
            for name in sorted(dir(code)):
                if name in ("co_consts", "co_names", "co_filename", "co_name", "co_qualname", "co_linetable", "co_exceptiontable"):
                    yield from flat(getattr(code, name))
        def flat(value):
            yield value
            for item in value if isinstance(value, (tuple, frozenset)) else leaves(value) if hasattr(value, "co_code") else ():
                yield from flat(item)
        found = [list(leaves(module.value.__code__)) for module in (lib.part0, lib.part1)] + [list(leaves(lib.subject.constants.__code__))]
        for one, other in itertools.combinations(found, 2):
            print([(a, a is b) for a in one for b in other if type(a) is type(b) and a == b])
        print(pickle.dumps([module.value.__defaults__ for module in (lib.part0, lib.part1)]))
    """,
    "sets": """
        import lib.subject as s, lib.part1, lib.part2
        for f in (*s.FUNCTIONS, lib.part1.value, lib.part2.value):
            for code in codes(f):
                for const in code.co_consts:
                    if isinstance(const, frozenset):
                        print(list(const), hash(const), sys.getsizeof(const))
        print([list(x) for x in (lib.part1.value()[3], lib.part2.value()[3])])
        print([hash(value) for value in (*s.NUMBERS[:-2], *s.TEXTS, s.NESTED)], {s.NESTED: 1}[s.NESTED])
    """,
    "tracebacks": """
        import lib.subject as s, traceback
        def told(function, *arguments):
            try:
                function(*arguments)
            except Exception as error:
                print("".join(traceback.format_exception(error)))
                frame = error.__traceback__
                while frame:
                    print(frame.tb_lineno, frame.tb_lasti, list(frame.tb_frame.f_code.co_positions())[frame.tb_lasti // 2])
                    frame = frame.tb_next
        for _ in range(2):
            told(s.failing, 0)
            told(s.failing, "text")
            told(lambda: list(map(s.Point, [1])))
            told(lambda: [s.recursive(n) for n in ("a",)])
            told(s.generator(1).throw, KeyError("in"))
            told(lambda: s.drive(s.coroutine("x")))
            s.run()
        import lib.missing
    """,
    "inspection": """
        import ast, dis, inspect, io, lib.subject as s
        for f in s.FUNCTIONS:
            print(inspect.getsource(f), inspect.getsourcelines(f.__code__)[1], inspect.getsourcefile(f) == s.__file__)
            print(inspect.signature(f), inspect.getdoc(f), inspect.getmodule(f.__code__).__name__)
            output = io.StringIO()
            dis.dis(f, file=output, show_caches=True)
            print(probe.clean(output.getvalue()), probe.clean(dis.code_info(f)), dis.stack_effect(dis.opmap["POP_TOP"]))
            print([(line.starts_line, line.is_jump_target) for line in dis.get_instructions(f)])
        print(inspect.getclosurevars(s.closure(1)), inspect.getmembers(s.Point.__init__.__code__, inspect.isroutine) != [])
        print(inspect.getgeneratorstate(s.generator(1)), inspect.iscoroutinefunction(s.coroutine), inspect.isasyncgenfunction(s.agen))
        print(ast.dump(ast.parse(inspect.getsource(s.loop)))[:300])
    """,
    "again": """
        import importlib
        for number in range(4):
            import lib.subject as s, lib.part1
            print(s.run(), lib.part1.value())
            if number % 2:
                print(importlib.reload(s) is s, s.run())
            kept = s
            for name in ("lib.subject", "lib.part1"):
                del sys.modules[name]
            import lib.subject
            print(lib.subject is kept, lib.subject.loop is kept.loop, lib.subject.loop.__code__ == kept.loop.__code__, lib.subject.run() == kept.run())
    """,
    "threads": """
        import threading
        names = [f"lib.part{number}" for number in range(12)] + ["lib.subject", "email.message", "decimal", "xml.dom.minidom"]
        found = {}
        start = threading.Barrier(6)
        def work(number):
            start.wait()
            for i in range(len(names)):
                name = names[(i * 5 + number) % len(names)]
                module = __import__(name, fromlist=["x"])
                found[name, number] = module.value() if "part" in name else module.__name__
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        print(sorted(found.items(), key=repr))
    """,
    "fork": """
        import lib.part1, lib.subject as s, os, warnings
        before = s.run()
        for number in range(3):
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                import lib.part2, lib.part3, decimal, email.message
                print(lib.part2.value(), lib.part3.value(), s.run() == before, lib.part1.value(), decimal.Decimal(1))
                import gc
                gc.collect()
                sys.exit(number)
            print(os.waitpid(child, 0)[1])
        import lib.part2, lib.part3
        print(lib.part2.value(), s.run() == before)
    """,
    "deletion": """
        import gc, lib.subject as s, lib.part1, lib.part2
        import argparse, decimal, email.message, json, logging, unittest, xml.dom.minidom, asyncio
        kept = s.closure(3), s.generator(3), s.Special(1, 2), s.constants(), s.loop.__code__
        next(kept[1])
        for name in list(sys.modules):
            if name.partition(".")[0] in ("lib", "argparse", "decimal", "email", "json", "logging", "unittest", "xml", "asyncio"):
                del sys.modules[name]
        del s, lib, argparse, decimal, email, json, logging, unittest, xml, asyncio
        for _ in range(3):
            gc.collect()
        print(kept[0](1)(), list(kept[1]), kept[2].moved().x, kept[3], len(kept[4].co_consts))
        import lib.subject as s, json
        print(s.run(), json.dumps({"a": 1}))
        class AtExit:
            def __del__(self, f=s.loop, run=s.run):
                print("at exit", f(5), len(run()))
        keep = AtExit()
    """,
}  # fmt: skip

PROGRAMS = {name: HEAD + textwrap.dedent(text) for name, text in PROGRAMS.items()}
