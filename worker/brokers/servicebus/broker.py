"""Azure Service Bus as the worker's broker."""

from collections.abc import Sequence

from contract.settings import AzureEndpoint
from worker.brokers.port import SendReply
from worker.brokers.servicebus.link import QueueLink, check_endpoint
from worker.brokers.servicebus.sender import QueueSender
from worker.processes.lock_journal import LockJournals


class ServiceBus:
    """Opens connections to the queues of one Service Bus namespace."""

    name = "Service Bus"

    def __init__(self, endpoint: AzureEndpoint) -> None:
        """Raise InvalidSetting if the connection string is malformed."""
        check_endpoint(endpoint)
        self._endpoint = endpoint
        self.modules: Sequence[str] = (
            ("azure.identity",) if endpoint.connection_string is None else ()
        )

    def open_link(
        self, queue: str, lock_seconds: float, journals: LockJournals | None = None
    ) -> QueueLink:
        """Return a link to a queue. Service Bus itself knows how long its locks last."""
        del lock_seconds
        return QueueLink(self._endpoint, queue, journals)

    def open_sender(self, queue: str) -> SendReply:
        """Return a function that sends replies to a queue."""
        return QueueSender(self._endpoint, queue).send_reply
