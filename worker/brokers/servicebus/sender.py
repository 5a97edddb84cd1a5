"""Send replies to the queues of Service Bus."""

import contextlib
from collections.abc import Sequence

from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError, MessagingEntityNotFoundError

from contract.settings import AzureEndpoint
from worker.brokers.replies import CallGatherer
from worker.brokers.servicebus.link import SDK_ERRORS, TRY_SECONDS, make_client
from worker.errors import BrokerUnavailable, ReplyForbidden, error_text

_MAX_TOGETHER = 64
# The replies of one batch are ready within this time, so that one call can send all of them.
_GATHER_SECONDS = 0.002


class QueueSender:
    """Sends replies to one queue over a separate connection. Any thread may call `send_reply`."""

    def __init__(self, endpoint: AzureEndpoint, queue: str) -> None:
        self._endpoint = endpoint
        self._queue = queue
        self._client: ServiceBusClient | None = None
        self._sender: ServiceBusSender | None = None
        self._send = CallGatherer(self._send_together, _MAX_TOGETHER, _GATHER_SECONDS)

    def send_reply(self, body: bytes, job_id: str) -> None:
        """Send a reply, and wait for the confirmation. The job id lets the queue drop duplicates.

        Raises BrokerUnavailable if the caller may try again, ReplyForbidden if there is no such
        queue.
        """
        message = ServiceBusMessage(
            body, content_type="application/json", message_id=job_id, correlation_id=job_id
        )
        self._send(message)

    def _send_together(self, messages: Sequence[ServiceBusMessage]) -> None:
        try:
            sender = self._opened()
            try:
                sender.send_messages(
                    messages[0] if len(messages) == 1 else [*messages], timeout=TRY_SECONDS
                )
            except MessageSizeExceededError:
                # Each single reply fits into one message, because large results are stored as
                # blobs.
                for message in messages:
                    sender.send_messages(message, timeout=TRY_SECONDS)
        except MessagingEntityNotFoundError:
            self._close()
            raise ReplyForbidden(f"the reply queue {self._queue!r} does not exist") from None
        except SDK_ERRORS as error:
            self._close()
            raise BrokerUnavailable(error_text(error)) from None

    def _opened(self) -> ServiceBusSender:
        if self._sender is None:
            self._client = make_client(self._endpoint)
            self._sender = self._client.get_queue_sender(self._queue)
        return self._sender

    def _close(self) -> None:
        client, self._client, self._sender = self._client, None, None
        if client is not None:
            with contextlib.suppress(*SDK_ERRORS):
                client.close()
