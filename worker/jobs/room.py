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
        """Asked before messages are taken; must not block."""
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

    def room(self) -> int:
        """How many messages may be taken now."""
        return self._left(self._normal)

    def room_for_low(self) -> int:
        """How many messages of low priority may be taken now."""
        return self._left(self._normal, self._low)

    def _left(self, *lanes: InHand) -> int:
        if not self._admission.admits():
            return 0
        left = min(
            self._max_batch_size * _BATCHES_AHEAD - sum(len(lane.not_run) for lane in lanes),
            self._max_batch_size * _BATCHES_HELD - sum(lane.busy_count for lane in lanes),
            _MOST_POSTPONED - sum(len(lane.postponed) for lane in lanes),
        )
        return max(0, left)
