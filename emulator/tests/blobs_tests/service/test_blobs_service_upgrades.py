"""Test that a store with an older format version is upgraded, and that a newer one is refused."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import ManualClock, open_service
from emulator.blobs.store import AccountStore
from emulator.program import SettingError

KEY = "ab" + "0" * 30
# The tables as the programs with format version 1 and 2 created them.
VERSION_1 = """
CREATE TABLE container (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, etag TEXT NOT NULL,
    modified_us INTEGER NOT NULL, metadata TEXT NOT NULL
) STRICT;
CREATE TABLE blob (
    id INTEGER PRIMARY KEY, container INTEGER NOT NULL REFERENCES container, name TEXT NOT NULL,
    size INTEGER NOT NULL, etag TEXT NOT NULL, created_us INTEGER NOT NULL,
    modified_us INTEGER NOT NULL, properties TEXT NOT NULL, metadata TEXT NOT NULL, data BLOB,
    UNIQUE (container, name)
) STRICT;
CREATE TABLE segment (
    blob INTEGER NOT NULL REFERENCES blob, start INTEGER NOT NULL, size INTEGER NOT NULL,
    content TEXT NOT NULL, block_id TEXT NOT NULL, PRIMARY KEY (blob, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX segment_content ON segment (content);
CREATE TABLE staged (
    container INTEGER NOT NULL REFERENCES container, blob TEXT NOT NULL, block_id TEXT NOT NULL,
    size INTEGER NOT NULL, content TEXT NOT NULL, staged_us INTEGER NOT NULL,
    PRIMARY KEY (container, blob, block_id)
) STRICT, WITHOUT ROWID;
"""
ADDED_BY_2 = """
CREATE TABLE service_property (
    name TEXT PRIMARY KEY, element TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
ROWS = f"""
INSERT INTO container VALUES (1, 'box', '"0x1"', 1, '{{}}');
INSERT INTO blob VALUES (1, 1, 'small', 5, '"0x2"', 1, 2, '{{}}', '{{"a": "1"}}', x'736d616c6c');
INSERT INTO blob VALUES (2, 1, 'large', 5, '"0x3"', 1, 2, '{{}}', '{{}}', NULL);
INSERT INTO segment VALUES (2, 0, 5, '{KEY}', '');
"""


def create_old_store(root: Path, version: int) -> None:
    """Create a data directory with two blobs and the format version `version`."""
    (root / "content" / "ab").mkdir(parents=True)
    (root / "content" / "ab" / KEY).write_bytes(b"large")
    tables = VERSION_1 if version == 1 else VERSION_1 + ADDED_BY_2
    with contextlib.closing(sqlite3.connect(root / "index.sqlite3")) as db:
        db.executescript(f"{tables}{ROWS}PRAGMA user_version={version};")


@pytest.mark.parametrize("version", [1, 2])
async def test_older_store_is_upgraded_with_its_blobs(tmp_path: Path, version: int) -> None:
    create_old_store(tmp_path, version)
    for _ in range(2):
        async with open_service(tmp_path) as service:
            small, large = await service.get("box/small"), await service.get("box/large")
            assert (small.body, large.body) == (b"small", b"large")
            assert (small.headers["ETag"], small.headers["x-ms-meta-a"]) == ('"0x2"', "1")
            assert small.headers["x-ms-lease-state"] == "available"
            assert (await service.put("box/new", b"new")).status == 201
            properties = await service.request("GET", "", query="restype=service&comp=properties")
            assert properties.status == 200


async def test_newer_store_is_refused(tmp_path: Path) -> None:
    create_old_store(tmp_path, 99)
    with pytest.raises(SettingError, match="format version 99, but this program reads only"):
        AccountStore(tmp_path, ManualClock()).open()
