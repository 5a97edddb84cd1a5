"""Who may use the device in this process: many at once, or one alone."""

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Passes side by side; one that is alone waits for them, and those who come later for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone_waiting = 0
        self._is_alone = False

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Use the device while others may."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._is_alone or self._alone_waiting))
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Use the device while nobody else in this process does."""
        with self._changed:
            self._alone_waiting += 1
            self._changed.wait_for(lambda: not (self._is_alone or self._inside))
            self._alone_waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
