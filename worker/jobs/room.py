"""Whether one more message may be taken: nothing is received that could not soon be run."""

from typing import Protocol

from worker.jobs.ledger import Ledger

# One batch runs while the next is made ready; what awaits its reply or settlement comes on top.
_BATCHES_AHEAD = 2
_BATCHES_HELD = 4


class Admission(Protocol):
    """Whether a model may be received for at all: it is loaded and has its memory."""

    def admits(self) -> bool:
        """Asked before every message; must not block."""
        ...


class Room:
    """The room for one model's messages."""

    def __init__(self, admission: Admission, ledger: Ledger, max_batch_size: int) -> None:
        self._admission = admission
        self._ledger = ledger
        self._max_batch_size = max_batch_size

    def has_room(self) -> bool:
        """Whether one more message may be taken now."""
        return (
            self._admission.admits()
            and self._ledger.not_run_count < self._max_batch_size * _BATCHES_AHEAD
            and self._ledger.held_count < self._max_batch_size * _BATCHES_HELD
        )
