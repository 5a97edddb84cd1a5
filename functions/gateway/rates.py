"""Limit the rates of callers by token buckets.

A full bucket contains one token for each request of the rate's count, and fills evenly within the
rate's period. A request takes a token for each of its jobs, and is allowed if the bucket has one
token, so the number of tokens can become negative.

Each caller has its own bucket in each process. Therefore n instances of the app allow n times the
rate.
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
    """A rate limit. It allows `count` requests in `seconds` seconds."""

    count: int
    seconds: int

    @property
    def policy(self) -> str:
        """The value of the RateLimit-Policy header (draft-ietf-httpapi-ratelimit-headers)."""
        return f'"default";q={self.count};w={self.seconds}'


def parse_rate(text: str) -> Rate:
    """Read a rate in the form REQUESTS/SECONDS, for example 100/60. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("expected REQUESTS/SECONDS, for example 100/60")
    return Rate(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether a request is allowed, and how many more requests the caller may send now."""

    is_allowed: bool
    remaining: int
    full_in_seconds: int
    """Seconds until the bucket is full again."""
    retry_after_seconds: int
    """Seconds until the next request is allowed; 0 if it is allowed now."""

    @property
    def header(self) -> str:
        """The value of the RateLimit header (draft-ietf-httpapi-ratelimit-headers)."""
        return f'"default";r={self.remaining};t={self.full_in_seconds}'


# Fractions of a token are summed. Rounding must not refuse a caller that has waited long enough.
_ROUNDING: Final = 1e-6


class RateLimiter:
    """Limits how often each caller may send requests. The token buckets are kept in memory."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}
        """By caller, the number of tokens, and the time in seconds at which it was right."""

    def take(self, name: str, limit: Rate) -> RateDecision:
        """Take one token if the bucket has one. It keeps its tokens if the clock is set back."""
        now_seconds = self._clock().timestamp()
        tokens, at_seconds = self._buckets.get(name, (float(limit.count), now_seconds))
        added = max(0.0, now_seconds - at_seconds) * limit.count / limit.seconds
        tokens = min(float(limit.count), tokens + added)
        is_allowed = tokens >= 1.0 - _ROUNDING
        if is_allowed:
            tokens = max(0.0, tokens - 1.0)
        self._buckets[name] = tokens, now_seconds
        return _describe(limit, tokens, is_allowed=is_allowed)

    def charge(self, name: str, limit: Rate, count: int) -> RateDecision:
        """Take `count` more tokens for an allowed request, even if the bucket has fewer."""
        tokens, at_seconds = self._buckets[name]
        self._buckets[name] = tokens - count, at_seconds
        return _describe(limit, tokens - count, is_allowed=True)


def _describe(limit: Rate, tokens: float, *, is_allowed: bool) -> RateDecision:
    a_second = limit.count / limit.seconds
    whole = max(0, math.floor(tokens + _ROUNDING))
    missing = 0.0 if whole >= 1 else 1.0 - tokens
    return RateDecision(
        is_allowed,
        whole,
        math.ceil((limit.count - tokens) / a_second - _ROUNDING),
        math.ceil(missing / a_second - _ROUNDING),
    )
