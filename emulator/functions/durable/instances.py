"""Orchestration instances and their messages, in the form in which engines keep them in memory."""

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.functions.durable.errors import ArgumentInvalid
from emulator.functions.durable.history import EventType
from emulator.functions.durable.shim import Shim

_LONGEST_ID = 256
_FORBIDDEN = frozenset("/\\#?")


class Status(StrEnum):
    """The runtime status of an orchestration instance."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    CANCELED = "Canceled"


FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.TERMINATED, Status.CANCELED})


def make_id() -> str:
    """Return a new random id for an instance or an execution, as the Durable extension does."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Parent:
    """The task that waits for a sub-orchestration.

    `id` and `execution` are the instance id and the execution id of the parent orchestration.
    """

    id: str
    execution: str
    task: int


@dataclass(slots=True, eq=False)
class TaskMessage:
    """A message for the next episode of an instance.

    `text` is JSON. It is the reason if the message is a termination, otherwise the history event.

    The message is stored in one of three tables. If `sequence` is set, it is the key of the row of
    the message. If `work` is set, the message is the result of the work item with this key, and is
    stored only as that work item. If a timer has fired, the message is stored only as that timer.
    """

    kind: EventType
    text: str
    task: int | None = None
    execution: str | None = None
    sequence: int | None = None
    work: int | None = None


@dataclass(slots=True, eq=False)
class OrchestrationInstance:
    """One orchestration instance.

    `input`, `output`, `custom_status` and the history are JSON texts, which are not parsed. Times
    are in microseconds since 1970. `episode_count` counts the episodes of the current execution.
    """

    id: str
    execution: str
    name: str
    version: str | None
    status: Status
    input: str | None
    created: int
    updated: int
    parent: Parent | None = None
    output: str | None = None
    custom_status: str | None = None
    episode_count: int = 0
    shim: Shim = field(default_factory=Shim)
    history: list[str] | None = None
    mailbox: deque[TaskMessage] = field(default_factory=deque)
    is_busy: bool = False
    pending_writes: int = 0
    """The number of transactions with messages for this instance that are not committed yet."""
    watchers: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Return whether the status is final."""
        return self.status in FINISHED

    @property
    def is_suspended(self) -> bool:
        """Return whether the instance is suspended. Then only a termination starts an episode."""
        return self.status is Status.SUSPENDED

    @property
    def is_idle(self) -> bool:
        """Return whether the instance has no work. Then it may be removed from memory."""
        fresh = self.episode_count == 0 and not self.is_finished
        return not (self.is_busy or self.mailbox or self.watchers or self.pending_writes or fresh)

    @property
    def size_characters(self) -> int:
        """Return an estimate of how many characters of text the instance has in memory."""
        history = sum(map(len, self.history)) if self.history else 0
        return history + len(self.input or "") + len(self.output or "") + 1000


def check_instance_id(instance_id: str) -> None:
    """Raise ArgumentInvalid if the Durable extension refuses this id."""
    if instance_id.startswith("@"):
        raise ArgumentInvalid("Orchestration instance ids must not start with @.")
    if any(c in _FORBIDDEN or not c.isprintable() for c in instance_id):
        raise ArgumentInvalid(
            "Orchestration instance ids must not contain /, \\, #, ?, or control characters."
        )
    if not 0 < len(instance_id) <= _LONGEST_ID:
        raise ArgumentInvalid(f"Instance ID lengths must not exceed {_LONGEST_ID} characters.")


def describe_id_in_use(existing: OrchestrationInstance) -> str:
    """Return the Durable extension's error message for an id that an unfinished instance uses."""
    return f"An Orchestration instance with the status {existing.status} already exists."
