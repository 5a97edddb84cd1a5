"""The newest jobs first, from a store that lists in no order of its own.

The store finds instances by the start of their ids, and ids are UUIDv7, so their first digits are a
time: an id's first k digits name a window of time, and each further digit cuts it into sixteen.
From the newest window down, one that the store cannot show whole is cut, and one that it can is
sorted. So a page looks at a bounded number of instances, however many there are, and none is missed
or shown twice while new ones come.

(The store's filter by time of creation would not do: Azure Storage has no index for it.)
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Generic, TypeVar

from gateway.durable import Durable, Instance, RuntimeStatus

WINDOW_INSTANCES: Final = 100
"""How many instances the store is asked for at once, with their inputs and outputs."""

LOOKS: Final = 64
"""How often a page asks the store: what is not found by then is left to the next page."""

_DIGITS: Final = "0123456789abcdef"
_BEHIND: Final = "g"
"""Sorts behind all digits: W + "g" is above every id in the window W, and below the next window."""

_ID_LENGTH: Final = 36
_DASHES: Final = frozenset({8, 13, 18, 23})

# 16 of the 48 bits of milliseconds: windows of fifty days, so that two make a usual retention.
_TOP_DIGITS: Final = 4

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """Ids from `above` on and under `below`, as texts; either may be the start of an id."""

    below: str
    above: str

    def reaches(self, window: str) -> bool:
        """Whether the window can have an id of the span."""
        return window < self.below and window + _BEHIND >= self.above


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """Some jobs, newest first. `below` is where the next page goes on, None after the last."""

    jobs: list[T]
    below: str | None


def id_at(moment: datetime) -> str:
    """The start of all ids that are made in the millisecond."""
    digits = f"{max(0, int(moment.timestamp() * 1000)):012x}"
    return f"{digits[:8]}-{digits[8:]}"


async def newest(
    durable: Durable,
    span: Span,
    statuses: Collection[RuntimeStatus],
    limit: int,
    wanted: Callable[[str, Instance], T | None],
) -> Found[T]:
    """Up to `limit` of the wanted jobs in the span; `wanted` makes what is shown, None for no.

    A page may be short, even empty, and still have a next one. Raises Unavailable.
    """
    found: list[T] = []
    windows = _top_windows(span)
    for _ in range(LOOKS):
        if not windows:
            return Found(found, None)
        window = windows.pop()
        listed = await durable.listed(window, WINDOW_INSTANCES, statuses)
        if not listed.is_whole and len(window) < _ID_LENGTH:
            windows += [part for part in _parts(window) if span.reaches(part)]
            continue
        last = ""
        for job_id, instance in sorted(listed.instances, key=lambda pair: pair[0], reverse=True):
            if not span.above <= job_id < span.below:
                continue
            shown = wanted(job_id, instance)
            if shown is None:
                continue
            if len(found) == limit:
                return Found(found, last)
            found.append(shown)
            last = job_id
        if len(found) == limit:
            break
    return Found(found, windows[-1] + _BEHIND if windows else None)


def _top_windows(span: Span) -> list[str]:
    """The widest windows of the span; the newest is the last."""
    first, last = int(span.above[:_TOP_DIGITS], 16), int(span.below[:_TOP_DIGITS], 16)
    return [f"{number:0{_TOP_DIGITS}x}" for number in range(first, last + 1)]


def _parts(window: str) -> list[str]:
    dash = "-" if len(window) in _DASHES else ""
    return [f"{window}{dash}{digit}" for digit in _DIGITS]
