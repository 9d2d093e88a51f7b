"""The native encoding in one process: what is decoded equals what marshal makes, in value, identity and behaviour.

test_native.py runs this file in each interpreter under test. Each case is a function; a JSON line says how it ended.
"""

import copy
import dis
import gc
import json
import marshal
import math
import pickle
import struct
import sys
import textwrap
import traceback
import types
import weakref

from pycds_auto import native
from pycds_auto._loader import native_decode, native_encode, native_reason, native_verify

NAN = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_1234))[0]


def convert(*sources, name="/somewhere/module.py"):
    """Decoded and unmarshalled code objects of sources."""
    marshalled = [marshal.dumps(compile(textwrap.dedent(source), name, "exec")) for source in sources]
    return convert_marshalled(*marshalled)


def convert_marshalled(*marshalled):
    table, streams = encode(*marshalled)
    return native_decode(table, streams), [marshal.loads(data) for data in marshalled]


def encode(*marshalled, table=b""):
    """The shared table and the streams, none refused."""
    table, streams = native.encode(marshalled, table)
    assert [stream for stream in streams if not isinstance(stream, bytes)] == []
    assert native_verify(table, streams, list(marshalled)) == [None] * len(marshalled)
    return table, streams


class Skipped(Exception):
    """The case has no meaning here; the message says why."""


def raises(exception, function, *arguments):
    try:
        function(*arguments)
    except exception:
        return
    raise AssertionError(f"{exception.__name__} was not raised")


def with_consts(*consts):
    code = compile("pass", "/somewhere/module.py", "exec")
    return marshal.dumps(code.replace(co_consts=(None, *consts)))


def decoded_consts(*consts):
    (code,), _ = convert_marshalled(with_consts(*consts))
    return code.co_consts[1:]


def function(source, name="f"):
    """A function out of a decoded module, and the same out of an unmarshalled one."""
    (decoded,), (plain,) = convert(source)
    result = []
    for code in (decoded, plain):
        scope = {"__name__": "module"}
        exec(code, scope)
        result.append(scope[name])
    return result


# ---- values ----


VALUES = [
    None, True, False, ..., 0, 1, -1, -5, -6, 256, 257, 127, 128, -128, -129, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1,
    2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**100, -(10**100), 1 << 30, 1 << 60, (1 << 10_000) + 1,
    0.0, 1.5, math.inf, -math.inf, 5e-324, 1j, complex(-0.0, 2.0), complex(math.inf, -0.0),
    b"", b"a", b"\0", b"abc" * 1000, "", "a", "é", "\xff", "\0", "abc", "not a name", "x" * 5000, "é" * 3, "ŵ", "ŵx" * 50,
    "\U0001f600", "a\U0010ffff", "\ud800", "a\udfff\ud800", "日本", (), (1,), ((),), (1, (2, (3, "a", b"b"))),
    frozenset(), frozenset({1}), frozenset({1, 2, "a", b"b", None, (1, frozenset({2, 9}))}),
]  # fmt: skip


def test_values():
    decoded, plain = convert_marshalled(*map(with_consts, VALUES))
    for value, ours, theirs in zip(VALUES, decoded, plain):
        try:
            check_value(value, ours.co_consts[1], theirs.co_consts[1])
        except AssertionError as error:
            raise AssertionError(f"{value!r:.60}") from error


def check_value(value, decoded, plain):
    assert type(decoded) is type(value) and decoded == value
    assert repr(decoded)[:1000] == repr(plain)[:1000]
    assert hash(decoded) == hash(value)
    assert sys.getsizeof(decoded) == sys.getsizeof(plain)
    assert pickle.loads(pickle.dumps(decoded)) == value
    assert marshal.dumps(decoded, 0) == marshal.dumps(plain, 0)
    assert copy.deepcopy(decoded) == value


def test_signs_and_nan_payloads():
    zero, negative, nan, complex_nan = decoded_consts(0.0, -0.0, NAN, complex(NAN, -0.0))
    assert [math.copysign(1, x) for x in (zero, negative)] == [1, -1]
    assert struct.pack("<d", nan) == struct.pack("<d", NAN)
    assert struct.pack("<d", complex_nan.real) == struct.pack("<d", NAN)
    assert math.copysign(1, complex_nan.imag) == -1


