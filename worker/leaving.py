"""Whether this worker is to leave, why, and what its exit code says then."""

import threading
from typing import Final

EXIT_DEVICE_LOST: Final = 70


class Leaving:
    """Anyone may ask; the first reason is the one that is told, and no later 0 hides a failure."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self.reason = ""
        self.exit_code = 0

    @property
    def is_asked(self) -> bool:
        """Whether to receive nothing more and go."""
        return self._asked.is_set()

    def ask(self, reason: str, exit_code: int = 0) -> None:
        """Have the worker drain and exit."""
        self.reason = self.reason or reason
        self.exit_code = self.exit_code or exit_code
        self._asked.set()

    def wait(self) -> None:
        """Sleep until somebody asks."""
        self._asked.wait()
