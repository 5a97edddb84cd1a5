"""RabbitMQ as the worker's broker."""

from collections.abc import Sequence

from contract.catalogue import Catalogue
from contract.rabbitmq import declarations
from worker.brokers.port import SendReply
from worker.brokers.rabbitmq.connection import read_parameters
from worker.brokers.rabbitmq.link import RabbitLink
from worker.brokers.rabbitmq.sender import Publisher, open_reply_sender
from worker.processes.lock_journal import LockJournals


class RabbitMq:
    """Opens connections to the queues of one virtual host."""

    name = "RabbitMQ"
    modules: Sequence[str] = ()

    def __init__(self, url: str, catalogue: Catalogue) -> None:
        """Raise InvalidSetting if the URL is malformed. The queues are those of the catalogue."""
        self._parameters = read_parameters(url)
        self._declarations = declarations(catalogue)

    def open_link(
        self, queue: str, lock_seconds: float, journals: LockJournals | None = None
    ) -> RabbitLink:
        """Return a link to a queue."""
        return RabbitLink(self._parameters, queue, self._declarations, lock_seconds, journals)

    def open_sender(self, queue: str) -> SendReply:
        """Return a function that sends replies to a queue, over a connection of its own."""
        return open_reply_sender(Publisher(self._parameters), queue)
