"""Show what the load of a model does, and interrupt the load when the worker shuts down."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from worker.errors import EngineFailed, LoadInterrupted

_log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 0.1
_MAX_CHARACTERS: Final = 500
_MAX_CRASHES: Final = 10
_CRASHES_SECONDS: Final = 600.0


class LoadProgress:
    """The `worker.models.Loading` of a model's loads. Other threads may read `message`."""

    def __init__(
        self,
        model: str,
        is_stopping: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._clock = clock
        self._last_crash = ""
        self._crashed_at = deque[float](maxlen=_MAX_CRASHES)
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

    def begin(self) -> None:
        """Begin a load. Raises EngineFailed after too many crashes."""
        self.message = None
        crashes = self._crashed_at
        if len(crashes) == _MAX_CRASHES and self._clock() < crashes[0] + _CRASHES_SECONDS:
            raise EngineFailed(
                f"{_MAX_CRASHES} crashes in {_CRASHES_SECONDS:.0f} s; the last: {self._last_crash}"
            )

    def reload(self, crash: str = "") -> None:
        """Request that the model is loaded again, when its running jobs have ended."""
        if crash:
            self._last_crash = crash
            self._crashed_at.append(self._clock())
        self.request_reload()

    def wait(self, seconds: float) -> None:
        """Sleep. Raises LoadInterrupted as soon as the worker shuts down."""
        ends_at = time.monotonic() + seconds
        while True:
            self.check()
            if (left_seconds := ends_at - time.monotonic()) <= 0:
                return
            time.sleep(min(left_seconds, _STEP_SECONDS))
