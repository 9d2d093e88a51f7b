"""The parts of the benchmark that compute: statistics, interleaving, summaries, tables, checks of serving, the soak."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pyperf
import pytest

from benchmarks.__main__ import SECTIONS as SECTION_NAMES
from benchmarks.bench import Bench, Options
from benchmarks.chart import LONGEST, Bars, Chart, draw
from benchmarks.comparison import Shares, comparison
from benchmarks.errors import MeasurementError
from benchmarks.processes import Finished
from benchmarks.programs import PROBES, STATEMENTS, Program
from benchmarks.report import Row, Table, as_markdown, as_text, error_row, milliseconds
from benchmarks.sampling import Case, Outcome, interleave, ratio, turn
from benchmarks.sections import SECTIONS
from benchmarks.sections.accelerations import accelerations, losses, ratios, skips
from benchmarks.sections.cold_start import cold_sides, disk_of, mounted
from benchmarks.sections.empty_modules import write_package
from benchmarks.sections.empty_run import check_sides
from benchmarks.sections.exit_time import seconds_of_end
from benchmarks.sections.load_time import Loader
from benchmarks.sections.memory import add, parse_sizes
from benchmarks.sections.steady_work import check_origin
from benchmarks.sections.system_calls import parse_summary
from benchmarks.serving import Cache, Probed, check_hits, check_no_hits, check_plain, check_served, remark
from benchmarks.soak import COMPUTATIONS, Made, Tally, difference
from benchmarks.target import Setting, clean_environment, interrogate

PROGRAM = Program("demo", "import demo", "/demo/program.py")
SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 42.20    0.058679          24      2404       171 newfstatat
  5.52    0.007670          21       353       353 ioctl
  0.00    0.000000           0         1           execve
------ ----------- ----------- --------- --------- ----------------
100.00    0.139065          24      2758       524 total
"""
SIZES = """\
55d0c0a00000-7fff5b1fe000 ---p 00000000 00:00 0                          [rollup]
Rss:                   8 kB
Pss:                   6 kB
Pss_Dirty:             5 kB
Private_Dirty:         4 kB
"""
MOUNTS = """\
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24683656k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
"""
SVG = "{http://www.w3.org/2000/svg}"


def benchmark(*values: float) -> pyperf.Benchmark:
    return pyperf.Benchmark([pyperf.Run([value], metadata={"name": "x"}, collect_metadata=False) for value in values])


def probed(hits: int, active: bool = True, misses: int = 0) -> Probed:
    stats = {"active": active, "reason": None if active else "no archive yet", "hits": hits, "misses": misses, "stale": 0}
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

    interleave("demo", [Case("a", {"plain": contender("p"), "pycds": contender("c")})], 4)
    assert "".join(order) == "pccpcppc"


@pytest.mark.parametrize("labels", ["pc", "pct", "pabcdef"])
def test_each_contender_comes_first_and_last_equally_often(labels: str) -> None:
    orders = [turn(list(labels), number) for number in range(2 * len(labels))]
    assert all(sorted(order) == sorted(labels) for order in orders)
    assert sorted(order[0] for order in orders) == sorted(order[-1] for order in orders) == sorted(labels * 2)


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


def test_smaps_rollup() -> None:
    sizes = parse_sizes(SIZES)
    assert sizes == {"Pss": 6144, "Private_Dirty": 4096, "Rss": 8192}
    assert add([sizes, sizes])["Pss"] == 12288
    with pytest.raises(MeasurementError):
        parse_sizes("Rss: 8 kB\n")


def test_a_process_with_fewer_hits_is_an_error() -> None:
    expected = probed(4)._replace(ordinary=["a"])
    check_hits(2, cache(expected), PROGRAM)
    with pytest.raises(MeasurementError):
        check_hits(1, cache(expected), PROGRAM)
    with pytest.raises(MeasurementError):
        check_hits(0, cache(probed(0)), PROGRAM)
    check_no_hits(0)
    with pytest.raises(MeasurementError):
        check_no_hits(1)


def test_time_of_the_exit() -> None:
    options = Options(1, False, False, "wall")
    bench = Bench(interrogate(sys.executable), [], "/none", options)
    finished = Finished(0.5, 0.25, 100.5, "7 200000000 100400000000", "", 0)
    assert seconds_of_end(bench, finished) == pytest.approx((7, 0.1))
    bench.options = options._replace(clock="cpu")
    assert seconds_of_end(bench, finished) == pytest.approx((7, 0.05))
    with pytest.raises(MeasurementError):
        seconds_of_end(bench, finished._replace(stdout="printed by the program 7 1 2"))


