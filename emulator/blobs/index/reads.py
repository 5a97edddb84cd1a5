"""Questions to the index about one container or one blob; each is a look-up by key."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.index.records import Blob, Container, Segment, Staged

CONTAINER_COLUMNS = "id, name, etag, modified_us, metadata"
BLOB_COLUMNS = "id, name, size, etag, created_us, modified_us, properties, metadata"


def find_container(db: sqlite3.Connection, name: str) -> Container:
    """The container ``name``; raises ContainerNotFound."""
    row = db.execute(
        f"SELECT {CONTAINER_COLUMNS} FROM container WHERE name = ?",  # noqa: S608 - a constant
        (name,),
    ).fetchone()
    if row is None:
        raise StorageError(ErrorCode.CONTAINER_NOT_FOUND)
    return read_container(row)


def container_id(db: sqlite3.Connection, name: str) -> int:
    """The row of the container ``name``; raises ContainerNotFound."""
    row = db.execute("SELECT id FROM container WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise StorageError(ErrorCode.CONTAINER_NOT_FOUND)
    return int(row[0])


def read_container(row: tuple[Any, ...]) -> Container:
    """A row of ``CONTAINER_COLUMNS``."""
    number, name, etag, modified_us, metadata = row
    return Container(number, name, etag, modified_us, json.loads(metadata))


def look_up_blob(
    db: sqlite3.Connection, container: int, name: str, *, with_data: bool = False
) -> Blob | None:
    """The committed blob ``name``, or None."""
    row = db.execute(
        f"SELECT {BLOB_COLUMNS}{', data' if with_data else ''}"  # noqa: S608 - constants alone
        " FROM blob WHERE container = ? AND name = ?",
        (container, name),
    ).fetchone()
    return None if row is None else read_blob(row)


def find_blob(
    db: sqlite3.Connection, container: str, name: str, *, with_data: bool = False
) -> Blob:
    """The committed blob ``name``; raises ContainerNotFound or BlobNotFound."""
    blob = look_up_blob(db, container_id(db, container), name, with_data=with_data)
    if blob is None:
        raise StorageError(ErrorCode.BLOB_NOT_FOUND)
    return blob


def read_blob(row: tuple[Any, ...]) -> Blob:
    """A row of ``BLOB_COLUMNS``, perhaps with ``data`` after them."""
    number, name, size, etag, created_us, modified_us, properties, metadata, *data = row
    return Blob(
        number,
        name,
        size,
        etag,
        created_us,
        modified_us,
        json.loads(properties),
        json.loads(metadata),
        data[0] if data else None,
    )


def segments(db: sqlite3.Connection, blob: int, start: int, stop: int) -> list[Segment]:
    """The segments of a blob that have bytes of ``[start, stop)``, in order."""
    rows = db.execute(
        "SELECT start, size, content, block_id FROM segment WHERE blob = ? AND start < ?"
        " AND start >= (SELECT max(start) FROM segment WHERE blob = ? AND start <= ?)"
        " ORDER BY start",
        (blob, stop, blob, start),
    )
    return [Segment(*row) for row in rows]


def staged_blocks(db: sqlite3.Connection, container: int, blob: str) -> list[Staged]:
    """The uncommitted blocks of a blob, by block id."""
    rows = db.execute(
        "SELECT block_id, size, content FROM staged WHERE container = ? AND blob = ?"
        " ORDER BY block_id",
        (container, blob),
    )
    return [Staged(*row) for row in rows]


def live_content(db: sqlite3.Connection) -> set[str]:
    """Every content file that the index refers to."""
    rows = db.execute("SELECT content FROM segment UNION SELECT content FROM staged")
    return {row[0] for row in rows}
