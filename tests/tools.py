"""Tools tried for real, with and without pycds-auto: debuggers, profilers, reloaders, servers, freezers, embedding hosts.

    python tests/tools.py --python VENV/bin/python [TOOL ...]

The venv has pycds-auto and the tools installed (REQUIREMENTS below). Each tool works on a
small program whose imports are in the archive, and what it says must be what it says without pycds-auto.

Exit status: 0 no difference, 1 differences, 2 the programs took nothing from the archive.
"""

import argparse
import contextlib
import difflib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipapp
from collections.abc import Callable, Iterator
from pathlib import Path

import support
from support import OLD, User, until, write

# pip install
REQUIREMENTS = "debugpy py-spy coverage pytest pyinstaller ipython django flask gunicorn celery gevent"

FILES = {
    "helper.py": (
        "import decimal, json, logging, email.message\nVALUE = 1\nclass Kind:\n    def method(self, value):\n"
        "        if value > 1:\n            return decimal.Decimal(value)\n        return value\n"
        "def work(count):\n    total = 0\n    for item in range(count):\n        total += Kind().method(item)\n    return total\n"
    ),
    "program.py": "import helper\nprint(helper.work(4), helper.__file__, helper.__spec__.origin)\n",
    "package/__init__.py": "from helper import work\n",
    "package/__main__.py": "import sys, package.inner\nprint(__name__, __spec__.name, sys.argv[1:], package.inner.told())\n",
    "package/inner.py": "import package\ndef told():\n    return package.work(5), __package__\n",
    "test_it.py": (
        "import helper, pytest\ndef test_bad():\n    numbers = {'a': helper.work(3)}\n    assert numbers == {'a': 4}, 'no'\n"
        "def test_good():\n    with pytest.raises(TypeError):\n        helper.work(None)\n"
    ),
    "sleeper.py": "import helper, time\nclass Slow(int):\n    def __gt__(self, other):\n        print('asleep', flush=True); time.sleep(60)\n"
    "helper.Kind().method(Slow(3))\n",
    "flaskapp.py": "import flask, helper\napp = flask.Flask('it')\n@app.get('/')\ndef index():\n    return f'value {helper.VALUE}'\n",
    "manage.py": (
        "import os, sys\nimport django\nfrom django.conf import settings\nfrom django.http import HttpResponse\nfrom django.urls import path\n"
        "import helper\nsettings.configure(DEBUG=True, ROOT_URLCONF='__main__', ALLOWED_HOSTS=['*'], SECRET_KEY='x')\n"
        "urlpatterns = [path('', lambda request: HttpResponse(f'value {helper.VALUE}'))]\n"
        "from django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n"
    ),
    "tasks.py": (
        "import os, celery, helper\nroot = os.environ['QUEUE']\n"
        "app = celery.Celery('tasks', broker='filesystem://', backend=f'file://{root}/results')\n"
        "app.conf.broker_transport_options = {name: f'{root}/queue' for name in ('data_folder_in', 'data_folder_out')}\n"
        "@app.task\ndef work(count):\n    import fractions, statistics\n"
        "    return str(helper.work(count)), fractions.__name__, statistics.__file__\n"
    ),
    "spawned.py": (
        "import multiprocessing, sys, helper\ndef told(count):\n    import csv, statistics\n    return str(helper.work(count)), csv.__file__\n"
        "if __name__ == '__main__':\n    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:\n        print(pool.map(told, range(5)))\n"
    ),
    "green.py": (
        "import threading, socket, time, helper\nimport gevent\nfrom gevent import monkey\nprint(monkey.is_module_patched('threading'), threading.Lock)\n"
        "def job(n):\n    import xmlrpc.client, wave\n    time.sleep(0.01)\n    return n, wave.__name__\n"
        "print([g.get() for g in gevent.joinall([gevent.spawn(job, n) for n in range(5)])], helper.work(3))\n"
    ),
    "patched.py": (
        "import gevent.monkey\ngevent.monkey.patch_all()\nimport patched_part, gevent, helper\nprint(patched_part.told)\n"
        "def job(n):\n    import csv, xmlrpc.client, package.inner\n    return n, csv.__name__, package.inner.told()\n"
        "print([g.get() for g in [gevent.spawn(job, n) for n in range(5)]], helper.work(3))\n"
    ),
    # patches while a module is being imported, which is then imported again from inside
    "patched_part.py": "import gevent.monkey\ngevent.monkey.patch_all()\nimport patched_circle\ntold = patched_circle.seen\n",
    "patched_circle.py": "import patched_part, http.cookiejar\nseen = hasattr(patched_part, 'told'), __name__\n",
}

Report = str | dict | list


