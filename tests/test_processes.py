"""Processes and threads: forked, spawned, embedded in each other, many at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import PROBE, User, Venv, age, processes_with, same, until, write
from test_lifecycle import adopted

NAMES = [f"module{number}" for number in range(40)]

# Each imports the next, so that threads that start at different ones meet; the last pair is a circle.
TREE = {f"many/{name}.py": f"import time\ntime.sleep(0.001)\nVALUE = {number}\n" for number, name in enumerate(NAMES)}
TREE |= {
    "many/__init__.py": "",
    "many/left.py": "import time\nVALUE = 1\ntime.sleep(0.005)\nimport many.right\n",
    "many/right.py": "import time\nVALUE = 2\ntime.sleep(0.005)\nimport many.left\n",
    "many/counted.py": "import builtins\nbuiltins.count = getattr(builtins, 'count', 0) + 1\nimport time\ntime.sleep(0.01)\n",
}

THREADS = """\
import probe
import random, sys, threading
names = ["many." + name for name in {names!r}]
errors, found = [], []
start = threading.Barrier(8)
def work(seed):
    order = list(names)
    random.Random(seed).shuffle(order)
    start.wait()
    try:
        for name in order:
            module = __import__(name, fromlist=["VALUE"])
            found.append((name, module.VALUE))
        import many.counted
        if seed % 2:
            import many.left
        else:
            import many.right
        import decimal, email.message, asyncio, xml.dom.minidom
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
import builtins
print(sorted(set(found)), len(found), errors, builtins.count)
import many
print(many.left.VALUE, many.right.VALUE, sorted(name for name in vars(many) if not name.startswith("_")))
print(sorted(name for name in sys.modules if name.startswith("many")))
"""

# The same modules without threads.
IN_ORDER = """\
import probe
import random, sys, threading
for name in {names!r}:
    __import__("many." + name)
import many.counted, many.left, decimal, email.message, asyncio, xml.dom.minidom, builtins
"""

FORK = """\
import probe
import multiprocessing, sys
def work(number):
    import decimal, many.module1, many.module2
    try:
        import pycds_auto._loader as loader
    except ImportError:
        loader = None
    return number * many.module2.VALUE, str(decimal.Decimal(1)), many.module1.__file__
if __name__ == "__main__":
    import many.module3
    context = multiprocessing.get_context(sys.argv[1])
    with context.Pool(3) as pool:
        for result in pool.map(work, range(12), chunksize=2):
            print(result)
    child = context.Process(target=work, args=(1,))
    child.start()
    child.join()
    print(child.exitcode)
"""

NESTED = """\
import probe
import many.module1, subprocess, sys
if len(sys.argv) < 4:
    sys.exit(subprocess.call([sys.executable, *sys.argv, "x"]))
print(sys.argv[1:], many.module1.VALUE)
"""

FORKED_CHILD = """\
import os, sys
child = os.fork()
if child == 0:
    import decimal, email.message, many.module1, asyncio
    print(many.module1.VALUE, flush=True)
    sys.exit()
print(os.waitpid(child, 0)[1], flush=True)
os._exit(0)
"""

# The child goes on where the parent has mapped, imported and recorded.
FORK_IN_THE_MIDDLE = """\
import probe
import os, sys
import many.module1, many.module2
child = os.fork()
import many.module3, decimal
if child:
    os.waitpid(child, 0)
print(many.module3.VALUE, child == 0)
import many.module4
print(many.module4.VALUE)
"""

INTERPRETERS = """\
import many.module1
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import textwrap
for _ in range(3):
    one = interpreters.create()
    interpreters.{run}(one, textwrap.dedent('''
        import sys
        sys.path.insert(0, {folder!r})
        import many.module2, many.module1, collections.abc, json, pprint
        kinds = [kind.__name__ for kind in type(many.module2.__loader__).__mro__]
        print(many.module2.VALUE, many.module1.VALUE, "SourceFileLoader" in kinds, flush=True)
    '''))
    interpreters.destroy(one)
import many.module3
print(many.module3.VALUE)
"""


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the tests, that don't change it: once its files are two seconds old, no build waits for them."""
    folder = tmp_path_factory.mktemp("processes") / "programs"
    texts = {
        "threads.py": THREADS.format(names=NAMES),
        "in_order.py": IN_ORDER.format(names=NAMES),
        "forks.py": FORK,
        "nested.py": NESTED,
        "forked_child.py": FORKED_CHILD,
        "fork_in_the_middle.py": FORK_IN_THE_MIDDLE,
        "two.py": "import probe\nimport many.module1, many.module2\nprint(many.module1.VALUE)\n",
    }
    write(folder, TREE | texts | {"probe.py": PROBE.read_text()})
    age(folder)
    time.sleep(2.1)
    return folder


