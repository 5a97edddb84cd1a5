"""Read and write the broker's SQLite database. Committed changes survive a kill of the process."""

import asyncio
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from emulator.servicebus.broker.authorization import (
    AuthorizationRule,
    read_rights,
    sorted_rights,
)
from emulator.servicebus.broker.errors import MessageStoreError, SchemaError
from emulator.servicebus.broker.message import (
    IncomingMessage,
    Lock,
    MessageRecord,
    MessageState,
    PropertyChanges,
)
from emulator.servicebus.broker.queue_state import SeenMessageId, SessionState
from emulator.servicebus.broker.settings import (
    QueueSettings,
    QueueStatus,
    SubscriptionSettings,
    TopicSettings,
)
from emulator.servicebus.broker.subscription_rules import rule_from_values, rule_to_values

APPLICATION_ID = 0x51554555
SCHEMA_VERSION = 5
_BUSY_SECONDS = 0.5

# A small content is in its message's row. A large content is in the table `contents`, because
# SQLite rewrites a whole row of `messages` when the lock or delivery count changes. Sequence
# numbers need no index: the broker reads all rows once and then finds them by id.
_TABLES = """
CREATE TABLE queues (
    id INTEGER PRIMARY KEY,
    settings TEXT NOT NULL,
    next_sequence_number INTEGER NOT NULL,
    created_at_us INTEGER NOT NULL DEFAULT 0,
    updated_at_us INTEGER NOT NULL DEFAULT 0
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
    bare BLOB,
    property_changes TEXT,
    session_id TEXT
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
_RULES_TABLE = "CREATE TABLE authorization_rules (name TEXT PRIMARY KEY, rule TEXT NOT NULL) STRICT"
_SESSIONS_TABLE = """
CREATE TABLE message_sessions (
    queue INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    state BLOB NOT NULL,
    updated_at_us INTEGER NOT NULL,
    PRIMARY KEY (queue, session_id)
) STRICT"""

# The statements that upgrade a database of an older version to the next version.
# Version 4 adds message sessions, and topics and subscriptions in the table `queues`. Version 5
# adds the times of creation and update, which are those of the upgrade for older queues.
_UPGRADES = {
    1: "ALTER TABLE messages ADD COLUMN property_changes TEXT",
    2: _RULES_TABLE,
    3: f"ALTER TABLE messages ADD COLUMN session_id TEXT; {_SESSIONS_TABLE}",
    4: """
