"""Run the worker in a child process. If the child dies, start another child.

The imports of a worker with torch models take seconds. The parent process imports all modules once
and then forks, so that a worker that was killed is replaced within milliseconds. The parent itself
starts no thread, connects to no service and does not use the device, so a child inherits no thread,
no connection and no device memory.

A child has died if a signal has killed it, or if it has exited before the function that runs the
worker has returned, for example because a model's code calls `os._exit`. The function can also ask
for another child, by the error RestartNeeded.

A thread of the child changes a number in shared memory every second. If the number does not change
for 27 seconds, the child is frozen: a signal has stopped it, or code holds the interpreter's lock.
Then it cannot renew a message lock, so the parent kills it.

A model's code may import further modules when the model is loaded. If they are many, the child
writes their names to the shared memory, and the parent forks a spare process, which imports them
and then waits. If the child dies, the spare takes its place, and the parent forks another spare. A
spare loads no model and opens no connection. If an import uses CUDA through torch, the spare exits,
so that it holds no device memory. If a spare has died, the parent forks no other.

Child processes are used only on Linux, because torch may not be used after a fork on macOS.
"""

import ctypes
import importlib
import logging
import mmap
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from worker.processes.lock_journal import WorkerDeath
from worker.processes.setup import worker_name
from worker.processes.shutdown import RestartNeeded
from worker.retries import RetryDelays

_log = logging.getLogger(__name__)

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
#: The signals that the parent waits for.
WATCHED_SIGNALS: Final = STOP_SIGNALS | {signal.SIGCHLD}

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
# The child exits with this code if it cannot use the device because the parent has used it.
_EXIT_DEVICE_IN_PARENT: Final = 71
_EXIT_ERROR: Final = 1

# The memory that parent and child share. `_BEAT` is the number that the child changes every second.
# The child sets `_HAS_ENDED` to 1 when `run` has ended. If another child must be started, the child
# writes the reason from `_REASON` on. From `_NAMES` on, it writes the names of the modules that it
# has imported since the fork, and then changes `_NAMES_VERSION`. A spare sets `_IS_READY` to 1 when
# it has imported them.
_SHARED_BYTES: Final = 1024 * 1024
_HAS_ENDED, _BEAT, _NAMES_VERSION, _IS_READY, _REASON = range(5)
_NAMES: Final = 1024
# The imports of fewer modules take little time, and need no spare: the HTTP client of a model with
# an engine has about 110.
_MANY_MODULES: Final = 300
# The imports of a spare must not delay the start of the child.
_SPARE_AFTER_SECONDS: Final = 1.5
_MESSAGE_BYTES: Final = 64 * 1024

Run = Callable[[int | None, WorkerDeath | None], int]

_BEAT_SECONDS: Final = 1.0
# An operator shall see a new child within 30 s.
_FROZEN_SECONDS: Final = 27.0
# The load of a large model may hold the interpreter's lock for long, for example to unpickle it.
_FROZEN_LOADING_SECONDS: Final = 300.0
# If more time has passed between two checks, the parent itself was stopped, and the child with it.
_LONGEST_STEP_SECONDS: Final = 2 * _BEAT_SECONDS

# The first and the longest delay after a short run.
_RESTART_SECONDS: Final = (0.1, 5.0)
# A child that has received a message has run longer, because it first creates its components.
_SHORT_RUN_SECONDS: Final = 0.05


def restart_delay_seconds(delays: RetryDelays, run_seconds: float) -> float:
    """Return how long to wait before the next child, if the last has run for `run_seconds`.

    So a worker that is always killed while it starts uses little processor time.
    """
    if run_seconds < _SHORT_RUN_SECONDS:
        return delays.next()
    delays.reset()
    return 0.0