def test_threads(user: User, programs: Path) -> None:
    """Eight threads import the same and different modules, in different orders: each module runs once."""
    program = programs / "threads.py"
    plain = user.run(program, plain=True)
    assert "[] 1\n" in plain.stdout
    for _ in range(3):
        same(user.run(program), plain)
    user.build()
    in_order = user.observe(programs / "in_order.py", readonly=True).hits
    for _ in range(5):
        observed = user.observe(program, readonly=True)
        same(observed.result, plain)
        assert observed.misses == 0
        assert {f"many.{name}" for name in [*NAMES, "left", "right", "counted"]} <= observed.served()
        assert observed.hits == in_order, "a module was loaded twice"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(user: User, programs: Path, method: str) -> None:
    program = programs / "forks.py"
    plain = user.run(program, method, plain=True)
    same(user.run(program, method), plain)
    user.build()
    observed = user.observe(program, method, readonly=True)
    same(observed.result, plain)
    assert observed.misses == 0 and {"many", "many.module3", "multiprocessing.pool"} <= observed.served()
    # spawned children say in the spool what they miss, if anything: nothing
    same(user.run(program, method), plain)
    assert user.status()["pending_misses"] == 0


def test_spawned_children_are_served(user: User, programs: Path) -> None:
    """What children imported is recorded by them, and served to them: a second run records nothing."""
    program = programs / "forks.py"
    user.run(program, "spawn")
    user.build()
    modules = user.status()["image"]["modules"]
    code = "import probe, many.module1, many.module2, decimal"  # only ever imported in the children
    observed = user.observe("-c", code, readonly=True, cwd=programs)
    assert {"many.module1", "many.module2", "decimal"} <= observed.served() and observed.misses == 0
    assert modules > 40


def test_nested_subprocesses(user: User, programs: Path) -> None:
    """Python that starts Python that starts Python: one rebuilder at the end, and no recursion."""
    program = programs / "nested.py"
    plain = user.run(program, plain=True)
    assert plain.stdout == "['x', 'x', 'x'] 1\n"
    spans = adopted(user, 1, program)
    assert 1 <= len(spans) <= 4
    assert max(sum(a <= b[0] < e for a, e in spans) for b in spans) == 1, spans
    user.build()
    same(user.run(program), plain)


def test_rebuilder_starts_no_rebuilder(user: User, programs: Path) -> None:
    """One process, one rebuilder, and none of its own."""
    assert len(adopted(user, 1, programs / "two.py")) == 1


def test_forked_child_starts_nothing(user: User, programs: Path) -> None:
    """A fork child that ends in the ordinary way (with atexit and all) has no business starting processes."""
    assert adopted(user, 1, programs / "forked_child.py") == []
    assert user.run(programs / "forked_child.py").stdout == "1\n0\n"
    assert not list(processes_with(str(user.home)))


def test_fork_in_the_middle(user: User, programs: Path) -> None:
    program = programs / "fork_in_the_middle.py"
    plain = user.run(program, plain=True)
    assert len(adopted(user, 1, program)) == 1
    user.build()
    same(user.run(program, readonly=True), plain)
    observed = user.observe("-c", "import probe, many.module3, many.module4", cwd=programs, readonly=True)
    assert {"many.module3", "many.module4"} <= observed.served()


@pytest.mark.filterwarnings("ignore")
def test_subinterpreters(user: User, programs: Path, tmp_path: Path) -> None:
    """.pth files run again in each of them."""
    code = "try:\n import _interpreters as i\nexcept ImportError:\n import _xxsubinterpreters as i\nprint(hasattr(i, 'exec'))"
    run = "exec" if user.run("-c", code, plain=True).stdout == "True\n" else "run_string"
    program = tmp_path / "interpreters.py"
    program.write_text(INTERPRETERS.format(run=run, folder=str(programs)))
    user.extra["PYTHONPATH"] = str(programs)
    plain = user.run(program, plain=True)
    assert plain.stdout.count("2 1 True\n") == 3
    same(user.run(program), plain)
    user.build()
    for _ in range(3):
        same(user.run(program, readonly=True), plain)


