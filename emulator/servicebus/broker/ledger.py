"""All entries of the broker, and what changed in them since the last commit."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from emulator.servicebus.broker.agenda import Agenda
from emulator.servicebus.broker.entry import Entry
from emulator.servicebus.broker.shelf import Shelf


@dataclass(frozen=True, slots=True)
class EntryChange:
    """What became of one entry in a transaction; None stands for its absence."""

    before: Entry | None
    after: Entry | None


class Ledger:
    """The one place where entries change, so that any set of changes can be taken back.

    A message that appears and disappears within one transaction never meets the disk, and one
    that changes several times is written once.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._shelves: dict[int, Shelf] = {}
        self._agenda = Agenda()
        self._originals: dict[int, Entry | None] = {}
        self._next_id = 1

    def shelf(self, queue: int) -> Shelf:
        """Return the shelf of a queue, which is made at the first call."""
        return self._shelves.setdefault(queue, Shelf())

    def drop_shelf(self, queue: int) -> None:
        """Forget a queue with all its entries, outside any transaction."""
        shelf = self._shelves.pop(queue, Shelf())
        for entry in shelf.by_sequence.values():
            del self._entries[entry.id]
            self._agenda.set(entry.id, None)

    def load(self, entry: Entry) -> None:
        """Put in an entry that the disk holds already."""
        self._move(None, entry)
        self._next_id = max(self._next_id, entry.id + 1)

    def new_id(self) -> int:
        """Return a number for a new entry."""
        self._next_id += 1
        return self._next_id - 1

    def put(self, entry: Entry) -> None:
        """Add an entry, or put it in the place of the one with its id."""
        before = self._entries.get(entry.id)
        self._originals.setdefault(entry.id, before)
        self._move(before, entry)

    def remove(self, id_: int) -> None:
        """Take out the entry with this id."""
        before = self._entries[id_]
        self._originals.setdefault(id_, before)
        self._move(before, None)

    def due(self, now: datetime) -> Iterator[Entry]:
        """Yield the entries to which something happens now; the caller must change each."""
        while (id_ := self._agenda.take_due(now)) is not None:
            yield self._entries[id_]

    def next_due_at(self) -> datetime | None:
        """Return when something happens next by itself."""
        return self._agenda.next_due_at()

    def changes(self) -> list[EntryChange]:
        """Return what changed since the last commit."""
        return [
            EntryChange(before, after)
            for id_, before in self._originals.items()
            if (after := self._entries.get(id_)) is not before
        ]

    def commit(self) -> None:
        """Let the changes stand."""
        self._originals.clear()

    def rollback(self) -> None:
        """Take all changes since the last commit back."""
        for id_, before in self._originals.items():
            self._move(self._entries.get(id_), before)
        self._originals.clear()

    def _move(self, before: Entry | None, after: Entry | None) -> None:
        if after is None:
            if before is not None:
                del self._entries[before.id]
                self._agenda.set(before.id, None)
                self._shelves[before.queue].remove(before)
            return
        self._entries[after.id] = after
        self._agenda.set(after.id, after.due_at)
        shelf = self._shelves[after.queue]
        if before is None:
            shelf.add(after)
        elif (before.queue, before.sequence_number) == (after.queue, after.sequence_number):
            shelf.replace(before, after)
        else:
            self._shelves[before.queue].remove(before)
            shelf.add(after)
