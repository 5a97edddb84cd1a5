"""How a running job tells how far it is, and hears that it was cancelled.

The model only leaves word: one thread reports for all jobs that run, so that a slow gateway never
holds the device up. At most one report is under way for a job and none follows within half a
second; of what comes faster the last is sent. A model that is silent is reported every few seconds
too, since the answer is how it hears of a cancellation.

Protocol: PUT to the progress URL beside the reply URL; 410 or 404 means stop, all else go on.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from contract.codec import format_time
from contract.names import progress_url
from worker.errors import Cancelled, Expired, LockLost
from worker.messages.job import Job

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
MAX_MESSAGE_CHARACTERS = 500

Post = Callable[[str, bytes], bool]
"""Puts a report to a URL; False where the job is to stop. True also where nobody can tell."""


class JobContext:
    """See `worker.models.Context`. One job's; the model calls it, the reporter sends."""

    def __init__(self, job: Job, post: Post, left_word: Callable[[], None]) -> None:
        self._job = job
        self._post = post
        self._left_word = left_word
        self._url = progress_url(job.request.reply_url or "")
        self._attempt = job.delivery.delivery_count + 1
        self._started_at = format_time(datetime.now(UTC))
        self._sending = threading.Lock()
        self._sequence = 0
        self._state: tuple[float | None, str | None] = (None, None)
        self._cancelled = threading.Event()
        self.is_fresh = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is to stop."""
        return self._cancelled.is_set()

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """See Context."""
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"fraction: expected 0 to 1, not {fraction}")
        self.check()
        text = None if message is None else message[:MAX_MESSAGE_CHARACTERS] or None
        self._state = (None if fraction is None else float(fraction), text)
        if not self.is_fresh:
            self.is_fresh = True
            self._left_word()

    def check(self) -> None:
        """See Context."""
        if self.is_cancelled:
            raise Cancelled("the job was cancelled while it ran")
        if self._job.lease.is_lost:
            raise LockLost("the lock was lost while the job ran")
        if self._job.is_expired(datetime.now(UTC)):
            raise Expired("the deadline passed while the job ran")

    def report(self) -> None:
        """Send how far it is now, and hear whether it is to go on."""
        with self._sending:
            self.is_fresh = False
            self._send()

    def finish(self) -> None:
        """Ask one last time before the result is sent; raises Cancelled."""
        self.report()
        self.check()

    def stopped(self) -> None:
        """Tell that the job has stopped. If nobody hears it, the gateway waits a while longer."""
        with self._sending:
            self._send(stopped=True)

    def _send(self, **more: bool) -> None:
        if self._url is None:
            return
        fraction, message = self._state
        report = {
            "attempt": self._attempt,
            "sequence": self._sequence,
            "started_at": self._started_at,
            "fraction": fraction,
            "message": message,
            **more,
        }
        body = json.dumps({key: value for key, value in report.items() if value is not None})
        self._sequence += 1
        if not self._post(self._url, body.encode("utf-8", "replace")):
            self._cancelled.set()


class Reporter:
    """The reports of one consumer's running jobs. `run` is its thread, `turn` one round of it."""

    def __init__(self, post: Post, clock: Callable[[], float] = time.monotonic) -> None:
        self._post = post
        self._clock = clock
        self._reported_at: dict[JobContext, float] = {}
        self._has_news = threading.Event()

    def begin(self, job: Job) -> JobContext:
        """Tell that the job is about to run, unless it hears that it need not."""
        context = JobContext(job, self._post, self._has_news.set)
        context.report()
        self._reported_at[context] = self._clock()
        self._has_news.set()
        return context

    def end(self, context: JobContext) -> None:
        """The job runs no more."""
        self._reported_at.pop(context, None)

    def start(self) -> None:
        """Start the thread. A daemon: it holds nothing that must be finished."""
        threading.Thread(target=self.run, name="progress", daemon=True).start()

    def run(self) -> None:
        """Report for ever."""
        while True:
            self._has_news.wait(self.turn())
            self._has_news.clear()

    def turn(self) -> float | None:
        """Report what is due; returns the seconds until more is, or None while nothing runs."""
        for context in list(self._reported_at):
            if self._due_at(context) <= self._clock():
                self._report(context)
        due = [self._due_at(context) for context in list(self._reported_at)]
        return max(0.0, min(due) - self._clock()) if due else None

    def _report(self, context: JobContext) -> None:
        try:
            context.report()
        except Exception:  # noqa: BLE001  the process's edge: this thread must outlive a defect
            _log.exception("a report of progress failed")
        if context in self._reported_at:
            self._reported_at[context] = self._clock()

    def _due_at(self, context: JobContext) -> float:
        pause_seconds = PAUSE_SECONDS if context.is_fresh else HEARTBEAT_SECONDS
        return self._reported_at.get(context, self._clock()) + pause_seconds
