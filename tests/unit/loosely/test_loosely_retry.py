import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely import GatewayUnreachable, LooselyError, Retry, UnexpectedAnswer
from loosely.client.errors import read_problem

UNREACHABLE = GatewayUnreachable("http://h", "refused")


def problem(status: int, code: str, retry_after_seconds: float | None = None) -> LooselyError:
    found = read_problem(status, json.dumps({"code": code}).encode(), retry_after_seconds)
    assert found is not None
    return found


@given(st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 100))
def test_delay_is_within_bounds(failures: int, drawn: float, elapsed_seconds: float) -> None:
    retry = Retry(first_seconds=0.5, longest_seconds=8, total_seconds=60)
    pause = retry.pause_seconds(UNREACHABLE, failures, elapsed_seconds, lambda: drawn)
    if pause is None:
        assert elapsed_seconds > 52
    else:
        assert 0.25 <= pause <= 8
        assert elapsed_seconds + pause <= 60


def test_delay_doubles_up_to_maximum() -> None:
    retry = Retry(first_seconds=1, longest_seconds=5)
    pauses = [retry.pause_seconds(UNREACHABLE, n, 0, lambda: 1.0) for n in range(1, 6)]
    assert pauses == [1, 2, 4, 5, 5]


def test_retry_after_only_lengthens_delay() -> None:
    retry = Retry(first_seconds=4)
    assert retry.pause_seconds(problem(503, "saturated", 30), 1, 0, lambda: 0.0) == 30
    assert retry.pause_seconds(problem(503, "saturated", 0), 1, 0, lambda: 0.0) == 2
    assert retry.pause_seconds(problem(503, "saturated", 61), 1, 0) is None


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [
        (UNREACHABLE, True),
        (problem(429, "rate-limited"), True),
        (problem(503, "unavailable"), True),
        (problem(504, "expired"), True),
        (problem(500, "internal-error"), False),
        (problem(404, "unknown-job"), False),
        (problem(501, "of-the-future"), False),
        (UnexpectedAnswer("http://h", 502, "a proxy"), True),
        (UnexpectedAnswer("http://h", 500, "the host of an app that died"), True),
        (UnexpectedAnswer("http://h", 200, "no job"), False),
        (LooselyError(), False),
    ],
)
def test_only_transient_errors_are_retried(error: LooselyError, is_transient: bool) -> None:
    assert (Retry().pause_seconds(error, 1, 0) is not None) is is_transient
    assert Retry(total_seconds=0).pause_seconds(error, 1, 0) is None
