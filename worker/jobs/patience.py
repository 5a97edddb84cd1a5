"""How long a job may wait for a service that is away, before it gives its place to another."""

import threading
import time
from collections.abc import Callable

from worker.errors import HandedBack
from worker.inputs.payloads import Wait
from worker.messages.job import Job


class Patience:
    """The waits between a job's tries, none of which outlasts this worker's stay."""

    def __init__(
        self, stopping: threading.Event, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stopping = stopping
        self._clock = clock

    def check(self) -> None:
        """Raise HandedBack where this worker is leaving."""
        if self._stopping.is_set():
            raise HandedBack("this worker is leaving")

    def waits(self, job: Job, seconds: float) -> Wait:
        """Sleeps for a while; false once these seconds are over or the lock is lost. HandedBack."""
        ends_at = self._clock() + seconds

        def wait(pause_seconds: float) -> bool:
            self.check()
            return self._clock() < ends_at and job.lease.wait(pause_seconds)

        return wait
