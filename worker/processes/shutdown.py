"""Request the shutdown of the worker, and wait for this request."""

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

EXIT_DEVICE_LOST: Final = 70
EXIT_RESTART: Final = 75
"""The exit code of a process that another process must replace, because a model hangs in it."""

_STEP_SECONDS: Final = 0.5


class RestartNeeded(Exception):
    """The process has shut down, and another process must continue its work. The text says why."""


class Shutdown:
    """Records the first reason and exit code of a requested shutdown, from threads or signals."""

    def __init__(self) -> None:
        # Not a threading.Event: the interrupted thread may hold the event's lock when the signal
        # handler runs.
        self._requests: SimpleQueue[str] = SimpleQueue()
        self.is_requested = False
        self.reason = ""
        self.exit_code = 0

    def request(self, reason: str, exit_code: int = 0) -> None:
        """Request that the worker shuts down. The reason is for logs and probes."""
        self.reason = self.reason or reason
        self.exit_code = self.exit_code or exit_code
        self.is_requested = True
        self._requests.put(reason)

    def wait(self) -> None:
        """Sleep until shutdown is requested."""
        # With a timeout: if a signal arrives just before the call, Python runs the signal handler
        # only after the call has returned.
        while not self.is_requested:
            with suppress(Empty):
                self._requests.get(timeout=_STEP_SECONDS)
