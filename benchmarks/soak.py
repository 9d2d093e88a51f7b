"""A soak: `python -m benchmarks.soak --python VENV/bin/python --starts 1000`, from the repository's root.

Starts every program many times with the archive, and compares what each start made with what plain Python makes (see
probes/probe_soak.py). A result is wrong if the process fails, if it writes to stderr, or if it made anything else.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from typing import Any, NamedTuple

from benchmarks.__main__ import names_of, positive
from benchmarks.errors import MeasurementError, TargetError
from benchmarks.processes import adopt_orphans, run
from benchmarks.programs import STATEMENTS, Program, write_programs
from benchmarks.report import Row, Table, as_text, error_row
from benchmarks.target import Setting, build, interrogate

PLAIN_STARTS = 5  # that must agree with each other
SHOWN = 20  # wrong results that are printed
INTERVAL = 300.0  # seconds between lines of progress

# What each program computes; `result` is compared by its repr.
COMPUTATIONS = {
    "requests": """
request = requests.Request("GET", "http://example.org/a b", params={"q": ["1", "ü"]}, auth=("a", "b")).prepare()
result = request.url, sorted(request.headers.items())
""",
    "django": """
from django.conf import settings
settings.configure(USE_I18N=False)
template = django.template.Engine().from_string("{% for i in all %}{{ i|add:1 }},{% endfor %}{{ text|upper }}")
result = template.render(django.template.Context({"all": range(5), "text": "a<b"}))
""",
    "boto3": """
from botocore.auth import SigV4QueryAuth
from botocore.credentials import Credentials
from botocore.utils import ArnParser
result = sorted(ArnParser().parse_arn("arn:aws:s3:eu:1:bucket/key").items()), SigV4QueryAuth.__mro__[1].__name__
""",
    "sympy": """
x = sympy.Symbol("x")
result = str(sympy.expand((x + 1) ** 6)), str(sympy.diff(sympy.sin(x) * x**2, x)), str(sympy.factorint(360360))
""",
    "sqlalchemy": """
table = sqlalchemy.Table("t", sqlalchemy.MetaData(), sqlalchemy.Column("a", sqlalchemy.Integer, primary_key=True))
result = str(sqlalchemy.select(table).where(table.c.a > 3).order_by(table.c.a.desc()))
""",
    "fastapi": """
application = fastapi.FastAPI()
@application.get("/items/{number}")
def item(number: int, q: str | None = None): return number
result = application.openapi()
""",
    "flask": """
application = flask.Flask("soak")
@application.route("/<int:number>")
def page(number): return flask.jsonify(number=number * 2)
result = application.test_client().get("/21").get_json()
""",
    "rich": """
import io
table = rich.table.Table("a", "b")
table.add_row("1", "[bold]2[/bold]")
output = io.StringIO()
console = rich.console.Console(file=output, width=60, force_terminal=True, color_system="truecolor", _environ={})
console.print(table, rich.markdown.Markdown("# Title\\n\\n- *a*\\n- `b`"))
result = output.getvalue()
""",
    "pytest": """
result = repr(pytest.approx({"a": 0.1})), 0.1 + 0.2 == pytest.approx(0.3), repr(pytest.mark.skipif(True, reason="x"))
""",
    "pandas": """
frame = pandas.DataFrame({"key": ["a", "b", "a"], "value": [1, 2, 3]})
result = frame.groupby("key").sum().to_csv(), frame.describe().round(3).to_csv()
""",
}


class Made(NamedTuple):
    """What one start made, and the counts of pycds_auto."""

    made: dict[str, str]
    stats: dict[str, Any] | None

    def hits(self) -> int:
        """Modules from the archive."""
        return int(self.stats["hits"]) if self.stats is not None else 0


class Tally:
    """What all starts of one program came to."""

    def __init__(self, expected: Made, served: int) -> None:
        self.expected = expected
        self.served = served  # hits of the first start with the complete archive
        self.starts = 0
        self.hits: Counter[int] = Counter()  # starts by their number of hits
        self.wrong: list[str] = []

    def note(self, found: Made | str) -> str:
        """Count a start, or the reason why there is no result; return what is wrong with it, or nothing."""
        self.starts += 1
        reason = found if isinstance(found, str) else difference(self.expected, found)
        if not isinstance(found, str):
            self.hits[found.hits()] += 1
        if reason:
            self.wrong.append(reason)
        return reason

    def row(self, name: str) -> Row:
        """The program's row."""
        total = sum(hits * starts for hits, starts in self.hits.items())
        less = sum(starts for hits, starts in self.hits.items() if hits < self.served)
        cells = [name, f"{self.starts:,}", str(len(self.wrong)), str(self.served), f"{total:,}", str(less)]
        return Row(cells, "; ".join(f"{count}: {why}" for why, count in Counter(self.wrong).most_common(3)))


def difference(expected: Made, found: Made) -> str:
    """What a start made otherwise than plain Python; empty if nothing."""
    different = [kind for kind, value in expected.made.items() if found.made[kind] != value]
    return f"other {', '.join(different)}" if different else ""


