"""Whether one more message may be taken: nothing is received that could not soon be run."""

from typing import Protocol

from contract.catalogue import Model
from contract.names import low_priority_queue
from worker.jobs.ledger import InHand, Ledger

# One batch runs while the next is made ready; what awaits its reply or settlement comes on top.
_BATCHES_AHEAD = 2
_BATCHES_HELD = 4
# What waits to be given back takes no place, but a lock and the memory of its message.
_MOST_POSTPONED = 64


class Admission(Protocol):
    """Whether a model may be received for at all: it is loaded and has its memory."""

    def admits(self) -> bool:
        """Asked before every message; must not block."""
        ...


class Room:
    """The room for one model's messages.

    What came with low priority takes no room from the rest, which so always finds it and then
    goes first. The other way round it does.
    """

    def __init__(self, admission: Admission, ledger: Ledger, model: Model) -> None:
        self._admission = admission
        self._max_batch_size = model.max_batch_size
        self._normal = ledger.in_hand(model.queue)
        self._low = ledger.in_hand(low_priority_queue(model.queue))

    def has_room(self) -> bool:
        """Whether one more message may be taken now."""
        return self._admission.admits() and self._fits(self._normal)

    def has_room_for_low(self) -> bool:
        """Whether one more message of low priority may be taken now."""
        return self._admission.admits() and self._fits(self._normal, self._low)

    def _fits(self, *lanes: InHand) -> bool:
        return (
            sum(len(lane.not_run) for lane in lanes) < self._max_batch_size * _BATCHES_AHEAD
            and sum(lane.busy_count for lane in lanes) < self._max_batch_size * _BATCHES_HELD
            and sum(len(lane.postponed) for lane in lanes) < _MOST_POSTPONED
        )
