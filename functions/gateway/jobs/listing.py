"""List jobs, newest first, although Durable Functions returns instances in no order.

Durable Functions can find instances by a prefix of their ids. Job ids are UUIDv7, which begin with
the time of creation. So jobs whose ids have the same prefix were created in the same period, called
a window. A prefix with one more hexadecimal digit selects a sixteenth of the window.

The windows are read from the newest to the oldest. If a window contains more instances than one
query returns, its sixteen parts are read one by one. If new jobs are submitted while a caller reads
the pages, no job is omitted or repeated.

A search omits the jobs that do not match. If few jobs match, a page ends after MAX_QUERIES queries,
before it is full. `searched_since` then returns the time since which all matching jobs were found.

The filter by creation time is not used, because the tables of Azure Storage have no index for it.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Final, Generic, TypeVar

from gateway.durable import Durable, InstanceSnapshot, RuntimeStatus

WINDOW_INSTANCES: Final = 100
"""The largest number of instances that one query returns."""

MAX_QUERIES: Final = 64
"""The largest number of queries to Durable Functions for one page of a list of jobs."""

_DIGITS: Final = "0123456789abcdef"
_BEHIND: Final = "g"
"""A character that sorts after all hexadecimal digits, and so after all ids of a prefix."""

_ID_LENGTH: Final = 36
# The first digits of an id are its time in milliseconds.
_TIME_DIGITS: Final = 12
_DASHES: Final = frozenset({8, 13, 18, 23})

# Four digits are the first 16 of the 48 bits of an id's time in milliseconds. Ids with the same
# four digits were created within fifty days.
_TOP_DIGITS: Final = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IdRange:
    """A range of job ids or their first digits, from `above` (inclusive) to `below` (exclusive)."""

    below: str
    above: str

    @classmethod
    def of_prefix(cls, prefix: str) -> "IdRange":
        """Return the range of all ids that begin with `prefix`."""
        return cls(below=prefix + _BEHIND, above=prefix)

    def reaches(self, window: str) -> bool:
        """Return whether the range can contain an id that begins with `window`."""
        return window < self.below and window + _BEHIND >= self.above


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A page of jobs, newest first.

    All ids on the next page are smaller than `below`, which is None if there is no next page.
    """

    jobs: list[T]
    below: str | None


def searched_since(below: str) -> datetime:
    """Return the time since which all matching jobs have been found, from `Listing.below`."""
    is_whole_id = len(below) == _ID_LENGTH
    digits = below.rstrip(_BEHIND).replace("-", "")[:_TIME_DIGITS]
    # A window ends with the last millisecond whose digits begin with the window's digits.
    last_ms = int(digits.ljust(_TIME_DIGITS, "f"), 16)
    milliseconds = last_ms if is_whole_id else last_ms + 1
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def id_at(moment: datetime) -> str:
    """Return the prefix of all ids that are created in this millisecond."""
    digits = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"


async def list_newest(
    durable: Durable,
    ids: IdRange,
    statuses: Collection[RuntimeStatus],
    limit: int,
    select: Callable[[str, InstanceSnapshot], T | None],
) -> Listing[T]:
    """Return a page with up to `limit` jobs of a range of ids, newest first.

    `select` converts an instance to an item of the page, or returns None to omit it. There may be a
    next page even if this page is not full. Without `statuses`, the runtime status does not matter.
    """
    found: list[T] = []
    windows = _top_windows(ids)
    for _ in range(MAX_QUERIES):
        if not windows:
            return Listing(found, None)
        window = windows.pop()
        listed = await durable.list_jobs(window, WINDOW_INSTANCES, statuses)
        if not listed.is_whole and len(window) < _ID_LENGTH:
            windows += [part for part in _parts(window) if ids.reaches(part)]
            continue
        last = ""
        for job_id, instance in sorted(listed.instances, key=lambda pair: pair[0], reverse=True):
            if not ids.above <= job_id < ids.below:
                continue
            shown = select(job_id, instance)
            if shown is None:
                continue
            if len(found) == limit:
                return Listing(found, last)
            found.append(shown)
            last = job_id
        if len(found) == limit:
            break
    return Listing(found, windows[-1] + _BEHIND if windows else None)


def _top_windows(ids: IdRange) -> list[str]:
    """Return the prefixes that cover the range, from oldest to newest.

    The digits that both limits begin with are the only prefix. If these are less than _TOP_DIGITS,
    there is a prefix for each number of _TOP_DIGITS digits.
    """
    if ids.above >= ids.below:
        return []
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(ids.above, ids.below, strict=False))
    common = "".join(digit for digit, _ in equal)
    if len(common) >= _TOP_DIGITS:
        return [common]
    first, last = int(ids.above[:_TOP_DIGITS], 16), int(ids.below[:_TOP_DIGITS], 16)
    return [f"{number:0{_TOP_DIGITS}x}" for number in range(first, last + 1)]


def _parts(window: str) -> list[str]:
    dash = "-" if len(window) in _DASHES else ""
    return [f"{window}{dash}{digit}" for digit in _DIGITS]