def test_single_objects_are_the_interpreters_own():
    values = (None, True, ..., 0, 256, -5, "", "a", "\xe9", b"", ())
    for own, decoded in zip(values, decoded_consts(*values)):
        assert decoded is own


def test_identity_as_marshal_leaves_it():
    big, text, pair = 10**20, "two words", (1.5, "two words too")
    equal_text = " ".join(["two", "words"])
    consts = decoded_consts(big, big, text, text, equal_text, pair, pair, (pair, text))
    assert consts[0] is consts[1] and consts[2] is consts[3] and consts[5] is consts[6]
    assert consts[4] is not consts[2]
    assert consts[7][0] is consts[5] and consts[7][1] is consts[2]


def test_equal_constants_stay_apart_within_a_module_and_across_modules():
    text, equal, data = "two words", " ".join(["two", "words"]), b"some bytes"
    decoded, plain = convert_marshalled(with_consts(text, equal, data), with_consts(text, data))
    for one, other in (decoded, plain):
        assert one.co_consts[1] is not one.co_consts[2] and one.co_consts[1] is not other.co_consts[1]
        assert one.co_consts[3] is not other.co_consts[2] and one.co_consts[3] == other.co_consts[2]
        assert one.co_linetable is not other.co_linetable


def test_references_to_byte_strings_are_counted():
    data = b"some bytes"
    (code,), _ = convert_marshalled(with_consts(data, (1, data), b"other"))
    _, one, (_, same), other = code.co_consts
    assert one is same
    for constant in (one, other):
        before = sys.getrefcount(constant)
        assert before < 1000
        more = [constant] * 3
        assert sys.getrefcount(constant) == before + len(more)


def test_names_are_interned_across_modules():
    decoded, _ = convert(
        "alpha_beta = 1\ndef f(arg_one): return arg_one.attr_two\n", "alpha_beta = 2\nattr_two = arg_one"
    )
    names = [code.co_names for code in decoded]
    assert names[0][0] is sys.intern("alpha_beta") and names[0][0] is names[1][0]


def test_interned_as_marshal_leaves_it():
    if not hasattr(sys, "_is_interned"):
        raise Skipped("sys._is_interned came with 3.13")
    source = "def f(a, *, b='key word', c='keyword'):\n  'doc string'\n  return (a, 'tuple item', ('nested',)), {'x y', 'z'}\n"
    (decoded,), (plain,) = convert(source)

    def states(code):
        for value in (*code.co_consts, *code.co_names, code.co_name, code.co_qualname, code.co_filename):
            if isinstance(value, str):
                yield value, sys._is_interned(value)
            elif isinstance(value, types.CodeType):
                yield from states(value)

    assert list(states(decoded)) == list(states(plain))


def test_frozensets_iterate_alike():
    items = [0, 2**61 - 1, 2 * (2**61 - 1), 8, 16, 24, 32, "a", "b c", (1, 2)]  # many with the same hash
    data = with_consts(frozenset(items), frozenset(reversed(items)))
    (decoded,), (plain,) = convert_marshalled(data)
    assert [list(x) for x in decoded.co_consts[1:]] == [list(x) for x in plain.co_consts[1:]]


# ---- code ----

SOURCE = '''
    """Module."""
    import sys
    def f(a, b=1, /, c=2, *args, d, e=5, **kwargs):
        """Doc."""
        x = [i * a for i in range(b)]
        def inner(y):
            nonlocal x
            x = y
            return a, y, x
        try:
            return inner(c)
        except (ValueError, KeyError) as error:
            raise TypeError from error
        finally:
            x = None
    async def g():
        async with a as b, c as d:
            yield await b
    class C:
        """Class."""
        z: int = 1
        def m(self): return super().m(), __class__
    lambda: (yield)
'''

FIELDS = [name for name in dir(compile("", "", "exec")) if name.startswith(("co_", "_co_code"))]


