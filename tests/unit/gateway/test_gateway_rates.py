"""Test that a rate limit allows its quota of requests, and one more request for each new token."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.rates import Rate, RateLimiter, TokenBucket, charge_tokens, parse_rate, take_token

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


def test_headers_show_limit_and_remaining_requests() -> None:
    limit = Rate(10, 60)
    _, decision = take_token(limit, None, 0)
    assert limit.policy == '"default";q=10;w=60'
    assert decision.header == '"default";r=9;t=6'


@settings(max_examples=200)
@given(limit=RATES, at_seconds=st.floats(0, 1e9))
def test_simultaneous_requests_are_allowed_up_to_the_quota(limit: Rate, at_seconds: float) -> None:
    bucket: TokenBucket | None = None
    for left in range(limit.count - 1, -1, -1):
        bucket, decision = take_token(limit, bucket, at_seconds)
        assert (decision.is_allowed, decision.remaining) == (True, left)
    bucket, decision = take_token(limit, bucket, at_seconds)
    assert not decision.is_allowed
    assert decision.full_in_seconds == limit.seconds
    # A caller that has waited for Retry-After is allowed.
    assert decision.retry_after_seconds >= 1
    _, again = take_token(limit, bucket, at_seconds + decision.retry_after_seconds)
    assert again.is_allowed


@settings(max_examples=200)
@given(limit=RATES, count=st.integers(1, 5_000))
def test_request_over_the_quota_must_wait_as_told(limit: Rate, count: int) -> None:
    bucket, _ = take_token(limit, None, 0)
    bucket, charged = charge_tokens(limit, bucket, count)
    assert charged.remaining == max(0, limit.count - 1 - count)
    wait_seconds = charged.retry_after_seconds
    if wait_seconds > 1:
        _, early = take_token(limit, bucket, wait_seconds - 1)
        assert not early.is_allowed
    _, later = take_token(limit, bucket, wait_seconds)
    assert later.is_allowed


@settings(max_examples=200)
@given(
    limit=RATES,
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 1_000)), min_size=1, max_size=60),
)
def test_quota_and_elapsed_time_bound_the_requests(limit: Rate, pauses: list[float]) -> None:
    bucket: TokenBucket | None = None
    now, allowed = 0.0, 0
    for pause in pauses:
        now += pause
        bucket, decision = take_token(limit, bucket, now)
        allowed += decision.is_allowed
        assert 0 <= decision.remaining < limit.count or limit.count == 1
        assert (decision.retry_after_seconds == 0) == (decision.remaining >= 1)
    assert allowed <= limit.count + (now - pauses[0]) * limit.count / limit.seconds + 0.01


def test_clock_set_back_removes_no_tokens() -> None:
    limit = Rate(2, 10)
    bucket, _ = take_token(limit, None, 1_000.0)
    _, decision = take_token(limit, bucket, 0.0)
    assert decision.is_allowed


class Callers(RuleBasedStateMachine):
    """Random requests of two callers. Check that each caller is limited as if it were alone."""

    def __init__(self) -> None:
        super().__init__()
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.limiter = RateLimiter(lambda: self.now)
        self.alone = {name: RateLimiter(lambda: self.now) for name in "ab"}
        self.differ = False

    @rule(name=st.sampled_from("ab"))
    def ask(self, name: str) -> None:
        limit = Rate(3, 7)
        together, alone = self.limiter.take(name, limit), self.alone[name].take(name, limit)
        self.differ = together != alone

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @invariant()
    def each_has_its_own(self) -> None:
        assert not self.differ


TestCallers = Callers.TestCase
TestCallers.settings = settings(max_examples=20, stateful_step_count=20)
