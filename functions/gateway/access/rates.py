"""Rates: a token bucket for each caller, in this process alone.

A bucket holds as many tokens as the rate allows in its window, and fills up evenly over the window.
Each request takes one. So a caller may burst up to the whole quota, and comes back to the rate.
Several instances of the app count apart: together they allow each caller that many times the rate.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_RATE: Final = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in so many seconds."""

    count: int
    seconds: int

    @property
    def policy(self) -> str:
        """The RateLimit-Policy header (draft-ietf-httpapi-ratelimit-headers)."""
        return f'"default";q={self.count};w={self.seconds}'


def rate(text: str) -> Rate:
    """The rate in `N/seconds`, such as 100/60; ValueError where it is none."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("expected requests/seconds, such as 100/60")
    return Rate(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class Bucket:
    """What was left at one time, in seconds of any one clock."""

    tokens: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may pass, what is left, and when what changes."""

    is_allowed: bool
    remaining: int
    full_in_seconds: int
    """Until the whole quota is there again."""
    retry_after_seconds: int
    """Until the next request may pass; 0 where it may now."""

    @property
    def header(self) -> str:
        """The RateLimit header of the same draft."""
        return f'"default";r={self.remaining};t={self.full_in_seconds}'


def take(limit: Rate, bucket: Bucket | None, now_seconds: float) -> tuple[Bucket, Decision]:
    """One request against a bucket, None where there was none before: the new bucket, and whether.

    A refused request takes nothing. A clock that was set back does not take what was there.
    """
    a_second = limit.count / limit.seconds
    tokens = float(limit.count)
    if bucket is not None:
        elapsed = max(0.0, now_seconds - bucket.at_seconds)
        tokens = min(tokens, bucket.tokens + elapsed * a_second)
    is_allowed = tokens >= 1.0 - _ROUNDING
    if is_allowed:
        tokens = max(0.0, tokens - 1.0)
    whole = math.floor(tokens + _ROUNDING)
    missing = 0.0 if whole >= 1 else 1.0 - tokens
    return Bucket(tokens, now_seconds), Decision(
        is_allowed,
        whole,
        math.ceil((limit.count - tokens) / a_second - _ROUNDING),
        math.ceil(missing / a_second - _ROUNDING),
    )


# Sums of fractions of a token: a caller who waited as told must not fail by the last bit.
_ROUNDING: Final = 1e-6


class Limiter:
    """The buckets of this process by caller; as many as there are keys with a rate."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._buckets: dict[str, Bucket] = {}

    def take(self, name: str, limit: Rate) -> Decision:
        """Count one request of this caller."""
        now_seconds = self._clock().timestamp()
        self._buckets[name], decision = take(limit, self._buckets.get(name), now_seconds)
        return decision