ALTER TABLE queues ADD COLUMN created_at_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE queues ADD COLUMN updated_at_us INTEGER NOT NULL DEFAULT 0;
UPDATE queues SET created_at_us=strftime('%s')*1000000, updated_at_us=strftime('%s')*1000000""",
}


def lock_database(database: Path) -> sqlite3.Connection:
    """Lock a database against other brokers, and return the connection that holds the lock.

    The lock ends when this connection is closed or the process ends. Raises SchemaError if the lock
    file cannot be opened or another process has locked it.
    """
    try:
        lock = sqlite3.connect(f"{database}.lock", timeout=_BUSY_SECONDS, isolation_level=None)
    except sqlite3.Error as error:
        raise SchemaError(f"the lock file of {database} cannot be opened: {error}") from error
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        lock.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise SchemaError(
                f"{database} is in use by another process; choose another directory with --data"
            ) from error
        raise SchemaError(f"the lock file of {database} cannot be locked: {error}") from error
    return lock


def connect(database: Path) -> sqlite3.Connection:
    """Open the database. If the database is new, create its tables.

    Raises SchemaError if the file is not a database of the broker or has an unsupported schema
    version. Raises MessageStoreError if the tables cannot be created or upgraded.
    """
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        _prepare(connection, database)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise MessageStoreError(f"{database} cannot be written: {error}") from error
        raise
    return connection


def _prepare(connection: sqlite3.Connection, database: Path) -> None:
    try:
        application_id = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise SchemaError(
            f"{database} cannot be read as an SQLite database: {error}; choose another directory "
            "with --data"
        ) from error
    if tables and application_id != APPLICATION_ID:
        raise SchemaError(
            f"{database} is a database of another program; choose another directory with --data"
        )
    if tables and version != SCHEMA_VERSION and version not in _UPGRADES:
        raise SchemaError(
            f"{database} has schema version {version}; this program supports versions 1 to "
            f"{SCHEMA_VERSION}; move or delete the file to start without its messages"
        )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")  # the Checkpointer runs the checkpoints
    if not tables:
        connection.executescript(
            f"BEGIN IMMEDIATE; {_TABLES}{_RULES_TABLE};{_SESSIONS_TABLE};"
            f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
        )
    for older in range(version, SCHEMA_VERSION) if tables else ():
        connection.executescript(
            f"BEGIN IMMEDIATE; {_UPGRADES[older]}; PRAGMA user_version={older + 1}; COMMIT;"
        )


RECORD_COLUMNS = (
    "id, queue, sequence_number, enqueue_sequence_number, enqueued_at_us, size_bytes, state,"
    " delivery_count, time_to_live_us, scheduled_at_us, expires_at_us, lock_token,"
    " locked_until_us, dead_letter_reason, dead_letter_description, property_changes,"
    " session_id"
)
UPDATED_COLUMNS = (
    "queue=?, sequence_number=?, enqueued_at_us=?, state=?, delivery_count=?, expires_at_us=?,"
    " lock_token=?, locked_until_us=?, dead_letter_reason=?, dead_letter_description=?,"
    " property_changes=?"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATES = {state.value: state for state in MessageState}
_KINDS = {kind.KIND: kind for kind in (QueueSettings, TopicSettings, SubscriptionSettings)}
_DURATIONS = (
    "lock_duration",
    "default_message_time_to_live",
    "duplicate_detection_window",
    "auto_delete_on_idle",
)


def microseconds(at: datetime) -> int:
    """Convert a time to the number of microseconds since 1970-01-01 in UTC."""
    return (at - _EPOCH) // _MICROSECOND


def instant(since_epoch_us: int) -> datetime:
    """Convert the number of microseconds since 1970-01-01 to a datetime in UTC."""
    return _EPOCH + since_epoch_us * _MICROSECOND


def insert_row(record: MessageRecord) -> tuple[object, ...]:
    """Return the values of a record for the columns in `RECORD_COLUMNS`."""
    return (
        record.id,
        record.queue,
        record.sequence_number,
        record.enqueue_sequence_number,
        microseconds(record.enqueued_at),
        record.size_bytes,
        record.state,
        record.delivery_count,
        None if record.time_to_live is None else record.time_to_live // _MICROSECOND,
        _optional_microseconds(record.scheduled_at),
        _optional_microseconds(record.expires_at),
        *_lock_values(record.lock),
        record.dead_letter_reason,
        record.dead_letter_description,
        _changes_text(record.property_changes),
        record.session_id,
    )


def update_row(record: MessageRecord) -> tuple[object, ...]:
    """Return the values of a record for the columns in `UPDATED_COLUMNS`, and the record's id."""
    return (
        record.queue,
        record.sequence_number,
        microseconds(record.enqueued_at),
        record.state,
        record.delivery_count,
        _optional_microseconds(record.expires_at),
        *_lock_values(record.lock),
        record.dead_letter_reason,
        record.dead_letter_description,
        _changes_text(record.property_changes),
        record.id,
    )


def record_from_row(row: tuple[Any, ...]) -> MessageRecord:
    """Build a record from a row that has the columns in `RECORD_COLUMNS`."""
    id_, queue, number, first_number, enqueued, size, state, count, ttl, *rest = row
    scheduled, expires, token, locked_until, reason, description, changes, session_id = rest
    return MessageRecord(
        id=id_,
        queue=queue,
        sequence_number=number,
        enqueue_sequence_number=first_number,
        enqueued_at=instant(enqueued),
        size_bytes=size,
        state=_STATES[state],
        delivery_count=count,
        time_to_live=None if ttl is None else ttl * _MICROSECOND,
        scheduled_at=_optional_instant(scheduled),
        expires_at=_optional_instant(expires),
        lock=None if locked_until is None else Lock(UUID(bytes=token), instant(locked_until)),
        dead_letter_reason=reason,
        dead_letter_description=description,
        property_changes=_changes_from_text(changes),
        session_id=session_id,
    )


def _lock_values(lock: Lock | None) -> tuple[bytes | None, int | None]:
    """Return a lock's token and expiry as stored; none for locks of sessions, which end."""
    if lock is None or lock.until is None:
        return None, None
    return lock.token.bytes, microseconds(lock.until)


def _changes_text(changes: PropertyChanges) -> str | None:
    """Return the changed properties as JSON with hexadecimal values; None if there are none."""
    return json.dumps({name: value.hex() for name, value in changes}) if changes else None


def _changes_from_text(text: str | None) -> PropertyChanges:
    """Convert the result of `_changes_text` back to the changed properties."""
    if text is None:
        return ()
    return tuple((name, bytes.fromhex(value)) for name, value in json.loads(text).items())


