"""The tables that most sections print: a row a program, below them the geometric mean and the worst ratio."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.programs import Program
from benchmarks.report import Row, Table, error_row, milliseconds, times
from benchmarks.sampling import Outcome, Ratio, geometric_mean, ratio
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
    if len(ratios) > 1:
        least = min(ratios, key=ratios.__getitem__)
        rows.append(Row(["geometric mean", "", "", "", times(geometric_mean(list(ratios.values()))), ""]))
        rows.append(Row([f"least ({least})", "", "", "", times(ratios[least]), ""]))
    return Table(title, ["program", "modules", "plain ms", "pycds ms", "plain/pycds", "95 %"], rows, notes)


class Shares(NamedTuple):
    """A table of what pycds takes of what plain takes."""

    title: str
    columns: list[str]  # subject, plain, pycds; those of the share follow
    figure: Callable[[float], str]
    notes: list[str]

    def table(self, cache: Cache, pairs: list[tuple[Program, Outcome]], further: dict[str, list[str]]) -> Table:
        """A row a program; `further` has the cells behind them, by program, and by "" the names of their columns."""
        added = further.get("", [])
        rows, shares = [], {}
        for program, outcome in pairs:
            error = outcome.error or refusal(cache, program)
            if error is not None:
                rows.append(error_row(outcome.name, error))
                continue
            found = ratio(outcome.benchmarks["pycds"], outcome.benchmarks["plain"])
            shares[outcome.name] = found.value
            figures = [self.figure(outcome.median(side)) for side in ("plain", "pycds")]
            cells = [outcome.name, *figures, *share_cells(found), *further.get(outcome.name, [])]
            rows.append(Row(cells, remark(cache, program)))
        if shares:
            most = max(shares, key=shares.__getitem__)
            blank = [""] * len(added)
            rows.append(Row(["geometric mean", "", "", share(geometric_mean(list(shares.values()))), "", *blank]))
            rows.append(Row([f"most ({most})", "", "", share(shares[most]), "", *blank]))
        columns = [*self.columns, f"{self.columns[2].split()[0]}/{self.columns[1].split()[0]}", "95 %", *added]
        return Table(self.title, columns, rows, self.notes)


def share(value: float) -> str:
    """A ratio whose third figure counts, such as 0.384."""
    return f"{value:.3f}"


def share_cells(found: Ratio) -> list[str]:
    """A ratio and its interval."""
    return [share(found.value), f"{share(found.low)}–{share(found.high)}"]
