"""Note which jobs' code this process runs and for how long, and run the suspects one at a time.

A job whose worker process died is delivered again. If the process ran only this job, the death
counts against the job. If it ran several jobs, the cause is not known, and each of these jobs is a
suspect (`worker.processes.history`). A suspect runs while this process works on no other job, so
that the cause of a further death is certain, and the death harms no other job. The broker must not
send messages meanwhile, either: one that arrives while the process dies is noted nowhere, and waits
until its lock expires.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.brokers.port import LockedMessage
from worker.pipeline.receive import ReceivedJob
from worker.processes.history import LockState

# How often a suspect that waits checks whether the broker may still send messages.
_POLL_SECONDS = 0.01


class _Call(NamedTuple):
    since: float
    jobs: Sequence[ReceivedJob]


class RunLimit:
    """Limits how long one call of a model's code may last. Any thread may call the methods."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.clock = clock
        # By the thread that makes the call, or by the job of a call that ignores its cancellation.
        self._calls: dict[object, _Call] = {}

    @contextlib.contextmanager
    def timing_run(self, *jobs: ReceivedJob) -> Iterator[None]:
        """Note that the `with` block is a call of the model's code for these jobs."""
        thread = threading.get_ident()
        self._calls[thread] = _Call(self.clock(), jobs)
        try:
            yield
        finally:
            self._calls.pop(thread, None)

    def note_loop(self, jobs: Sequence[ReceivedJob]) -> None:
        """Note that the event loop of this thread is not blocked, and which jobs it runs."""
        thread = threading.get_ident()
        if jobs:
            self._calls[thread] = _Call(self.clock(), jobs)
        else:
            self._calls.pop(thread, None)

    def note_stuck(self, job: ReceivedJob) -> None:
        """Note that a job runs too long and cannot be stopped, so that it is overdue."""
        self._calls[job] = _Call(-math.inf, (job,))

    def note_ended(self, job: ReceivedJob) -> None:
        """Note that the code of a job does not run any more."""
        self._calls.pop(job, None)

    @contextlib.contextmanager
    def pausing_run(self) -> Iterator[Sequence[ReceivedJob]]:
        """Do not count the `with` block, in which the current call waits. Yield the call's jobs."""
        thread, paused_at = threading.get_ident(), self.clock()
        call = self._calls.pop(thread, None)
        try:
            yield () if call is None else call.jobs
        finally:
            if call is not None:
                self._calls[thread] = call._replace(since=call.since + self.clock() - paused_at)

    def take_overdue(self) -> list[Sequence[ReceivedJob]]:
        """Return the jobs of each call that exceeds the limit. Each call is returned only once."""
        latest = self.clock() - self.seconds
        overdue = [thread for thread, call in list(self._calls.items()) if call.since < latest]
        calls = [self._calls.pop(thread, None) for thread in overdue]
        return [call.jobs for call in calls if call is not None]


class RunningJobs:
    """Notes in the lock journals which jobs' code this process runs. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # For each message whose job runs, whether no other job has run meanwhile.
        self._running: dict[LockedMessage, bool] = {}
        self._reading: set[LockedMessage] = set()
        self._load_count = 0

    def begin_run(self, *messages: LockedMessage) -> None:
        """Note that this process begins to run the code of the jobs of these messages."""
        with self._lock:
            is_alone = len(messages) == 1 and not self._running and not self._load_count
            self._end_solitude()
            for message in messages:
                self._running[message] = is_alone
                self._note(message)

    def end_run(self, message: LockedMessage, state: LockState = LockState.WAITING) -> bool:
        """Note how far a job has come. Return whether no other job's code has run meanwhile."""
        with self._lock:
            is_alone = self._running.pop(message, None)
            if is_alone is not None:
                message.note_state(state)
            return bool(is_alone)

    @contextlib.contextmanager
    def noting_run(
        self, message: LockedMessage, after: LockState = LockState.WAITING
    ) -> Iterator[None]:
        """Note that the `with` block runs the code of a job. `after` is the state afterwards."""
        self.begin_run(message)
        try:
            yield
        finally:
            self.end_run(message, after)

    @contextlib.contextmanager
    def noting_read(self, message: LockedMessage) -> Iterator[None]:
        """Note that the `with` block reads a message, which may kill the process, too."""
        with self._lock:
            is_alone = not (self._running or self._reading or self._load_count)
            self._reading.add(message)
            message.note_state(LockState.RUNNING_ALONE if is_alone else LockState.RUNNING)
            for other in self._running:
                self._note(other)
        try:
            yield
        finally:
            with self._lock:
                self._reading.discard(message)
                message.note_state(LockState.WAITING)
                for other in self._running:
                    self._note(other)

    @contextlib.contextmanager
    def noting_pause(self, messages: Sequence[LockedMessage]) -> Iterator[None]:
        """Note that the code of these running jobs waits during the `with` block."""
        for message in messages:
            self.end_run(message, LockState.RAN)
        try:
            yield
        finally:
            if messages:
                self.begin_run(*messages)

    @contextlib.contextmanager
    def noting_load(self) -> Iterator[None]:
        """Note that the `with` block loads a model, which may be what kills the process."""
        with self._lock:
            self._end_solitude()
            self._load_count += 1
        try:
            yield
        finally:
            with self._lock:
                self._load_count -= 1

    def _end_solitude(self) -> None:
        for message, is_alone in self._running.items():
            if is_alone:
                self._running[message] = False
                self._note(message)

    def _note(self, message: LockedMessage) -> None:
        is_alone = self._running[message] and not self._reading
        message.note_state(LockState.RUNNING_ALONE if is_alone else LockState.RUNNING)