def settings_text(settings: QueueSettings) -> str:
    """Return settings as JSON, with durations in microseconds."""
    values: dict[str, Any] = {each.name: getattr(settings, each.name) for each in fields(settings)}
    for name in _DURATIONS:
        if values[name] is not None:
            values[name] //= _MICROSECOND
    values["authorization_rules"] = [_rule_values(rule) for rule in settings.authorization_rules]
    if isinstance(settings, SubscriptionSettings):
        values["rules"] = [rule_to_values(rule) for rule in settings.rules]
    if settings.KIND != QueueSettings.KIND:
        values["kind"] = settings.KIND
    return json.dumps(values)


def settings_from_text(text: str) -> QueueSettings:
    """Convert the result of `settings_text` back to the settings."""
    values: dict[str, Any] = json.loads(text)
    for name in _DURATIONS:
        if values.get(name) is not None:
            values[name] *= _MICROSECOND
    # A database of an older version has neither a status nor policies.
    values["status"] = QueueStatus(values.get("status", QueueStatus.ACTIVE))
    rules = values.get("authorization_rules", [])
    values["authorization_rules"] = tuple(_rule_from_values(rule) for rule in rules)
    kind = _KINDS[values.pop("kind", QueueSettings.KIND)]
    if kind is SubscriptionSettings:
        values["rules"] = tuple(map(rule_from_values, values["rules"]))
    return kind(**values)


def _rule_values(rule: AuthorizationRule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "rights": sorted_rights(rule.rights),
        "primary_key": rule.primary_key,
        "secondary_key": rule.secondary_key,
    }


def _rule_from_values(values: dict[str, Any]) -> AuthorizationRule:
    """Build a shared access policy from the JSON values that `_rule_values` returned."""
    return AuthorizationRule(**{**values, "rights": read_rights(values["rights"])})


def _optional_microseconds(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)


def _optional_instant(since_epoch_us: int | None) -> datetime | None:
    return None if since_epoch_us is None else instant(since_epoch_us)


