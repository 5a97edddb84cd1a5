"""Rate limits: a token bucket for each caller, in this process.

A bucket holds as many tokens as the rate allows in its window, and fills evenly over the window.
Each request takes one token. So a caller may send its whole quota at once, and then at the rate.
Each instance of the app has its own buckets: n instances allow n times the rate.
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
    """A limit of `count` requests in `seconds` seconds."""

    count: int
    seconds: int

    @property
    def policy(self) -> str:
        """The value of the RateLimit-Policy header (draft-ietf-httpapi-ratelimit-headers)."""
        return f'"default";q={self.count};w={self.seconds}'


def parse_rate(text: str) -> Rate:
    """Read a rate in the form `N/seconds`, such as 100/60. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("expected requests/seconds, such as 100/60")
    return Rate(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """The tokens that were left at a time, in seconds of any clock."""

    tokens: float
    at_seconds: float


@dataclass(frozen=True, slots=True)
class RateDecision:
    """Whether a request is allowed, and what is left of the rate."""

    is_allowed: bool
    remaining: int
    full_in_seconds: int
    """Seconds until the bucket is full."""
    retry_after_seconds: int
    """Seconds until the next request is allowed; 0 if one is allowed now."""

    @property
    def header(self) -> str:
        """The value of the RateLimit header, by the same draft."""
        return f'"default";r={self.remaining};t={self.full_in_seconds}'


def take_token(
    limit: Rate, bucket: TokenBucket | None, now_seconds: float
) -> tuple[TokenBucket, RateDecision]:
    """Take a token for one request; return the new bucket and the decision.

    `bucket` is None for the first request. A refused request takes no token, and a clock that was
    set back removes none.
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
    return TokenBucket(tokens, now_seconds), RateDecision(
        is_allowed,
        whole,
        math.ceil((limit.count - tokens) / a_second - _ROUNDING),
        math.ceil(missing / a_second - _ROUNDING),
    )


# Fractions of a token are summed: a caller that waited long enough must not fail by rounding.
_ROUNDING: Final = 1e-6


class RateLimiter:
    """The buckets of this process, one for each caller with a rate."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, name: str, limit: Rate) -> RateDecision:
        """Take a token for one request of this caller."""
        now_seconds = self._clock().timestamp()
        self._buckets[name], decision = take_token(limit, self._buckets.get(name), now_seconds)
        return decision