def test_modules_of_the_wrong_side_are_an_error() -> None:
    check_origin(7, 7, plain=True)
    check_origin(0, 7, plain=False)
    for ordinary, plain in [(6, True), (1, False)]:
        with pytest.raises(MeasurementError):
            check_origin(ordinary, 7, plain)


def test_marshal_and_the_archive_load_the_same_modules() -> None:
    bench = Bench(interrogate(sys.executable), [PROGRAM], "/none", Options(1, False, False, "wall"))
    loader = Loader(bench, PROGRAM, cache(probed(3)))
    loader.count = 3
    assert loader.seconds("0.25 3\n") == 0.25
    with pytest.raises(MeasurementError):
        loader.seconds("0.25 2\n")


def test_shares() -> None:
    sides = {"plain": benchmark(2.0, 2.0), "pycds": benchmark(1.0, 1.0)}
    other = PROGRAM._replace(name="other")
    outcomes = [(PROGRAM, Outcome("demo", sides, None)), (other, Outcome("other", {}, "why"))]
    shares = Shares("Title", ["program", "plain ms", "pycds ms"], milliseconds, [])
    both = cache(probed(3))._replace(plain={"demo": probed(0, active=False)})
    table = shares.table(both, outcomes, {"": ["modules"], "demo": ["3"]})
    assert table.columns == ["program", "plain ms", "pycds ms", "pycds/plain", "95 %", "modules"]
    assert table.rows[1:] == [
        error_row("other", "why"),
        Row(["geometric mean", "", "", "0.500", "", ""]),
        Row(["most (demo)", "", "", "0.500", "", ""]),
    ]


def made(hits: int, **different: str) -> Made:
    return Made({"modules": "a", "names": "b", "code": "c", "result": "d"} | different, {"hits": hits})


def test_soak_tells_what_differs() -> None:
    assert difference(made(0), made(3)) == ""
    assert difference(made(0), made(3, names="x", result="y")) == "other names, result"


def test_soak_counts() -> None:
    tally = Tally(made(0), served=3)
    results: list[Made | str] = [made(3), made(3), made(2), made(3, code="x"), "exit status -11", "exit status -11"]
    assert [tally.note(result) for result in results] == ["", "", "", "other code", *["exit status -11"] * 2]
    row = tally.row("demo")
    assert row.cells == ["demo", "6", "3", "3", "11", "1"]
    assert row.remark == "2: exit status -11; 1: other code"


def test_every_program_has_a_computation() -> None:
    assert set(COMPUTATIONS) == set(STATEMENTS)
    for name, computation in COMPUTATIONS.items():
        compile(computation, name, "exec")


def test_what_a_start_made_does_not_depend_on_hashes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import json, tokenize\nresult = json.dumps({1: [2]})\n")
    probe = PROGRAM._replace(script=os.path.join(PROBES, "program.py")).probe("soak")
    reports = []
    for seed in ("1", "2"):
        environment = clean_environment() | {"PYTHONHASHSEED": seed, "PYCDS_DISABLE": "1"}
        output = subprocess.check_output([sys.executable, probe, str(script)], env=environment)
        reports.append(json.loads(output)["made"])
    assert reports[0] == reports[1]
    assert reports[0]["result"] == repr('{"1": [2]}')


def test_a_comparison_of_one_program_has_no_mean() -> None:
    sides = {"plain": benchmark(2.0, 2.0), "pycds": benchmark(1.0, 1.0)}
    both = cache(probed(3))._replace(plain={"demo": probed(0, active=False), "other": probed(0, active=False)})
    both = both._replace(pycds={"demo": probed(3), "other": probed(3)})
    one = comparison("Title", [PROGRAM], [Outcome("demo", sides, None)], both, [])
    assert [row.cells[0] for row in one.rows] == ["demo"]
    outcomes = [
        Outcome("demo", sides, None),
        Outcome("other", {"plain": benchmark(8.0), "pycds": benchmark(1.0)}, None),
    ]
    two = comparison("Title", [PROGRAM, PROGRAM._replace(name="other")], outcomes, both, [])
    assert [row.cells[4] for row in two.rows] == ["2.00", "8.00", "4.00", "2.00"]
    assert two.rows[-1].cells[0] == "least (demo)"


