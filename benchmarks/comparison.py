"""The table that most sections print: a row a program, below them the geometric mean and the least ratio."""

from benchmarks.programs import Program
from benchmarks.report import Row, Table, error_row, milliseconds, times
from benchmarks.sampling import Outcome, geometric_mean, ratio
from benchmarks.serving import Cache, refusal, remark


def comparison(title: str, programs: list[Program], outcomes: list[Outcome], cache: Cache, notes: list[str]) -> Table:
    """Medians in ms, and how many times faster pycds is."""
    rows, ratios = [], {}
    for program, outcome in zip(programs, outcomes, strict=True):
        error = outcome.error or refusal(cache, program)
        if error is not None:
            rows.append(error_row(program.name, error))
            continue
        found = ratio(outcome.benchmarks["plain"], outcome.benchmarks["pycds"])
        ratios[program.name] = found.value
        cells = [
            program.name,
            str(cache.plain[program.name].sources()),
            milliseconds(outcome.median("plain")),
            milliseconds(outcome.median("pycds")),
            times(found.value),
            f"{times(found.low)}–{times(found.high)}",
        ]
        rows.append(Row(cells, remark(cache, program)))
    if ratios:
        least = min(ratios, key=ratios.__getitem__)
        rows.append(Row(["geometric mean", "", "", "", times(geometric_mean(list(ratios.values()))), ""]))
        rows.append(Row([f"least ({least})", "", "", "", times(ratios[least]), ""]))
    return Table(title, ["program", "modules", "plain ms", "pycds ms", "plain/pycds", "95 %"], rows, notes)
