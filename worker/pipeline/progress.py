"""Report the progress of long-running jobs to the gateway, and stop cancelled jobs.

The model only stores its latest progress. Other threads send the reports of all running jobs, so
that a slow gateway never delays the device. Without progress, a report is sent every few seconds,
because the gateway's answer says whether the job was cancelled: status 410 means that the job must
stop. Each report is a PUT request to the progress URL, which is derived from the reply URL.
"""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from contract.messages import JobRequest, Json, format_time
from contract.names import progress_url
from worker.errors import Cancelled, ChildFailed, InferenceFailed
from worker.inference.loaded_model import check_progress
from worker.pipeline.children import JobChildren
from worker.streams.writer import OpenStream, StreamWriter

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0
FIRST_SECONDS = 0.2
_THREAD_COUNT = 8

Post = Callable[[str, bytes], bool]
"""The type of a function that sends a report to a URL.

The function returns False if the gateway answers that the job must stop, otherwise True.
"""


class JobContext:
    """The context of one running job, which the model gets as a `worker.models.Context`."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it needs of the job and of the reporter
        self,
        request: JobRequest,
        attempt: int,
        check_job: Callable[[], None],
        post: Post,
        wake_reporter: Callable[[], None],
        children: JobChildren,
        stream: OpenStream | None,
    ) -> None:
        self.operation = request.operation
        self.stream = stream
        self._url = progress_url(request.reply_url or "")
        self._attempt = attempt
        self._check_job = check_job
        self._post = post
        self._wake_reporter = wake_reporter
        self._children = children
        self._started_at = format_time(datetime.now(UTC))
        self._sending = threading.Lock()
        self._sequence = 0
        self._state: tuple[float | None, str | None] = (None, None)
        self._cancelled = threading.Event()
        self.has_news = False
        self.hears_orders = False
        """Whether the log of stop orders, and not only the reports, says that the job must stop."""

    @property
    def is_cancelled(self) -> bool:
        """Return whether the gateway has said that the job must stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Record that the gateway has ordered the job to stop."""
        self._cancelled.set()

    def progress(self, fraction: float | None = None, message: str | None = None) -> None:
        """Store the job's progress, from 0 to 1, for the next report. Raises as `check` does."""
        check_progress(fraction, message)
        self.check()
        self._state = (None if fraction is None else float(fraction), message or None)
        if not self.has_news:
            self.has_news = True
            self._wake_reporter()

    def check(self) -> None:
        """Raise Cancelled, LockLost or Expired if the job must stop."""
        if self.is_cancelled:
            raise Cancelled("the job was cancelled while it ran")
        self._check_job()

    @property
    def is_streaming(self) -> bool:
        """Return whether chunks are written to a stream."""
        return self.stream is not None

    def emit(self, chunk: Json) -> None:
        """Write a chunk to the job's stream, if it has one. Raises as `check` does."""
        self.check()
        if (stream := self.stream) is not None:
            stream.emit(chunk)
            if stream.is_full and not _is_in_event_loop():
                stream.wait_for_room(self.check)

    async def wait_for_room(self) -> None:
        """Wait while too much of what was emitted is not written."""
        if self.stream is not None:
            await self.stream.wait_for_room_async()

    def run(
        self, model: str, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Run one job of another model for each input, and return their results in this order."""
        self.check()
        if _is_in_event_loop():
            raise InferenceFailed(
                "context.run would block all jobs of the model; write "
                "`await asyncio.to_thread(context.run, …)`"
            )
        try:
            return self._children.run_child_jobs(model, inputs, parameters or {}, self.check)
        except ChildFailed:
            # The child may be cancelled because this job was cancelled.
            self.send_report()
            self.check()
            raise

    def send_report(self) -> None:
        """Send the latest progress to the gateway, whose answer may cancel the job."""
        with self._sending:
            if self.has_news and self.stream is not None:
                self.stream.report(*self._state)
            self.has_news = False
            self._send()

    def send_last_report(self) -> None:
        """Send the last report, and raise what `check` raises.

        Without news, the report is not sent if the job also hears of its cancellation otherwise.
        """
        if self.has_news or not self.hears_orders:
            self.send_report()
        self.check()

    def report_stopped(self) -> None:
        """Report to the gateway that this worker no longer works on the job."""
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
            self.cancel()


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class ProgressReporter:
    """Sends the progress reports of one model's running jobs, on a thread of its own."""

    def __init__(
        self,
        post: Post,
        children_of: Callable[[str | None], JobChildren],
        clock: Callable[[], float] = time.monotonic,
        streams: StreamWriter | None = None,
    ) -> None:
        self._post = post
        self._children_of = children_of
        self._clock = clock
        self._streams = streams
        self._reported_at: dict[JobContext, float] = {}
        self._has_news = threading.Event()
        self._threads = ThreadPoolExecutor(_THREAD_COUNT, "report")

    def open_context(
        self,
        request: JobRequest,
        attempt: int,
        check_job: Callable[[], None],
        *,
        waits: bool = True,
    ) -> JobContext:
        """Return the context of a job that is about to run, and send the job's first report.

        If the job has a stream, it begins at the same time.
        With `waits`, the report is sent before this method returns, and otherwise later, on the
        thread of the reports, if the job still runs then.
        """
        stream = None
        if request.stream and self._streams is not None:
            stream = self._streams.open_stream(request.job_id, attempt, check_job)
        children = self._children_of(request.reply_url)
        context = JobContext(
            request, attempt, check_job, self._post, self._has_news.set, children, stream
        )
        context.hears_orders = not waits
        if waits:
            context.send_report()
        # A report costs a request, which a job that ends sooner need not have.
        ago_seconds = 0.0 if waits else HEARTBEAT_SECONDS - FIRST_SECONDS
        self._reported_at[context] = self._clock() - ago_seconds
        self._has_news.set()
        return context

    def close_context(self, context: JobContext) -> None:
        """Stop sending reports of a job that no longer runs."""
        self._reported_at.pop(context, None)
        if context.stream is not None:
            context.stream.end_run()

    def start(self) -> None:
        """Start the thread that sends the reports."""
        threading.Thread(target=self.run, name="progress", daemon=True).start()

    def run(self) -> None:
        """Send reports forever."""
        while True:
            self._has_news.wait(self.send_due_reports())
            self._has_news.clear()

    def send_due_reports(self) -> float | None:
        """Send the due reports. Return in how many seconds the next is due; None if no job runs."""
        due = [each for each in list(self._reported_at) if self._due_at(each) <= self._clock()]
        # The jobs of a concurrent model must not wait for each other's reports.
        list(self._threads.map(self._report, due))
        next_at = [self._due_at(context) for context in list(self._reported_at)]
        return max(0.0, min(next_at) - self._clock()) if next_at else None

    def _report(self, context: JobContext) -> None:
        try:
            context.send_report()
        except Exception:  # noqa: BLE001  this thread must not end
            _log.exception(
                "a progress report could not be sent; the next report contains the job's progress"
            )
        if context in self._reported_at:
            self._reported_at[context] = self._clock()

    def _due_at(self, context: JobContext) -> float:
        pause_seconds = PAUSE_SECONDS if context.has_news else HEARTBEAT_SECONDS
        return self._reported_at.get(context, self._clock()) + pause_seconds
