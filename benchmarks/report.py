"""Tables as aligned plain text, or as Markdown."""

from typing import NamedTuple


class Row(NamedTuple):
    """Cells, the first one the row's name; a remark is something the reader must not overlook."""

    cells: list[str]
    remark: str = ""


class Table(NamedTuple):
    """A titled table; notes say how it was measured."""

    title: str
    columns: list[str]
    rows: list[Row]
    notes: list[str]

    def failed(self) -> bool:
        """Does a row have an error in place of its figures?"""
        return any(len(row.cells) == 1 for row in self.rows)


def error_row(name: str, reason: str) -> Row:
    """A row that has a reason instead of figures."""
    return Row([name], f"ERROR: {reason}")


def as_text(table: Table) -> str:
    """The table in columns, names to the left and figures to the right."""
    widths = [len(column) for column in table.columns]
    for row in table.rows:
        for index, cell in enumerate(row.cells):
            widths[index] = max(widths[index], len(cell))
    lines = [table.title, text_line(table.columns, widths, "")]
    lines += [text_line(row.cells, widths, row.remark) for row in table.rows]
    lines += [f"  {note}" for note in table.notes]
    return "\n".join(lines)


def text_line(cells: list[str], widths: list[int], remark: str) -> str:
    """One line of `as_text`."""
    parts = [cells[0].ljust(widths[0])]
    parts += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=False)]
    if remark:
        parts.append(f"! {remark}")
    return ("  " + "  ".join(parts)).rstrip()


def as_markdown(table: Table) -> str:
    """The table in GitHub's Markdown."""
    remarks = any(row.remark for row in table.rows)
    columns = [*table.columns, "remark"] if remarks else table.columns
    rule = ["---"] + ["---:"] * (len(table.columns) - 1) + (["---"] if remarks else [])
    lines = [f"**{table.title}**", "", markdown_line(columns), markdown_line(rule)]
    for row in table.rows:
        cells = row.cells + [""] * (len(table.columns) - len(row.cells))
        lines.append(markdown_line([*cells, row.remark] if remarks else cells))
    lines += ["", *table.notes] if table.notes else []
    return "\n".join(lines)


def markdown_line(cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def milliseconds(seconds: float) -> str:
    """A time in ms with three to four figures."""
    value = seconds * 1000
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def times(value: float) -> str:
    """A ratio, such as 1.53."""
    return f"{value:.2f}"


def change(value: float) -> str:
    """A ratio as a change: 1.021 is +2.1 %."""
    return f"{(value - 1) * 100:+.1f} %"
