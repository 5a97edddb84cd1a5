"""Show what the load of a model does, and interrupt the load when the worker shuts down."""

import logging
import time
from collections.abc import Callable
from typing import Final

from worker.errors import LoadInterrupted

_log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 0.1
_MAX_CHARACTERS: Final = 500


class LoadProgress:
    """The `worker.models.Loading` of one load. Other threads may read `message`."""

    def __init__(self, model: str, is_stopping: Callable[[], bool] = lambda: False) -> None:
        self._model = model
        self._is_stopping = is_stopping
        self.message: str | None = None
        """What the load does now; None before it has said so."""
        self.request_reload: Callable[[], None] = lambda: None
        """Makes the thread that runs the model unload and load it."""

    def progress(self, message: str) -> None:
        """Store and log what the load does now. Raises as `check` does."""
        self.check()
        if message != self.message:
            self.message = message[:_MAX_CHARACTERS]
            _log.info("%s: loading the model: %s", self._model, message)

    def check(self) -> None:
        """Raise LoadInterrupted if the worker shuts down."""
        if self._is_stopping():
            raise LoadInterrupted("the worker shuts down while it loads the model")

    def reload(self) -> None:
        """Request that the model is loaded again, when its running jobs have ended."""
        self.request_reload()

    def wait(self, seconds: float) -> None:
        """Sleep. Raises LoadInterrupted as soon as the worker shuts down."""
        ends_at = time.monotonic() + seconds
        while True:
            self.check()
            if (left_seconds := ends_at - time.monotonic()) <= 0:
                return
            time.sleep(min(left_seconds, _STEP_SECONDS))
