"""Test that the parent process replaces a killed child, and passes on signals and exit codes."""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.unit.worker.managed_models import until
from worker.processes.parent import (
    _MANY_MODULES,
    _NAMES,
    _NAMES_VERSION,
    _SHARED_BYTES,
    Watchdog,
    _Parent,
    _Spare,
    _write_imports,
    restart_delay_seconds,
)
from worker.retries import RetryDelays

ROOT = Path(__file__).resolve().parents[3]
# The modules of a package that a child imports late: enough for a spare process.
MODULES = _MANY_MODULES + 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux runs a child process")

# Print the process id and wait for a signal or for a line with an exit code.
PROGRAM = """
import ctypes, os, signal, sys
from worker.processes import parent, shutdown

def late_modules():
    return sum(str(name).startswith("late.") for name in sys.modules)

def run(parent_pid, death):
    def on_signal(number, frame):
        os.write(1, f"signal {number}\\n".encode())
    for number in parent.STOP_SIGNALS:
        signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, parent.WATCHED_SIGNALS)
    kind = "crash" if death and death.is_crash else "kill"
    print("run", os.getpid(), "child" if parent_pid else "alone", kind, death or "", flush=True)
    while True:
        code = os.read(0, 10)
        if code == b"needed":
            raise shutdown.RestartNeeded("the model hangs")
        if code == b"gil":
            ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the lock of the interpreter
        if code == b"late":
            count = late_modules()
            import late  # of the test
            print(count, late_modules(), flush=True)
            continue
        if code.startswith(b"_"):
            os._exit(int(code[1:]))
        if code:
            return int(code)

sys.exit(parent.run_in_child(run, sys.argv[1:]))
"""


