"""Open connections to RabbitMQ with pika, and translate its errors."""

import logging
import ssl
from typing import Final

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, ChannelWrongStateError

from contract.errors import InvalidSetting
from worker.errors import BrokerUnavailable, QueueMissing

TRY_SECONDS: Final = 10.0
"""The time limit for opening a connection and for a request."""

HEARTBEAT_SECONDS: Final = 20
"""How often both sides send a heartbeat. A side that hears nothing twice closes the connection."""

# If the other machine vanishes, the kernel ends the connection after about this time.
_TCP_OPTIONS: Final = {
    "TCP_KEEPIDLE": 10,
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 30_000,
}
# How long to publish to a RabbitMQ that has no memory or disk left.
_BLOCKED_SECONDS: Final = 5.0
_NOT_FOUND: Final = 404
_PRECONDITION_FAILED: Final = 406

_log = logging.getLogger(__name__)

# pika logs each failed attempt with a traceback, and raises it too.
logging.getLogger("pika").setLevel(logging.CRITICAL)

ERRORS = (AMQPError, OSError, AssertionError, ValueError, KeyError, IndexError, AttributeError)
"""What pika raises: its own errors, and built-in ones if a connection ends during a call."""


def read_parameters(url: str) -> pika.URLParameters:
    """Return the parameters of a connection. Raises InvalidSetting without the URL in its text."""
    try:
        parameters = pika.URLParameters(url)
    except (ValueError, KeyError, TypeError, ssl.SSLError):
        raise InvalidSetting(
            "BROKER_URL is invalid: expected amqps://USER:PASSWORD@HOST:PORT/VHOST"
        ) from None
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.socket_timeout = parameters.stack_timeout = TRY_SECONDS
    # If memory or disk run out, RabbitMQ reads nothing more from who publishes.
    parameters.blocked_connection_timeout = _BLOCKED_SECONDS
    parameters.tcp_options = _TCP_OPTIONS
    parameters.connection_attempts = 1
    return parameters


def connect(parameters: pika.URLParameters) -> pika.BlockingConnection:
    """Return an open connection. Raises BrokerUnavailable."""
    try:
        return pika.BlockingConnection(parameters)
    except ERRORS as error:
        raise BrokerUnavailable(describe(error)) from None


def declare(
    connection: pika.BlockingConnection, queue: str, arguments: dict[str, object] | None
) -> BlockingChannel:
    """Declare a queue, and return a new channel. Raises QueueMissing.

    Without `arguments`, the queue must exist. A queue that exists with other arguments is used as
    it is: only an operator can delete it, when it is empty.
    """
    try:
        channel = connection.channel()
        channel.queue_declare(queue, passive=arguments is None, durable=True, arguments=arguments)
    except ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:
            raise QueueMissing(f"the queue {queue} does not exist") from None
        if error.reply_code != _PRECONDITION_FAILED or arguments is None:
            raise BrokerUnavailable(describe(error)) from None
        _log.warning(
            "the queue %s exists with other arguments, and is used as it is; to change them, "
            "delete the queue when it is empty: %s",
            *(queue, error.reply_text),
        )
        return declare(connection, queue, None)
    return channel


def describe(error: BaseException) -> str:
    """Return what an error says. pika's errors do not contain the URL."""
    if isinstance(error, ChannelWrongStateError):
        return "the connection is closed"
    text = str(error) or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
