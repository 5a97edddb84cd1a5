"""What a running job's model leaves word with, and hears from that it is to stop."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from contract.messages import format_time
from worker.errors import Cancelled

MAX_MESSAGE_CHARACTERS = 500

Post = Callable[[str, bytes], bool]
"""Puts a report to a URL; False where the job is to stop. True also where nobody can tell."""


class JobContext:
    """See `worker.models.Context`. One job's; the model calls it, the reporter sends."""

    def __init__(
        self,
        url: str | None,
        attempt: int,
        check_job: Callable[[], None],
        post: Post,
        left_word: Callable[[], None],
    ) -> None:
        self._url = url
        self._attempt = attempt
        self._check_job = check_job
        self._post = post
        self._left_word = left_word
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
        self._check_job()

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
