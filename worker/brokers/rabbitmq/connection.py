"""Open connections to RabbitMQ with pika, and translate its errors."""

import copy
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

_HEARTBEAT_SECONDS: Final = 20
_NOT_FOUND: Final = 404

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
    parameters.heartbeat = _HEARTBEAT_SECONDS
    parameters.socket_timeout = parameters.stack_timeout = TRY_SECONDS
    # If memory or disk run out, RabbitMQ reads nothing more from who publishes.
    parameters.blocked_connection_timeout = TRY_SECONDS
    parameters.connection_attempts = 1
    return parameters


def connect(
    parameters: pika.URLParameters, *, has_heartbeat: bool = True
) -> pika.BlockingConnection:
    """Return an open connection. Raises BrokerUnavailable."""
    if not has_heartbeat:
        parameters = copy.copy(parameters)
        parameters.heartbeat = 0
    try:
        return pika.BlockingConnection(parameters)
    except ERRORS as error:
        raise BrokerUnavailable(describe(error)) from None


def declare(
    connection: pika.BlockingConnection, queue: str, arguments: dict[str, object] | None
) -> BlockingChannel:
    """Declare a queue, and return a new channel. Raises QueueMissing.

    Without `arguments`, the queue must exist.
    """
    try:
        channel = connection.channel()
        channel.queue_declare(queue, passive=arguments is None, durable=True, arguments=arguments)
    except ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:
            raise QueueMissing(f"the queue {queue} does not exist") from None
        raise BrokerUnavailable(
            f"the queue {queue} cannot be declared; delete it, or give it the arguments in "
            f"docs/how-to/brokers.md: {error.reply_text}"
        ) from None
    return channel


def describe(error: BaseException) -> str:
    """Return what an error says. pika's errors do not contain the URL."""
    if isinstance(error, ChannelWrongStateError):
        return "the connection is closed"
    text = str(error) or repr(error)
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
