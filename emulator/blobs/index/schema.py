"""The tables of the index, its connections, and the classes of the rows that queries return."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import ClassVar

from emulator.blobs.lease import (
    BLOB_LEASE_ERRORS,
    CONTAINER_LEASE_ERRORS,
    NO_LEASE,
    Lease,
    LeaseErrors,
)
from emulator.disk import is_disk_error
from emulator.program import SettingError

_VERSION = 4
_BUSY_SECONDS = 10.0
# The content of a small blob is the last column of its row, so that listings do not read it.
_TABLES = """
CREATE TABLE container (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    etag TEXT NOT NULL,
    modified_us INTEGER NOT NULL,
    metadata TEXT NOT NULL
) STRICT;
CREATE TABLE blob (
    id INTEGER PRIMARY KEY,
    container INTEGER NOT NULL REFERENCES container,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    modified_us INTEGER NOT NULL,
    properties TEXT NOT NULL,
    metadata TEXT NOT NULL,
    data BLOB,
    UNIQUE (container, name)
) STRICT;
CREATE TABLE segment (
    blob INTEGER NOT NULL REFERENCES blob,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    content TEXT NOT NULL,
    block_id TEXT NOT NULL,
    PRIMARY KEY (blob, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX segment_content ON segment (content);
CREATE TABLE staged (
    container INTEGER NOT NULL REFERENCES container,
    blob TEXT NOT NULL,
    block_id TEXT NOT NULL,
    size INTEGER NOT NULL,
    content TEXT NOT NULL,
    staged_us INTEGER NOT NULL,
    PRIMARY KEY (container, blob, block_id)
) STRICT, WITHOUT ROWID;
"""
# Added by format version 2. A property is an XML element of Set Blob Service Properties.
_ADDED_BY_2 = """
CREATE TABLE service_property (
    name TEXT PRIMARY KEY,
    element TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""
# Changed by format version 3. `snapshot` is the time of a snapshot, or `current` for the blob
# itself, which is sorted after its snapshots. `lease` is empty, or the lease as JSON. `kind` is the
# blob type. `append_blocks` is the number of blocks of an append blob. `tags` is a JSON object.
# `copy` is empty, or the JSON object of the copy that created the blob.
_CHANGED_BY_3 = """
ALTER TABLE container ADD COLUMN lease TEXT NOT NULL DEFAULT '';
CREATE TABLE new_blob (
    id INTEGER PRIMARY KEY,
    container INTEGER NOT NULL REFERENCES container,
    name TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    modified_us INTEGER NOT NULL,
    properties TEXT NOT NULL,
    metadata TEXT NOT NULL,
    lease TEXT NOT NULL,
    kind TEXT NOT NULL,
    append_blocks INTEGER NOT NULL,
    tags TEXT NOT NULL,
    copy TEXT NOT NULL,
    data BLOB,
    UNIQUE (container, name, snapshot)
) STRICT;
INSERT INTO new_blob
    SELECT id, container, name, 'current', size, etag, created_us, modified_us, properties,
        metadata, '', 'BlockBlob', 0, '{}', '', data
    FROM blob;
DROP TABLE blob;
ALTER TABLE new_blob RENAME TO blob;
"""
# Added by format version 4: the content of a small appended block, whose `content` is empty.
_ADDED_BY_4 = """
ALTER TABLE segment ADD COLUMN data BLOB;
"""
# For each format version, the statements that upgrade it to the next version.
_UPGRADES = (_TABLES, _ADDED_BY_2, _CHANGED_BY_3, _ADDED_BY_4)


def create_index(path: Path) -> None:
    """Create the index's database at `path` if it does not exist.

    A database with an older format version is upgraded. Raises SettingError if the file is not an
    index, or has a newer format version than this program. Raises sqlite3.Error if the disk is full
    or cannot be read.
    """
    try:
        with contextlib.closing(open_writer(path)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if 0 <= version < _VERSION:
                upgrades = "".join(_UPGRADES[version:])
                connection.executescript(
                    f"BEGIN IMMEDIATE;{upgrades}PRAGMA user_version={_VERSION};COMMIT;"
                )
    except sqlite3.DatabaseError as error:
        if is_disk_error(error):
            raise
        raise SettingError(
            f"{path} is not the index of a blob store ({error}): choose another directory with "
            "--data"
        ) from error
    if not 0 <= version <= _VERSION:
        raise SettingError(
            f"{path} has format version {version}, but this program reads only versions up to "
            f"{_VERSION}: use a newer program, or another directory with --data"
        )


def open_writer(path: Path) -> sqlite3.Connection:
    """Return a connection for writing.

    With `synchronous=NORMAL`, a commit survives a kill of the process, but perhaps not a power
    failure.
    """
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Return a read-only connection. Each query reads the last committed state."""
    connection = sqlite3.connect(
        path, isolation_level=None, timeout=_BUSY_SECONDS, check_same_thread=False
    )
    connection.execute("PRAGMA query_only=ON")
    return connection


BLOCK_BLOB, APPEND_BLOB = "BlockBlob", "AppendBlob"
# The value of `snapshot` for a blob that is not a snapshot.
CURRENT = "current"


@dataclass(frozen=True, slots=True)
class CopyState:
    """The copy operation that created a blob. `source` is a URL without its query."""

    id: str
    source: str
    completed_us: int


@dataclass(frozen=True, slots=True)
class BlobContainer:
    """A container of the account.

    `modified_us` is the time of the container's last change, in microseconds since 1970 (UTC).
    """

    id: int
    name: str
    etag: str
    modified_us: int
    metadata: dict[str, str]
    lease: Lease = NO_LEASE

    lease_errors: ClassVar[LeaseErrors] = CONTAINER_LEASE_ERRORS


@dataclass(frozen=True, slots=True)
class Blob:
    """A committed blob, or a snapshot of a blob. Times are in microseconds since 1970 (UTC).

    `snapshot` is its time, or CURRENT for the blob itself. `kind` is `BlockBlob` or `AppendBlob`.
    `data` is the content of a small blob, if the query has read it.
    """

    id: int
    name: str
    size: int
    etag: str
    created_us: int
    modified_us: int
    properties: dict[str, str]
    metadata: dict[str, str]
    lease: Lease = NO_LEASE
    kind: str = BLOCK_BLOB
    append_blocks: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    snapshot: str = CURRENT
    copy: CopyState | None = None
    data: bytes | None = None

    lease_errors: ClassVar[LeaseErrors] = BLOB_LEASE_ERRORS


@dataclass(frozen=True, slots=True)
class NewBlob:
    """The name, properties, metadata, type and tags of a blob that will be committed.

    `now_us` is the time of the request, in microseconds since 1970 (UTC).
    """

    container: str
    name: str
    properties: dict[str, str]
    metadata: dict[str, str]
    now_us: int
    kind: str = BLOCK_BLOB
    tags: dict[str, str] = field(default_factory=dict)
    append_blocks: int = 0
    copy: CopyState | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a blob's content, which is stored in one content file or in the index.

    The part begins at the offset `start` of the blob and has `size` bytes. `content` is the key of
    the content file, or empty if `data` has the bytes. `block_id` is empty if the blob was not
    committed from blocks.
    """

    start: int
    size: int
    content: str
    block_id: str = ""
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class UncommittedBlock:
    """A block that was uploaded but not yet committed by a block list.

    `content` is the key of the content file.
    """

    block_id: str
    size: int
    content: str


@dataclass(frozen=True, slots=True)
class AppendedBlock:
    """A block to append to a blob of `position` bytes, up to `size_max` (None: any size).

    The bytes are in the content file with the key `content`, or in `data`.
    """

    size: int
    content: str
    position: int | None = None
    size_max: int | None = None
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class WriteResult:
    """The result of a write: the new blob, and the keys of the content files to remove.

    The index no longer refers to the content files in `unreferenced`.
    """

    blob: Blob
    unreferenced: tuple[str, ...] = ()


def create_etag() -> str:
    """Return a new random entity tag."""
    return f'"0x8D{token_hex(7).upper()[:13]}"'
