"""Instances and the messages they receive, as the engine holds them in memory.

The task hub: the instances in memory, and the way by which messages reach them.

Where a turn's activities, timers and sub-orchestrations go: one outbox for each engine.
"""

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
    """The runtime status of an instance."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    COMPLETED = "Completed"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    CANCELED = "Canceled"


FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.TERMINATED, Status.CANCELED})


def new_id() -> str:
    """Make an instance or execution id, as the Durable extension does."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Parent:
    """Who waits for a sub-orchestration: one task of one execution of an instance."""

    id: str
    execution: str
    task: int


@dataclass(slots=True, eq=False)
class Message:
    """Something that happened to an instance and waits for its next turn.

    `text` is the history event; for a termination it is the reason, as JSON text.
    `sequence` is the inbox row which keeps it; `work` is the work row whose result it is, and a
    fired timer is kept by its timer row: these two need no inbox row while a turn follows at once.
    """

    kind: EventType
    text: str
    task: int | None = None
    execution: str | None = None
    sequence: int | None = None
    work: int | None = None


@dataclass(slots=True, eq=False)
class Instance:
    """One orchestration instance. JSON texts stay text; times are microseconds since 1970."""

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
    mailbox: deque[Message] = field(default_factory=deque)
    is_busy: bool = False
    pending_writes: int = 0
    """How many transactions about it are under way."""
    watchers: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether the status is final."""
        return self.status in FINISHED

    @property
    def is_suspended(self) -> bool:
        """Whether turns wait for a resumption; only a termination is taken meanwhile."""
        return self.status is Status.SUSPENDED

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if memory forgets the instance."""
        fresh = self.episode_count == 0 and not self.is_finished
        return not (self.is_busy or self.mailbox or self.watchers or self.pending_writes or fresh)

    @property
    def size_characters(self) -> int:
        """Roughly how many characters the instance holds in memory."""
        history = sum(map(len, self.history)) if self.history else 0
        return history + len(self.input or "") + len(self.output or "") + 1000


def check_instance_id(instance_id: str) -> None:
    """Refuse with ArgumentInvalid an id which the Durable extension refuses."""
    if instance_id.startswith("@"):
        raise ArgumentInvalid("Orchestration instance ids must not start with @.")
    if any(c in _FORBIDDEN or not c.isprintable() for c in instance_id):
        raise ArgumentInvalid(
            "Orchestration instance ids must not contain /, \\, #, ?, or control characters."
        )
    if not 0 < len(instance_id) <= _LONGEST_ID:
        raise ArgumentInvalid(f"Instance ID lengths must not exceed {_LONGEST_ID} characters.")


def id_taken(existing: Instance) -> str:
    """Say that an unfinished instance has an id, as the Durable extension does."""
    return f"An Orchestration instance with the status {existing.status} already exists."
