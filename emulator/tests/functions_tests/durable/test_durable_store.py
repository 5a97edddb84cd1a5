"""The store's transactions and checkpoints, and the heap of timers."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.functions.durable import store as store_module
from emulator.functions.durable.errors import DatabaseForeign, StoreUnavailable
from emulator.functions.durable.history import to_micros
from emulator.functions.durable.store import Store
from emulator.functions.durable.timers import TimerQueue
from functions_tests.durable.durable_host import ManualClock

INSERT = "INSERT INTO settings VALUES(?, ?)"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "s.db")
    made.open()
    yield made
    made.abandon()


async def test_a_failed_transaction_does_not_fail_the_others(store: Store) -> None:
    good = store.write([(INSERT, ("a", "1"))])
    bad = store.write([(INSERT, ("b", "1")), (INSERT, ("a", "2"))])
    late = store.write([(INSERT, ("c", "1"))])
    await good
    with pytest.raises(StoreUnavailable):
        await bad
    await late
    assert store.read("SELECT name FROM settings ORDER BY name") == [("a",), ("c",)]


async def test_writes_of_one_tick_share_a_commit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    commit = store.commit

    def count() -> None:
        nonlocal commits
        commits += 1
        commit()

    monkeypatch.setattr(store, "commit", count)
    await asyncio.gather(*(store.write([(INSERT, (str(n), ""))]) for n in range(50)))
    assert commits == 1
    assert store.read("SELECT count(*) FROM settings") == [(50,)]


async def test_the_write_ahead_log_is_checkpointed(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_COMMITS_PER_CHECKPOINT", 10)
    log = tmp_path / "s.db-wal"
    for n in range(300):
        await store.write([(INSERT, (str(n), "x" * 10_000))])
        if store._checkpoint is not None:
            await store._checkpoint
    assert log.stat().st_size < 2_000_000
    assert (tmp_path / "s.db").stat().st_size > 2_000_000


def test_a_foreign_database_is_not_changed(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "t.db")
    other.open()
    assert other._connection is not None
    other._connection.execute("PRAGMA user_version=99")
    other.abandon()
    with pytest.raises(DatabaseForeign):
        Store(tmp_path / "t.db").open()


async def test_timers_fire_in_order_and_only_when_due() -> None:
    clock = ManualClock()
    timers = TimerQueue(clock)
    now = to_micros(clock.now())
    fired: list[int] = []
    for n in (3, 1, 2):
        timers.set(n, now + n * 1_000_000, lambda n=n: fired.append(n))  # type: ignore[misc] # a lambda with a default
    timers.cancel(2)
    clock.moment += timedelta(seconds=2.9)
    timers.fire_due()
    assert fired == [1]
    clock.moment += timedelta(seconds=0.1)
    timers.fire_due()
    assert fired == [1, 3]
    timers.close()


async def test_cancelled_timers_leave_the_heap() -> None:
    clock = ManualClock()
    timers = TimerQueue(clock)
    for n in range(10_000):
        timers.set(n, to_micros(clock.now()) + 10**9, lambda: None)
        timers.cancel(n)
    assert len(timers) == 0
    assert len(timers._heap) < 100
    timers.close()
