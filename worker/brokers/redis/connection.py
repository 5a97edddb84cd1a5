"""Open connections to Redis, and translate the errors of its client."""

import logging
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from contract.errors import InvalidSetting
from contract.redis_queues import GROUP, queue_key

TRY_SECONDS: Final = 10.0
"""The time limit for opening a connection and for a request."""

ERRORS = (RedisError, OSError)
"""What the client raises. Its texts may contain the address, but no password."""

_log = logging.getLogger(__name__)


def check_url(url: str) -> None:
    """Raise InvalidSetting if the URL is malformed. Its text does not contain the URL."""
    try:
        redis.ConnectionPool.from_url(url)
    except (ValueError, TypeError):
        raise InvalidSetting(
            "BROKER_URL is invalid: expected rediss://:PASSWORD@HOST:PORT/NUMBER"
        ) from None


def open_client(url: str) -> Any:
    """Return a client with one connection, which is open."""
    return redis.Redis.from_url(
        url,
        single_connection_client=True,
        socket_timeout=TRY_SECONDS,
        socket_connect_timeout=TRY_SECONDS,
        socket_keepalive=True,
        # The caller tries again, and knows which requests it may repeat.
        retry=Retry(NoBackoff(), 0),
    )


def make_queue(client: Any, queue: str) -> None:
    """Create the stream and the group of a queue unless they exist."""
    try:
        client.xgroup_create(queue_key(queue), GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