@dataclass(frozen=True, slots=True)
class _Start:
    job: ReceivedJob
    start: Callable[[], object]
    is_suspect: bool


class Suspects:
    """Starts the jobs of this process, and each suspect only while no other job is in progress.

    While there is a suspect, no messages are received. It starts when the broker may send none on
    an earlier request.

    If the lock of a message is lost while its job is in progress, the broker may deliver it to this
    process again. This delivery starts when the earlier one has ended, so that it can use the
    earlier one's reply. Any thread may call the methods.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_progress: set[ReceivedJob] = set()
        self._suspects: list[_Start] = []
        # The jobs that were received after a suspect was started.
        self._others: list[_Start] = []
        # The jobs of messages with an earlier delivery that is in progress.
        self._repeated: list[_Start] = []
        self._running: ReceivedJob | None = None
        self._suspended_count = 0
        # For each queue of this process, whether the broker may still send one of its messages.
        self._may_receive: list[Callable[[], bool]] = []
        self._is_polling = False

    def add_queue(self, may_receive: Callable[[], bool]) -> None:
        """Add a queue from which this process receives. `may_receive` must not block."""
        self._may_receive.append(may_receive)

    @property
    def exist(self) -> bool:
        """Return whether a suspect waits or runs. Then no messages may be received."""
        return not self._suspended_count and (bool(self._suspects) or self._running is not None)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Start all jobs at once in the `with` block, whose caller waits for other jobs."""
        with self._lock:
            self._suspended_count += 1
        self._start_next()
        try:
            yield
        finally:
            with self._lock:
                self._suspended_count -= 1

    def start_in_turn(
        self, job: ReceivedJob, start: Callable[[], object], allowed_deaths: int = 0
    ) -> None:
        """Call `start`, which must not block, as soon as the job may start and has not ended.

        The job is a suspect if more than `allowed_deaths` processes have died while it ran.
        """
        is_suspect = job.delivery.history.running_count > allowed_deaths
        self._start_or_wait(_Start(job, start, is_suspect))

    def _start_or_wait(self, each: _Start) -> None:
        with self._lock:
            if self._is_repeated(each.job):
                self._repeated.append(each)
                return
            is_ready = bool(self._suspended_count) or not (each.is_suspect or self._running)
            if is_ready:
                self._in_progress.add(each.job)
            else:
                (self._suspects if each.is_suspect else self._others).append(each)
        if is_ready:
            each.start()
        else:
            self._start_next()

    def _is_repeated(self, job: ReceivedJob) -> bool:
        delivery = job.delivery
        is_known = delivery.delivery_count > 0 and delivery.sequence_number > 0
        return is_known and any(each.delivery.key == delivery.key for each in self._in_progress)

    def end_turn(self, job: ReceivedJob) -> None:
        """Record that a job has ended, and start the jobs that waited for this."""
        with self._lock:
            self._in_progress.discard(job)
            if not (self._suspects or self._others or self._repeated or self._running):
                return
            if self._running is job:
                self._running = None
            self._suspects = [each for each in self._suspects if each.job is not job]
            self._others = [each for each in self._others if each.job is not job]
            repeated = [each for each in self._repeated if each.job is not job]
            self._repeated = []
        self._start_next()
        for each in repeated:
            self._start_or_wait(each)

    def _start_next(self) -> None:
        with self._lock:
            ready: list[_Start] = []
            if self._suspended_count:
                ready, self._others, self._suspects = [*self._others, *self._suspects], [], []
            elif self._running is None and self._others:
                ready, self._others = self._others, []
            elif self._running is None and self._suspects and not self._in_progress:
                if any(may_receive() for may_receive in self._may_receive):
                    self._poll()
                    return
                # A job that has killed no worker alone is probably harmless. So it comes before the
                # next death.
                first = min(self._suspects, key=_evidence)
                self._suspects.remove(first)
                self._running, ready = first.job, [first]
            self._in_progress.update(each.job for each in ready)
        for each in ready:
            each.start()

    def _poll(self) -> None:
        """Call `_start_next` again soon, if no other call has requested this."""
        if not self._is_polling:
            self._is_polling = True
            timer = threading.Timer(_POLL_SECONDS, self._start_after_poll)
            timer.daemon = True
            timer.start()

    def _start_after_poll(self) -> None:
        with self._lock:
            self._is_polling = False
        self._start_next()


def _evidence(waiting: _Start) -> tuple[int, int]:
    history = waiting.job.delivery.history
    return history.failed_count + history.killed_count, history.running_count
