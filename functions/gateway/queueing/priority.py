"""How urgent a job is. It decides the queue that the job waits in, and nothing else."""

from enum import StrEnum
from typing import Final

from contract.catalogue import Catalogue, Model
from contract.names import low_priority_queue


class Priority(StrEnum):
    """A worker takes what is low only while what is normal has nothing for it."""

    NORMAL = "normal"
    LOW = "low"

    @property
    def first(self) -> tuple["Priority", ...]:
        """Whose jobs all run before one of this priority."""
        return _FIRST[self]


_FIRST: Final = {Priority.NORMAL: (), Priority.LOW: (Priority.NORMAL,)}


def queue_of(model: Model, priority: Priority) -> str:
    """The queue of a model's jobs of this priority."""
    return low_priority_queue(model.queue) if priority is Priority.LOW else model.queue


def whose(catalogue: Catalogue, queue: str) -> tuple[Model, Priority] | None:
    """The model and the priority that this is the queue of; None where it is another."""
    pairs = ((model, priority) for model in catalogue.values() for priority in Priority)
    return next((pair for pair in pairs if queue_of(*pair) == queue), None)
