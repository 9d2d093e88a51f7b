"""The parts of the benchmark that compute: statistics, interleaving, strace's summary, tables, checks of serving."""

import sys
from collections.abc import Callable

import pyperf
import pytest

from benchmarks.__main__ import SECTIONS as SECTION_NAMES
from benchmarks.errors import MeasurementError
from benchmarks.programs import Program
from benchmarks.report import Row, Table, as_markdown, as_text, error_row
from benchmarks.sampling import Case, interleave, ratio
from benchmarks.sections import SECTIONS
from benchmarks.sections.system_calls import parse_summary
from benchmarks.serving import Cache, Probed, check_plain, check_served, remark
from benchmarks.target import Setting, interrogate

PROGRAM = Program("demo", "import demo", "/demo/program.py", "/demo/probe.py")
SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 42.20    0.058679          24      2404       171 newfstatat
  5.52    0.007670          21       353       353 ioctl
  0.00    0.000000           0         1           execve
------ ----------- ----------- --------- --------- ----------------
100.00    0.139065          24      2758       524 total
"""


def benchmark(*values: float) -> pyperf.Benchmark:
    return pyperf.Benchmark([pyperf.Run([value], metadata={"name": "x"}, collect_metadata=False) for value in values])


def probed(hits: int, active: bool = True, misses: int = 0) -> Probed:
    stats = {"active": active, "reason": None if active else "no image yet", "hits": hits, "misses": misses, "stale": 0}
    return Probed(0.1, 0.1, ["/a.pyc", "/b.pyc", "/c.pyc"], [], stats, 0, False)


def cache(expected: Probed) -> Cache:
    target = interrogate(sys.executable)
    setting = Setting(target, "/cache", {"PYTHONPYCACHEPREFIX": "/x"}, False)
    return Cache(setting, {"demo": expected}, {"demo": expected}, {}, "")


def test_ratio_of_medians_lies_in_its_interval() -> None:
    found = ratio(benchmark(2.0, 2.2, 2.1, 1.9, 2.0), benchmark(1.0, 1.1, 1.0, 1.0, 0.9))
    assert found.value == 2.0
    assert found.low <= found.value <= found.high


def test_contenders_take_turns_and_change_order() -> None:
    order: list[str] = []

    def contender(label: str) -> Callable[[], float]:
        def measure() -> float:
            order.append(label)
            return 1.0

        return measure

    interleave("demo", [Case("a", {"plain": contender("p"), "pycds": contender("c")})], 3)
    assert "".join(order) == "pccppc"


def test_a_failing_case_becomes_an_error_and_spares_the_others() -> None:
    def fail() -> float:
        raise MeasurementError("not active")

    cases = [
        Case("bad", {"plain": lambda: 1.0, "pycds": fail}),
        Case("good", {"plain": lambda: 1.0, "pycds": lambda: 1.0}),
    ]
    bad, good = interleave("demo", cases, 2)
    assert (bad.error, bad.benchmarks) == ("not active", {})
    assert good.error is None and good.median("pycds") == 1.0


def test_strace_summary() -> None:
    calls = parse_summary(SUMMARY)
    assert calls == {"newfstatat": 2404, "ioctl": 353, "execve": 1}
    with pytest.raises(MeasurementError):
        parse_summary("")


def test_a_process_served_as_before_passes() -> None:
    check_served(probed(3), cache(probed(3)), PROGRAM)
    assert remark(cache(probed(3)), PROGRAM) == ""


@pytest.mark.parametrize("measured", [probed(0, active=False), probed(2), probed(3)._replace(stats=None)])
def test_a_process_not_served_is_an_error(measured: Probed) -> None:
    with pytest.raises(MeasurementError):
        check_served(measured, cache(probed(3)), PROGRAM)


def test_a_served_plain_side_is_an_error() -> None:
    check_plain(probed(0, active=False))
    with pytest.raises(MeasurementError):
        check_plain(probed(3))


def test_misses_are_remarked_on() -> None:
    assert remark(cache(probed(2, misses=1)), PROGRAM) == "1 misses; 2 hits for 3 modules"


def test_section_names() -> None:
    assert list(SECTIONS) == SECTION_NAMES


def test_tables() -> None:
    table = Table("Title", ["program", "ms"], [Row(["a", "10.0"], "1 stale"), error_row("b", "why")], ["note"])
    assert table.failed()
    assert as_text(table).splitlines() == [
        "Title",
        "  program    ms",
        "  a        10.0  ! 1 stale",
        "  b        ! ERROR: why",
        "  note",
    ]
    assert as_markdown(table).splitlines()[2:6] == [
        "| program | ms | remark |",
        "| --- | ---: | --- |",
        "| a | 10.0 | 1 stale |",
        "| b |  | ERROR: why |",
    ]
