"""The contents of messages: on disk, except those that will be wanted soon."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from emulator.servicebus.broker.message import IncomingMessage

CACHE_BYTES = 32 * 1024 * 1024


class Contents:
    """A bounded cache of contents, and those that are not on disk yet.

    A deep queue costs memory for its entries only; a message that is received soon after it was
    sent is never read back.
    """

    def __init__(
        self, read: Callable[[int], IncomingMessage], cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._read = read
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, IncomingMessage] = OrderedDict()
        self._cached_bytes = 0
        self._unwritten: dict[int, IncomingMessage] = {}

    def add(self, id_: int, content: IncomingMessage) -> None:
        """Keep the content of a new message until it is written, at least."""
        self._unwritten[id_] = content

    def get(self, id_: int) -> IncomingMessage:
        """Return the content of a message that is there."""
        content = self._unwritten.get(id_) or self._cached.get(id_)
        return self._read(id_) if content is None else content

    def discard(self, id_: int) -> None:
        """Let go of the content of a message that is gone."""
        content = self._cached.pop(id_, None)
        if content is not None:
            self._cached_bytes -= content.size_bytes

    def commit(self, written: Iterable[int]) -> None:
        """Take note that these contents are on disk now, and that no others are wanted."""
        for id_ in written:
            content = self._unwritten[id_]
            self._cached[id_] = content
            self._cached_bytes += content.size_bytes
        self._unwritten.clear()
        while self._cached_bytes > self._cache_bytes:
            _, oldest = self._cached.popitem(last=False)
            self._cached_bytes -= oldest.size_bytes

    def rollback(self) -> None:
        """Forget the contents that did not reach the disk."""
        self._unwritten.clear()
