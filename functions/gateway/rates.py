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
class TokenBucket:
    """A token bucket, with the number of tokens that it contained at the time `at_seconds`."""

    tokens: float
    at_seconds: float


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


def take_token(
    limit: Rate, bucket: TokenBucket | None, now_seconds: float
) -> tuple[TokenBucket, RateDecision]:
    """Take a token if the bucket has one; return the new bucket and the decision.

    `bucket` is None for the first request of a caller. If the clock was set back, the bucket keeps
    its tokens.
    """
    a_second = limit.count / limit.seconds
    tokens = float(limit.count)
    if bucket is not None:
        elapsed = max(0.0, now_seconds - bucket.at_seconds)
        tokens = min(tokens, bucket.tokens + elapsed * a_second)
    is_allowed = tokens >= 1.0 - _ROUNDING
    if is_allowed:
        tokens = max(0.0, tokens - 1.0)
    new_bucket = TokenBucket(tokens, now_seconds)
    return new_bucket, _describe(limit, new_bucket, is_allowed=is_allowed)


def charge_tokens(limit: Rate, bucket: TokenBucket, count: int) -> tuple[TokenBucket, RateDecision]:
    """Take `count` more tokens for an allowed request, even if the bucket has fewer."""
    charged = TokenBucket(bucket.tokens - count, bucket.at_seconds)
    return charged, _describe(limit, charged, is_allowed=True)


def _describe(limit: Rate, bucket: TokenBucket, *, is_allowed: bool) -> RateDecision:
    a_second = limit.count / limit.seconds
    whole = max(0, math.floor(bucket.tokens + _ROUNDING))
    missing = 0.0 if whole >= 1 else 1.0 - bucket.tokens
    return RateDecision(
        is_allowed,
        whole,
        math.ceil((limit.count - bucket.tokens) / a_second - _ROUNDING),
        math.ceil(missing / a_second - _ROUNDING),
    )


# Fractions of a token are summed. Rounding must not refuse a caller that has waited long enough.
_ROUNDING: Final = 1e-6


class RateLimiter:
    """Limits how often each caller may send requests. The token buckets are kept in memory."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, name: str, limit: Rate) -> RateDecision:
        """Decide whether a request is allowed; if so, take one token from the caller's bucket."""
        now_seconds = self._clock().timestamp()
        self._buckets[name], decision = take_token(limit, self._buckets.get(name), now_seconds)
        return decision

    def charge(self, name: str, limit: Rate, count: int) -> RateDecision:
        """Take `count` more tokens for an allowed request, and return a new decision."""
        self._buckets[name], decision = charge_tokens(limit, self._buckets[name], count)
        return decision