def assert_same_code(one, other):
    assert one == other and hash(one) == hash(other)
    for field in FIELDS:
        if field == "co_lnotab":
            continue
        first, second = getattr(one, field), getattr(other, field)
        if callable(first):
            assert list(first()) == list(second()), field
        elif field != "co_consts":
            assert first == second, field
    assert len(one.co_consts) == len(other.co_consts)
    for first, second in zip(one.co_consts, other.co_consts):
        if isinstance(first, types.CodeType):
            assert_same_code(first, second)
    assert sys.getsizeof(one) == sys.getsizeof(other)


def test_code_fields():
    (decoded,), (plain,) = convert(SOURCE)
    assert_same_code(decoded, plain)
    assert repr(decoded).split(" at ")[0] == repr(plain).split(" at ")[0]


def test_marshal_round_trip():
    (decoded,), (plain,) = convert(SOURCE)
    assert marshal.loads(marshal.dumps(decoded)) == plain
    assert_same_code(marshal.loads(marshal.dumps(decoded)), plain)


def test_replace_and_swap():
    for f in function("def f(a): return a + 1000"):
        others = tuple(2000 if constant == 1000 else constant for constant in f.__code__.co_consts)
        g = types.FunctionType(f.__code__.replace(co_name="g", co_consts=others), {})
        assert (g(1), g.__name__, f(1)) == (2001, "g", 1001)
        f.__code__ = (lambda a: a * 10).__code__
        assert f(2) == 20
        f.__code__ = g.__code__.replace(co_filename="elsewhere")
        assert f(2) == 2002


def test_weak_references():
    (decoded,), _ = convert("def f(): pass")
    reference = weakref.ref(decoded)
    assert reference() is decoded and weakref.getweakrefcount(decoded) == 1
    del reference
    assert weakref.getweakrefcount(decoded) == 0


def test_tracebacks_with_carets():
    texts = []
    for f in function("def f(a):\n    return (a + 1) * (a /\n        0)\n"):
        try:
            f(1)
        except ZeroDivisionError as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            texts.append((frame.lineno, frame.end_lineno, frame.colno, frame.end_colno, frame.name))
    assert texts[0] == texts[1] and texts[0][2] is not None


def test_generators_coroutines_closures():
    source = """
        import asyncio
        def f():
            def gen(n):
                total = 0
                for i in range(n):
                    sent = yield i
                    total += sent or 0
                return total
            async def coro(x):
                await asyncio.sleep(0)
                return [y async for y in agen(x)]
            async def agen(x):
                for i in range(x):
                    yield i * x
            g = gen(3)
            values = [next(g), g.send(5), g.send(6)]
            try:
                g.send(7)
            except StopIteration as stop:
                values.append(stop.value)
            return values, asyncio.run(coro(3))
    """
    one, other = function(source)
    assert one() == other() == ([0, 1, 2, 18], [0, 3, 6])


# ---- the interpreter's own business ----


def test_specialises_like_plain_code():
    source = """
        class P:
            def __init__(self): self.v = 1
            def m(self): return self.v
        def f(n):
            p = P(); total = 0; items = [1, 2, 3]
            for i in range(n):
                total += p.m() + items[i % 3] + len(items) + p.v
                x, y = (i, total)
            return total
    """
    texts = []
    for f in function(source):
        for _ in range(200):
            f(60)
        texts.append([i.opname for i in dis.get_instructions(f, adaptive=True)])
    assert texts[0] == texts[1]
    assert any(name not in dis.opmap for name in texts[0])


def test_functions_calling_functions_are_specialised():
    for f in function("def g(a): return a\ndef f():\n  for i in range(100): g(i)\n"):
        for _ in range(30):
            f()
        assert "CALL_PY_EXACT_ARGS" in [i.opname for i in dis.get_instructions(f, adaptive=True)]


def events_of(install, remove, f):
    seen = []
    install(seen)
    try:
        f(3)
    finally:
        remove()
    return seen


