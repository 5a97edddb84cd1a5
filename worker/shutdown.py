"""The worker's shutdown: whether it was requested, why, and the exit code."""

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

EXIT_DEVICE_LOST: Final = 70

_STEP_SECONDS: Final = 0.5


class Shutdown:
    """A request to shut down. Any thread, and a signal handler, may make it.

    The first reason is kept. A later exit code of 0 does not replace a failure's.
    """

    def __init__(self) -> None:
        # Not an Event: the interrupted thread may hold its lock when the signal handler runs.
        self._requests: SimpleQueue[str] = SimpleQueue()
        self.is_requested = False
        self.reason = ""
        self.exit_code = 0

    def request(self, reason: str, exit_code: int = 0) -> None:
        """Request that the worker drains and exits."""
        self.reason = self.reason or reason
        self.exit_code = self.exit_code or exit_code
        self.is_requested = True
        self._requests.put(reason)

    def wait(self) -> None:
        """Sleep until shutdown is requested."""
        # In steps: Python runs the handler of a signal that arrived just before only after a step.
        while not self.is_requested:
            with suppress(Empty):
                self._requests.get(timeout=_STEP_SECONDS)
