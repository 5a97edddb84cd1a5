"""Test failed writes to the database of the broker, and the checkpoints of the database."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.errors import MessageStoreError
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.broker.store import checkpoint
from file_sizes import no_space
from servicebus_tests.broker.broker_harness import RunningBroker, lock_token_of, message

BIG = "x" * 200_000


async def _open(tmp_path: Path) -> RunningBroker:
    return await RunningBroker.open(
        tmp_path, QueueSettings("q", duplicate_detection_window=timedelta(seconds=60))
    )


def _fill_disk(servicebus: RunningBroker) -> None:
    pages = servicebus.broker.transactions.store.connection.execute("PRAGMA page_count").fetchone()[
        0
    ]
    servicebus.broker.transactions.store.connection.execute(f"PRAGMA max_page_count={pages}")


def _free_disk(servicebus: RunningBroker) -> None:
    servicebus.broker.transactions.store.connection.execute("PRAGMA max_page_count=1000000")


async def test_failed_write_fails_all_callers_and_is_undone(
    tmp_path: Path,
) -> None:
    servicebus = await _open(tmp_path)
    queue = servicebus.queue()
    await queue.send([message("a"), message("b")])
    held = lock_token_of(servicebus.receive())
    _fill_disk(servicebus)
    outcomes = await asyncio.gather(
        queue.send([message(BIG, message_id="1")]),
        queue.complete(held),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes] == [MessageStoreError, MessageStoreError]
    assert servicebus.bodies() == ["a", "b"]
    assert not servicebus.broker.transactions.contents.unwritten_bytes
    _free_disk(servicebus)
    # The message id is not a duplicate, the sequence number is unused, and the lock is valid.
    assert await queue.send([message("c", message_id="1")]) == [3]
    await queue.complete(held)
    await servicebus.restart()
    assert servicebus.bodies() == ["b", "c"]
    await servicebus.broker.close()


async def test_check_writable_fails_only_on_a_full_disk(
    tmp_path: Path,
) -> None:
    servicebus = await _open(tmp_path)
    queue = servicebus.queue()
    queue.check_writable()
    with no_space(0):
        with pytest.raises(MessageStoreError):
            await queue.send([message("a")])
        with pytest.raises(MessageStoreError, match="cannot be written"):
            queue.check_writable()
    await queue.send([message("b")])
    queue.check_writable()
    await servicebus.broker.close()


async def test_unwritten_message_is_not_delivered(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    receiver = servicebus.receiver(credit=3)
    _fill_disk(servicebus)
    with pytest.raises(MessageStoreError):
        await servicebus.queue().send([message("a"), message(BIG)])
    assert not receiver.deliveries
    assert receiver.subscription.credit == 3
    assert servicebus.bodies() == []
    _free_disk(servicebus)
    for body in "bc":
        await servicebus.queue().send([message(body)])
    servicebus.broker.transactions.tick()
    assert receiver.bodies == ["b", "c"]
    await servicebus.broker.close()


async def test_deliveries_wait_for_a_writable_database(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    await servicebus.queue().send([message("a", time_to_live_seconds=1000)])
    with servicebus.failing_writes():
        receiver = servicebus.receiver(credit=1)
    assert not receiver.deliveries
    assert receiver.subscription.credit == 1
    servicebus.broker.transactions.tick()
    assert not receiver.deliveries, "only the timer makes the next attempt"
    await servicebus.queue().send([message("b")])
    servicebus.broker.transactions.tick()
    assert receiver.bodies == ["a"]
    await servicebus.broker.close()


async def test_timer_repeats_a_failed_write(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    await servicebus.queue().send([message("a")])
    with servicebus.failing_writes():
        receiver = servicebus.receiver(credit=1)
        for _ in range(3):
            servicebus.retry_write()
            assert receiver.subscription.credit == 1
    servicebus.retry_write()
    assert receiver.bodies == ["a"]
    await servicebus.broker.close()


async def test_cancelled_send_does_not_affect_others(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    gone = asyncio.ensure_future(servicebus.queue().send([message("a")]))
    stays = asyncio.ensure_future(servicebus.queue().send([message("b")]))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == [2]
    assert servicebus.bodies() == ["a", "b"]
    await servicebus.broker.close()


async def test_checkpoints_limit_the_write_ahead_log(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    log = Path(f"{servicebus.database}-wal")
    longest = 0
    for at in range(1500):
        await servicebus.queue().send([message(f"{at}")])
        longest = max(longest, log.stat().st_size)  # noqa: ASYNC240 - a test may block
        if at % 500 == 499:
            await servicebus.broker.transactions.checkpointer.close()
    # Without checkpoints each of these commits would add pages of 4 KiB to the log.
    assert longest < 1000 * 3 * 4096
    checkpoint(servicebus.database, longest_log_pages=0)
    await servicebus.restart()
    assert servicebus.queue().counts().active == 1500
    await servicebus.broker.close()


def test_failed_checkpoint_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint(tmp_path / "absent" / "broker.sqlite")
    assert "the write-ahead log grows" in caplog.text


async def test_concurrent_closes_succeed(tmp_path: Path) -> None:
    servicebus = await _open(tmp_path)
    for at in range(500):
        await servicebus.queue().send([message(f"{at}")])
    assert servicebus.broker.transactions.checkpointer.running is not None
    await asyncio.gather(servicebus.broker.close(), servicebus.broker.close())
