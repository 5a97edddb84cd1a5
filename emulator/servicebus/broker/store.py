"""The broker's SQLite database: what is committed here survives a kill at any instruction."""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from emulator.servicebus.broker.duplicates import Sighting
from emulator.servicebus.broker.entry import Entry
from emulator.servicebus.broker.errors import StorageError
from emulator.servicebus.broker.message import IncomingMessage
from emulator.servicebus.broker.rows import (
    ENTRY_COLUMNS,
    UPDATED_COLUMNS,
    entry_from_row,
    insert_row,
    instant,
    microseconds,
    settings_from_text,
    settings_text,
    update_row,
)
from emulator.servicebus.broker.schema import claim, connect
from emulator.servicebus.broker.settings import QueueSettings

_INLINE_BYTES = 2000
_INSERT = (
    f"INSERT INTO messages ({ENTRY_COLUMNS}, header, annotations, bare)"  # noqa: S608 - constants
    " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_CONTENT_IN_ROW = "SELECT header, annotations, bare FROM messages WHERE id=?"
_CONTENT_APART = "SELECT header, annotations, bare FROM contents WHERE id=?"
_UPDATE = f"UPDATE messages SET {UPDATED_COLUMNS} WHERE id=?"  # noqa: S608 - a constant


@dataclass(slots=True)
class ChangeSet:
    """Everything that one transaction writes."""

    inserted: list[tuple[Entry, IncomingMessage]] = field(default_factory=list)
    updated: list[Entry] = field(default_factory=list)
    deleted: list[Entry] = field(default_factory=list)
    sequence_numbers: list[tuple[int, int]] = field(default_factory=list)
    """Queue id and its next sequence number."""
    sightings: list[tuple[int, Sighting]] = field(default_factory=list)
    forgotten_sightings: list[tuple[int, int]] = field(default_factory=list)
    """Queue and the sequence number through which its sightings go."""

    def __bool__(self) -> bool:
        return bool(
            self.inserted
            or self.updated
            or self.deleted
            or self.sequence_numbers
            or self.sightings
            or self.forgotten_sightings
        )


@dataclass(frozen=True, slots=True)
class StoredQueue:
    """A queue as the database knows it."""

    id: int
    settings: QueueSettings
    next_sequence_number: int


class Store:
    """Reads everything once, at the start, and from then on single contents only."""

    def __init__(self, database: Path) -> None:
        self._claim = claim(database)
        try:
            self._connection = connect(database)
        except BaseException:
            self._claim.close()
            raise

    def trace(self, listener: Callable[[str], None] | None) -> None:
        """Let a listener hear every statement."""
        self._connection.set_trace_callback(listener)

    def close(self) -> None:
        """Close the database; what was committed is in it."""
        self._connection.close()
        self._claim.close()

    # Queues

    def queues(self) -> list[StoredQueue]:
        """Return all queues."""
        rows = self._connection.execute("SELECT id, settings, next_sequence_number FROM queues")
        return [StoredQueue(id_, settings_from_text(text), number) for id_, text, number in rows]

    def save_queue(self, queue: StoredQueue) -> None:
        """Create a queue, or change its settings."""
        self._connection.execute(
            "INSERT INTO queues VALUES (?,?,?)"
            " ON CONFLICT (id) DO UPDATE SET settings=excluded.settings",
            (queue.id, settings_text(queue.settings), queue.next_sequence_number),
        )

    def delete_queue(self, id_: int, numbers: range) -> None:
        """Delete a queue and all that is in it, its dead letters too."""
        bounds = numbers.start, numbers.stop
        in_queue = "queue >= ? AND queue < ?"
        with self._transaction() as connection:
            connection.execute(
                f"DELETE FROM contents WHERE id IN (SELECT id FROM messages WHERE {in_queue})",  # noqa: S608 - a constant
                bounds,
            )
            connection.execute(f"DELETE FROM messages WHERE {in_queue}", bounds)  # noqa: S608 - a constant
            connection.execute(f"DELETE FROM sightings WHERE {in_queue}", bounds)  # noqa: S608 - a constant
            connection.execute("DELETE FROM queues WHERE id=?", (id_,))

    # Messages

    def entries(self) -> Iterator[Entry]:
        """Yield all entries, in the order in which they were sent."""
        rows = self._connection.execute(f"SELECT {ENTRY_COLUMNS} FROM messages ORDER BY id")  # noqa: S608 - a constant
        return map(entry_from_row, rows)

    def sightings(self) -> Iterator[tuple[int, Sighting]]:
        """Yield all remembered message ids with their queues, in the order of their coming."""
        rows = self._connection.execute(
            "SELECT queue, sequence_number, message_id, seen_at_us FROM sightings"
            " ORDER BY queue, sequence_number"
        )
        for queue, number, message_id, seen_at_us in rows:
            yield queue, Sighting(number, message_id, instant(seen_at_us))

    def content(self, id_: int) -> IncomingMessage:
        """Read the content of a message that is there; raises StorageError."""
        try:
            sections = self._connection.execute(_CONTENT_IN_ROW, (id_,)).fetchone()
            if sections[-1] is None:
                sections = self._connection.execute(_CONTENT_APART, (id_,)).fetchone()
        except sqlite3.Error as error:
            raise StorageError(f"a message could not be read: {error}") from error
        return IncomingMessage(*sections)

    def apply(self, changes: ChangeSet) -> None:
        """Write all changes, or, when sqlite3.Error is raised, none."""
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
            if changes.sightings:
                connection.executemany(
                    "INSERT INTO sightings VALUES (?,?,?,?)",
                    [
                        (queue, seen.sequence_number, seen.message_id, microseconds(seen.seen_at))
                        for queue, seen in changes.sightings
                    ],
                )
            if changes.forgotten_sightings:
                connection.executemany(
                    "DELETE FROM sightings WHERE queue=? AND sequence_number<=?",
                    changes.forgotten_sightings,
                )

    @staticmethod
    def _insert(
        connection: sqlite3.Connection, inserted: list[tuple[Entry, IncomingMessage]]
    ) -> None:
        rows = []
        for entry, content in inserted:
            sections: tuple[bytes | None, bytes | None, bytes | None]
            sections = content.header, content.annotations, content.bare
            if entry.size_bytes > _INLINE_BYTES:
                connection.execute("INSERT INTO contents VALUES (?,?,?,?)", (entry.id, *sections))
                sections = None, None, None
            rows.append((*insert_row(entry), *sections))
        connection.executemany(_INSERT, rows)

    @staticmethod
    def _delete(connection: sqlite3.Connection, deleted: list[Entry]) -> None:
        connection.executemany(
            "DELETE FROM messages WHERE id=?", [(entry.id,) for entry in deleted]
        )
        apart = [(entry.id,) for entry in deleted if entry.size_bytes > _INLINE_BYTES]
        if apart:
            connection.executemany("DELETE FROM contents WHERE id=?", apart)

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._connection)


class _Transaction:
    """Commits at the end of the block; takes everything back when either fails."""

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
            # SQLite itself rolls back on some errors, and stays in the transaction on others.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
