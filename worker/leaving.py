"""Whether this worker is to leave, why, and what its exit code says then."""

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

EXIT_DEVICE_LOST: Final = 70

_STEP_SECONDS: Final = 0.5


class Leaving:
    """Anyone may ask; the first reason is the one that is told, and no later 0 hides a failure.

    `is_asked` tells whether to receive nothing more and go.
    """

    def __init__(self) -> None:
        # No Event: whose lock a signal could find taken by the very thread that it interrupts.
        self._wishes: SimpleQueue[str] = SimpleQueue()
        self.is_asked = False
        self.reason = ""
        self.exit_code = 0

    def ask(self, reason: str, exit_code: int = 0) -> None:
        """Have the worker drain and exit; also from a signal's handler."""
        self.reason = self.reason or reason
        self.exit_code = self.exit_code or exit_code
        self.is_asked = True
        self._wishes.put(reason)

    def wait(self) -> None:
        """Sleep until somebody asks."""
        # In steps, since Python first hears of a signal that came just before when it wakes up.
        while not self.is_asked:
            with suppress(Empty):
                self._wishes.get(timeout=_STEP_SECONDS)
