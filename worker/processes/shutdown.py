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
    """Records whether and why shutdown was requested, and with which exit code.

    Any thread or signal handler may request shutdown. If shutdown is requested several times, the
    first reason and the first exit code other than 0 are kept.
    """

    def __init__(self) -> None:
        # Not a threading.Event: the interrupted thread may hold the event's lock when the signal
        # handler runs.
        self._requests: SimpleQueue[str] = SimpleQueue()
        self.is_requested = False
        self.reason = ""
        self.exit_code = 0

    def request(self, reason: str, exit_code: int = 0) -> None:
        """Request that the worker shuts down.

        The worker then stops receiving jobs, finishes its running jobs within a grace period,
        returns the other jobs to their queues, and exits.

        Args:
            reason: Why the worker shuts down, for logs and probes.
            exit_code: The exit code of the worker process.
        """
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
