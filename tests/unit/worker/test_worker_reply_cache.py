"""Replies at hand: whose they are, and that they are not kept for ever."""

from dataclasses import replace
from typing import Any, cast

from worker.replies import ReplyCache
from worker.servicebus.link import Delivery

DELIVERY = Delivery(b"", 0, None, None, {}, "job", cast(Any, None), "queue", 7)


def numbered(number: int) -> Delivery:
    return replace(DELIVERY, sequence_number=number)


class World:
    def __init__(self, limit_bytes: int = 10_000, limit_seconds: float = 60.0) -> None:
        self.now = 0.0
        self.cache = ReplyCache(limit_bytes, limit_seconds, lambda: self.now)

    def found(self, *numbers: int) -> list[int]:
        return [number for number in numbers if self.cache.find(numbered(number))]


def test_the_same_message_finds_its_reply_and_no_other_does() -> None:
    world = World()
    world.cache.put(DELIVERY, b"reply", "succeeded")
    again = world.cache.find(replace(DELIVERY, delivery_count=3))
    assert again is not None
    assert (again.body, again.code, again.is_delivered) == (b"reply", "succeeded", False)
    assert world.cache.find(replace(DELIVERY, sequence_number=8)) is None
    assert world.cache.find(replace(DELIVERY, queue="queue-low")) is None


def test_once_delivered_there_is_only_the_message_to_settle() -> None:
    world = World()
    world.cache.mark_delivered(DELIVERY)
    assert world.cache.find(DELIVERY) is None
    world.cache.put(DELIVERY, b"reply", "succeeded")
    world.cache.mark_delivered(DELIVERY)
    again = world.cache.find(DELIVERY)
    assert again is not None
    assert (again.body, again.is_delivered) == (b"", True)
    world.cache.remove(DELIVERY)
    assert world.cache.find(DELIVERY) is None
    world.cache.remove(DELIVERY)


def test_the_oldest_go_when_space_is_short() -> None:
    world = World(limit_bytes=10_000)
    for number in range(5):
        world.cache.put(numbered(number), bytes(3000), "succeeded")
    assert world.found(*range(5)) == [3, 4]
    world.cache.put(numbered(9), bytes(20_000), "succeeded")
    assert world.found(*range(10)) == [], "what is too large for all of it is not kept"
    for number in range(100):
        world.cache.put(numbered(number), b"", "succeeded")
    assert len(world.found(*range(100))) == 20, "small ones cost something, too"


def test_space_is_free_again_after_what_is_forgotten_delivered_or_kept_anew() -> None:
    world = World(limit_bytes=10_000)
    for _ in range(50):
        world.cache.put(numbered(1), bytes(4000), "succeeded")
        world.cache.put(numbered(2), bytes(4000), "succeeded")
        world.cache.mark_delivered(numbered(2))
        world.cache.remove(numbered(2))
    assert world.found(1) == [1]


def test_none_is_kept_for_ever() -> None:
    world = World(limit_seconds=60.0)
    world.cache.put(numbered(1), b"", "succeeded")
    world.now = 59.0
    world.cache.put(numbered(2), b"", "succeeded")
    assert world.found(1, 2) == [1, 2]
    world.now = 61.0
    assert world.found(1, 2) == [2]
