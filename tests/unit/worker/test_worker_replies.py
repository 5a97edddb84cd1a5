"""Test which reply addresses are allowed, and how long replies are cached."""

from dataclasses import replace

import pytest

from contract.catalogue import Catalogue
from contract.messages import ReplyQueue, ReplyUrl
from tests.unit.worker.received import locked_message
from worker.brokers.port import LockedMessage, SendReply
from worker.brokers.replies import QueueReplies
from worker.errors import ReplyForbidden
from worker.replies import GatewayClient, ReplyCache, ReplySenders


def open_sender(queue: str) -> SendReply:
    raise AssertionError(f"no test sends to {queue}")


@pytest.fixture
def senders() -> ReplySenders:
    return ReplySenders(
        GatewayClient(frozenset({"127.0.0.1:1"})),
        QueueReplies(open_sender, Catalogue.load()),
    )


@pytest.mark.parametrize(
    "reply_to",
    [
        ReplyUrl("http://127.0.0.1:2/v1/jobs/a/reply"),
        ReplyUrl("http://127.0.0.1:1/v1/models/noop/jobs"),
        ReplyQueue("noop"),
        ReplyQueue("NOOP"),
        ReplyQueue("noop/$DeadLetterQueue"),
    ],
)
def test_forbidden_address_is_refused(
    senders: ReplySenders, reply_to: ReplyUrl | ReplyQueue
) -> None:
    with pytest.raises(ReplyForbidden):
        senders.check_reply_address(reply_to)


def test_allowed_address_is_accepted(senders: ReplySenders) -> None:
    for reply_to in (None, ReplyQueue("replies")):
        senders.check_reply_address(reply_to)
    senders.send_reply(None, b"{}", "job", lambda seconds: False)


DELIVERY = locked_message(queue="queue", sequence_number=7)


def numbered(number: int) -> LockedMessage:
    return replace(DELIVERY, sequence_number=number)


class TimedCache:
    def __init__(self, limit_bytes: int = 10_000, limit_seconds: float = 60.0) -> None:
        self.now = 0.0
        self.cache = ReplyCache(limit_bytes, limit_seconds, lambda: self.now)

    def found(self, *numbers: int) -> list[int]:
        return [number for number in numbers if self.cache.find_reply(numbered(number))]


def test_reply_to_a_redelivered_message_is_found() -> None:
    timed = TimedCache()
    timed.cache.cache_reply(DELIVERY, b"reply", "succeeded")
    again = timed.cache.find_reply(replace(DELIVERY, delivery_count=3))
    assert again is not None
    assert (again.body, again.code, again.is_delivered) == (b"reply", "succeeded", False)
    assert timed.cache.find_reply(replace(DELIVERY, sequence_number=8)) is None
    assert timed.cache.find_reply(replace(DELIVERY, queue="queue-low")) is None


def test_delivered_reply_loses_its_body() -> None:
    timed = TimedCache()
    timed.cache.mark_delivered(DELIVERY)
    assert timed.cache.find_reply(DELIVERY) is None
    timed.cache.cache_reply(DELIVERY, b"reply", "succeeded")
    timed.cache.mark_delivered(DELIVERY)
    again = timed.cache.find_reply(DELIVERY)
    assert again is not None
    assert (again.body, again.is_delivered) == (b"", True)
    timed.cache.remove_reply(DELIVERY)
    assert timed.cache.find_reply(DELIVERY) is None
    timed.cache.remove_reply(DELIVERY)


def test_oldest_replies_are_evicted_first() -> None:
    timed = TimedCache(limit_bytes=10_000)
    for number in range(5):
        timed.cache.cache_reply(numbered(number), bytes(3000), "succeeded")
    assert timed.found(*range(5)) == [3, 4]
    timed.cache.cache_reply(numbered(9), bytes(20_000), "succeeded")
    assert timed.found(*range(10)) == [], "replies larger than the cache are not stored"
    for number in range(100):
        timed.cache.cache_reply(numbered(number), b"", "succeeded")
    assert len(timed.found(*range(100))) == 20, "each small reply also needs a minimum of space"


def test_reply_that_ends_frees_its_space() -> None:
    timed = TimedCache(limit_bytes=10_000)
    for _ in range(50):
        timed.cache.cache_reply(numbered(1), bytes(4000), "succeeded")
        timed.cache.cache_reply(numbered(2), bytes(4000), "succeeded")
        timed.cache.mark_delivered(numbered(2))
        timed.cache.remove_reply(numbered(2))
    assert timed.found(1) == [1]


def test_old_replies_are_evicted() -> None:
    timed = TimedCache(limit_seconds=60.0)
    timed.cache.cache_reply(numbered(1), b"", "succeeded")
    timed.now = 59.0
    timed.cache.cache_reply(numbered(2), b"", "succeeded")
    assert timed.found(1, 2) == [1, 2]
    timed.now = 61.0
    assert timed.found(1, 2) == [2]
