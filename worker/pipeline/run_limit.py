"""Find the calls of a model's code that last longer than the catalogue entry allows.

Nothing can interrupt such a call. The consumer ends the jobs of the call, and the process restarts.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from worker.pipeline.receive import ReceivedJob


class _Call(NamedTuple):
    since: float
    jobs: Sequence[ReceivedJob]


class RunLimit:
    """Limits how long one call of a model's code may last. Any thread may call the methods."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._calls: dict[int, _Call] = {}

    @contextlib.contextmanager
    def running(self, *jobs: ReceivedJob) -> Iterator[None]:
        """Note that the `with` block is a call of the model's code for these jobs."""
        thread = threading.get_ident()
        self._calls[thread] = _Call(self._clock(), jobs)
        try:
            yield
        finally:
            self._calls.pop(thread, None)

    @contextlib.contextmanager
    def paused(self) -> Iterator[Sequence[ReceivedJob]]:
        """Do not count the `with` block, in which the call of the current thread waits.

        Yield the jobs of the call.
        """
        thread, paused_at = threading.get_ident(), self._clock()
        call = self._calls.pop(thread, None)
        try:
            yield () if call is None else call.jobs
        finally:
            if call is not None:
                self._calls[thread] = call._replace(since=call.since + self._clock() - paused_at)

    def take_overdue(self) -> list[Sequence[ReceivedJob]]:
        """Return the jobs of each call that exceeds the limit. Each call is returned only once."""
        latest = self._clock() - self.seconds
        overdue = [thread for thread, call in list(self._calls.items()) if call.since < latest]
        calls = [self._calls.pop(thread, None) for thread in overdue]
        return [call.jobs for call in calls if call is not None]
