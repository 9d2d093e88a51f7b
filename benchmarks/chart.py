"""The chart for README: bars of both sides a program, as an SVG file that needs nothing but a browser.

It brings its own background, so that it can be read on light and dark pages alike; browsers choose its colours by the
reader's preference. Widths of text are unknown here: every text has room for the widest likely font.
"""

import textwrap
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.report import times
from benchmarks.sampling import geometric_mean

WIDTH = 860
MARGIN = 24
NAMES = 146  # right edge of the names
BARS = NAMES + 12  # left edge of the bars
LONGEST = 540  # of a bar; behind it stands its figure
RATIOS = WIDTH - MARGIN  # right edge of the ratios
HEAD = 96  # height above the first row
ROW = 40
BAR = 13  # height of a bar
LINE = 16  # height of a line of the caption
CAPTION_COLUMNS = 128  # characters a line of the caption
BOTTOM = 18

STYLE = """
    text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, "DejaVu Sans", sans-serif }
    text { fill: #1f2328 }
    .card { fill: #ffffff; stroke: #d1d9e0 }
    .rule { stroke: #d1d9e0 }
    .plain { fill: #aab4be }
    .pycds { fill: #0969da }
    .title { font-size: 18px; font-weight: 600 }
    .name { font-size: 14px }
    .figure { font-size: 11.5px }
    .ratio { font-size: 16px; font-weight: 600 }
    .small { font-size: 12.5px }
    .caption { font-size: 11.5px }
    .small, .caption, .figure { fill: #59636e }"""
DARK_STYLE = """
      text { fill: #f0f6fc }
      .card { fill: #0d1117; stroke: #3d444d }
      .rule { stroke: #3d444d }
      .plain { fill: #59626d }
      .pycds { fill: #4493f8 }
      .small, .caption, .figure { fill: #9198a1 }"""


class Bars(NamedTuple):
    """A program's two times, in seconds."""

    name: str
    plain: float
    pycds: float


class Chart(NamedTuple):
    """What a chart says; captions say how it was measured, one paragraph each."""

    title: str
    subtitle: str
    programs: list[Bars]
    captions: list[str]


def draw(chart: Chart) -> str:
    """The chart as SVG."""
    captions = [line for caption in chart.captions for line in textwrap.wrap(caption, CAPTION_COLUMNS)]
    ratios = [program.plain / program.pycds for program in chart.programs]
    below = HEAD + ROW * len(ratios)  # top of the row of the mean
    first_caption = below + ROW + LINE
    height = first_caption + LINE * (len(captions) - 1) + BOTTOM
    longest = max(max(program.plain, program.pycds) for program in chart.programs)
    parts = [
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
        text("title", MARGIN, 38, chart.title),
        text("small", MARGIN, 60, chart.subtitle),
        *legend(84),
        text("small", RATIOS, 84, "times as fast", "end"),
    ]
    for number, (program, ratio) in enumerate(zip(chart.programs, ratios, strict=True)):
        parts += row(program, ratio, HEAD + ROW * number, LONGEST / longest)
    parts += mean_row(geometric_mean(ratios), below)
    parts += [text("caption", MARGIN, first_caption + LINE * number, line) for number, line in enumerate(captions)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" aria-labelledby="title description">',
            f'  <title id="title">{escape(chart.title)}</title>',
            f'  <desc id="description">{escape(in_words(chart, ratios))}</desc>',
            f"  <style>{STYLE}\n    @media (prefers-color-scheme: dark) {{{DARK_STYLE}\n    }}\n  </style>",
            *(f"  {part}" for part in parts),
            "</svg>\n",
        ]
    )


def legend(y: int) -> list[str]:
    """What the two colours mean."""
    second = MARGIN + 130
    return [
        rectangle("plain", MARGIN, y - 10, 12, 12),
        text("small", MARGIN + 18, y, "plain Python"),
        rectangle("pycds", second, y - 10, 12, 12),
        text("small", second + 18, y, "with pycds-auto"),
    ]


def row(program: Bars, ratio: float, top: int, scale: float) -> list[str]:
    """A program's name, its bars with their figures, and its ratio; `scale`: pixels a second."""
    upper = top + (ROW - 2 * BAR) // 2 - 1
    parts = [text("name", NAMES, top + ROW // 2 + 5, program.name, "end")]
    for side, seconds, y in (("plain", program.plain, upper), ("pycds", program.pycds, upper + BAR + 2)):
        length = max(1.0, seconds * scale)
        parts.append(rectangle(side, BARS, y, length, BAR))
        parts.append(text("figure", BARS + length + 6, y + BAR - 2.5, f"{seconds * 1000:.0f} ms"))
    return [*parts, text("ratio", RATIOS, top + ROW // 2 + 6, f"{times(ratio)}×", "end")]


def mean_row(mean: float, top: int) -> list[str]:
    """The geometric mean below a line."""
    return [
        f'<line class="rule" x1="{MARGIN}" y1="{top + 0.5}" x2="{RATIOS}" y2="{top + 0.5}"/>',
        text("name", NAMES, top + 25, "geometric mean", "end"),
        text("ratio", RATIOS, top + 26, f"{times(mean)}×", "end"),
    ]


def in_words(chart: Chart, ratios: list[float]) -> str:
    """The figures for who can't see them."""
    return f"{chart.subtitle}. " + "; ".join(
        f"{program.name}: plain {program.plain * 1000:.0f} ms, with pycds-auto {program.pycds * 1000:.0f} ms, "
        f"{times(ratio)} times as fast"
        for program, ratio in zip(chart.programs, ratios, strict=True)
    )


def text(style: str, x: float, y: float, content: str, anchor: str = "start") -> str:
    """One line of text, with its baseline at y."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(content)}</text>'


def rectangle(style: str, x: float, y: float, width: float, height: float) -> str:
    """A filled rectangle."""
    return f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" rx="2"/>'
