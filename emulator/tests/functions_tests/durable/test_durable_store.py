"""Tests of the default engine's database transactions and checkpoints, and of its timer queue."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.functions.durable import store as store_module
from emulator.functions.durable.errors import DatabaseForeign, StoreUnavailable
from emulator.functions.durable.history import to_micros
from emulator.functions.durable.store import Store
from emulator.functions.durable.timers import TimerQueue
from file_sizes import no_space
from functions_tests.durable.durable_host import make_host
from manual_clock import ManualClock

INSERT = "INSERT INTO settings VALUES(?, ?)"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "s.db")
    made.open()
    yield made
    made.abandon()


async def test_failed_write_does_not_affect_others(store: Store) -> None:
    good = store.write([(INSERT, ("a", "1"))])
    bad = store.write([(INSERT, ("b", "1")), (INSERT, ("a", "2"))])
    late = store.write([(INSERT, ("c", "1"))])
    await good
    with pytest.raises(StoreUnavailable):
        await bad
    await late
    assert store.read("SELECT name FROM settings ORDER BY name") == [("a",), ("c",)]


async def test_write_of_a_cancelled_waiter_is_committed_and_reported(store: Store) -> None:
    reported = asyncio.get_running_loop().create_future()
    waiting = store.write([(INSERT, ("a", "1"))], reported.set_result)
    waiting.cancel()
    assert await reported
    assert store.read("SELECT name FROM settings") == [("a",)]


async def test_failed_write_is_reported_before_its_waiter_runs(store: Store) -> None:
    reports: list[bool] = []
    with pytest.raises(StoreUnavailable):
        await store.write([(INSERT, ("a", "1")), (INSERT, ("a", "2"))], reports.append)
    assert reports == [False]


async def test_writes_of_one_iteration_share_a_commit(
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


async def test_checkpoints_limit_the_write_ahead_log(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COMMITS_PER_CHECKPOINT", 10)
    log = tmp_path / "s.db-wal"
    for n in range(300):
        await store.write([(INSERT, (str(n), "x" * 10_000))])
        if store.running_checkpoint is not None:
            await store.running_checkpoint
    assert log.stat().st_size < 2_000_000
    assert (tmp_path / "s.db").stat().st_size > 2_000_000


def test_another_schema_version_is_refused(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "t.db")
    other.open()
    other.abandon()
    with contextlib.closing(sqlite3.connect(tmp_path / "t.db")) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(DatabaseForeign):
        Store(tmp_path / "t.db").open()


@pytest.mark.parametrize("name", ["t.db", "t.db.lock"])
def test_refusal_of_a_foreign_file_releases_the_lock(tmp_path: Path, name: str) -> None:
    foreign = tmp_path / name
    foreign.write_text("These are the notes of another program. " * 200)
    content = foreign.read_bytes()
    store = Store(tmp_path / "t.db")
    with pytest.raises(DatabaseForeign, match="cannot be opened: file is not a database"):
        store.open()
    assert foreign.read_bytes() == content
    foreign.unlink()
    with contextlib.closing(sqlite3.connect(tmp_path / "t.db.lock", timeout=0)) as other_host:
        other_host.execute("BEGIN EXCLUSIVE")
    store.open()
    store.abandon()


def test_path_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.db").mkdir()
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        Store(tmp_path / "t.db").open()


def test_failed_read_raises_store_unavailable(tmp_path: Path, store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="no such table: absent"):
        store.read("SELECT 1 FROM absent")
    with no_space(0), pytest.raises(StoreUnavailable, match="disk I/O error"):
        store.get_setting("new", "1")
    store.abandon()
    with pytest.raises(StoreUnavailable, match="The database is closed"):
        store.read("SELECT 1")


@pytest.mark.parametrize("engine", ["local", "azure-storage"])
async def test_damaged_database_raises_an_error_at_the_start(tmp_path: Path, engine: str) -> None:
    host = make_host(tmp_path, engine)
    await host.start()
    await host.stop()
    (database,) = tmp_path.glob("*.db")  # noqa: ASYNC240 - a test may block
    # The pages behind the header of the file.
    with database.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (database.stat().st_size - 100))
    with pytest.raises((StoreUnavailable, DatabaseForeign), match="malformed"):
        await host.start()
    await host.kill()


async def test_timers_fire_in_order_and_never_early() -> None:
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
    assert len(timers.heap) < 100
    timers.close()
