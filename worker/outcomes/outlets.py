"""Where a reply goes: the gateway that asked, a queue, or somebody's webhook."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol

from contract.catalogue import Catalogue
from contract.errors import ForbiddenAddress
from contract.messages import ReplyQueue, ReplyTo, ReplyUrl, ReplyWebhook
from contract.queues import may_take_replies, names
from contract.webhook import event_id, signed_headers
from worker.errors import BrokerAway, OutboundFailed, ReplyForbidden, ReplyUndelivered
from worker.inputs.payloads import Wait
from worker.messages.servicebus import QueueSender
from worker.outcomes.replies import Replies
from worker.remote.backoff import Backoff
from worker.remote.outbound import Limits, Outbound
from worker.settings import Endpoint

WEBHOOK_SECONDS: Final = 15.0
# How long a producer's outlet is tried in one delivery of the message.
_PRODUCERS_SECONDS: Final = 30.0
_GONE: Final = 410


class Sender(Protocol):
    """Sends one message and waits for the broker's word; BrokerAway or ReplyForbidden."""

    def send(self, body: bytes, job_id: str) -> None:
        """Send."""
        ...


class ReplyQueues:
    """Producers' reply queues, an open sender for each that was used."""

    def __init__(self, endpoint: Endpoint, catalogue: Catalogue) -> None:
        self._make: Callable[[str], Sender] = lambda queue: QueueSender(endpoint, queue)
        self._own = names(catalogue)
        self._senders: dict[str, Sender] = {}
        self._lock = threading.Lock()

    def check(self, queue: str) -> None:
        """Raise ReplyForbidden for what can be no queue of replies."""
        if not may_take_replies(queue, self._own):
            raise ReplyForbidden(f"replies may not go to the queue {queue[:100]!r}")

    def post(self, queue: str, body: bytes, job_id: str, wait: Wait) -> None:
        """Deliver one reply. ReplyUndelivered where `wait` gives up first; ReplyForbidden."""
        with self._lock:
            sender = self._senders.setdefault(queue, self._make(queue))
        backoff = Backoff()
        while True:
            try:
                sender.send(body, job_id)
            except BrokerAway as error:
                if not wait(backoff.next()):
                    raise ReplyUndelivered(f"the reply was not taken: {error}") from None
            else:
                return


class Webhooks:
    """Producers' webhooks: like the gateway's, tried while the message's lock is held."""

    def __init__(self, outbound: Outbound, secrets: tuple[bytes, ...]) -> None:
        self._outbound = outbound
        self._secrets = secrets

    def check(self, url: str) -> None:
        """Raise ReplyForbidden where the URL is not one that we may call."""
        try:
            self._outbound.check(url)
        except ForbiddenAddress as error:
            raise ReplyForbidden(f"the reply's webhook: {error}") from None

    def post(self, url: str, body: bytes, job_id: str, wait: Wait) -> None:
        """Deliver one reply. ReplyUndelivered where `wait` gives up first; ReplyForbidden."""
        backoff = Backoff()
        while (problem := self._posted(url, body, job_id)) is not None:
            if not wait(backoff.next()):
                raise ReplyUndelivered(f"the reply was not taken: {problem}")

    def _posted(self, url: str, body: bytes, job_id: str) -> str | None:
        headers = signed_headers(self._secrets, event_id(job_id), datetime.now(UTC), body)
        try:
            status = self._outbound.exchange(
                "POST", url, headers, body, Limits(0, WEBHOOK_SECONDS)
            ).status
        except ForbiddenAddress as error:
            raise ReplyForbidden(f"the reply's webhook: {error}") from None
        except OutboundFailed as error:
            return str(error)
        return None if status // 100 == 2 or status == _GONE else f"status {status}"


class Outlets:
    """All the ways for a reply. `check` before a job is worked on, `post` after."""

    def __init__(self, replies: Replies, queues: ReplyQueues, webhooks: Webhooks) -> None:
        self._replies = replies
        self._queues = queues
        self._webhooks = webhooks

    def check(self, reply_to: ReplyTo | None) -> None:
        """Raise ReplyForbidden where a reply must not go there."""
        match reply_to:
            case ReplyUrl(url):
                self._replies.check(url)
            case ReplyQueue(queue):
                self._queues.check(queue)
            case ReplyWebhook(url):
                self._webhooks.check(url)

    def post(self, reply_to: ReplyTo | None, body: bytes, job_id: str, wait: Wait) -> None:
        """Deliver one reply; ReplyUndelivered, or a Poison where it will never be taken."""
        match reply_to:
            case ReplyUrl(url):
                self._replies.post(url, body, wait)
            case ReplyQueue(queue):
                self._queues.post(queue, body, job_id, _briefly(wait))
            case ReplyWebhook(url):
                self._webhooks.post(url, body, job_id, _briefly(wait))


def _briefly(wait: Wait) -> Wait:
    """The same, but not for as long: one producer's dead outlet must not hold the others up."""
    ends_at = time.monotonic() + _PRODUCERS_SECONDS
    return lambda seconds: time.monotonic() < ends_at and wait(seconds)