class Watchdog:
    """Decides whether a child process is frozen: `verdict` then says why, and is empty before.

    Only the time between two checks that follow closely counts. So a child is not killed because
    the whole machine was suspended, or because a terminal has stopped both processes.
    """

    def __init__(
        self,
        read_counter: Callable[[], int],
        is_loading: Callable[[], bool],
        read_state: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the functions that show the child's state.

        `read_counter` returns a number that the child changes every second. `is_loading` returns
        whether it loads a model, which gives it more time. `read_state` returns `T` if a signal has
        stopped the process, `t` if a debugger has.
        """
        self._read_counter = read_counter
        self._is_loading = is_loading
        self._read_state = read_state
        self._clock = clock
        self._counter = read_counter()
        self._looked_at = clock()
        self._silent_seconds = 0.0
        self.verdict = ""
        self.is_stopped = False

    def is_frozen(self) -> bool:
        """Return whether the child must be killed. The caller must ask about once a second."""
        now, counter = self._clock(), self._read_counter()
        self._silent_seconds += min(now - self._looked_at, _LONGEST_STEP_SECONDS)
        self._looked_at = now
        if counter != self._counter:
            self._counter, self._silent_seconds = counter, 0.0
        if self._silent_seconds < _FROZEN_SECONDS or self.verdict:
            return bool(self.verdict)
        state = self._read_state()
        self.is_stopped = state == "T"
        if state == "t" or not (
            self.is_stopped
            or self._silent_seconds >= _FROZEN_LOADING_SECONDS
            or not self._is_loading()
        ):
            return False
        cause = (
            "a signal had stopped it"
            if self.is_stopped
            else "probably the code of a model held the interpreter's lock"
        )
        self.verdict = f"did not respond for {self._silent_seconds:.0f} s and was killed: {cause}"
        return True


def run_in_child(
    run: Run,
    modules: Iterable[str],
    note_import: Callable[[str], AbstractContextManager[None]] = lambda module: nullcontext(),
    is_loading: Callable[[int], bool] = lambda process: False,
    *,
    has_spare: bool = True,
) -> int:
    """Call `run` in a child process, and again in a new child if the child has died.

    The first SIGTERM or SIGINT is passed on to the child; the second one kills it. WATCHED_SIGNALS
    are blocked when `run` is called: it must set its handlers and then unblock them. If the system
    is not Linux, or if an import has started a thread or used CUDA, this process calls `run`
    itself, and raises the RestartNeeded that `run` raises.

    Args:
        run: Runs the worker, and returns the exit code. Its arguments are the process id of the
            parent, or None without a parent process, and how the last child died, or None.
        modules: The modules to import before the first fork. The child handles their errors.
        note_import: Returns a context manager that can note the import of a module.
        is_loading: Returns whether the process with this id loads a model.
        has_spare: Whether to keep a spare process if a child imports many modules.

    Returns:
        The exit code of `run`; 128 plus the number of a SIGTERM or SIGINT after which the child
        died; 0 if one arrived during a restart delay.
    """
    if sys.platform != "linux":
        return run(None, None)
    # From here on, signals stay pending until the parent reads them, so none is lost before a fork.
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED_SIGNALS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _import_modules(modules, note_import)
    if threading.active_count() > 1:
        _log.warning(
            "the import of the models' code has started a thread, so the worker runs without a "
            "parent process, which would restart it at once if it is killed; start threads in "
            "Infer.__init__ instead"
        )
        return run(None, None)
    code = _Parent(run, is_loading, has_spare=has_spare).run()
    return run(None, None) if code == _EXIT_DEVICE_IN_PARENT else code


def _import_modules(
    modules: Iterable[str], note_import: Callable[[str], AbstractContextManager[None]]
) -> None:
    for module in modules:
        try:
            with note_import(module):
                importlib.import_module(module)
        except (Exception, SystemExit) as error:  # noqa: BLE001  a model's code may raise anything
            _log.debug("importing %s failed: %s", module, error)


class _Parent:
    """The parent process, which starts the child and passes SIGTERM and SIGINT on to it."""

    def __init__(self, run: Run, is_loading: Callable[[int], bool], *, has_spare: bool) -> None:
        self._run = run
        self._is_loading = is_loading
        self._has_spare = has_spare
        self._spare: _Spare | None = None
        # When the next spare may be forked; None: not before the child writes more names.
        self._spare_at: float | None = None
        # The modules that children have imported, in the order of the imports.
        self._names: dict[str, None] = {}
        self._names_version = 0
        self._delays = RetryDelays(*_RESTART_SECONDS, chance=lambda: 0.0)
        # The numbers of the signals SIGTERM and SIGINT that this process has received.
        self._stops: list[int] = []

    def run(self) -> int:
        """Start children until one ends without having died, or a signal asks for the end."""
        death: WorkerDeath | None = None
        while True:
            started_at = time.monotonic()
            child, shared = self._start(death)
            watchdog = self._watch(child, shared)
            code = self._wait(child, shared, watchdog)
            needed = shared[_REASON:_NAMES].partition(b"\0")[0].decode("utf-8", "replace")
            has_died = code < 0 or not shared[_HAS_ENDED] or bool(needed)
            description = watchdog.verdict or needed or _describe_death(code)
            if not has_died:
                return code
            if self._stops:
                return 128 + self._stops[-1]
            run_seconds = time.monotonic() - started_at
            delay_seconds = restart_delay_seconds(self._delays, run_seconds)
            is_crash = _is_crash(code, watchdog)
            death = WorkerDeath(child, worker_name(child), description, is_crash)
            _log.error("%s; a new worker process starts in %g s", death, delay_seconds)
            if delay_seconds and signal.sigtimedwait(STOP_SIGNALS, delay_seconds):
                return 0

    def _start(self, death: WorkerDeath | None) -> tuple[int, mmap.mmap]:
        """Let the spare run, or fork a child. Return the process id and the shared memory."""
        spare, self._spare, self._names_version = self._spare, None, 0
        self._spare_at = time.monotonic() + _SPARE_AFTER_SECONDS if self._names else None
        if spare is not None and spare.start(death):
            return spare.process, spare.shared
        shared = mmap.mmap(-1, _SHARED_BYTES)
        return self._fork(shared, death), shared

    def _keep_spare(self, shared: mmap.mmap) -> None:
        """Fork a spare some time after the child's start, and again if the child imports more."""
        if not self._has_spare:
            return
        if shared[_NAMES_VERSION] != self._names_version:
            self._names_version = shared[_NAMES_VERSION]
            text = shared[_NAMES:].partition(b"\0")[0].decode("utf-8", "replace")
            names = dict.fromkeys(text.split("\n"))
            # After a restart without the spare, the child imports what the next one has already.
            if not names.keys() <= self._names.keys():
                self._names |= names
                self._spare_at = self._spare_at or time.monotonic()
        if self._spare_at is None or time.monotonic() < self._spare_at:
            return
        self._spare_at = None
        if self._spare is not None:
            self._spare.end()
        try:
            self._spare = _fork_spare(self._run, self._names)
        except OSError as error:
            self._spare, self._has_spare = None, False
            _log.warning("no spare process can be started: %s", error)
        else:
            _log.info(
                "spare process %d imports %d modules, to replace a killed worker process sooner",
                self._spare.process,
                len(self._names),
            )

    def _fork(self, shared: mmap.mmap, death: WorkerDeath | None) -> int:
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _run_as_child(lambda: self._run(parent, death), parent, shared)
        return child

    def _watch(self, child: int, shared: mmap.mmap) -> Watchdog:
        return Watchdog(
            *(lambda: shared[_BEAT], lambda: self._is_loading(child), lambda: _state_of(child))
        )

    def _wait(self, child: int, shared: mmap.mmap, watchdog: Watchdog) -> int:
        """Return the child's exit code, or -N after signal N. Pass on signals; kill if frozen."""
        while True:
            # The exit code is read before the wait, because one SIGCHLD may stand for the ends of
            # several processes.
            if (code := self._reap(child)) is not None:
                return code
            self._keep_spare(shared)
            if watchdog.is_frozen():
                # SIGKILL also ends a process that SIGSTOP has stopped.
                os.kill(child, signal.SIGKILL)
            found = signal.sigtimedwait(WATCHED_SIGNALS, _BEAT_SECONDS)
            number = None if found is None else found.si_signo
            if number in STOP_SIGNALS:
                self._stops.append(number)
                os.kill(child, signal.SIGKILL if len(self._stops) > 1 else number)

    def _reap(self, child: int) -> int | None:
        """Read the exit codes of all ended processes, and return that of `child`, if it ended.

        As process 1 of a container, this process is also the parent of all orphans.
        """
        found = None
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if ended == 0:
                return found
            code = os.waitstatus_to_exitcode(status)
            if ended == child:
                found = code
            elif self._spare is not None and ended == self._spare.process:
                # It may have died because memory is short, and another one would die as well.
                os.close(self._spare.pipe)
                self._spare, self._has_spare = None, False
                _log.warning(
                    "the spare process %d %s; no other is started, so after a kill the models' "
                    "imports are repeated",
                    ended,
                    "exited: an import has ended it or used CUDA"
                    if code >= 0
                    else _describe_death(code),
                )


@dataclass(frozen=True, slots=True)
class _Spare:
    """A process that imports modules, and then waits until it may run the worker."""

    process: int
    shared: mmap.mmap
    # Only while the parent has not read the process's exit code.
    pipe: int

    def start(self, death: WorkerDeath | None) -> bool:
        """Let the process run the worker. Return False if it has died or still imports modules."""
        if not self.shared[_IS_READY]:
            self.end()
            return False
        try:
            os.write(self.pipe, pickle.dumps(death))
        except BrokenPipeError:
            return False
        finally:
            os.close(self.pipe)
        return True

    def end(self) -> None:
        """Kill the process. Its exit code must not have been read."""
        os.close(self.pipe)
        os.kill(self.process, signal.SIGKILL)


def _fork_spare(run: Run, names: Iterable[str]) -> _Spare:
    """Fork a spare process. Raises OSError if the system's resources do not allow it."""
    parent, shared = os.getpid(), mmap.mmap(-1, _SHARED_BYTES)
    message, pipe = os.pipe()
    try:
        process = os.fork()
        if process == 0:
            os.close(pipe)
            _run_as_spare(run, names, message, parent, shared)
    except OSError:
        os.close(pipe)
        raise
    finally:
        os.close(message)
    return _Spare(process, shared, pipe)


def _run_as_spare(
    run: Run, names: Iterable[str], message: int, parent: int, shared: mmap.mmap
) -> NoReturn:
    try:
        _die_with_parent(parent)
        _import_modules(names, lambda module: nullcontext())
        if _has_used_cuda():
            os._exit(_EXIT_ERROR)
        shared[_IS_READY] = 1
        # The message is empty if the parent has died.
        death: WorkerDeath | None = pickle.loads(os.read(message, _MESSAGE_BYTES))  # noqa: S301
        os.close(message)
    except BaseException:  # noqa: BLE001  a model's code may raise anything
        os._exit(_EXIT_ERROR)
    _run_as_child(lambda: run(parent, death), parent, shared)


def _state_of(process: int) -> str:
    """Return the state of a process as one letter, for example `T` if a signal has stopped it."""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(") ")[2][:1]
    except OSError:
        return ""


def _is_crash(code: int, watchdog: Watchdog) -> bool:
    """Return whether the child itself has caused its death.

    The kernel kills by SIGKILL if memory runs out, but so do operators. Then the result is False.
    """
    if watchdog.verdict:
        return not watchdog.is_stopped
    return -code not in STOP_SIGNALS | {signal.SIGKILL}


def _describe_death(code: int) -> str:
    if code < 0:
        return f"was killed by {_signal_name(-code)}"
    return f"exited with code {code} without a shutdown, as after os._exit in the code of a model"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _run_as_child(run: Callable[[], int], parent: int, shared: mmap.mmap) -> NoReturn:
    code = _EXIT_ERROR
    try:
        _die_with_parent(parent)
        _reseed()
        known = frozenset(sys.modules)
        threading.Thread(target=_beat, args=(shared, known), name="beat", daemon=True).start()
        code = _EXIT_DEVICE_IN_PARENT if _parent_has_used_device() else run()
    except RestartNeeded as needed:
        text = f"was restarted: {needed}".encode()[: _NAMES - _REASON - 1]
        shared[_REASON : _REASON + len(text)] = text
    except BaseException:  # noqa: BLE001  any error ends the child with a code
        _log.exception("the worker ended with an unexpected error")
    finally:
        logging.shutdown()
        shared[_HAS_ENDED] = 1
        # Not sys.exit, which would wait for threads that a model's code or a network call still
        # blocks.
        os._exit(code)


def _beat(shared: mmap.mmap, known: frozenset[str]) -> None:
    written_count = last_count = len(known)
    while True:
        shared[_BEAT] = (shared[_BEAT] + 1) % 256
        count = len(sys.modules)
        # While modules are still imported, the names would not be complete.
        if count == last_count and count >= written_count + _MANY_MODULES:
            written_count = count
            _write_imports(shared, known)
        last_count = count
        time.sleep(_BEAT_SECONDS)


def _write_imports(shared: mmap.mmap, known: frozenset[str]) -> None:
    """Write the names of the modules that this process has imported since the fork."""
    # An error here would end the thread, and then the parent would kill this process. So this
    # accepts all keys, and does not touch the modules, whose attributes may run a model's code.
    names = "\n".join(str(name) for name in list(sys.modules) if name not in known)
    text = names.encode("utf-8", "replace")[: _SHARED_BYTES - _NAMES - 1] + b"\0"
    shared[_NAMES : _NAMES + len(text)] = text
    shared[_NAMES_VERSION] = shared[_NAMES_VERSION] % 255 + 1


def _die_with_parent(parent: int) -> None:
    """Let the kernel kill this process, which holds the health server's port, with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # If the parent died before the call above, the kernel does not send the signal.
    if os.getppid() != parent:
        os._exit(_EXIT_ERROR)


def _reseed() -> None:
    """Seed NumPy's global random generator, which unlike others would be the same in each child."""
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _parent_has_used_device() -> bool:
    """Return whether CUDA was used before the fork. Then it does not work in a child."""
    torch = sys.modules.get("torch")
    # A private function, because torch's public functions only raise an error when CUDA is used.
    is_in_bad_fork = getattr(getattr(torch, "cuda", None), "_is_in_bad_fork", None)
    return is_in_bad_fork is not None and bool(is_in_bad_fork())


def _has_used_cuda() -> bool:
    """Return whether this process has used CUDA through torch, and so holds device memory."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and bool(cuda.is_initialized())
