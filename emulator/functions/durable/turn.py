"""A turn in the making: the messages it takes, and what it will have to write."""

from collections.abc import Callable
from dataclasses import dataclass, field

from emulator.functions.durable import history, records
from emulator.functions.durable.history import EventType
from emulator.functions.durable.model import Instance, Message
from emulator.functions.durable.shim import Shim
from emulator.functions.durable.store import Statement

FAILURES = frozenset({EventType.TASK_FAILED, EventType.CHILD_FAILED})


@dataclass(slots=True)
class Turn:
    """What a turn has to write, and what follows once it is written."""

    instance: Instance
    batch: list[Message]
    now: int
    shim: Shim
    events: list[str] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    effects: list[Callable[[], None]] = field(default_factory=list)
    children: list[Instance] = field(default_factory=list)

    @property
    def news(self) -> str:
        """The events so far, as the items of a JSON list."""
        return ",".join(self.events)


def ready(instance: Instance) -> bool:
    """Whether a turn is to be made."""
    if instance.finished:
        return False
    if instance.suspended:
        return termination_of(instance) is not None
    return bool(instance.mailbox) or instance.turn == 0


def termination_of(instance: Instance) -> Message | None:
    """Return the message that ends the instance at once, if there is one."""
    for message in instance.mailbox:
        if message.kind is EventType.EXECUTION_TERMINATED:
            return message
    return None


def take(instance: Instance) -> list[Message]:
    """Take messages until a second one would move a retry (see the shim)."""
    batch: list[Message] = []
    shim, mailbox = instance.shim, instance.mailbox
    while mailbox:
        message = mailbox[0]
        moves = shim.moves_retry(message.task, failed=message.kind in FAILURES)
        if moves and batch:
            break
        batch.append(mailbox.popleft())
    return batch


def begin(instance: Instance, batch: list[Message], now: int) -> Turn:
    """Begin a turn with the events that open it; the messages are consumed with its commit."""
    turn = Turn(instance, batch, now, instance.shim.copy())
    turn.events.append(history.event(EventType.ORCHESTRATOR_STARTED, now))
    if instance.turn == 0:
        parent_id = instance.parent.id if instance.parent else None
        turn.events.append(
            history.execution_started(
                now,
                instance.name,
                instance.version,
                instance.input,
                instance.id,
                instance.execution,
                parent_id,
            )
        )
    for message in batch:
        turn.statements.extend(records.consume(instance.id, message))
    return turn
