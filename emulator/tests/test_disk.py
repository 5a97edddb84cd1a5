"""Test that an emulator service refuses changes while its data directory cannot be written."""

import errno
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import ManualClock as BlobClock
from blobs_tests.service.blob_service import open_service
from emulator.blobs.store import AccountStore
from emulator.disk import DiskStatus, is_disk_error
from emulator.functions.durable.errors import StoreUnavailable
from emulator.functions.durable.store import Store
from emulator.program import StartError
from file_sizes import no_space


def sqlite_full(path: Path) -> sqlite3.Error:
    """Return the error that SQLite raises if the disk is full."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("PRAGMA max_page_count=2")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    return caught.value


def test_full_disk_errors_are_recognised(
    tmp_path: Path,
) -> None:
    assert is_disk_error(sqlite_full(tmp_path / "full.db"))
    assert is_disk_error(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_disk_error(OSError(errno.ECONNRESET, "reset"))
    assert not is_disk_error(sqlite3.IntegrityError("UNIQUE"))
    assert not is_disk_error(ValueError())


def test_directory_is_unwritable_until_a_write_succeeds(
    tmp_path: Path,
) -> None:
    now = 0.0
    disk = DiskStatus(tmp_path, lambda: now)
    assert disk.find_problem() == ""
    disk.note_error(ValueError("not about the disk"))
    assert disk.find_problem() == ""

    disk.note_error(sqlite_full(tmp_path / "full.db"))
    with no_space(0):
        assert "cannot be written: File too large" in disk.find_problem()
    # A second check within a second does not try to write.
    assert "cannot be written: File too large" in disk.find_problem()
    now = 1.0
    assert disk.find_problem() == ""
    assert [path.name for path in tmp_path.iterdir()] == ["full.db"]


def test_missing_directory_is_unwritable(tmp_path: Path) -> None:
    assert "cannot be read" in DiskStatus(tmp_path / "missing").find_problem()


async def test_blob_service_is_busy_on_a_full_disk(
    tmp_path: Path,
) -> None:
    async with open_service(tmp_path) as service:
        assert (await service.put("box/before", b"x" * 100_000)).status == 201
        with no_space(0):
            for size in (100, 100_000):
                answer = await service.put("box/blob", b"x" * size)
                assert (answer.status, answer.code) == (503, "ServerBusy")
            # A readiness probe reads the container. Blobs can still be read.
            probe = await service.request("GET", "box", query="restype=container")
            assert (probe.status, probe.code) == (503, "ServerBusy")
            assert (await service.get("box/before")).status == 200
        for size in (100, 100_000):
            assert (await service.put("box/blob", b"x" * size)).status == 201


def test_blob_service_cannot_start_on_a_full_disk(tmp_path: Path) -> None:
    store = AccountStore(tmp_path, BlobClock())
    with no_space(0), pytest.raises(StartError, match="cannot be opened"):
        store.open()


async def test_durable_store_can_be_read_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "durable.db"
    with no_space(0), pytest.raises(StoreUnavailable, match="cannot be opened"):
        Store(path).open()
    store = Store(path)
    store.open()
    key = store.get_setting("key", "first")
    insert = ("INSERT INTO settings VALUES(?, ?)", ("more", "x" * 10_000))
    with no_space(0):
        with pytest.raises(StoreUnavailable):
            await store.write([insert])
        with pytest.raises(StoreUnavailable):
            store.check_writable()
        assert store.get_setting("key", "second") == key == "first"
    await store.write([insert])
    await store.close()