def test_settrace_and_setprofile():
    def tracer(seen):
        def trace(frame, event, argument):
            if frame.f_code.co_filename.startswith("/somewhere"):
                seen.append((event, frame.f_lineno, frame.f_code.co_name))
                frame.f_trace_opcodes = True
            return trace

        sys.settrace(trace)

    def profiler(seen):
        sys.setprofile(lambda frame, event, argument: seen.append((event, frame.f_code.co_name, frame.f_lineno)))

    source = "def f(n):\n  total = 0\n  for i in range(n):\n    total += i\n  return [x for x in (1, 2)]\n"
    one, other = function(source)
    warm_up = {}
    exec(compile(source, "/somewhere/else.py", "exec"), warm_up)
    for install, remove in ((tracer, lambda: sys.settrace(None)), (profiler, lambda: sys.setprofile(None))):
        events_of(install, remove, warm_up["f"])  # 3.12.1 sends no opcode events to the first function that wants them
        first, second = events_of(install, remove, one), events_of(install, remove, other)
        assert first == second and len(first) > 3
        assert events_of(install, remove, one) == first  # and again


def test_monitoring_of_all_code():
    check_monitoring(local=False)


def test_monitoring_of_one_code_object():
    check_monitoring(local=True)


def check_monitoring(*, local):
    if sys.version_info < (3, 12):
        raise Skipped("sys.monitoring came with 3.12")
    monitoring = sys.monitoring
    events = monitoring.events
    wanted = events.LINE | events.PY_START | events.PY_RETURN | events.CALL | events.BRANCH | events.INSTRUCTION
    source = "def f(n):\n  total = 0\n  for i in range(n):\n    total += len([i])\n  return total\n"
    results = []
    for f in function(source):
        seen = []
        monitoring.use_tool_id(4, "test")
        try:
            for event in (
                events.LINE,
                events.PY_START,
                events.PY_RETURN,
                events.CALL,
                events.BRANCH,
                events.INSTRUCTION,
            ):
                monitoring.register_callback(
                    4, event, lambda code, *rest, event=event: code is f.__code__ and seen.append((event, rest[0]))
                )
            if local:
                monitoring.set_local_events(4, f.__code__, wanted)
            else:
                monitoring.set_events(4, wanted)
            f(3)
        finally:
            monitoring.set_events(4, 0)
            if local:
                monitoring.set_local_events(4, f.__code__, 0)
            monitoring.free_tool_id(4)
        assert f(3) == 3
        results.append(seen)
    assert results[0] == results[1] and len(results[0]) > 10


def test_collector():
    (decoded,), (plain,) = convert(
        "x = (1, ('a', 2.5), frozenset({1, 2}), ((3, frozenset({4, 5})), 1))\n" * 3 + SOURCE.replace("\n    ", "\n")
    )
    for _ in range(3):
        gc.collect()

    def tracked(code):
        for const in code.co_consts:
            yield gc.is_tracked(const)
            if isinstance(const, types.CodeType):
                yield from tracked(const)
            elif isinstance(const, tuple):
                yield from map(gc.is_tracked, const)

    assert list(tracked(decoded)) == list(tracked(plain))
    assert not gc.is_tracked(decoded)
    known = set(map(id, gc.get_objects()))
    for one, other in zip(decoded.co_consts, plain.co_consts):
        assert (id(one) in known) == (id(other) in known)
    assert gc.get_referents(decoded) == gc.get_referents(plain)
    gc.freeze()
    gc.unfreeze()
    gc.collect()


def test_collector_and_what_is_referred_to_more_than_once():
    """References that nobody counts must not look like garbage: a debug interpreter says so if they do."""
    shared = frozenset({2, 9, "some text"})
    consts = ((1, shared), (3, shared), (4, (shared, shared)), shared)
    (code,), (plain,) = convert_marshalled(with_consts(*consts))
    for _ in range(8):
        gc.collect()
    assert code.co_consts[1:] == consts == plain.co_consts[1:]
    assert code.co_consts[1][1] is code.co_consts[2][1] is code.co_consts[3][1][0] is code.co_consts[4]
    gc.collect()


def test_code_watchers_are_respected():
    try:
        import _testcapi
    except ImportError:
        raise Skipped("no _testcapi") from None
    if not hasattr(_testcapi, "add_code_watcher"):
        raise Skipped("code watchers came with 3.12")
    table, streams = encode(marshal.dumps(compile("pass", "x", "exec")))
    watcher = _testcapi.add_code_watcher(0)
    try:
        assert native_decode(table, streams) == [None]
    finally:
        _testcapi.clear_code_watcher(watcher)
    assert native_decode(table, streams)[0].co_filename == "x"


