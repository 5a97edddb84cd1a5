"""How a running job tells how far it is, and hears that it was cancelled.

The model only leaves word: one thread reports for all jobs that run, so that a slow gateway never
holds the device up. At most one report is under way for a job and none follows within half a
second; of what comes faster the last is sent. A model that is silent is reported every few seconds
too, since the answer is how it hears of a cancellation.

Protocol: PUT to the progress URL beside the reply URL; 410 means stop, all else go on.
"""

import logging
import threading
import time
from collections.abc import Callable

from contract.names import progress_url
from worker.messages.job import Job
from worker.outcomes.context import JobContext, Post

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0


class Reporter:
    """The reports of one consumer's running jobs. `run` is its thread, `turn` one round of it."""

    def __init__(self, post: Post, clock: Callable[[], float] = time.monotonic) -> None:
        self._post = post
        self._clock = clock
        self._reported_at: dict[JobContext, float] = {}
        self._has_news = threading.Event()

    def begin(self, job: Job) -> JobContext:
        """Tell that the job is about to run, unless it hears that it need not."""
        url = progress_url(job.request.reply_url or "")
        context = JobContext(url, job.attempt, job.check, self._post, self._has_news.set)
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
