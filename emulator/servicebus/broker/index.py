"""A sorted set of integers in which every operation stays cheap, however deep the queue is."""

from bisect import bisect_left, insort
from collections.abc import Iterator

_CHUNK_LENGTH = 256


class OrderedIndex:
    """Sequence numbers in order: chunks of bounded length, found by their last numbers.

    Adding, removing and seeking bisect the chunks and then one chunk; what is moved in memory is
    one chunk at most.
    """

    __slots__ = ("_chunks", "_lasts", "_length")

    def __init__(self) -> None:
        self._chunks: list[list[int]] = []
        self._lasts: list[int] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, number: int) -> None:
        """Put in a number that is not there yet."""
        self._length += 1
        if not self._chunks:
            self._chunks.append([number])
            self._lasts.append(number)
            return
        at = min(bisect_left(self._lasts, number), len(self._lasts) - 1)
        chunk = self._chunks[at]
        insort(chunk, number)
        if len(chunk) > 2 * _CHUNK_LENGTH:
            self._chunks.insert(at + 1, chunk[_CHUNK_LENGTH:])
            self._lasts.insert(at + 1, chunk[-1])
            del chunk[_CHUNK_LENGTH:]
        self._lasts[at] = chunk[-1]

    def remove(self, number: int) -> None:
        """Take out a number that is there."""
        at = bisect_left(self._lasts, number)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, number)]
        self._length -= 1
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def first(self) -> int | None:
        """Return the lowest number, or None when there is none."""
        return self._chunks[0][0] if self._chunks else None

    def since(self, number: int) -> Iterator[int]:
        """Yield the numbers from this one on; the index must not change meanwhile."""
        at = bisect_left(self._lasts, number)
        if at == len(self._chunks):
            return
        chunk = self._chunks[at]
        yield from chunk[bisect_left(chunk, number) :]
        for chunk in self._chunks[at + 1 :]:
            yield from chunk
