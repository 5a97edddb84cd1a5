"""Test that retry delays grow up to a limit, are shortened at random, and can be reset."""

from hypothesis import given
from hypothesis import strategies as st

from worker.retries import RetryDelays, redelivery_delay_seconds


def test_delays_double_to_a_limit_until_a_reset() -> None:
    backoff = RetryDelays(first_seconds=1.0, limit_seconds=5.0, chance=lambda: 0.0)
    assert [backoff.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next() == 1.0


@given(st.floats(0, 1))
def test_jitter_shortens_by_at_most_half(chance: float) -> None:
    assert 1.0 <= RetryDelays(first_seconds=2.0, chance=lambda: chance).next() <= 2.0


def test_redelivery_delays_grow_with_the_count() -> None:
    delays = [redelivery_delay_seconds(count, lambda: 0.0) for count in range(7)]
    assert delays == sorted(delays)
    assert delays[0] == 1.0
    assert delays[3:] == [60.0] * 4
    assert redelivery_delay_seconds(2, lambda: 1.0) == delays[2] / 2