class Bench:
    """A folder with the programs, and a venv's interpreter with or without pycds-auto."""

    def __init__(self, user: User, folder: Path, plain: bool) -> None:
        self.user, self.folder, self.plain = user, folder, plain
        self.bin = user.python.parent

    def env(self, **extra: str) -> dict[str, str]:
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        # "0" is as if it weren't set; outputs show variables
        own = {"PYCDS_DISABLE": "1" if self.plain else "0", "PATH": path, "PYTHONHASHSEED": "0", "COLUMNS": "120"}
        return self.user.env(**(own | extra))

    def run(self, *command: str | Path, input: str = "", **extra: str) -> str:
        """Output, errors and exit status of a command; `python` is the venv's."""
        done = subprocess.run(
            self.command(*command),
            input=input,
            env=self.env(**extra),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return f"{done.stdout}\n--- stderr\n{done.stderr}\n--- exit {done.returncode}"

    def command(self, *command: str | Path) -> list[str]:
        first = (
            self.user.python
            if command[0] == "python"
            else self.bin / command[0]
            if (self.bin / command[0]).exists()
            else command[0]
        )
        return [str(first), *map(str, command[1:])]

    @contextlib.contextmanager
    def started(self, *command: str | Path, **extra: str) -> Iterator[subprocess.Popen]:
        """A server, with its children; its output goes to a file that is shown if the test fails."""
        with open(self.folder / "server.log", "wb") as log:
            process = subprocess.Popen(
                self.command(*command), env=self.env(**extra), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        except BaseException:
            print((self.folder / "server.log").read_text()[-3000:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def edit(self) -> None:
        helper = self.folder / "helper.py"
        helper.write_text(helper.read_text().replace("VALUE = 1", "VALUE = 22"))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
            return answer.read().decode()
    except OSError:
        return ""


# ---- tools ----


def pdb(bench: Bench) -> Report:
    steps = "b helper.Kind.method\nc\nw\np value, self.__class__\nn\nn\nr\nu\nl\ncl 1\nb helper:7\nc\nc\nc\nq\n"
    return bench.run("python", "-m", "pdb", "program.py", input=steps)


def debugpy(bench: Bench) -> Report:
    """A breakpoint in a module from the archive, its stack and variables, over the debug adapter protocol."""
    port, told = free_port(), []
    with bench.started(
        "python", "-m", "debugpy", "--listen", f"127.0.0.1:{port}", "--wait-for-client", "program.py"
    ) as process:
        connection = until(lambda: connected(port), "debugpy listens")
        stream, number = connection.makefile("rwb"), 0

        def ask(command: str, **arguments: object) -> None:
            nonlocal number
            number += 1
            body = json.dumps({"seq": number, "type": "request", "command": command, "arguments": arguments}).encode()
            stream.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            stream.flush()

        def answer(**wanted: object) -> dict:
            while True:
                size = 0
                while line := stream.readline().strip():
                    size = int(line.split(b":")[1])
                message = json.loads(stream.read(size))
                if all(message.get(key) == value for key, value in wanted.items()):
                    return message.get("body") or {}

        ask("initialize", adapterID="x", clientID="x")
        ask("attach", justMyCode=False)
        answer(type="event", event="initialized")
        ask("setBreakpoints", source={"path": str(bench.folder / "helper.py")}, breakpoints=[{"line": 6}])
        told.append(answer(type="response", command="setBreakpoints"))
        ask("configurationDone")
        for _ in range(2):
            thread = answer(type="event", event="stopped")["threadId"]
            ask("stackTrace", threadId=thread)
            frames = answer(type="response", command="stackTrace")["stackFrames"]
            told.append([(frame["name"], frame["line"], frame["source"]["path"]) for frame in frames])
            ask("evaluate", expression="value, VALUE", frameId=frames[0]["id"])
            told.append(answer(type="response", command="evaluate")["result"])
            ask("continue", threadId=thread)
        answer(type="event", event="terminated")
        connection.close()
        told.append(process.wait(60))
    return told


def connected(port: int) -> socket.socket | None:
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=60)
    except OSError:
        return None


def cprofile(bench: Bench) -> Report:
    """Which functions were called how often; importlib's own have one finder more to ask."""
    told = bench.run("python", "-m", "cProfile", "-s", "name", "program.py")
    lines = [re.sub(r"^ *([\d/]+)(?: +[\d.]+){4} +", r"\1 ", line) for line in told.splitlines()]
    return sorted(
        line for line in lines if not re.search(r"<frozen importlib|built-in|method '|function calls|pycds_auto", line)
    )


def py_spy(bench: Bench) -> Report:
    """Reads frames and code objects out of the process's memory."""
    with bench.started("python", "sleeper.py") as process:
        until(lambda: "asleep" in (bench.folder / "server.log").read_text(), "it sleeps")
        told = bench.run("py-spy", "dump", "--nonblocking", "--pid", str(process.pid))
    return re.sub(r"\b%d\b" % process.pid, "PID", told)


def coverage(bench: Bench) -> Report:
    told = bench.run("python", "-m", "coverage", "run", "--branch", "-m", "package", "an argument")
    report = bench.run("python", "-m", "coverage", "json", "-o", "coverage.json")
    found = json.loads((bench.folder / "coverage.json").read_text())
    del found["meta"]["timestamp"]
    return [told, report, json.dumps(found, indent=1)]


def pytest(bench: Bench) -> Report:
    told = bench.run("python", "-m", "pytest", "-vv", "-p", "no:cacheprovider", "test_it.py")
    return re.sub(r"in \d+\.\d+s", "in N s", told)


def module_option(bench: Bench) -> Report:
    return bench.run("python", "-m", "package", "one", "two")


def zipapps(bench: Bench) -> Report:
    zipapp.create_archive(bench.folder / "package", bench.folder / "app.pyz", filter=lambda path: path.suffix == ".py")
    return [bench.run("python", "app.pyz", "x"), bench.run("python", "app.pyz", "x", PYTHONPATH=str(bench.folder))]


def interactive(bench: Bench) -> Report:
    lines = "helper.work(3)\nimport package.inner\npackage.inner.told()\nhelper.work(None)\n1/0\nimport wave; wave\n"
    return bench.run("python", "-i", "program.py", input=lines)


def autoreload(bench: Bench) -> Report:
    lines = "%load_ext autoreload\n%autoreload 2\nimport helper\nhelper.VALUE\n" + (
        "p = 'helper.py'; t = open(p).read().replace('VALUE = 1', 'VALUE = 22'); open(p, 'w').write(t)\n"
        "import os; os.utime(p, (os.stat(p).st_mtime + 5,) * 2)\nhelper.VALUE\nhelper.work(3)\n"
    )
    return bench.run("python", "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=nocolor", input=lines)


def reloader(*command: str, **extra: str) -> Callable[[Bench], Report]:
    """A server that starts anew when a module changes."""

    def tool(bench: Bench) -> Report:
        port = free_port()
        with bench.started(*(part.replace("PORT", str(port)) for part in command), **extra):
            told = [until(lambda: fetch(port), "the server answers")]
            time.sleep(1)  # the reloader takes note of files once a second
            bench.edit()
            told.append(until(lambda: "22" in fetch(port) and fetch(port), "the edited module is served"))
        return told

    return tool


def gunicorn(bench: Bench) -> Report:
    """Workers are forked off a process that has imported the application, or import it themselves."""
    told = []
    for options in ("--preload",), ():
        port = free_port()
        with bench.started(
            "python", "-m", "gunicorn", "-w", "2", *options, "-b", f"127.0.0.1:{port}", "flaskapp:app"
        ) as server:
            told.append(until(lambda: fetch(port), "gunicorn answers"))
            told += [fetch(port) for _ in range(5)]
            server.terminate()
            told.append(server.wait(60))
    return told


def celery(bench: Bench) -> Report:
    queue = bench.folder / "queue-root"
    for name in ("queue", "results"):
        (queue / name).mkdir(parents=True)
    extra = {"QUEUE": str(queue)}
    with bench.started(
        "python", "-m", "celery", "-A", "tasks", "worker", "-c", "1", "--pool", "prefork", "-l", "info", **extra
    ) as worker:
        until(lambda: " ready." in (bench.folder / "server.log").read_text(), "the worker is ready")
        told = bench.run("python", "-c", "import tasks; print(tasks.work.delay(4).get(timeout=60))", **extra)
        worker.terminate()
        return [told, worker.wait(60)]


def multiprocessing(bench: Bench) -> Report:
    return [bench.run("python", "spawned.py", method) for method in ("spawn", "forkserver", "fork")]


def gevent(bench: Bench) -> Report:
    return [
        bench.run("python", "-m", "gevent.monkey", "green.py"), bench.run("python", "patched.py"),
        bench.run("python", "-c", "import patched_part; print(patched_part.told)"),
    ]  # fmt: skip


def pyinstaller(bench: Bench) -> Report:
    """The program's modules are in a frozen archive; our package is inside, too."""
    options = ["--onedir", "--noconfirm", "--log-level", "ERROR", "--hidden-import", "pycds_auto._loader"]
    told = re.sub(
        r"^\d+ (INFO|WARNING)", r"\1", bench.run("python", "-m", "PyInstaller", *options, "program.py"), flags=re.M
    )
    program = bench.folder / "dist/program/program"
    return [told, *(bench.run(program) for _ in range(2))]


HOST = r"""
#include <Python.h>
int main(int argc, char **argv)
{
    PyConfig config;
    for (int round = 0; round < 2; round++) {
        PyConfig_InitPythonConfig(&config);
        PyConfig_SetBytesString(&config, &config.program_name, argv[1]);
        PyStatus status = Py_InitializeFromConfig(&config);
        PyConfig_Clear(&config);
        if (PyStatus_Exception(status)) return 2;
        PyRun_SimpleString("import sys; sys.path.insert(0, ''); import helper, package.inner, wave, xmlrpc.client;"
                           "print(helper.work(4), package.inner.told(), sys.executable, wave.__file__)");
        if (Py_FinalizeEx() < 0) return 3;
    }
    return 0;
}
"""


def embedding(bench: Bench) -> Report:
    """A C program that starts the interpreter twice."""
    (bench.folder / "host.c").write_text(HOST)
    ask = (
        "import sysconfig as s; print(s.get_path('include'), s.get_config_var('LIBDIR'), s.get_config_var('LDVERSION'))"
    )
    include, libraries, version = bench.run("python", "-c", ask).split()[:3]
    flags = [f"-I{include}", f"-L{libraries}", f"-Wl,-rpath,{libraries}", f"-lpython{version}", "-lm", "-ldl"]
    made = bench.run("cc", "host.c", "-o", "host", *flags)
    return [made, *(bench.run(bench.folder / "host", bench.user.python) for _ in range(2))]


TOOLS: dict[str, Callable[[Bench], Report]] = {
    "pdb": pdb,
    "debugpy": debugpy,
    "cProfile": cprofile,
    "py-spy": py_spy,
    "coverage": coverage,
    "pytest": pytest,
    "python -m": module_option,
    "zipapp": zipapps,
    "python -i": interactive,
    "IPython autoreload": autoreload,
    "flask reloader": reloader("python", "-m", "flask", "--app", "flaskapp", "run", "--debug", "-p", "PORT"),
    "django reloader": reloader("python", "manage.py", "runserver", "127.0.0.1:PORT"),
    "gunicorn": gunicorn,
    "celery": celery,
    "multiprocessing": multiprocessing,
    "gevent": gevent,
    "PyInstaller": pyinstaller,
    "embedding host": embedding,
}


def clean(report: Report) -> list[str]:
    """Lines, without addresses."""
    text = report if isinstance(report, str) else json.dumps(report, indent=1)
    return re.sub(r"\b0x[0-9a-f]+", "0x...", text.replace("\\n", "\n")).splitlines()


def restore(folder: Path) -> None:
    """As before the tool ran. What it left alone stays the same file, or the archive's would be another."""
    changed = {}
    for path in folder.iterdir():
        if path.name == "__pycache__" or any(name.split("/")[0] == path.name for name in FILES):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in FILES.items():
        if not (folder / name).exists() or (folder / name).read_text() != text:
            changed[name] = text
    write(folder, changed)
    for name in changed:
        os.utime(folder / name, ns=(OLD, OLD))
    if changed:
        time.sleep(2.1)  # what is younger isn't archived


def compare(tool: Callable[[Bench], Report], python: Path, root: Path) -> tuple[list[str], int]:
    """Differing lines, and how many of the programs' modules an import has from the archive."""
    user, folder = User(python, root / "home"), root / "work"
    user.home.mkdir(parents=True)
    folder.mkdir()
    reports = []
    for turn in ("first", "recorded", "plain", "with"):
        restore(folder)
        report = clean(tool(Bench(user, folder, plain=turn in ("first", "plain"))))
        if turn == "recorded":
            restore(folder)
            user.run("-c", "import helper, package.inner", cwd=folder)
            user.build()
        elif turn != "first":  # that one writes pycs and files at home
            reports.append(report)
    restore(folder)
    ask = "import helper, package.inner, pycds_auto; print(pycds_auto.stats()['hits'])"
    hits = int(user.run("-c", ask, cwd=folder, readonly=True).stdout)
    return list(difflib.unified_diff(*reports, "plain", "with", n=1, lineterm="")), hits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"default: all of {', '.join(TOOLS)}")
    parser.add_argument("--python", type=Path, required=True, help="a venv's interpreter, with pycds-auto installed")
    options = parser.parse_args()
    support.PATIENCE = 600
    worst = 0
    for name in options.tools or TOOLS:
        with tempfile.TemporaryDirectory(prefix="pt-", ignore_cleanup_errors=True) as folder:
            try:
                lines, hits = compare(TOOLS[name], options.python.absolute(), Path(folder))
            finally:
                support.end_all_with(folder)
        print(
            f"{name}: {len(lines) or 'no'} differing lines, {hits} of the programs' modules from the archive",
            flush=True,
        )
        print(*(f"    {line[:300]}" for line in lines[:40]), sep="\n", end="\n" if lines else "")
        worst = max(worst, 1 if lines else 0 if hits else 2)
    return worst


if __name__ == "__main__":
    sys.exit(main())