def script_of(program: Program) -> str:
    """The path of the program's script with a computation, beside the one without."""
    return os.path.join(os.path.dirname(program.script), "computation.py")


def write_computations(programs: list[Program]) -> None:
    """Write the scripts that are run."""
    for program in programs:
        with open(script_of(program), "w", encoding="utf-8") as file:
            file.write(program.statement + COMPUTATIONS[program.name])


def start(program: Program, environment: dict[str, str], setting: Setting) -> Made:
    """Run a program once; raises MeasurementError if it fails or writes to stderr."""
    finished = run([setting.target.python, program.probe("soak"), script_of(program)], environment)
    if finished.stderr:
        raise MeasurementError(f"stderr: {finished.stderr.strip().splitlines()[-1]}")
    try:
        report = json.loads(finished.stdout)
    except ValueError:
        raise MeasurementError(f"stdout: {finished.stdout[-100:]!r}") from None
    return Made(report["made"], report["stats"])


def plain_result(program: Program, setting: Setting) -> Made:
    """What plain Python makes; raises MeasurementError unless several starts agree."""
    start(program, setting.plain(), setting)  # compiles pycs
    results = [start(program, setting.plain(), setting) for _ in range(PLAIN_STARTS)]
    for other in results[1:]:
        different = difference(results[0], other)
        if different:
            raise MeasurementError(f"two plain starts differ: {different}")
    if results[0].stats is not None:
        raise MeasurementError("the plain side runs with pycds-auto")
    return results[0]


def prepare(programs: list[Program], setting: Setting) -> tuple[dict[str, Tally], dict[str, str]]:
    """Plain's results and an archive of all programs: a tally each, or the reason why a program can't be compared."""
    expected, errors = {}, {}
    for program in programs:
        try:
            expected[program.name] = plain_result(program, setting)
            start(program, setting.pycds(), setting)
        except MeasurementError as error:
            errors[program.name] = str(error)
    build(setting)
    tallies = {}
    for program in programs:
        if program.name in errors:
            continue
        try:
            served = start(program, setting.pycds(), setting)
            if served.stats is None or not served.stats["active"] or not served.hits():
                raise MeasurementError(f"not served: {served.stats and served.stats['reason']}")
            tallies[program.name] = Tally(expected[program.name], served.hits())
        except MeasurementError as error:
            errors[program.name] = str(error)
    return tallies, errors


def soak(programs: list[Program], tallies: dict[str, Tally], setting: Setting, starts: int) -> None:
    """Start the programs in turns, in another order each time."""
    source = random.Random(0)
    printed = 0
    last = time.monotonic()
    for number in range(starts):
        for program in source.sample(programs, len(programs)):
            try:
                found: Made | str = start(program, setting.pycds(), setting)
            except MeasurementError as error:
                found = str(error)
            reason = tallies[program.name].note(found)
            if reason and printed < SHOWN:
                printed += 1
                tell(f"WRONG: {program.name}, start {number + 1}: {reason}")
        if time.monotonic() - last > INTERVAL or number + 1 == starts:
            last = time.monotonic()
            wrong = sum(len(tally.wrong) for tally in tallies.values())
            tell(f"{number + 1} of {starts} starts of each program, {wrong} wrong results")


def tell(message: str) -> None:
    """Progress, on stderr."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def main() -> int:
    """0: every result was right; 1: some weren't; 2: nothing could be compared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="many starts with the archive")
    parser.add_argument("--python", default=sys.executable, metavar="PATH", help="the interpreter to run (this one)")
    parser.add_argument("--starts", type=positive, default=1000, metavar="N", help="starts of each program (1000)")
    parser.add_argument("--programs", type=names_of(STATEMENTS), default=list(STATEMENTS), metavar="A,B")
    options = parser.parse_args()
    try:
        table = measure(os.path.abspath(options.python), options.programs, options.starts)
    except TargetError as error:
        print(f"soak: {error}", file=sys.stderr)
        return 2
    print(as_text(table))
    return 1 if table.failed() or any(row.cells[2] != "0" for row in table.rows) else 0


def measure(python: str, names: list[str], starts: int) -> Table:
    """Prepare and run everything in a folder of its own."""
    target = interrogate(python)
    missing = [name for name in names if name in target.missing]
    if missing or target.pycds is None:
        raise TargetError(f"{python} lacks {', '.join(missing) or 'pycds-auto'}")
    adopt_orphans()
    here = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="pycds-soak-") as workspace:
        setting = Setting(target, os.path.join(workspace, "cache"), {}, False)
        programs = write_programs(names, os.path.join(workspace, "programs"))
        write_computations(programs)
        os.chdir(workspace)
        try:
            tallies, errors = prepare(programs, setting)
            soak([program for program in programs if program.name in tallies], tallies, setting, starts)
        finally:
            os.chdir(here)
    rows = [
        error_row(name, errors[name]) if name in errors else tallies[name].row(name)
        for name in names
    ]  # fmt: skip
    columns = ["program", "starts", "wrong", "modules served", "hits in all", "starts with fewer"]
    return Table(f"Soak: {target.executable}, Python {target.version}", columns, rows, [])


if __name__ == "__main__":
    sys.exit(main())
