"""Query the index for single resources and for pages of a listing."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.index.schema import (
    CURRENT,
    Blob,
    BlobContainer,
    CopyState,
    Segment,
    UncommittedBlock,
)
from emulator.blobs.lease import Lease

CONTAINER_COLUMNS = "id, name, etag, modified_us, metadata, lease"
BLOB_COLUMNS = (
    "id, name, size, etag, created_us, modified_us, properties, metadata, lease, kind,"
    " append_blocks, tags, snapshot, copy"
)


def find_service_properties(db: sqlite3.Connection) -> dict[str, str]:
    """Return the stored properties of the Blob service."""
    return dict(db.execute("SELECT name, element FROM service_property"))


def find_container(db: sqlite3.Connection, name: str) -> BlobContainer:
    """Return the container with this name. Raises StorageError (ContainerNotFound)."""
    row = db.execute(
        f"SELECT {CONTAINER_COLUMNS} FROM container WHERE name = ?",  # noqa: S608 - a constant
        (name,),
    ).fetchone()
    if row is None:
        raise StorageError(ErrorCode.CONTAINER_NOT_FOUND)
    return read_container(row)


def find_container_id(db: sqlite3.Connection, name: str) -> int:
    """Return the row id of a container. Raises StorageError (ContainerNotFound)."""
    row = db.execute("SELECT id FROM container WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise StorageError(ErrorCode.CONTAINER_NOT_FOUND)
    return int(row[0])


def read_container(row: tuple[Any, ...]) -> BlobContainer:
    """Build a container from a row that has the columns in `CONTAINER_COLUMNS`."""
    number, name, etag, modified_us, metadata, lease = row
    return BlobContainer(number, name, etag, modified_us, json.loads(metadata), Lease.decode(lease))


def look_up_blob(
    db: sqlite3.Connection,
    container: int,
    name: str,
    snapshot: str = CURRENT,
    *,
    with_data: bool = False,
) -> Blob | None:
    """Return a committed blob or one of its snapshots, or None if it does not exist."""
    row = db.execute(
        f"SELECT {BLOB_COLUMNS}{', data' if with_data else ''}"  # noqa: S608 - constants alone
        " FROM blob WHERE container = ? AND name = ? AND snapshot = ?",
        (container, name, snapshot),
    ).fetchone()
    return None if row is None else read_blob(row)


def find_blob(
    db: sqlite3.Connection,
    container: str,
    name: str,
    snapshot: str = CURRENT,
    *,
    with_data: bool = False,
) -> Blob:
    """Return a committed blob or snapshot, `with_data` with content from the index, if any.

    Raises StorageError (ContainerNotFound or BlobNotFound).
    """
    parent = find_container_id(db, container)
    blob = look_up_blob(db, parent, name, snapshot, with_data=with_data)
    if blob is None:
        raise StorageError(ErrorCode.BLOB_NOT_FOUND)
    return blob


def read_blob(row: tuple[Any, ...]) -> Blob:
    """Build a blob from a row with the columns `BLOB_COLUMNS` and perhaps `data`."""
    number, name, size, etag, created_us, modified_us, properties, metadata, *rest = row
    lease, kind, append_blocks, tags, snapshot, copy, *data = rest
    return Blob(
        number,
        name,
        size,
        etag,
        created_us,
        modified_us,
        json.loads(properties),
        json.loads(metadata),
        Lease.decode(lease),
        kind,
        append_blocks,
        json.loads(tags),
        snapshot,
        CopyState(**json.loads(copy)) if copy else None,
        data[0] if data else None,
    )


def find_segments(db: sqlite3.Connection, blob: int, start: int, stop: int) -> list[Segment]:
    """Return the segments that contain the bytes `[start, stop)` of a blob, sorted by offset."""
    rows = db.execute(
        "SELECT start, size, content, block_id, data FROM segment WHERE blob = ? AND start < ?"
        " AND start >= (SELECT max(start) FROM segment WHERE blob = ? AND start <= ?)"
        " ORDER BY start",
        (blob, stop, blob, start),
    )
    return [Segment(*row) for row in rows]


def find_uncommitted_blocks(
    db: sqlite3.Connection, container: int, blob: str
) -> list[UncommittedBlock]:
    """Return the uncommitted blocks of a blob, sorted by block id."""
    rows = db.execute(
        "SELECT block_id, size, content FROM staged WHERE container = ? AND blob = ?"
        " ORDER BY block_id",
        (container, blob),
    )
    return [UncommittedBlock(*row) for row in rows]


def find_live_content(db: sqlite3.Connection) -> set[str]:
    """Return the keys of all content files to which the index refers."""
    rows = db.execute("SELECT content FROM segment UNION SELECT content FROM staged")
    return {row[0] for row in rows}


_ROWS_A_QUERY = 500
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class BlobQuery:
    """The query for one page of a listing of blobs.

    The page starts at the name and snapshot `start`. Snapshots precede their blob, from the oldest.
    Names that contain `delimiter` after `prefix` are listed once, as their common prefix.
    """

    prefix: str
    delimiter: str
    start: tuple[str, str]
    limit: int
    with_snapshots: bool = False


@dataclass(frozen=True, slots=True)
class BlobPage:
    """One page of a listing of blobs.

    `entries` contains blobs, and strings for the common prefixes, sorted by name. `next_start` is
    the name and snapshot at which the next page starts, or None if this is the last page.
    """

    entries: list[Blob | str]
    next_start: tuple[str, str] | None


def list_containers(
    db: sqlite3.Connection, prefix: str, start: str, limit: int
) -> tuple[list[BlobContainer], str | None]:
    """Return a page of at most `limit` containers, and the first name of the next, or None."""
    rows = db.execute(
        f"SELECT {CONTAINER_COLUMNS} FROM container"  # noqa: S608 - a constant
        " WHERE name >= ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
        (max(start, prefix), len(prefix), prefix, limit + 1),
    ).fetchall()
    found = [read_container(row) for row in rows]
    return found[:limit], (found[limit].name if len(found) > limit else None)


def list_blobs(db: sqlite3.Connection, container: str, query: BlobQuery) -> BlobPage:
    """Return one page of a container's blobs and common prefixes.

    All other blobs with a common prefix are skipped at once, so their number does not matter.
    Raises StorageError if the container does not exist.
    """
    parent = find_container_id(db, container)
    prefix, limit = query.prefix, query.limit
    entries: list[Blob | str] = []
    cursor: tuple[str, str] | None = max(query.start, (prefix, ""))
    while cursor is not None:
        count = min(limit + 1 - len(entries), _ROWS_A_QUERY)
        rows = _blobs_from(db, parent, cursor, count, with_snapshots=query.with_snapshots)
        cursor = None
        for row in rows:
            blob = read_blob(row)
            name = blob.name
            if not name.startswith(prefix):
                return BlobPage(entries, None)
            if len(entries) == limit:
                return BlobPage(entries, (name, blob.snapshot))
            folded = _folded(name, prefix, query.delimiter)
            if folded is not None:
                entries.append(folded)
                following = find_next_prefix(folded)
                cursor = None if following is None else (following, "")
                break
            entries.append(blob)
            cursor = (name, blob.snapshot + "\0")
    return BlobPage(entries, None)


def _blobs_from(
    db: sqlite3.Connection,
    container: int,
    start: tuple[str, str],
    limit: int,
    *,
    with_snapshots: bool,
) -> list[tuple[Any, ...]]:
    only_current = "" if with_snapshots else f" AND snapshot = '{CURRENT}'"
    return db.execute(
        f"SELECT {BLOB_COLUMNS} FROM blob"  # noqa: S608 - constants alone
        f" WHERE container = ? AND (name, snapshot) >= (?, ?){only_current}"
        " ORDER BY name, snapshot LIMIT ?",
        (container, *start, limit),
    ).fetchall()


def _folded(name: str, prefix: str, delimiter: str) -> str | None:
    if not delimiter:
        return None
    at = name.find(delimiter, len(prefix))
    return None if at < 0 else name[: at + len(delimiter)]


def find_next_prefix(prefix: str) -> str | None:
    """Return the smallest string after every name with this prefix, or None."""
    kept = prefix.rstrip(_LAST)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if 0xD800 <= following <= 0xDFFF:  # surrogates are not characters
        following = 0xE000
    return kept[:-1] + chr(following)
