"""Test that events and stop orders are read as they were written, and that other lines are not."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contract.errors import MalformedMessage
from contract.streams import (
    StreamEvent,
    StreamEventType,
    encode_event,
    encode_stop,
    format_event_id,
    parse_event,
    parse_event_id,
    parse_stop,
)
from tests.unit.contract.message_strategies import JOB_IDS, JSON

NUMBERS = st.integers(0, 10**9 - 1)
EVENTS = st.builds(StreamEvent, NUMBERS, NUMBERS, st.sampled_from(StreamEventType), JSON)


@given(EVENTS)
def test_an_event_is_one_line(event: StreamEvent) -> None:
    line = encode_event(event)

    assert b"\n" not in line
    assert parse_event(line) == event


@given(NUMBERS, NUMBERS)
def test_an_id_is_read_as_written(attempt: int, number: int) -> None:
    assert parse_event_id(format_event_id((attempt, number))) == (attempt, number)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", " 1-2", "1-2\n", "٣-1", "1-1e3"])
def test_another_id_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="such as 1-3"):
        parse_event_id(text)


@given(JOB_IDS)
def test_a_stop_order_is_read(job_id: str) -> None:
    assert parse_stop(encode_stop(job_id)) == job_id


@given(st.binary(max_size=100))
@example(b"[" * 100_000)
@example(b'{"id": 1, "event": "chunk", "data": 1}')
@example(b'{"id": "1-1", "event": "other", "data": 1}')
@example(b'{"job": 1}')
@example(b"null")
def test_other_lines_are_not_read(line: bytes) -> None:
    assert parse_event(line) is None
    assert parse_stop(line) is None
