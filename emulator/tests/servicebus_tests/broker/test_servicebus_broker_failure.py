"""A database that cannot be written: callers hear of it, and memory agrees with the disk."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.errors import MessageStoreError
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.broker.store import checkpoint
from servicebus_tests.broker.broker_harness import World, message, token_of

BIG = "x" * 200_000


async def _open(tmp_path: Path) -> World:
    return await World.open(
        tmp_path, QueueSettings("q", duplicate_detection_window=timedelta(seconds=60))
    )


def _fill_disk(world: World) -> None:
    pages = world.broker._transactions.store._connection.execute("PRAGMA page_count").fetchone()[0]
    world.broker._transactions.store._connection.execute(f"PRAGMA max_page_count={pages}")


def _free_disk(world: World) -> None:
    world.broker._transactions.store._connection.execute("PRAGMA max_page_count=1000000")


async def test_all_callers_of_the_tick_fail_and_nothing_of_it_remains(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    queue = world.queue()
    await queue.send([message("a"), message("b")])
    held = token_of(world.receive())
    _fill_disk(world)
    outcomes = await asyncio.gather(
        queue.send([message(BIG, message_id="1")]),
        queue.complete(held),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [MessageStoreError, MessageStoreError]
    assert world.bodies() == ["a", "b"]
    assert not world.broker._transactions.contents._unwritten
    _free_disk(world)
    # The id is no duplicate, the number is not used up, and the lock still holds.
    assert await queue.send([message("c", message_id="1")]) == [3]
    await queue.complete(held)
    await world.restart()
    assert world.bodies() == ["b", "c"]
    await world.broker.close()


async def test_nothing_is_delivered_that_the_disk_does_not_know(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    inbox = world.receiver(credit=3)
    _fill_disk(world)
    with pytest.raises(MessageStoreError):
        await world.queue().send([message("a"), message(BIG)])
    assert not inbox.deliveries
    assert inbox.subscription.credit == 3
    assert world.bodies() == []
    _free_disk(world)
    for body in "bc":
        await world.queue().send([message(body)])
    world.broker.tick()
    assert inbox.bodies == ["b", "c"]
    await world.broker.close()


async def test_deliveries_wait_until_the_disk_can_be_written(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    await world.queue().send([message("a", time_to_live_seconds=1000)])
    connection = world.broker._transactions.store._connection
    connection.execute("PRAGMA query_only=1")
    inbox = world.receiver(credit=1)
    assert not inbox.deliveries
    assert inbox.subscription.credit == 1
    connection.execute("PRAGMA query_only=0")
    world.broker.tick()
    assert not inbox.deliveries, "the next try is the timer's"
    await world.queue().send([message("b")])
    world.broker.tick()
    assert inbox.bodies == ["a"]
    await world.broker.close()


async def test_the_timer_tries_again(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    await world.queue().send([message("a")])
    connection = world.broker._transactions.store._connection
    connection.execute("PRAGMA query_only=1")
    inbox = world.receiver(credit=1)
    for _ in range(3):
        world.broker._transactions._wake()
        assert inbox.subscription.credit == 1
    connection.execute("PRAGMA query_only=0")
    world.broker._transactions._wake()
    assert inbox.bodies == ["a"]
    await world.broker.close()


async def test_a_caller_that_goes_away_leaves_the_others_alone(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    gone = asyncio.ensure_future(world.queue().send([message("a")]))
    stays = asyncio.ensure_future(world.queue().send([message("b")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == [2]
    assert world.bodies() == ["a", "b"]
    await world.broker.close()


async def test_the_log_is_shortened_while_the_broker_works(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    log = Path(f"{world.database}-wal")
    longest = 0
    for at in range(1500):
        await world.queue().send([message(f"{at}")])
        longest = max(longest, log.stat().st_size)  # noqa: ASYNC240 - a test may look
        if at % 500 == 499:
            await world.broker._transactions._checkpointer.close()
    # Without checkpoints each of these commits would add its pages, of 4 KiB, to the log.
    assert longest < 1000 * 3 * 4096
    checkpoint(world.database, longest_log_pages=0)
    await world.restart()
    assert world.queue().counts().active == 1500
    await world.broker.close()


def test_a_log_that_cannot_be_shortened_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path / "absent" / "broker.sqlite")
    assert "could not be shortened" in caplog.text


async def test_closing_twice_at_once_closes_once(tmp_path: Path) -> None:
    world = await _open(tmp_path)
    for at in range(500):
        await world.queue().send([message(f"{at}")])
    assert world.broker._transactions._checkpointer._running is not None
    await asyncio.gather(world.broker.close(), world.broker.close())
