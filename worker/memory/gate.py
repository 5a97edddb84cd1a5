"""Who may use the device in this process: many at once, or one alone."""

import contextlib
import threading
from collections.abc import Iterator

_PATIENCE_SECONDS = 10.0


class Gate:
    """Passes side by side; one that is alone waits for them, and those who come later for it."""

    def __init__(self, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._patience_seconds = patience_seconds
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
        """Use the device while nobody else in this process does.

        Where somebody stays inside for longer than the patience, use it beside them: a job may
        last minutes, and nobody else gets in meanwhile.
        """
        with self._changed:
            self._alone_waiting += 1
            is_free = self._changed.wait_for(self._is_free, self._patience_seconds)
            self._alone_waiting -= 1
            self._is_alone = self._is_alone or is_free
            self._inside += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._is_alone = self._is_alone and not is_free
                self._changed.notify_all()

    def _is_free(self) -> bool:
        return not self._inside
