"""Whether a service that we need answers: said in one log line a change, not one a try."""

import logging
import threading

_log = logging.getLogger(__name__)


class Reach:
    """What we last saw of one service. Any thread may report."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._answers: bool | None = None

    @property
    def answers(self) -> bool:
        """Whether the last contact succeeded."""
        return bool(self._answers)

    def lost(self, reason: object) -> None:
        """Report a failure."""
        if self._change(answers=False):
            _log.warning("%s does not answer, trying on: %s", self._service, reason)

    def found(self) -> None:
        """Report a success."""
        if self._answers is not True and self._change(answers=True):
            _log.info("%s answers", self._service)

    def _change(self, *, answers: bool) -> bool:
        with self._lock:
            changed = self._answers is not answers
            self._answers = answers
            return changed
