"""Redis as the worker's broker."""

from collections.abc import Sequence

from worker.brokers.port import SendReply
from worker.brokers.redis.connection import check_url
from worker.brokers.redis.link import RedisLink
from worker.brokers.redis.sender import StreamSender
from worker.processes.lock_journal import LockJournals


class RedisBroker:
    """Opens connections to the queues in one Redis."""

    name = "Redis"
    modules: Sequence[str] = ()

    def __init__(self, url: str) -> None:
        """Raise InvalidSetting if the URL is malformed."""
        check_url(url)
        self._url = url

    def open_link(
        self, queue: str, lock_seconds: float, journals: LockJournals | None = None
    ) -> RedisLink:
        """Return a link to a queue."""
        return RedisLink(self._url, queue, lock_seconds, journals)

    def open_sender(self, queue: str) -> SendReply:
        """Return a function that sends replies to a queue."""
        return StreamSender(self._url, queue).send_reply
