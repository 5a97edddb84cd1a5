"""A turn in the making: the messages it takes, and what it will have to write."""

from collections.abc import Callable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Protocol

from emulator.functions.durable import history
from emulator.functions.durable.actions import ContinueAsNew
from emulator.functions.durable.history import EventType
from emulator.functions.durable.model import Instance, Message, Parent, Status, new_id
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


class Endings(Protocol):
    """Saves a turn in one of the ways in which it can end."""

    async def go_on(self, turn: Turn, custom_status: str | None) -> None:
        """Let the instance wait for what it has asked for."""
        ...

    async def finish(
        self, turn: Turn, status: Status, output: str | None, reason: str, custom_status: str | None
    ) -> None:
        """Give the instance its final status. `output` is JSON, `reason` what its parent hears."""
        ...

    async def continue_as_new(
        self, turn: Turn, command: ContinueAsNew, custom_status: str | None
    ) -> None:
        """Begin again with a new input, an empty history and no timers."""
        ...


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
    """Begin a turn with the events that open it."""
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
    return turn


def close_events(turn: Turn) -> str:
    """End the turn's events; return their text as the next turn replays it."""
    turn.events.append(history.event(EventType.ORCHESTRATOR_COMPLETED, turn.now))
    return history.played(turn.news)


def renew(turn: Turn, command: ContinueAsNew, custom_status: str | None) -> Instance:
    """Return the next execution of an instance that continues as new."""
    instance = turn.instance
    return Instance(
        instance.id,
        new_id(),
        instance.name,
        instance.version,
        Status.SUSPENDED if instance.suspended else Status.RUNNING,
        # The SDK's JSON text travels as one string, which its `get_input` decodes again.
        quoted(command.input),
        instance.created,
        turn.now,
        instance.parent,
        custom_status=custom_status,
    )


def child_ended(
    now: int, parent: Parent, status: Status, output: str | None, reason: str
) -> Message:
    """Return the message by which a parent learns how its sub-orchestration ended."""
    if status is Status.COMPLETED:
        kind = EventType.CHILD_COMPLETED
        text = history.succeeded(kind, now, parent.task, output)
    else:
        kind = EventType.CHILD_FAILED
        text = history.failed(kind, now, parent.task, reason, "")
    return Message(kind, text, parent.task, parent.execution)
