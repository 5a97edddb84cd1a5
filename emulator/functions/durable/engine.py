"""The interface of the two durable engines: the default engine and the azure-storage engine.

The interface contains the operations that the management API needs.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence

from emulator.functions.durable import history, records
from emulator.functions.durable.errors import (
    ArgumentInvalid,
    InstanceExists,
    InstanceFinished,
    InstanceMissing,
    InstanceNotFailed,
    OperationInvalid,
)
from emulator.functions.durable.history import EventType
from emulator.functions.durable.instances import (
    OrchestrationInstance,
    Status,
    TaskMessage,
    describe_id_in_use,
    make_id,
)
from emulator.functions.durable.records import Reader
from emulator.functions.durable.runner import (
    FunctionRunner,
    describe_unknown_orchestrator,
    find_name,
)
from emulator.functions.settings import DurableOptions

_log = logging.getLogger(__name__)
_REPLACE_SECONDS = 30.0


def check_failed(instance: OrchestrationInstance) -> None:
    """Raise InstanceNotFailed for an instance that is not Failed: it cannot be rewound."""
    if instance.status is not Status.FAILED:
        raise InstanceNotFailed(
            f"This orchestration has status {instance.status}, but only orchestrations in the "
            '"Failed" state can be rewound.'
        )


def _refuse(instance: OrchestrationInstance, operation: str) -> OperationInvalid:
    """Log that an instance's status does not allow an operation, and return the error."""
    _log.warning(
        "%s: Cannot %s orchestration instance in the %s state.",
        *(instance.id, operation, instance.status),
    )
    return OperationInvalid(
        f"Cannot {operation} the orchestration instance {instance.id} because instance is in the "
        f"{instance.status} state."
    )


