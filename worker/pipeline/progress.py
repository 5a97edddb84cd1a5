"""Progress of models that run long: report how far a job is, and stop cancelled jobs.

The model only leaves a note; one thread reports for all running jobs, so that a slow gateway never
delays the device. At most one report of a job is under way, and the next follows after half a
second at the earliest, with the latest note. A silent model is reported every few seconds too,
because the gateway's answer says whether the job was cancelled.

Protocol: PUT to the progress URL beside the reply URL; 410 means stop, anything else means go on.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from contract.messages import format_time
from contract.names import progress_url
from worker.errors import Cancelled

if TYPE_CHECKING:
    from worker.pipeline.receive import ReceivedJob

_log = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 500
PAUSE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0

Post = Callable[[str, bytes], bool]
"""Put a report to a URL; returns False if the job is to stop, True also without an answer."""


class JobContext:
    """The context of one running job: the model calls it, the reporter sends its reports.

    Implements `worker.models.Context`.
    """

    def __init__(
        self,
        url: str | None,
        attempt: int,
        check_job: Callable[[], None],
        post: Post,
        wake_reporter: Callable[[], None],
    ) -> None:
        self._url = url
        self._attempt = attempt
        self._check_job = check_job
        self._post = post
        self._wake_reporter = wake_reporter
        self._started_at = format_time(datetime.now(UTC))
        self._sending = threading.Lock()
        self._sequence = 0
        self._state: tuple[float | None, str | None] = (None, None)
        self._cancelled = threading.Event()
        self.has_news = False

    @property
    def is_cancelled(self) -> bool:
        """Return whether the job is to stop."""
        return self._cancelled.is_set()

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Leave a note for the next report.

        Raises:
            ValueError: The fraction is not from 0 to 1.
            Cancelled: The job is to stop.
        """
        if fraction is not None and not 0 <= fraction <= 1:
            raise ValueError(f"fraction: expected 0 to 1, not {fraction}")
        self.check()
        text = None if message is None else message[:MAX_MESSAGE_CHARACTERS] or None
        self._state = (None if fraction is None else float(fraction), text)
        if not self.has_news:
            self.has_news = True
            self._wake_reporter()

    def check(self) -> None:
        """Raise Cancelled, LockLost or Expired if the job is to stop."""
        if self.is_cancelled:
            raise Cancelled("the job was cancelled while it ran")
        self._check_job()

    def report(self) -> None:
        """Send the latest note, and remember whether the job was cancelled."""
        with self._sending:
            self.has_news = False
            self._send()

    def finish(self) -> None:
        """Report once more before the result is sent; raise as `check` does."""
        self.report()
        self.check()

    def report_stopped(self) -> None:
        """Report that the job has stopped. If the report is lost, the gateway waits longer."""
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


class ProgressReporter:
    """Report the progress of one model's running jobs. `run` is its thread."""

    def __init__(self, post: Post, clock: Callable[[], float] = time.monotonic) -> None:
        self._post = post
        self._clock = clock
        self._reported_at: dict[JobContext, float] = {}
        self._has_news = threading.Event()

    def begin(self, job: "ReceivedJob") -> JobContext:
        """Report that the job is about to run; the returned context may be cancelled already."""
        url = progress_url(job.request.reply_url or "")
        context = JobContext(url, job.attempt, job.check, self._post, self._has_news.set)
        context.report()
        self._reported_at[context] = self._clock()
        self._has_news.set()
        return context

    def end(self, context: JobContext) -> None:
        """Stop reporting a job that does not run any more."""
        self._reported_at.pop(context, None)

    def start(self) -> None:
        """Start the thread. It is a daemon: nothing is lost if it is killed."""
        threading.Thread(target=self.run, name="progress", daemon=True).start()

    def run(self) -> None:
        """Report forever."""
        while True:
            self._has_news.wait(self.turn())
            self._has_news.clear()

    def turn(self) -> float | None:
        """Send the reports that are due; return the seconds until the next, None without jobs."""
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
        pause_seconds = PAUSE_SECONDS if context.has_news else HEARTBEAT_SECONDS
        return self._reported_at.get(context, self._clock()) + pause_seconds
