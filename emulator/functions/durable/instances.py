"""Orchestration instances and their messages, as the engines keep them in memory."""

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from emulator.functions.durable.history import EventType
from emulator.functions.durable.shim import Shim


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
    """Return a new random id for an instance or an execution."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Parent:
    """The parent orchestration of a sub-orchestration.

    `id` and `execution` are the instance id and the execution id of the parent. `task` is the
    number of the parent's task that waits for the sub-orchestration.
    """

    id: str
    execution: str
    task: int


@dataclass(slots=True, eq=False)
class TaskMessage:
    """A message for the next episode of an instance.

    `text` is JSON: a termination's reason, a new instance's properties, or a history event.
    `sequence` and `work` are the keys of its row and of the work item whose result it is, if any.
    """

    kind: EventType
    text: str
    task: int | None = None
    execution: str | None = None
    sequence: int | None = None
    work: int | None = None
    is_pending: bool = False
    """Whether the transaction that inserts the row `sequence` has not ended yet."""

    @property
    def is_stored(self) -> bool:
        """Whether the message has a committed row in the database."""
        return self.sequence is not None and not self.is_pending


@dataclass(slots=True, eq=False)
class OrchestrationInstance:
    """One orchestration instance.

    `input`, `output`, `custom_status` and the history are JSON texts that are not parsed. Times are
    in microseconds since 1970. `episode_count` is the number of episodes of the current execution.
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
    """The received messages in memory that no episode of this instance has used yet."""
    is_busy: bool = False
    pending_writes: int = 0
    """The number of transactions with messages for this instance that are not committed yet."""
    watchers: list[asyncio.Future[None]] = field(default_factory=list)
    attempted_count: int = 0
    """How many messages of the mailbox an episode has attempted in vain while suspended."""

    @property
    def is_finished(self) -> bool:
        """Return whether the status is final."""
        return self.status in FINISHED

    @property
    def is_suspended(self) -> bool:
        """Return whether the instance is suspended."""
        return self.status is Status.SUSPENDED

    @property
    def is_idle(self) -> bool:
        """Return whether the instance may be removed from memory: saved, and nothing waits."""
        fresh = self.episode_count == 0 and not self.is_finished
        return not (self.is_busy or self.mailbox or self.watchers or self.pending_writes or fresh)

    @property
    def size_characters(self) -> int:
        """Return the approximate number of characters in the texts of the instance."""
        history = sum(map(len, self.history)) if self.history else 0
        return history + len(self.input or "") + len(self.output or "") + 1000


def describe_id_in_use(existing: OrchestrationInstance) -> str:
    """Return the Durable extension's error message for an id that an unfinished instance uses."""
    return f"An Orchestration instance with the status {existing.status} already exists."