# What a body has that may be freed with it, and what outlives it: shared and memo objects among the constants.
BODIES = """
'''A docstring.'''
import os as first, sys as second
NUMBERS = 10**30, 2**70, 1.5, {1, 2, 3} == {3, 2, 1}, "text", b"bytes", (10**30, frozenset({4}), "text")
def found(x): return x in {1, 2, 3}, x in {4}, 10**30
class Body:
    "Of a class."
    attribute = 10**30, "text", (2**70, "an attribute"), {"an attribute", 7} == {7}
    def method(self): return __class__, 2**70
    class Inner:
        inner = "text", 2**70
def outer():
    class Local:
        local = "text", 10**30
    return Local
"""


def test_bodies_are_freed():
    """The body of a module, and those of its classes; not of a class in a function, which may be run again."""
    bodies = [*convert(BODIES)[0], *convert(BODIES)[1]]
    while bodies:
        code = bodies.pop()
        scope = {"__name__": "module"}
        inside = {item.co_name: weakref.ref(item) for item in code.co_consts if isinstance(item, types.CodeType)}
        inside["Inner"] = weakref.ref(
            next(
                item
                for item in inside["Body"]().co_consts
                if isinstance(item, types.CodeType) and item.co_name == "Inner"
            )
        )
        itself = weakref.ref(code)
        exec(code, scope)
        del code
        assert itself() is None
        freed = {name for name, reference in inside.items() if reference() is None}
        assert freed == {"Body", "Inner"}, freed
        for _ in range(3):
            gc.collect()
        assert scope["Body"].attribute == (10**30, "text", (2**70, "an attribute"), False)
        assert scope["found"](2) == (True, False, 10**30) and scope["found"](4) == (False, True, 10**30)
        assert scope["Body"]().method() == (scope["Body"], 2**70) and scope["Body"].Inner.inner == ("text", 2**70)
        assert scope["outer"]().local == ("text", 10**30) and scope["NUMBERS"][-1] == (10**30, frozenset({4}), "text")


def test_bodies_leave_no_references():
    """Freeing takes back just the references that the body had: again and again, nothing dies that others use."""
    marshalled = [
        marshal.dumps(compile(BODIES.replace("an attribute", f"attribute {i}"), "x", "exec")) for i in range(40)
    ]
    table, streams = encode(*marshalled)
    shared = sys.intern("text")
    kept = []
    for _ in range(5):
        codes = native_decode(table, streams)
        for code in codes:
            scope = {"__name__": "module"}
            exec(code, scope)
            kept.append(scope["found"])
        del codes, code
        gc.collect()
    assert all(found(4) == (False, True, 10**30) for found in kept)
    assert sys.getrefcount(shared) > 1 and shared == "text"


def test_tracemalloc():
    import tracemalloc

    tracemalloc.start()
    try:
        (decoded,), _ = convert("def f(): return 1")
        tracemalloc.take_snapshot()
        assert tracemalloc.get_object_traceback(decoded) is not None  # runs once: an ordinary object
        assert tracemalloc.get_object_traceback(decoded.co_consts[0]) is None
    finally:
        tracemalloc.stop()


def test_threads():
    import threading

    marshalled = [
        marshal.dumps(compile(f"def f{i}(a): return a, 'text {i % 7}', {{{i}, 'z'}}", "x", "exec")) for i in range(200)
    ]
    table, streams = encode(*marshalled)
    results = {}

    def work(start):
        results[start] = native_decode(table, streams[start::4])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for start, codes in results.items():
        assert codes == [marshal.loads(data) for data in marshalled[start::4]]


def test_collection_callbacks_that_decode():
    data = with_consts(*[frozenset({i, i + 1}) for i in range(3000)])
    small = marshal.dumps(compile("a = {'x y', 2}", "x", "exec"))
    table, (big_stream, small_stream) = encode(data, small)
    seen = []
    callback = lambda phase, info: seen.extend(native_decode(table, [small_stream]))  # noqa: E731
    gc.callbacks.append(callback)
    try:
        (code,) = native_decode(table, [big_stream])
    finally:
        gc.callbacks.remove(callback)
    assert code == marshal.loads(data)
    assert seen and all(code == marshal.loads(small) for code in seen)


# ---- malformed ----


