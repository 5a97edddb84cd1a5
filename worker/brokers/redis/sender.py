"""Send replies to streams of Redis."""

from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import NoScriptError

from contract.brokers import BrokerMessage
from contract.redis_queues import DUPLICATES_MS, SEND, fields_of, send_keys
from worker.brokers.redis.connection import ERRORS, open_client
from worker.brokers.replies import CallGatherer
from worker.errors import BrokerUnavailable, ReplyForbidden, error_text

_MAX_TOGETHER: Final = 64


class StreamSender:
    """Sends replies to one queue over a connection of its own. Any thread may call `send_reply`.

    The replies that wait while a request runs are sent together by the next one.
    """

    def __init__(self, url: str, queue: str) -> None:
        """Create the object without connecting."""
        self._url = url
        self._queue = queue
        self._client: Any = None
        self._sha = ""
        self._send = CallGatherer(self._send_together, _MAX_TOGETHER)

    def send_reply(self, body: bytes, job_id: str) -> None:
        """Send a reply. Raises BrokerUnavailable, and ReplyForbidden without such a queue."""
        self._send(BrokerMessage(body, job_id, job_id))

    def _send_together(self, messages: Sequence[BrokerMessage]) -> None:
        try:
            if self._client is None:
                self._client = open_client(self._url)
                self._sha = self._client.script_load(SEND)
            found = self._run_pipeline(messages)
            if any(isinstance(each, NoScriptError) for each in found):
                # Redis was restarted, and has run none of these.
                self._sha = self._client.script_load(SEND)
                found = self._run_pipeline(messages)
            for each in found:
                if isinstance(each, Exception):
                    # All are sent again, and Redis drops those that it has.
                    raise each
        except ERRORS as error:
            self._client = None
            raise BrokerUnavailable(error_text(error)) from None
        if any(each < 0 for each in found):
            raise ReplyForbidden(f"the reply queue {self._queue!r} does not exist")

    def _run_pipeline(self, messages: Sequence[BrokerMessage]) -> list[Any]:
        with self._client.pipeline(transaction=False) as pipeline:
            for message in messages:
                keys = send_keys(self._queue, message.message_id)
                args = DUPLICATES_MS, 0, *fields_of(message)
                pipeline.evalsha(self._sha, len(keys), *keys, *args)
            return list(pipeline.execute(raise_on_error=False))
