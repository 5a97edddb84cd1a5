"""Which of an instance's dequeued messages its next episode takes, and why not the others."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from emulator.functions.durable.azure_storage.episodes import (
    LoadedInstance,
    parent_of,
    started_child,
)
from emulator.functions.durable.azure_storage.queues import QueueMessage
from emulator.functions.durable.history import EventType
from emulator.functions.durable.model import Status

NO_INSTANCE = "No such instance"
_OUT_OF_ORDER = "Out of order"
_OTHER_EXECUTION = "It belongs to another execution"
_CANCELED = "Its timer was canceled"
# The completion of a task may be dequeued before the history that scheduled the task is saved.
# So it is given back, as often as the provider does it, before it counts as left over.
_PATIENT_DEQUEUES = 5


@dataclass(slots=True)
class Sorted:
    """The instance that the next episode is of, and the messages that it does not take."""

    instance: LoadedInstance | None
    repeated_starts: list[QueueMessage] = field(default_factory=list)
    refused_children: list[QueueMessage] = field(default_factory=list)
    """Those of the repeated starts whose parent must be told that the child's id is taken."""
    early: list[QueueMessage] = field(default_factory=list)
    discarded: dict[str, list[QueueMessage]] = field(default_factory=dict)
    """By reason."""

    @property
    def not_taken(self) -> list[QueueMessage]:
        """All messages but those that the next episode takes."""
        discarded = [message for messages in self.discarded.values() for message in messages]
        return [*self.repeated_starts, *self.early, *discarded]


def sort(instance: LoadedInstance | None, pending: Iterable[QueueMessage]) -> Sorted:
    """Sort the dequeued messages of an instance, as it was loaded."""
    result = Sorted(instance)
    has_start = False
    others = []
    for message in pending:
        if message.kind is not EventType.EXECUTION_STARTED:
            others.append(message)
        elif _accept_start(result, message, has_start=has_start):
            has_start = True
        else:
            result.repeated_starts.append(message)
    for message in others:
        reason = _obstacle(result.instance, message, has_start=has_start)
        if reason is None:
            continue
        is_early = reason in {NO_INSTANCE, _OUT_OF_ORDER} and message.task is not None
        if is_early and message.dequeue_count <= _PATIENT_DEQUEUES:
            result.early.append(message)
        else:
            result.discarded.setdefault(reason, []).append(message)
    return result


def _accept_start(result: Sorted, start: QueueMessage, *, has_start: bool) -> bool:
    instance, parent = result.instance, parent_of(start)
    if instance is not None and start.execution == instance.execution:
        return instance.turn == 0 and not instance.finished and not has_start
    if parent is None:
        return False
    if instance is None or (instance.finished and instance.parent != parent):
        result.instance = started_child(start, instance)
        return True
    if instance.parent != parent:
        result.refused_children.append(start)
    return False


def _obstacle(
    instance: LoadedInstance | None, message: QueueMessage, *, has_start: bool
) -> str | None:
    """Return why an instance's next episode cannot take a message, or None."""
    reason = None
    if instance is None or (instance.status is Status.PENDING and not has_start):
        reason = NO_INSTANCE
    elif instance.finished:
        reason = f"Instance is {instance.status}"
    elif message.execution not in {None, instance.execution}:
        reason = _OTHER_EXECUTION
    elif message.task is None:
        pass
    elif message.task >= instance.shim.next_task:
        reason = _OUT_OF_ORDER
    elif message.kind is EventType.TIMER_FIRED and not instance.shim.awaits_timer(message.task):
        reason = _CANCELED
    return reason
