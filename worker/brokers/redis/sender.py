"""Send replies to streams of Redis."""

import threading
from typing import Any

from contract.brokers import BrokerMessage
from contract.redis_queues import DUPLICATES_MS, SEND, fields_of, queue_key, sent_key
from worker.brokers.redis.connection import ERRORS, open_client, unavailable
from worker.errors import ReplyForbidden


class StreamSender:
    """Sends replies to one queue over a connection of its own. Any thread may call `send_reply`."""

    def __init__(self, url: str, queue: str) -> None:
        """Create the object without connecting."""
        self._url = url
        self._queue = queue
        self._lock = threading.Lock()
        self._script: Any = None

    def send_reply(self, body: bytes, job_id: str) -> None:
        """Send a reply. Raises BrokerUnavailable, and ReplyForbidden without such a queue."""
        fields = fields_of(BrokerMessage(body, job_id, job_id))
        with self._lock:
            try:
                if self._script is None:
                    self._script = open_client(self._url).register_script(SEND)
                found = self._script(
                    keys=[queue_key(self._queue), sent_key(self._queue, job_id)],
                    args=[DUPLICATES_MS, 0, *fields],
                )
            except ERRORS as error:
                self._script = None
                raise unavailable(error) from None
        if found < 0:
            raise ReplyForbidden(f"the reply queue {self._queue!r} does not exist")
