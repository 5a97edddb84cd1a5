"""The operations on instances that clients and the management API use, whatever the engine."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted

from emulator.functions.durable import history, records
from emulator.functions.durable.errors import (
    ArgumentInvalid,
    InstanceExists,
    InstanceFinished,
    InstanceMissing,
    OperationInvalid,
)
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import (
    Instance,
    Message,
    Status,
    check_instance_id,
    id_taken,
    new_id,
)
from emulator.functions.durable.records import Reader
from emulator.functions.durable.runner import FunctionRunner, unknown_orchestrator


class DurableEngine(ABC):
    """An engine as its clients see it. What an operation has returned for is in the database."""

    _runner: FunctionRunner

    @abstractmethod
    async def start(self) -> None:
        """Open the database and take up what it holds."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop making turns, and close the database."""

    @abstractmethod
    def now(self) -> int:
        """Return the clock's time in microseconds since 1970."""

    @abstractmethod
    async def setting(self, name: str, default: str) -> str:
        """Return a stored setting, storing the default if there is none."""

    # Starting

    async def start_new(
        self,
        name: str,
        instance_id: str | None = None,
        input_text: str | None = None,
        version: str | None = None,
    ) -> Instance:
        """Start an instance; return once it is safe.

        `input_text` is JSON. A finished instance with the same id is replaced. Raises
        ArgumentInvalid for a bad id or an unknown function, InstanceExists for an unfinished one.
        """
        if name not in self._runner.orchestrators:
            raise ArgumentInvalid(unknown_orchestrator(self._runner, name))
        if not instance_id:
            instance_id = new_id()
        check_instance_id(instance_id)
        existing = self._lookup(instance_id)
        if existing is not None and not existing.is_finished:
            raise InstanceExists(id_taken(existing))
        now = self.now()
        instance = Instance(
            instance_id, new_id(), name, version, Status.PENDING, input_text, now, now
        )
        await self._begin(instance, existing)
        return instance

    @abstractmethod
    async def _begin(self, instance: Instance, existing: Instance | None) -> None:
        """Keep a new instance, in the place of a finished one, and run it."""

    # Reading

    def find(self, instance_id: str) -> Instance:
        """Return an instance; raises InstanceMissing."""
        instance = self._lookup(instance_id)
        if instance is None:
            raise InstanceMissing(f"No instance with ID '{instance_id}' found.")
        return instance

    def find_unfinished(self, instance_id: str) -> Instance:
        """Return an instance; raises InstanceMissing or InstanceFinished."""
        instance = self.find(instance_id)
        if instance.is_finished:
            raise InstanceFinished(f"Instance {instance_id} has the status {instance.status}.")
        return instance

    @abstractmethod
    def _lookup(self, instance_id: str) -> Instance | None:
        """Return an instance, if there is one with this id."""

    @property
    @abstractmethod
    def _reader(self) -> Reader:
        """Return the database for queries."""

    def history_of(self, instance: Instance) -> list[str]:
        """Return an instance's saved events, one text a turn."""
        return records.read_history(self._reader, instance.id)

    def read_page(
        self, condition: records.InstanceFilter, top: str | None, token: str
    ) -> tuple[list[Instance], str]:
        """Return one page of instances and the token for the next, empty after the last."""
        return records.read_page(self._reader, condition, top, token)

    def find_finished(self, condition: records.InstanceFilter) -> list[Instance]:
        """Return the finished instances that match."""
        return records.read_finished(self._reader, condition)

    @abstractmethod
    async def wait_finished(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait until an instance has finished, at most so long; return whether it has."""

    # Messages

    async def raise_event(self, instance_id: str, name: str, input_text: str) -> None:
        """Deliver an external event; return once it is safe. `input_text` is JSON."""
        instance = self.find_unfinished(instance_id)
        text = history.event_raised(self.now(), name, input_text)
        await self._post(instance, Message(EventType.EVENT_RAISED, text))

    async def terminate(self, instance_id: str, reason: str) -> None:
        """End an instance, whatever its orchestrator is doing."""
        instance = self.find_unfinished(instance_id)
        text = history.json_or_string(reason)
        await self._post(instance, Message(EventType.EXECUTION_TERMINATED, text))

    async def suspend(self, instance_id: str, reason: str) -> None:
        """Let an instance take no more turns; its messages wait."""
        instance = self.find_unfinished(instance_id)
        if instance.is_suspended:
            raise OperationInvalid(
                f"Cannot suspend orchestration instance in the {instance.status} state."
            )
        await self._switch(
            instance, Status.SUSPENDED, self._switching(EventType.EXECUTION_SUSPENDED, reason)
        )

    async def resume(self, instance_id: str, reason: str) -> None:
        """Let a suspended instance go on."""
        instance = self.find_unfinished(instance_id)
        if not instance.is_suspended:
            raise OperationInvalid(
                f"Cannot resume orchestration instance in the {instance.status} state."
            )
        await self._switch(
            instance, Status.RUNNING, self._switching(EventType.EXECUTION_RESUMED, reason)
        )

    def _switching(self, kind: EventType, reason: str) -> Message:
        return Message(kind, history.event(kind, self.now(), rest=f',"Reason":{quoted(reason)}'))

    @abstractmethod
    async def _post(self, instance: Instance, message: Message) -> None:
        """Send a message to an instance; return once it is safe."""

    @abstractmethod
    async def _switch(self, instance: Instance, status: Status, message: Message) -> None:
        """Suspend or resume an instance; return once that is safe."""

    @abstractmethod
    async def rewind(self, instance_id: str) -> None:
        """Take a failed instance back to before its failure, and try again what failed."""

    @abstractmethod
    async def purge(self, instances: Sequence[Instance]) -> int:
        """Forget finished instances and their histories; return how many there were."""
