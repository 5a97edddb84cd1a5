"""The tables of a broker's database, and the refusal of a database that is not ours."""

import sqlite3
from pathlib import Path

from emulator.servicebus.broker.errors import SchemaError

APPLICATION_ID = 0x51554555
SCHEMA_VERSION = 1
_BUSY_SECONDS = 0.5

# A message's row holds its content when that is small; otherwise the content has a row of its
# own, because SQLite rewrites a whole row when a lock or a delivery count in it changes.
# Sequence numbers need no index on disk: the broker finds rows by id, and reads them all once.
_TABLES = """
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    settings TEXT NOT NULL,
    next_sequence_number INTEGER NOT NULL
) STRICT;
CREATE TABLE messages (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL,
    enqueue_sequence_number INTEGER NOT NULL,
    enqueued_at_us INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    state INTEGER NOT NULL,
    delivery_count INTEGER NOT NULL,
    time_to_live_us INTEGER,
    scheduled_at_us INTEGER,
    expires_at_us INTEGER,
    lock_token BLOB,
    locked_until_us INTEGER,
    dead_letter_reason TEXT,
    dead_letter_description TEXT,
    header BLOB,
    annotations BLOB,
    bare BLOB
) STRICT;
CREATE TABLE contents (
    id INTEGER PRIMARY KEY,
    header BLOB NOT NULL,
    annotations BLOB NOT NULL,
    bare BLOB NOT NULL
) STRICT;
CREATE TABLE sightings (
    queue INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    seen_at_us INTEGER NOT NULL,
    PRIMARY KEY (queue, sequence_number)
) STRICT, WITHOUT ROWID;
"""


def claim(database: Path) -> sqlite3.Connection:
    """Make sure of being the only broker on this database, until the result is closed.

    The claim is a lock on a file beside it, which the system lets go when the process dies.
    Raises SchemaError.
    """
    try:
        claim = sqlite3.connect(f"{database}.lock", timeout=_BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise SchemaError(f"{database} cannot be opened: {error}") from error
    try:
        claim.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        claim.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise SchemaError(f"{database} is in use by another process") from error
        raise SchemaError(f"{database} cannot be locked: {error}") from error
    return claim


def connect(database: Path) -> sqlite3.Connection:
    """Open the database, and create its tables if the file is new; raises SchemaError."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        _prepare(connection, database)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, database: Path) -> None:
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise SchemaError(f"{database} cannot be read as a database: {error}") from error
    if tables and application_id != APPLICATION_ID:
        raise SchemaError(f"{database} is a database of another program")
    if tables and version != SCHEMA_VERSION:
        raise SchemaError(
            f"{database} has schema version {version}; this broker reads {SCHEMA_VERSION} only"
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # see checkpoint.py
    if not tables:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES}"
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
