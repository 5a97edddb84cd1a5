"""Keep instances in memory, and deliver messages to them."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from emulator.clock import UtcClock
from emulator.functions.durable.episodes import make_child_completion
from emulator.functions.durable.errors import StoreUnavailable
from emulator.functions.durable.history import to_micros
from emulator.functions.durable.instances import OrchestrationInstance, Parent, Status, TaskMessage
from emulator.functions.durable.records import consume, insert_message, read_history, read_instance
from emulator.functions.durable.store import Statement, Store

_log = logging.getLogger(__name__)


class InstanceCache:
    """Keeps instances in memory, loads other instances from the store, and delivers messages.

    The state of an instance in memory may be newer than its state in the store. If the texts of the
    instances in memory have more than `memory_characters` characters in total, idle instances are
    removed from memory. The least recently used instance is removed first.
    """

    def __init__(self, store: Store, clock: UtcClock) -> None:
        self.store = store
        self._clock = clock
        self._instances: OrderedDict[str, OrchestrationInstance] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._size_characters = 0
        self.memory_characters = 8_000_000
        self._sequence = 0
        self.wake: Callable[[OrchestrationInstance], None] = lambda _: None
        self.retry_later: Callable[[Callable[[], None]], None] = lambda _: None
        """Calls its argument after a pause. `deliver` uses it if the store cannot be read."""

    def now(self) -> int:
        """Return the current time in microseconds since 1970."""
        return to_micros(self._clock.now())

    def set_last_number(self, after: int) -> None:
        """Set the highest row number in use to `after`, so that `next_number` continues from it."""
        self._sequence = after

    def next_number(self) -> int:
        """Return the number for a new row in the inbox table or the work table."""
        self._sequence += 1
        return self._sequence

    def find(self, instance_id: str) -> OrchestrationInstance | None:
        """Return the instance with this id from memory or from the store, or None."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            self._instances.move_to_end(instance_id)
            return instance
        instance = read_instance(self.store, instance_id)
        if instance is not None:
            self.put(instance)
        return instance

    def get_cached(self, instance_id: str) -> OrchestrationInstance | None:
        """Return the instance with this id if the instance is in memory, otherwise None."""
        return self._instances.get(instance_id)

    def list_cached(self) -> list[OrchestrationInstance]:
        """Return the instances that are in memory."""
        return list(self._instances.values())

    def put(self, instance: OrchestrationInstance) -> None:
        """Add an instance to memory, or replace the instance with the same id."""
        self._instances[instance.id] = instance
        self._instances.move_to_end(instance.id)
        self.update_size(instance)

    def drop(self, instance: OrchestrationInstance) -> None:
        """Remove an instance from memory, unless a new one with the same id has replaced it."""
        if self._instances.get(instance.id) is instance:
            del self._instances[instance.id]
            self._size_characters -= self._sizes.pop(instance.id)

    def update_size(self, instance: OrchestrationInstance) -> None:
        """Record an instance's size, and remove idle instances if memory holds too much."""
        if self._instances.get(instance.id) is not instance:
            return
        size_characters = instance.size_characters
        self._size_characters += size_characters - self._sizes.get(instance.id, 0)
        self._sizes[instance.id] = size_characters
        if self._size_characters <= self.memory_characters:
            return
        excess = self._size_characters - self.memory_characters
        removed = []
        for other in self._instances.values():
            if excess <= 0:
                break
            if other.is_idle and other is not instance:
                removed.append(other)
                excess -= self._sizes[other.id]
        for other in removed:
            self.drop(other)

    def load_history(self, instance: OrchestrationInstance) -> list[str]:
        """Return each episode's events, as JSON texts joined by commas."""
        if instance.history is None:
            instance.history = (
                read_history(self.store, instance.id) if instance.episode_count else []
            )
        return instance.history

    def deliver(self, instance_id: str, message: TaskMessage) -> None:
        """Put a committed message into an instance's mailbox, and start an episode if it is ready.

        Delete a message for an ended execution. Try again later if the store cannot be read.
        """
        try:
            instance = self.find(instance_id)
        except StoreUnavailable as problem:
            _log.error(
                "a message to instance %s could not be delivered; the engine tries again: %s",
                *(instance_id, problem),
            )
            self.retry_later(lambda: self.deliver(instance_id, message))
            return
        if (
            instance is None
            or instance.is_finished
            or message.execution not in {None, instance.execution}
        ):
            self.store.write(list(consume(instance_id, message)))
            return
        instance.mailbox.append(message)
        if instance.is_suspended:
            self.persist_results(instance)
        self.wake(instance)

    def persist_results(self, instance: OrchestrationInstance) -> None:
        """Write the activity results in an instance's mailbox to the inbox table.

        Call this if the instance cannot run an episode now: a restart would repeat the activities.
        """
        for message in instance.mailbox:
            if message.work is not None and message.sequence is None:
                work, delete_work = message.work, list(consume(instance.id, message))
                message.sequence = self.next_number()
                message.work = None
                message.is_pending = True
                written = self.store.write([insert_message(instance.id, message), *delete_work])
                written.add_done_callback(partial(_end_write, message, work))

    def prepare_completion_for_parent(
        self, parent: Parent, status: Status, output: str | None, reason: str
    ) -> tuple[list[Statement], Callable[[], None]]:
        """Return the statements that store a child's end, and the function that delivers it."""
        message = make_child_completion(self.now(), parent, status, output, reason)
        message.sequence = self.next_number()
        return [insert_message(parent.id, message)], lambda: self.deliver(parent.id, message)


def _end_write(message: TaskMessage, work: int, written: asyncio.Future[None]) -> None:
    """Mark a message as stored, or restore its work item for the next episode to delete."""
    message.is_pending = False
    if written.cancelled() or written.exception() is not None:
        message.sequence, message.work = None, work