class DurableEngine(ABC):
    """A durable engine. Each operation returns when its effect is committed to the database."""

    _runner: FunctionRunner
    _options: DurableOptions

    @abstractmethod
    async def start(self) -> None:
        """Open the database, and continue the unfinished work that it contains."""

    @abstractmethod
    async def drain(self, timeout_seconds: float) -> None:
        """Start no more work, and wait at most `timeout_seconds` for the running one."""

    @abstractmethod
    async def stop(self) -> None:
        """Cancel the episodes that still run, and close the database. The next start continues."""

    @abstractmethod
    def now(self) -> int:
        """Return the current time in microseconds since 1970."""

    @abstractmethod
    def check_writable(self) -> None:
        """Raise StoreUnavailable if the database cannot be written now. Writes nothing."""

    @abstractmethod
    async def get_setting(self, name: str, default: str) -> str:
        """Return a setting of the task hub; without one, store `default`."""

    # Starting

    async def start_new(
        self,
        name: str,
        instance_id: str | None = None,
        input_text: str | None = None,
        version: str | None = None,
    ) -> OrchestrationInstance:
        """Start an instance, and return when the instance is committed.

        It replaces a finished instance with the same id. Without `instance_id`, the id is random;
        without `version`, it is that of host.json. Raises ArgumentInvalid if an app setting
        disables the orchestrator, and InstanceExists if an unfinished instance must not be
        replaced.
        """
        if find_name(self._runner.disabled_orchestrators, name) is not None:
            raise ArgumentInvalid(describe_unknown_orchestrator(self._runner, name))
        if not instance_id:
            instance_id = make_id()
        existing = self._find(instance_id)
        if existing is not None and not existing.is_finished:
            if not self._options.replaces_unfinished:
                raise InstanceExists(describe_id_in_use(existing))
            await self.terminate(instance_id, "A new instance with the same id was started.")
            await self.wait_finished(instance_id, _REPLACE_SECONDS)
            existing = self._find(instance_id)
        now = self.now()
        if version is None:
            version = self._options.default_version
        instance = OrchestrationInstance(
            instance_id, make_id(), name, version, Status.PENDING, input_text, now, now
        )
        if existing is not None:
            instance.shim.generation = (existing.shim.generation or 0) + 1
        await self._commit_start(instance, existing)
        return instance

    @abstractmethod
    async def _commit_start(
        self, instance: OrchestrationInstance, existing: OrchestrationInstance | None
    ) -> None:
        """Commit a new instance, which replaces the finished `existing`, and start to run it."""

    # Reading

    def find(self, instance_id: str) -> OrchestrationInstance:
        """Return the instance with this id. Raises InstanceMissing if no instance has this id."""
        instance = self._find(instance_id)
        if instance is None:
            raise InstanceMissing(f"No instance with ID '{instance_id}' found.")
        return instance

    def find_unfinished(self, instance_id: str) -> OrchestrationInstance:
        """Return an unfinished instance. Raises InstanceMissing or InstanceFinished."""
        instance = self.find(instance_id)
        if instance.is_finished:
            raise InstanceFinished(
                f"The instance {instance_id} accepts no events in the status {instance.status}."
            )
        return instance

    @abstractmethod
    def _find(self, instance_id: str) -> OrchestrationInstance | None:
        """Return the instance with this id, or None if it does not exist."""

    @property
    @abstractmethod
    def _reader(self) -> Reader:
        """Return the database of this engine, for queries."""

    def read_history_of(self, instance: OrchestrationInstance) -> list[str]:
        """Return each episode's events, as JSON texts joined by commas."""
        return records.read_history(self._reader, instance.id)

    def read_page(
        self, condition: records.InstanceFilter, top: str | None, token: str
    ) -> tuple[list[OrchestrationInstance], str]:
        """Return a page of the instances, and the token of the next page, empty after the last."""
        return records.read_page(self._reader, condition, top, token)

    def find_finished(self, condition: records.InstanceFilter) -> list[OrchestrationInstance]:
        """Return the finished instances that match the filter."""
        return records.read_finished(self._reader, condition)

    @abstractmethod
    async def wait_finished(self, instance_id: str, timeout_seconds: float) -> bool:
        """Wait for an instance, and return whether it has finished in time."""

    # Messages

    async def raise_event(self, instance_id: str, name: str, input_text: str) -> None:
        """Send an external event to an instance, and return when the event is committed."""
        instance = self.find_unfinished(instance_id)
        text = history.event_raised(self.now(), name, input_text)
        await self._commit_message(instance, TaskMessage(EventType.EVENT_RAISED, text))

    async def terminate(self, instance_id: str, reason: str | None) -> None:
        """Send a termination message, and return when it is committed."""
        instance = self.find_unfinished(instance_id)
        text = "null" if reason is None else history.json_or_string(reason)
        await self._commit_message(instance, TaskMessage(EventType.EXECUTION_TERMINATED, text))

    async def suspend(self, instance_id: str, reason: str | None) -> None:
        """Suspend an instance, whose messages wait and whose output is `reason`.

        Raises OperationInvalid if it is already suspended.
        """
        instance = self.find_unfinished(instance_id)
        if instance.is_suspended:
            raise _refuse(instance, "suspend")
        message = self._switch_message(EventType.EXECUTION_SUSPENDED, reason)
        await self._commit_switch(instance, Status.SUSPENDED, message, reason)

    async def resume(self, instance_id: str, reason: str | None) -> None:
        """Resume an instance, whose output becomes `reason` if not None.

        Raises OperationInvalid if it is not suspended.
        """
        instance = self.find_unfinished(instance_id)
        if not instance.is_suspended:
            raise _refuse(instance, "resume")
        message = self._switch_message(EventType.EXECUTION_RESUMED, reason)
        await self._commit_switch(instance, Status.RUNNING, message, reason)

    def _switch_message(self, kind: EventType, reason: str | None) -> TaskMessage:
        rest = f',"Reason":{history.quoted_or_null(reason)}'
        return TaskMessage(kind, history.event(kind, self.now(), rest=rest))

    @abstractmethod
    async def _commit_message(self, instance: OrchestrationInstance, message: TaskMessage) -> None:
        """Send a message to an instance, and return when the message is committed."""

    @abstractmethod
    async def _commit_switch(
        self,
        instance: OrchestrationInstance,
        status: Status,
        message: TaskMessage,
        reason: str | None,
    ) -> None:
        """Commit that an instance is suspended or resumed."""

    @abstractmethod
    async def rewind(self, instance_id: str) -> None:
        """Run a failed instance's failed tasks again. Raises OperationInvalid if impossible."""

    @abstractmethod
    async def purge(self, instances: Sequence[OrchestrationInstance]) -> int:
        """Delete finished instances with their histories; return their number."""