def test_the_names_of_accelerations_are_those_of_the_product(tmp_path: Path) -> None:
    assert {"re", "gc", "importlib", "frames"} <= set(accelerations())
    settings = tmp_path / "settings.c"
    settings.write_text("int main(void) { return 0; }\n")
    for path in (settings, tmp_path / "missing"):
        with pytest.raises(MeasurementError):
            accelerations(str(path))


def test_each_contender_lacks_one_acceleration_and_the_last_one_all() -> None:
    assert skips(["re", "gc"]) == {"pycds": "", "without-re": "re", "without-gc": "gc", "code-only": "re,gc"}


def test_tables_of_accelerations() -> None:
    values = {"plain": 0.6, "pycds": 0.2, "without-re": 0.3, "without-gc": 0.25, "code-only": 0.4}
    sides = {label: benchmark(value, value) for label, value in values.items()}
    pairs = [(PROGRAM, Outcome("demo", sides, None)), (PROGRAM._replace(name="other"), Outcome("other", {}, "why"))]
    both = cache(probed(3))._replace(plain={"demo": probed(0, active=False)})
    table = ratios("Title", ["re", "gc"], both, pairs, [])
    assert table.columns == ["program", "plain ms", "pycds ms", "all", "no re", "no gc", "code only"]
    assert table.rows == [
        Row(["demo", "600.0", "200.0", "3.00", "2.00", "2.40", "1.50"]),
        error_row("other", "why"),
        Row(["geometric mean", "", "", "3.00", "2.00", "2.40", "1.50"]),
    ]
    table = losses("Title", ["re", "gc"], both, pairs)
    assert table.columns == ["program", "pycds ms", "no re", "no gc", "code only"]
    assert table.rows[0].cells[2] == "+100.0 (+50.0 % – +50.0 %)"
    assert table.rows[-1] == Row(["geometric mean", "", "+50.0 %", "+25.0 %", "+100.0 %"])


def test_a_cold_start_is_measured_after_the_caches_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def measure() -> float:
        done.append("measured")
        return 1.0

    monkeypatch.setattr("benchmarks.sections.cold_start.drop_caches", lambda: done.append("dropped"))
    sides = cold_sides(Case("demo", {"plain": measure, "pycds": measure}))
    assert [sides[label]() for label in ("plain", "pycds")] == [1.0, 1.0]
    assert done == ["dropped", "measured"] * 2


def test_mounts() -> None:
    assert mounted(MOUNTS, "254:0") == ("ext4", "/dev/vda")
    assert mounted(MOUNTS, "0:23") == ("tmpfs", "tmpfs")
    assert mounted(MOUNTS, "254:1")[0] == "unknown file system"
    assert disk_of("/dev/shm").file_system == "tmpfs"


def test_an_empty_run_without_pycds_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    setting = Setting(interrogate(sys.executable), str(tmp_path / "cache"), {}, True)
    check_sides(sys.executable, setting)
    with pytest.raises(MeasurementError):
        check_sides(sys.executable, setting._replace(control=False, extra={"PYCDS_READONLY": "1"}))


def test_every_empty_module_is_imported(tmp_path: Path) -> None:
    write_package(PROGRAM._replace(script=str(tmp_path / "program.py")), 3)
    count = "import sys, thousand.all_of_them; print(sum(name.startswith('thousand.module_') for name in sys.modules))"
    output = subprocess.check_output([sys.executable, "-c", count], cwd=tmp_path, env=clean_environment())
    assert output == b"3\n"


def test_chart() -> None:
    bars = [Bars("one", 0.4, 0.1), Bars("two<", 0.1, 0.1)]
    root = ElementTree.fromstring(draw(Chart("Title", "Subtitle", bars, ["word " * 60, "last"])))
    texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    assert [text for text in texts if text.endswith("×")] == ["4.00×", "1.00×", "2.00×"]
    assert [text for text in texts if text.endswith(" ms")] == ["400 ms", "100 ms", "100 ms", "100 ms"]
    assert texts[-1] == "last" and len([text for text in texts if text.startswith("word word")]) == 3
    sides = [element for element in root.iter(f"{SVG}rect") if element.get("height") == "13"]
    assert [element.get("width") for element in sides] == [f"{LONGEST}.0", *["135.0"] * 3]
    height = float(root.get("height", "0"))
    assert all(float(element.get("y", "0")) < height for element in root.iter(f"{SVG}text"))