def test_every_truncation_is_refused():
    table, (stream,) = encode(marshal.dumps(compile(textwrap.dedent(SOURCE), "x", "exec")))
    shortened = [stream[:size] for size in range(len(stream))]
    assert native_decode(table, shortened) == [None] * len(stream)
    assert native_decode(table, [stream + b"\0", stream])[0] is None


def test_other_things_than_streams():
    table, (stream,) = encode(with_consts("abc"))
    raises(TypeError, native_decode, table, [None])
    raises(TypeError, native_decode, table, (stream,))
    raises(ValueError, native_decode, b"not a table", [stream])
    raises(ValueError, native_encode, [marshal.loads(with_consts(1))], [], b"")
    (fault,) = native_verify(table, [stream], [with_consts("abd")])
    assert isinstance(fault, str)


def test_deep_nesting_is_refused_by_both():
    nested = ()
    for _ in range(210):
        nested = (nested,)
    _, (refusal,) = native.encode([with_consts(nested)], b"")
    assert refusal == "constants are nested too deeply"
    memo_and_groups, tuple_of_one = bytes(5), bytes([17, 1])  # native_format.h
    assert native_decode(b"", [memo_and_groups + tuple_of_one * 300_000]) == [None]


def test_damaged_table():
    marshalled = [
        marshal.dumps(compile(f"name_{i} = other_{i} = 'some text {i}'", "x", "exec")) for i in range(300)
    ] * 2
    table, streams = encode(*marshalled)
    streams, plain = streams[:300:7], [marshal.loads(data) for data in marshalled[:300:7]]
    assert native_decode(table, streams) == plain
    refused = missed = 0
    for position in range(0, len(table), 37):
        damaged = bytearray(table)
        damaged[position] ^= 1 << position % 8
        try:
            decoded = native_decode(bytes(damaged), streams)
        except ValueError:
            refused += 1
            continue
        missed += sum(code is None for code in decoded)
        assert all(code is None or code == expected for code, expected in zip(decoded, plain))
    assert refused or missed > 10


def test_streams_are_not_changed_by_verifying():
    data = marshal.dumps(compile("x = {b'one', b'two', (b'three', 1)}; y = b'four'\ndef f(): pass\n" * 20, "x", "exec"))
    table, (stream,) = native.encode([data], b"")
    before = bytes(bytearray(stream))
    assert native_verify(table, [stream], [data]) == [None] and stream == before
    native_decode(table, [stream])
    assert stream == before


# ---- the table grows ----


def test_extended_table_serves_old_streams():
    sources = [f"common_name = name_{i} = 'a text'" for i in range(10)]
    first = [marshal.dumps(compile(source, "x", "exec")) for source in sources]
    second = [marshal.dumps(compile(source + "\nname_1 = new_name = 1", "x", "exec")) for source in sources]
    table, streams = encode(*first)
    longer, more = encode(*second, table=table)
    assert len(longer) > len(table)
    assert native_verify(longer, [*streams, *more], [*first, *second]) == [None] * 20


def test_chunks_share_one_table():
    """More modules than are encoded at a time."""
    marshalled = [marshal.dumps(compile(f"name_{i % 5} = 'text {i}'", "x", "exec")) for i in range(9)]
    before, native.CHUNK = native.CHUNK, 4
    try:
        table, streams = encode(*marshalled)
    finally:
        native.CHUNK = before
    assert native_decode(table, streams) == [marshal.loads(data) for data in marshalled]


# ---- how it is run ----


def run_all():
    assert native_reason() is None, native_reason()
    for name, case in list(globals().items()):
        if not name.startswith("test_"):
            continue
        print(json.dumps([name, "started", ""]), flush=True)
        try:
            case()
        except Skipped as reason:
            told = [name, "skipped", str(reason)]
        except BaseException:
            told = [name, "failed", traceback.format_exc()]
        else:
            told = [name, "passed", ""]
        print(json.dumps(told), flush=True)
    in_place = encode(marshal.dumps(compile("def f(): pass", "x", "exec")))[1][0][4] != 0
    print(json.dumps(["in place", in_place, ""]))  # are there byte strings that the interpreter uses where they are?


if __name__ == "__main__":
    run_all()
