"""The entries of one queue, findable in every way in which they are looked for."""

from uuid import UUID

from emulator.servicebus.broker.entry import Entry
from emulator.servicebus.broker.index import OrderedIndex
from emulator.servicebus.broker.message import MessageState


class Shelf:
    """Entries by sequence number and by lock token, those that are ready in order, and sums."""

    __slots__ = ("by_sequence", "by_token", "counts", "order", "ready", "size_bytes")

    def __init__(self) -> None:
        self.by_sequence: dict[int, Entry] = {}
        self.by_token: dict[UUID, Entry] = {}
        self.order = OrderedIndex()
        self.ready = OrderedIndex()
        self.counts = dict.fromkeys(MessageState, 0)
        self.size_bytes = 0

    def add(self, entry: Entry) -> None:
        """Put an entry where it belongs."""
        self.by_sequence[entry.sequence_number] = entry
        self.order.add(entry.sequence_number)
        self.size_bytes += entry.size_bytes
        self._file(entry)

    def remove(self, entry: Entry) -> None:
        """Take an entry away."""
        del self.by_sequence[entry.sequence_number]
        self.order.remove(entry.sequence_number)
        self.size_bytes -= entry.size_bytes
        self._unfile(entry)

    def replace(self, before: Entry, after: Entry) -> None:
        """Put an entry in the place of an earlier one with the same sequence number."""
        self.by_sequence[after.sequence_number] = after
        self._unfile(before)
        self._file(after)

    def _file(self, entry: Entry) -> None:
        self.counts[entry.state] += 1
        if entry.lock is not None:
            self.by_token[entry.lock.token] = entry
        elif entry.state is MessageState.ACTIVE:
            self.ready.add(entry.sequence_number)

    def _unfile(self, entry: Entry) -> None:
        self.counts[entry.state] -= 1
        if entry.lock is not None:
            del self.by_token[entry.lock.token]
        elif entry.state is MessageState.ACTIVE:
            self.ready.remove(entry.sequence_number)
