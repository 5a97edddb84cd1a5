"""Test that a rate limit allows its quota of requests, and one more request for each new token."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rates import Rate, RateDecision, RateLimiter, parse_rate

RATES = st.builds(Rate, st.integers(1, 1_000), st.integers(1, 100_000))


@pytest.mark.parametrize(("text", "read"), [("1/1", Rate(1, 1)), ("100/60", Rate(100, 60))])
def test_valid_rate_is_parsed(text: str, read: Rate) -> None:
    assert parse_rate(text) == read


@pytest.mark.parametrize(
    "text", ["", "1", "/", "0/1", "1/0", "-1/1", "1.5/1", "1/1/1", "1/1 ", "٣/1", "9" * 20 + "/1"]
)
def test_malformed_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected REQUESTS/SECONDS"):
        parse_rate(text)


class Limited:
    """A rate limiter with one caller, whose clock starts at the Unix epoch."""

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.now = datetime(1970, 1, 1, tzinfo=UTC)
        self._limiter = RateLimiter(lambda: self.now)

    def take(self) -> RateDecision:
        return self._limiter.take("a", self.limit)

    def charge(self, count: int) -> RateDecision:
        return self._limiter.charge("a", self.limit, count)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def test_headers_show_limit_and_remaining_requests() -> None:
    limited = Limited(Rate(10, 60))
    assert limited.limit.policy == '"default";q=10;w=60'
    assert limited.take().header == '"default";r=9;t=6'


@settings(max_examples=200)
@given(limit=RATES)
def test_simultaneous_requests_are_allowed_up_to_the_quota(limit: Rate) -> None:
    limited = Limited(limit)
    for left in range(limit.count - 1, -1, -1):
        decision = limited.take()
        assert (decision.is_allowed, decision.remaining) == (True, left)
    decision = limited.take()
    assert not decision.is_allowed
    assert decision.full_in_seconds == limit.seconds
    # A caller that has waited for Retry-After is allowed.
    assert decision.retry_after_seconds >= 1
    limited.wait(decision.retry_after_seconds)
    assert limited.take().is_allowed


@settings(max_examples=200)
@given(limit=RATES, count=st.integers(1, 5_000))
def test_request_over_the_quota_must_wait_as_told(limit: Rate, count: int) -> None:
    limited = Limited(limit)
    limited.take()
    charged = limited.charge(count)
    assert charged.remaining == max(0, limit.count - 1 - count)
    if charged.retry_after_seconds > 1:
        limited.wait(charged.retry_after_seconds - 1)
        assert not limited.take().is_allowed
        limited.wait(1)
    else:
        limited.wait(charged.retry_after_seconds)
    assert limited.take().is_allowed


@settings(max_examples=200)
@given(
    limit=RATES,
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 1_000)), min_size=1, max_size=60),
)
def test_quota_and_elapsed_time_bound_the_requests(limit: Rate, pauses: list[float]) -> None:
    limited, allowed = Limited(limit), 0
    begin = limited.now + timedelta(seconds=pauses[0])
    for pause in pauses:
        limited.wait(pause)
        decision = limited.take()
        allowed += decision.is_allowed
        assert 0 <= decision.remaining < limit.count or limit.count == 1
        assert (decision.retry_after_seconds == 0) == (decision.remaining >= 1)
    elapsed_seconds = (limited.now - begin).total_seconds()
    assert allowed <= limit.count + elapsed_seconds * limit.count / limit.seconds + 0.01


def test_clock_set_back_removes_no_tokens() -> None:
    limited = Limited(Rate(2, 10))
    limited.wait(1_000)
    limited.take()
    limited.wait(-1_000)
    assert limited.take().is_allowed


@given(st.lists(st.tuples(st.sampled_from("ab"), st.just(0.0) | st.floats(0, 20)), max_size=20))
def test_each_caller_is_limited_as_if_alone(steps: list[tuple[str, float]]) -> None:
    now, limit = datetime(2026, 3, 1, tzinfo=UTC), Rate(3, 7)
    together = RateLimiter(lambda: now)
    alone = {name: RateLimiter(lambda: now) for name in "ab"}
    for name, pause_seconds in steps:
        now += timedelta(seconds=pause_seconds)
        assert together.take(name, limit) == alone[name].take(name, limit)