def test_twenty_at_once(user: User, programs: Path) -> None:
    """With and without an image, all of them print the same."""
    program = programs / "threads.py"
    plain = user.run(program, plain=True)
    for _ in range(2):
        running = [
            subprocess.Popen(
                [str(user.python), str(program)],
                env=user.env(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(20)
        ]
        assert {process.communicate()[0] for process in running} == {plain.stdout}
        user.build()
    assert user.status()["reason"] is None


def test_programs_while_the_image_is_replaced(user: User, programs: Path) -> None:
    """Builds, clears and programs at once: an old map stays valid, a program never notices."""
    program = programs / "threads.py"
    plain = user.run(program, plain=True)
    user.run(program)
    code = (
        "import shutil, subprocess, sys\nfor command in ['build'], ['clear'], ['build', 'many.module1'], ['build', 'json'], ['clear', '--all']:\n"
        "    assert subprocess.call([sys.executable, '-m', 'pycds_auto', *command], stdout=subprocess.DEVNULL) == 0\n"
    )
    changing = subprocess.Popen(
        [str(user.python), "-c", code], env=user.env(), cwd=programs, stderr=subprocess.PIPE, text=True
    )
    rounds = 0
    while changing.poll() is None:
        same(user.run(program), plain)
        rounds += 1
    told = changing.communicate()[1].replace("pycds-auto: waiting for a running rebuild to end\n", "")
    assert told == "" and changing.returncode == 0
    assert rounds > 2


def test_program_changes_sys_executable(user: User, programs: Path, tmp_path: Path) -> None:
    """Whatever it says at the end, nothing but this interpreter is started."""
    canary = tmp_path / "python3"
    canary.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    canary.chmod(0o755)
    for value in ("''", "None", "1", repr(str(canary))):
        (tmp_path / "changed.py").write_text(f"import sys\nsys.executable = {value}\nimport many.module1, decimal\n")
        assert len(adopted(user, 1, tmp_path / "changed.py", env={"PYTHONPATH": str(programs)})) <= 1
    assert not (tmp_path / "started").exists()


def test_interpreter_that_is_not_called_python(user: User, programs: Path, tmp_path: Path) -> None:
    """As a program that embeds Python: what it would do with our arguments, nobody knows. It records and is served."""
    root = tmp_path / "application"
    (root / "bin").mkdir(parents=True)
    (root / "bin/server").symlink_to(user.python.resolve())
    (root / "lib").symlink_to(user.python.parent.parent / "lib")
    (root / "pyvenv.cfg").write_text((user.python.parent.parent / "pyvenv.cfg").read_text())
    server = User(root / "bin/server", user.home)
    assert adopted(server, 1, programs / "two.py") == []
    assert server.status()["prefix"] == str(root) and server.status()["pending_misses"] > 10
    server.build()
    observed = server.observe(programs / "two.py", readonly=True)
    assert observed.misses == 0 and "many.module1" in observed.served()


def test_closed_streams(user: User, programs: Path, tmp_path: Path) -> None:
    """Descriptors 0 to 2 closed, as daemons have them: ours must not become one of them."""
    for _ in range(2):
        output = tmp_path / "output"
        code = f"exec {user.python} {tmp_path}/closed.py <&- >&- 2>&-"
        user.extra["PYTHONPATH"] = str(programs)
        write(
            tmp_path,
            {
                "closed.py": f"import many.module1, decimal, os\nwith open({str(output)!r}, 'w') as file:\n    print(many.module1.VALUE, file.fileno(), file=file)\n"
            },
        )
        assert subprocess.run(["/bin/sh", "-c", code], env=user.env(PYCDS_LOG="1")).returncode == 0
        ours = output.read_text()
        until(lambda: not list(processes_with(str(user.home))), "a rebuilder does not end")
        assert subprocess.run(["/bin/sh", "-c", code], env=user.env(plain=True)).returncode == 0
        assert output.read_text() == ours


def test_no_descriptor_stays_open(user: User, programs: Path) -> None:
    """Neither the image's nor the spool's."""
    code = (
        "import many.module1, decimal, os\nopen_ones = os.listdir('/proc/self/fd')\n"
        "print([os.readlink(f'/proc/self/fd/{fd}') for fd in open_ones if os.path.lexists(f'/proc/self/fd/{fd}')])"
    )
    for _ in range(2):
        printed = user.run("-c", code, cwd=programs).stdout
        assert str(user.home) not in printed and "/dev/null" in printed, printed
        user.build()