class Program:
    """A running subprocess that executes PROGRAM, and replaces its child when the child dies.

    `death` is the text that describes how the previous child died. The parent passes this text to
    the current child. The text is empty for the first child. `kind` is `crash` if the previous
    child itself has caused its death.
    """

    death, kind = "", ""

    def __init__(self, *modules: str, path: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *modules],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}:{path}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def child(self) -> int:
        """Wait until the next child has started, and return its process id."""
        run, pid, where, self.kind, *death = self.line().split()
        assert (run, where) == ("run", "child")
        self.death = " ".join(death)
        return int(pid)

    def enter(self, code: int | str) -> None:
        """Make the child end with an exit code.

        For example, with the `code` 3 the child's function returns 3, and with `_3` it calls
        `os._exit(3)`.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(str(code))
        self.process.stdin.flush()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def started(*modules: str, path: Path = ROOT) -> Iterator[Program]:
    program = Program(*modules, path=path)
    try:
        yield program
    finally:
        program.end()


@pytest.mark.parametrize("code", [0, 2, 70, 98])
def test_exit_code_is_that_of_the_child(code: int) -> None:
    with started() as program:
        program.child()
        program.enter(code)
        assert program.process.wait(10) == code


def test_killed_child_is_replaced() -> None:
    with started() as program:
        pids = [program.child()]
        assert program.death == ""
        for number, kind in ((signal.SIGKILL, "kill"), (signal.SIGSEGV, "crash")):
            os.kill(pids[-1], number)
            pids.append(program.child())
            assert program.kind == kind
            assert program.death.endswith(f"-{pids[-2]} was killed by {number.name}")
        assert len({*pids, program.process.pid}) == 4
        program.enter(3)
        assert program.process.wait(10) == 3


@pytest.mark.parametrize("code", [0, 2, 71, 98])
def test_child_ended_by_os_exit_is_replaced(code: int) -> None:
    with started() as program:
        first = program.child()
        program.enter(f"_{code}")
        assert program.child() != first
        assert f"-{first} exited with code {code} " in program.death
        assert program.kind == "crash"
        assert program.process.poll() is None
        program.enter(3)
        assert program.process.wait(10) == 3


def test_child_that_asks_for_it_is_replaced() -> None:
    with started() as program:
        first = program.child()
        program.enter("needed")
        assert program.child() != first
        assert program.death.endswith(f"-{first} was restarted: the model hangs")
        program.enter(3)
        assert program.process.wait(10) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_forwarded_and_second_kills(number: signal.Signals) -> None:
    with started() as program:
        child = program.child()
        program.process.send_signal(number)
        assert program.line() == f"signal {number.value}"
        program.process.send_signal(number)
        assert program.process.wait(10) == 128 + number
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_child_killed_during_shutdown_is_not_replaced() -> None:
    with started() as program:
        child = program.child()
        program.process.send_signal(signal.SIGTERM)
        assert program.line() == f"signal {signal.SIGTERM.value}"
        os.kill(child, signal.SIGKILL)
        assert program.process.wait(10) == 128 + signal.SIGTERM


def test_signal_to_the_process_group_counts_once() -> None:
    with started() as program:
        program.child()
        os.killpg(program.process.pid, signal.SIGINT)
        assert program.line() == f"signal {signal.SIGINT.value}"
        program.enter(0)
        assert program.process.wait(10) == 0


def test_child_ends_with_its_parent() -> None:
    with started() as program:
        program.child()
        program.process.kill()
        # The child also has the pipe open, so the read ends when both processes have ended.
        assert program.process.stdout is not None
        assert program.process.stdout.read() == ""


def test_failed_import_does_not_stop_the_parent(tmp_path: Path) -> None:
    (tmp_path / "exits.py").write_text("raise SystemExit(5)", encoding="utf-8")
    with started("exits", "no.such.module", path=tmp_path) as program:
        program.child()
        program.enter(0)
        assert program.process.wait(10) == 0


def test_modules_are_imported_once(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text("print('imported', flush=True)", encoding="utf-8")
    with started("loud", path=tmp_path) as program:
        assert program.line() == "imported"
        os.kill(program.child(), signal.SIGKILL)
        program.child()


def make_late_package(path: Path, text: str = "") -> Path:
    """Create a package of MODULES modules, and return the file of the last, which runs `text`.

    The last module then creates a file whose name is the process id.
    """
    package = path / "late"
    package.mkdir()
    lines = [f"import late.m{number}" for number in range(MODULES)]
    (package / "__init__.py").write_text("\n".join(lines), encoding="utf-8")
    for number in range(MODULES):
        (package / f"m{number}.py").write_text("", encoding="utf-8")
    touch = "import os, pathlib\npathlib.Path(__file__).with_name(str(os.getpid())).touch()"
    last = package / f"m{MODULES - 1}.py"
    last.write_text(f"{text}\n{touch}", encoding="utf-8")
    return last


def import_late(program: Program) -> tuple[int, int]:
    """Let the child import the package. Return how many modules it had before, and has now."""
    program.enter("late")
    before, after = program.line().split()
    return int(before), int(after)


def spare_of(program: Program, child: int) -> psutil.Process:
    """Wait until the parent has a spare process besides `child`, and return it."""
    parent = psutil.Process(program.process.pid)
    until(lambda: len(parent.children()) == 2)
    (spare,) = (each for each in parent.children() if each.pid != child)
    return spare


def until_ready(spare: psutil.Process, path: Path) -> None:
    marker = path / "late" / str(spare.pid)
    until(lambda: marker.exists() and spare.status() == psutil.STATUS_SLEEPING)


def until_alone(program: Program) -> None:
    """Wait until the parent has read the exit code of its spare process."""
    parent = psutil.Process(program.process.pid)
    until(lambda: len(parent.children()) == 1)


def errors_after_end(program: Program) -> str:
    """End the program, and return what it has written to stderr."""
    program.enter(3)
    errors = program.process.communicate()[1]
    assert program.process.returncode == 3
    return errors


def test_spare_with_late_imports_replaces_a_killed_child(tmp_path: Path) -> None:
    make_late_package(tmp_path)
    with started(path=tmp_path) as program:
        child = program.child()
        assert import_late(program) == (0, MODULES)
        for _ in range(2):
            spare = spare_of(program, child)
            until_ready(spare, tmp_path)
            os.kill(child, signal.SIGKILL)
            assert program.child() == spare.pid
            assert program.death.endswith(f"-{child} was killed by SIGKILL")
            assert import_late(program) == (MODULES, MODULES)
            child = spare.pid
        assert errors_after_end(program).count("a new worker process starts in 0 s") == 2


def test_spare_that_still_imports_is_not_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.touch()
    make_late_package(tmp_path, f"open({str(data)!r}).read()")
    with started(path=tmp_path) as program:
        child = program.child()
        assert import_late(program) == (0, MODULES)
        data.unlink()
        os.mkfifo(data)  # a process that opens it for reading waits
        spare = spare_of(program, child)
        os.kill(child, signal.SIGKILL)
        assert program.child() not in {child, spare.pid}
        assert not psutil.wait_procs([spare], 10)[1]


def test_dead_spare_is_not_replaced(tmp_path: Path) -> None:
    make_late_package(tmp_path)
    with started(path=tmp_path) as program:
        child = program.child()
        import_late(program)
        spare = spare_of(program, child)
        spare.kill()
        until_alone(program)
        os.kill(child, signal.SIGKILL)
        assert program.child() not in {child, spare.pid}
        assert import_late(program) == (0, MODULES)
        log = errors_after_end(program)
        assert f"the spare process {spare.pid} was killed by SIGKILL; no other is started" in log


def test_spare_that_has_used_cuda_exits(tmp_path: Path) -> None:
    text = "class cuda:\n    _is_in_bad_fork = is_initialized = staticmethod(lambda: {})"
    (tmp_path / "torch.py").write_text(text.format(False), encoding="utf-8")
    make_late_package(tmp_path, "import torch\ntorch.cuda.is_initialized = lambda: True")
    with started(path=tmp_path) as program:
        program.child()
        import_late(program)
        assert program.process.stderr is not None
        # The spare may end before this process could see it among the parent's children.
        line = program.process.stderr.readline()
        assert re.search(r"the spare process \d+ exited: an import has ended it or used CUDA", line)
        until_alone(program)


def test_parent_without_file_descriptors_starts_no_spare(tmp_path: Path) -> None:
    make_late_package(tmp_path)
    with started(path=tmp_path) as program:
        child = program.child()
        psutil.Process(program.process.pid).rlimit(psutil.RLIMIT_NOFILE, (3, 3))
        import_late(program)
        assert program.process.stderr is not None
        assert "no spare process can be started" in program.process.stderr.readline()
        os.kill(child, signal.SIGKILL)
        assert program.child() != child


def test_spare_ends_with_its_parent(tmp_path: Path) -> None:
    make_late_package(tmp_path)
    with started(path=tmp_path) as program:
        child = program.child()
        import_late(program)
        spare = spare_of(program, child)
        until_ready(spare, tmp_path)
        program.process.kill()
        assert not psutil.wait_procs([psutil.Process(child), spare], 10)[1]


def test_no_spare_if_it_is_switched_off() -> None:
    shared = mmap.mmap(-1, _SHARED_BYTES)
    shared[_NAMES_VERSION] = 1
    parent = _Parent(lambda parent, death: 0, lambda process: False, has_spare=False)
    parent._keep_spare(shared)
    assert parent._spare is None


def test_known_modules_need_no_further_spare() -> None:
    shared = mmap.mmap(-1, _SHARED_BYTES)
    shared[_NAMES : _NAMES + 4] = b"late"
    shared[_NAMES_VERSION] = 1
    parent = _Parent(lambda parent, death: 0, lambda process: False, has_spare=True)
    parent._names = {"late": None}
    parent._keep_spare(shared)
    assert parent._spare is None


def test_death_of_a_spare_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = mmap.mmap(-1, _SHARED_BYTES)
    reading, writing = os.pipe()
    parent = _Parent(lambda parent, death: 0, lambda process: False, has_spare=True)
    parent._spare = _Spare(7, shared, writing)
    ends = iter([(7, int(signal.SIGKILL)), (0, 0)])
    monkeypatch.setattr(os, "waitpid", lambda process, options: next(ends))
    assert parent._reap(8) is None
    os.close(reading)
    shared[_NAMES_VERSION] = 1
    parent._keep_spare(shared)
    assert parent._spare is None


def test_names_of_modules_cannot_end_the_child() -> None:
    shared = mmap.mmap(-1, _SHARED_BYTES)
    names: dict[object, object] = {f"{number}\udc80\0": None for number in range(200_000)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "modules", sys.modules | names | {7: None})
        _write_imports(shared, frozenset())
    assert shared[_NAMES_VERSION] == 1
    assert shared[-1] == 0


def test_thread_of_an_import_prevents_the_fork(tmp_path: Path) -> None:
    text = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    (tmp_path / "threaded.py").write_text(text, encoding="utf-8")
    with started("threaded", path=tmp_path) as program:
        assert program.line() == f"run {program.process.pid} alone kill"
        program.enter(4)
        assert program.process.wait(10) == 4


def test_cuda_before_the_fork_prevents_it(tmp_path: Path) -> None:
    text = "class cuda:\n    _is_in_bad_fork = staticmethod(lambda: True)"
    (tmp_path / "torch.py").write_text(text, encoding="utf-8")
    with started("torch", path=tmp_path) as program:
        assert program.line() == f"run {program.process.pid} alone kill"


def test_only_a_short_run_delays_the_next_child() -> None:
    after = partial(restart_delay_seconds, RetryDelays(0.1, 5.0, chance=lambda: 0.0))
    assert after(60.0) == 0.0
    assert [after(0.02) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert after(0.1) == 0.0
    assert after(0.02) == 0.1


@pytest.mark.thorough
@pytest.mark.timeout(100)
@pytest.mark.parametrize("fault", ["stopped", "gil"])
def test_frozen_child_is_replaced_within_30_seconds(fault: str) -> None:
    with started() as program:
        first, begun = program.child(), time.monotonic()
        if fault == "gil":
            program.enter("gil")
        else:
            os.kill(first, signal.SIGSTOP)
        assert program.child() != first
        assert time.monotonic() - begun < 30
        cause = {"stopped": "a signal had stopped it", "gil": "held the interpreter's lock"}[fault]
        assert program.death.endswith(cause)


@dataclass
class Child:
    """A child process as its watchdog sees it, and the clock of the parent."""

    now: float = 0.0
    beat: int = 0
    state: str = "S"
    is_loading: bool = False

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(
            *(lambda: self.beat, lambda: self.is_loading, lambda: self.state, lambda: self.now)
        )

    def run(self, seconds: int, *, is_beating: bool = False) -> bool:
        """Check the child every second, and return whether it is frozen at the end."""
        for _ in range(seconds):
            self.now += 1
            self.beat += is_beating
            self.watchdog.is_frozen()
        return self.watchdog.is_frozen()


@pytest.mark.parametrize("state", ["S", "T"])
def test_child_without_a_beat_for_27_seconds_is_frozen(state: str) -> None:
    child = Child(state=state)
    assert not child.run(100, is_beating=True)
    assert not child.run(26)
    assert child.run(1)
    assert child.watchdog.is_stopped == (state == "T")


def test_child_that_loads_a_model_has_five_minutes() -> None:
    child = Child(is_loading=True)
    assert not child.run(299)
    assert child.run(1)
    assert Child(is_loading=True, state="T").run(27), "a stopped child loads nothing"


def test_child_in_a_debugger_is_not_frozen() -> None:
    assert not Child(state="t").run(1000)


def test_suspend_of_the_machine_freezes_no_child() -> None:
    child = Child()
    assert not child.run(20)
    child.now += 3600
    assert not child.run(1)
    assert not child.run(1, is_beating=True)
