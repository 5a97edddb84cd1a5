"""Publish messages to queues of RabbitMQ, and wait until it has confirmed them."""

import contextlib
import threading
import time
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ConnectionBlockedTimeout, UnroutableError

from contract.media import JSON
from worker.brokers.port import SendReply
from worker.brokers.rabbitmq.connection import ERRORS, HEARTBEAT_SECONDS, connect, describe
from worker.errors import BrokerUnavailable, ReplyForbidden

_CONFIRM_SECONDS: Final = 5.0
# How long a publisher refuses messages after a failure.
_REFUSE_SECONDS: Final = 2.0


class Publisher:
    """Publishes over a connection of its own. Any thread may call `publish`.

    If RabbitMQ has no memory or disk left, it reads nothing from connections that publish, also no
    acknowledgements. So messages are received over other connections.
    """

    def __init__(self, parameters: pika.URLParameters) -> None:
        """Create the object without connecting."""
        self._parameters = parameters
        self._lock = threading.Lock()
        self._channel: BlockingChannel | None = None
        self._used_at = 0.0
        self._refuses_until = 0.0

    def publish(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish a message. Raises BrokerUnavailable, and ReplyForbidden without such a queue.

        After a failure it fails at once for a short time. Otherwise each message would wait again.
        """
        if time.monotonic() < self._refuses_until:
            raise BrokerUnavailable("RabbitMQ has just not confirmed another message")
        self.close_idle()
        with self._lock:
            try:
                # A connection that was idle may have been closed.
                is_old = self._channel is not None
                try:
                    self._publish(queue, body, properties)
                except ERRORS as error:
                    self._close()
                    if isinstance(error, UnroutableError | ConnectionBlockedTimeout) or not is_old:
                        raise
                    self._publish(queue, body, properties)
            except UnroutableError:
                raise ReplyForbidden(f"the queue {queue!r} does not exist") from None
            except (BrokerUnavailable, *ERRORS) as error:
                self._close()
                self._refuses_until = time.monotonic() + _REFUSE_SECONDS
                text = str(error) if isinstance(error, BrokerUnavailable) else describe(error)
                raise BrokerUnavailable(text) from None

    def __del__(self) -> None:
        """Close the connection of a publisher that is not used any more."""
        self._close()

    def close_idle(self) -> None:
        """Close the connection if it was not used for a while: nobody answers its heartbeats."""
        if self._channel is not None and time.monotonic() - self._used_at > HEARTBEAT_SECONDS / 2:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._close()

    def _publish(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        if self._channel is None:
            self._channel = connect(self._parameters).channel()
            self._channel.confirm_delivery()
        # Private: pika waits for a confirmation without a limit. After a restart of RabbitMQ, a
        # queue may confirm nothing for a minute.
        connection: Any = self._channel.connection._impl
        timer = connection._adapter_call_later(
            _CONFIRM_SECONDS, lambda: connection._terminate_stream(_not_confirmed())
        )
        try:
            self._channel.basic_publish("", queue, body, properties, mandatory=True)
        finally:
            if self._channel.is_open:
                connection._adapter_remove_timeout(timer)
        self._used_at = time.monotonic()

    def _close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            with contextlib.suppress(*ERRORS):
                channel.connection.close()


def open_reply_sender(publisher: Publisher, queue: str) -> SendReply:
    """Return a function that sends replies to one queue."""

    def send_reply(body: bytes, job_id: str) -> None:
        publisher.publish(
            queue,
            body,
            pika.BasicProperties(
                content_type=JSON,
                delivery_mode=pika.DeliveryMode.Persistent,
                correlation_id=job_id,
                message_id=job_id,
            ),
        )

    return send_reply


def _not_confirmed() -> ConnectionBlockedTimeout:
    return ConnectionBlockedTimeout("RabbitMQ did not confirm a message in time")