_INLINE_BYTES = 2000
_INSERT = (
    f"INSERT INTO messages ({RECORD_COLUMNS}, header, annotations, bare)"  # noqa: S608 - constants
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_CONTENT_IN_ROW = "SELECT header, annotations, bare FROM messages WHERE id=?"
_CONTENT_APART = "SELECT header, annotations, bare FROM contents WHERE id=?"
_UPDATE = f"UPDATE messages SET {UPDATED_COLUMNS} WHERE id=?"  # noqa: S608 - a constant


@dataclass(slots=True)
class ChangeSet:
    """The changes that one transaction writes to the database."""

    inserted: list[tuple[MessageRecord, IncomingMessage]] = field(default_factory=list)
    updated: list[MessageRecord] = field(default_factory=list)
    deleted: list[MessageRecord] = field(default_factory=list)
    sequence_numbers: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of a queue's internal number and the next sequence number of the queue."""
    seen_ids: list[tuple[int, SeenMessageId]] = field(default_factory=list)
    forgotten_ids: list[tuple[int, int]] = field(default_factory=list)
    """Pairs of a queue's internal number and a sequence number.

    Duplicate detection no longer needs the message ids of this queue up to this sequence number.
    The transaction deletes these ids from the table `sightings`.
    """
    session_states: list[tuple[int, SessionState]] = field(default_factory=list)
    """Pairs of a queue's internal number and the new state of one of its message sessions."""

    def __bool__(self) -> bool:
        return bool(
            self.inserted
            or self.updated
            or self.deleted
            or self.sequence_numbers
            or self.seen_ids
            or self.forgotten_ids
            or self.session_states
        )


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """A row of the table `queues`: a queue, a topic or a subscription."""

    id: int
    settings: QueueSettings
    next_sequence_number: int
    created_at: datetime
    updated_at: datetime


class MessageStore:
    """The database of a broker.

    The broker reads all message records when it starts. Later, it reads only the contents of
    messages.
    """

    def __init__(self, database: Path) -> None:
        self._lock = lock_database(database)
        try:
            self.connection = connect(database)
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Close the database and release the lock of the database."""
        self.connection.close()
        self._lock.close()

    # Queues

    def queues(self) -> list[StoredQueue]:
        """Return all queues in the database."""
        rows = self.connection.execute(
            "SELECT id, settings, next_sequence_number, created_at_us, updated_at_us FROM queues"
        )
        return [
            StoredQueue(id_, settings_from_text(text), number, instant(created), instant(updated))
            for id_, text, number, created, updated in rows
        ]

    def save_queue(self, queue: StoredQueue) -> None:
        """Insert a queue. If the queue exists, update its settings and the time of the update."""
        self.connection.execute(
            "INSERT INTO queues VALUES (?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET"
            " settings=excluded.settings, updated_at_us=excluded.updated_at_us",
            (
                queue.id,
                settings_text(queue.settings),
                queue.next_sequence_number,
                microseconds(queue.created_at),
                microseconds(queue.updated_at),
            ),
        )

    def delete_queues(self, deleted: Iterable[range]) -> None:
        """Delete queues, each with its two dead-letter queues, and their messages, or none."""
        with self._transaction() as connection:
            for numbers in deleted:
                self._delete_queue(connection, numbers)

    @staticmethod
    def _delete_queue(connection: sqlite3.Connection, numbers: range) -> None:
        bounds = numbers.start, numbers.stop
        in_queue = "queue >= ? AND queue < ?"
        connection.execute(
            f"DELETE FROM contents WHERE id IN (SELECT id FROM messages WHERE {in_queue})",  # noqa: S608 - a constant
            bounds,
        )
        connection.execute(f"DELETE FROM messages WHERE {in_queue}", bounds)  # noqa: S608 - a constant
        connection.execute(f"DELETE FROM sightings WHERE {in_queue}", bounds)  # noqa: S608 - a constant
        connection.execute(f"DELETE FROM message_sessions WHERE {in_queue}", bounds)  # noqa: S608 - a constant
        connection.execute("DELETE FROM queues WHERE id=?", (numbers.start,))

    # Message sessions

    def session_state(self, queue: int, session_id: str) -> bytes | None:
        """Return a message session's state, or None. Raises MessageStoreError."""
        with _report_failed_read("a session's state"):
            row = self.connection.execute(
                "SELECT state FROM message_sessions WHERE queue=? AND session_id=?",
                (queue, session_id),
            ).fetchone()
        return None if row is None else row[0]

    def sessions_with_state(self, queue: int, updated_after: datetime | None = None) -> list[str]:
        """Return a queue's sessions with a state, set after `updated_after` if given.

        Raises MessageStoreError if the read operation fails.
        """
        after_us = -1 if updated_after is None else microseconds(updated_after)
        with _report_failed_read("the sessions of a queue"):
            rows = self.connection.execute(
                "SELECT session_id FROM message_sessions WHERE queue=? AND updated_at_us>?",
                (queue, after_us),
            ).fetchall()
        return [session_id for (session_id,) in rows]

    # The namespace's shared access policies

    def rules(self) -> list[AuthorizationRule]:
        """Return all shared access policies of the namespace that are in the database."""
        rows = self.connection.execute("SELECT rule FROM authorization_rules ORDER BY name")
        return [_rule_from_values(json.loads(text)) for (text,) in rows]

    def save_rule(self, rule: AuthorizationRule) -> None:
        """Insert a policy, or replace the policy with the same name."""
        self.connection.execute(
            "INSERT OR REPLACE INTO authorization_rules VALUES (?,?)",
            (rule.name, json.dumps(_rule_values(rule))),
        )

    def delete_rule(self, name: str) -> None:
        """Delete a policy, if it exists."""
        self.connection.execute("DELETE FROM authorization_rules WHERE name=?", (name,))

    # Messages

    def records(self) -> Iterator[MessageRecord]:
        """Yield all message records in the order in which the messages were sent."""
        rows = self.connection.execute(f"SELECT {RECORD_COLUMNS} FROM messages ORDER BY id")  # noqa: S608 - a constant
        return map(record_from_row, rows)

    def seen_ids(self) -> Iterator[tuple[int, SeenMessageId]]:
        """Yield (queue number, message id) for duplicate detection, by queue from the oldest."""
        rows = self.connection.execute(
            "SELECT queue, sequence_number, message_id, seen_at_us FROM sightings"
            " ORDER BY queue, sequence_number"
        )
        for queue, number, message_id, seen_at_us in rows:
            yield queue, SeenMessageId(number, message_id, instant(seen_at_us))

    def content(self, id_: int) -> IncomingMessage:
        """Read the content of a message. Raises MessageStoreError if the read operation fails."""
        with _report_failed_read("a message"):
            sections = self.connection.execute(_CONTENT_IN_ROW, (id_,)).fetchone()
            if sections[-1] is None:
                sections = self.connection.execute(_CONTENT_APART, (id_,)).fetchone()
        return IncomingMessage(*sections)

    def apply(self, changes: ChangeSet) -> None:
        """Write all changes in one transaction, or none with sqlite3.Error."""
        with self._transaction() as connection:
            if changes.inserted:
                self._insert(connection, changes.inserted)
            if changes.updated:
                connection.executemany(_UPDATE, map(update_row, changes.updated))
            if changes.deleted:
                self._delete(connection, changes.deleted)
            if changes.sequence_numbers:
                connection.executemany(
                    "UPDATE queues SET next_sequence_number=? WHERE id=?",
                    [(number, queue) for queue, number in changes.sequence_numbers],
                )
            if changes.seen_ids:
                connection.executemany(
                    "INSERT INTO sightings VALUES (?,?,?,?)",
                    [
                        (queue, seen.sequence_number, seen.message_id, microseconds(seen.seen_at))
                        for queue, seen in changes.seen_ids
                    ],
                )
            if changes.forgotten_ids:
                connection.executemany(
                    "DELETE FROM sightings WHERE queue=? AND sequence_number<=?",
                    changes.forgotten_ids,
                )
            for queue, state in changes.session_states:
                self._save_session_state(connection, queue, state)

    @staticmethod
    def _save_session_state(
        connection: sqlite3.Connection, queue: int, state: SessionState
    ) -> None:
        if state.value is None:
            connection.execute(
                "DELETE FROM message_sessions WHERE queue=? AND session_id=?",
                (queue, state.session_id),
            )
            return
        connection.execute(
            "INSERT OR REPLACE INTO message_sessions VALUES (?,?,?,?)",
            (queue, state.session_id, state.value, microseconds(state.updated_at)),
        )

    @staticmethod
    def _insert(
        connection: sqlite3.Connection, inserted: list[tuple[MessageRecord, IncomingMessage]]
    ) -> None:
        rows = []
        for record, content in inserted:
            sections: tuple[bytes | None, bytes | None, bytes | None]
            sections = content.header, content.annotations, content.bare
            if record.size_bytes > _INLINE_BYTES:
                connection.execute("INSERT INTO contents VALUES (?,?,?,?)", (record.id, *sections))
                sections = None, None, None
            rows.append((*insert_row(record), *sections))
        connection.executemany(_INSERT, rows)

    @staticmethod
    def _delete(connection: sqlite3.Connection, deleted: list[MessageRecord]) -> None:
        connection.executemany(
            "DELETE FROM messages WHERE id=?", [(record.id,) for record in deleted]
        )
        apart = [(record.id,) for record in deleted if record.size_bytes > _INLINE_BYTES]
        if apart:
            connection.executemany("DELETE FROM contents WHERE id=?", apart)

    def _transaction(self) -> "_Transaction":
        return _Transaction(self.connection)


@contextmanager
def report_failed_write(problem: str) -> Iterator[None]:
    """Convert an error of SQLite during the `with` block to MessageStoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise MessageStoreError(f"{problem}: {error}") from error


@contextmanager
def _report_failed_read(what: str) -> Iterator[None]:
    """Convert an error of SQLite during the `with` block to MessageStoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise MessageStoreError(f"{what} could not be read from the database: {error}") from error


class _Transaction:
    """A context manager that commits a transaction at the end of the `with` block.

    If the block or the commit raises an error, the transaction is rolled back.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            # SQLite rolls back a transaction by itself only after some errors.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


_COMMITS_BETWEEN = 500
_LONGEST_LOG_PAGES = 16_000
"""The number of pages in the write-ahead log above which writers wait for a checkpoint.

A page has 4 KiB.
"""

logger = logging.getLogger(__name__)


class Checkpointer:
    """Runs checkpoints, which copy the write-ahead log to the database.

    Checkpoints run in a thread, because they wait for the disk and would block the event loop.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._commit_count = 0
        self.running: asyncio.Future[None] | None = None

    def count_commit(self) -> None:
        """Count a commit, and start a checkpoint after 500 unless one runs."""
        self._commit_count += 1
        if self._commit_count < _COMMITS_BETWEEN or self.running is not None:
            return
        self._commit_count = 0
        loop = asyncio.get_running_loop()
        self.running = loop.run_in_executor(None, checkpoint, self._database)
        self.running.add_done_callback(self._ended)

    async def close(self) -> None:
        """Wait until the running checkpoint, if there is one, has finished."""
        if self.running is not None:
            await self.running

    def _ended(self, _: asyncio.Future[None]) -> None:
        self.running = None


def checkpoint(database: Path, longest_log_pages: int = _LONGEST_LOG_PAGES) -> None:
    """Copy committed pages from the log, blocking writers beyond `longest_log_pages`."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            _, log_pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if log_pages > longest_log_pages:
                connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
    except sqlite3.Error as error:
        # No change is lost: the log grows until the next checkpoint succeeds.
        logger.warning(
            "a checkpoint of %s failed: %s; the write-ahead log grows until a checkpoint succeeds",
            database,
            error,
        )
