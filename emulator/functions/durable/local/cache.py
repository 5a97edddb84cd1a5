"""The task hub: the instances in memory, and the way by which messages reach them."""

from collections import OrderedDict
from collections.abc import Callable

from emulator.functions.clock import Clock
from emulator.functions.durable.episodes import child_completion
from emulator.functions.durable.history import micros
from emulator.functions.durable.instances import Instance, Message, Parent, Status
from emulator.functions.durable.records import consume, insert_message, read_history, read_instance
from emulator.functions.durable.store import Statement, Store


class InstanceCache:
    """Finds instances, in memory or in the store, and delivers messages to them.

    An instance in memory is the one truth about it: the store follows. Idle instances are
    forgotten, the longest unused first, once they hold more than `memory_characters` together.
    """

    def __init__(self, store: Store, clock: Clock, memory_characters: int = 64_000_000) -> None:
        self.store = store
        self._clock = clock
        self._instances: OrderedDict[str, Instance] = OrderedDict()
        self._weights: dict[str, int] = {}
        self._weight = 0
        self._memory_characters = memory_characters
        self._sequence = 0
        self.wake: Callable[[Instance], None] = lambda _: None

    def now(self) -> int:
        """Return the clock's time in microseconds since 1970."""
        return micros(self._clock.now())

    def start_numbering(self, after: int) -> None:
        """Number inbox and work rows from here."""
        self._sequence = after

    def number(self) -> int:
        """Return the number of the next inbox or work row."""
        self._sequence += 1
        return self._sequence

    def find(self, instance_id: str) -> Instance | None:
        """Return an instance, if there is one with this id."""
        instance = self._instances.get(instance_id)
        if instance is not None:
            self._instances.move_to_end(instance_id)
            return instance
        instance = read_instance(self.store, instance_id)
        if instance is not None:
            self.put(instance)
        return instance

    def get_cached(self, instance_id: str) -> Instance | None:
        """Return an instance if it is in memory."""
        return self._instances.get(instance_id)

    def put(self, instance: Instance) -> None:
        """Hold an instance in memory, in the place of one with the same id."""
        self._instances[instance.id] = instance
        self._instances.move_to_end(instance.id)
        self.update_size(instance)

    def drop(self, instance: Instance) -> None:
        """Forget an instance, unless another has taken its id."""
        if self._instances.get(instance.id) is instance:
            del self._instances[instance.id]
            self._weight -= self._weights.pop(instance.id)

    def update_size(self, instance: Instance) -> None:
        """Note that an instance has grown; forget idle ones if memory is full."""
        if self._instances.get(instance.id) is not instance:
            return
        weight = instance.size_characters
        self._weight += weight - self._weights.get(instance.id, 0)
        self._weights[instance.id] = weight
        if self._weight <= self._memory_characters:
            return
        excess = self._weight - self._memory_characters
        forgotten = []
        for other in self._instances.values():
            if excess <= 0:
                break
            if other.is_idle and other is not instance:
                forgotten.append(other)
                excess -= self._weights[other.id]
        for other in forgotten:
            self.drop(other)

    def history(self, instance: Instance) -> list[str]:
        """Return an instance's past events, one text a turn."""
        if instance.history is None:
            instance.history = (
                read_history(self.store, instance.id) if instance.episode_count else []
            )
        return instance.history

    def deliver(self, instance_id: str, message: Message) -> None:
        """Put a message, which the store has, in its instance's mailbox; drop it if late."""
        instance = self.find(instance_id)
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

    def persist_results(self, instance: Instance) -> None:
        """Keep results of activities for which no turn can be made now, so that none runs twice."""
        for message in instance.mailbox:
            if message.work is not None and message.sequence is None:
                delete_work = list(consume(instance.id, message))
                message.sequence = self.number()
                message.work = None
                self.store.write([insert_message(instance.id, message), *delete_work])

    def prepare_completion_for_parent(
        self, parent: Parent, status: Status, output: str | None, reason: str
    ) -> tuple[list[Statement], Callable[[], None]]:
        """Return how to tell a parent that its child ended: the statements, and what follows."""
        message = child_completion(self.now(), parent, status, output, reason)
        message.sequence = self.number()
        return [insert_message(parent.id, message)], lambda: self.deliver(parent.id, message)
