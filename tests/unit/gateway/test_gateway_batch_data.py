"""Test the ids of batches and lines, and the JSON of specs and states."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils import uuid7

from gateway.batches.ids import MAX_LINES, LineKey, is_batch_id, line_id, line_of, new_batch_id
from gateway.batches.model import (
    BatchSpec,
    BatchState,
    BatchStatus,
    LineProblem,
    SegmentLog,
    segment_of,
)

NOW = datetime(2026, 12, 2, 9, 0, tzinfo=UTC)


@given(number=st.integers(1, MAX_LINES))
def test_line_id_names_batch_and_line(number: int) -> None:
    batch_id = new_batch_id(NOW)
    assert line_of(line_id(batch_id, number)) == LineKey(batch_id, number)
    assert not is_batch_id(line_id(batch_id, number))


@pytest.mark.parametrize(
    "job_id",
    [
        str(uuid7()),
        "",
        "no-id",
        new_batch_id(NOW),
        new_batch_id(NOW).upper(),
        line_id(new_batch_id(NOW), MAX_LINES + 1),
    ],
    ids=["job", "empty", "no-id", "batch", "upper-case", "too-high"],
)
def test_other_ids_are_no_lines(job_id: str) -> None:
    assert line_of(job_id) is None


def test_ids_sort_by_time() -> None:
    ids = [new_batch_id(NOW + timedelta(milliseconds=each)) for each in range(100)]
    assert ids == sorted(ids)
    assert all(map(is_batch_id, ids))


@given(text=st.text())
def test_any_text_can_be_asked(text: str) -> None:
    assert line_of(text) is None
    assert not is_batch_id(text)


def test_spec_survives_json() -> None:
    spec = BatchSpec(
        id=new_batch_id(NOW),
        tenant="é",
        model="noop",
        created_at=NOW.isoformat(),
        deadline=NOW.isoformat(),
        blob="uploads/1",
        metadata={"a": "b"},
        parameters={"c": [1]},
    )
    assert BatchSpec.decode(spec.encode()) == spec


def test_secret_of_the_webhook_is_in_no_repr() -> None:
    spec = BatchSpec("1", "t", "m", "", "", "", webhook_url="https://example.com/?key=secret")
    assert "secret" not in repr(spec)


@given(
    status=st.sampled_from(BatchStatus),
    segments=st.lists(st.integers(1, 250), max_size=5),
    ended=st.integers(0, 1 << 250),
)
def test_state_survives_json(status: BatchStatus, segments: list[int], ended: int) -> None:
    state = BatchState(status, segments, logs={3: SegmentLog(17, ended)})
    state.problems = [LineProblem(1, "malformed-request", "no JSON", "a")]
    assert BatchState.decode(state.encode()) == state


def test_unknown_members_are_ignored() -> None:
    assert BatchState.decode(b'{"status": "running", "new": 1}').status is BatchStatus.RUNNING


@given(segments=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_each_line_is_in_one_segment(segments: list[int]) -> None:
    places = [segment_of(segments, number) for number in range(1, sum(segments) + 1)]
    assert places == [(i, place) for i, count in enumerate(segments) for place in range(count)]
    with pytest.raises(IndexError):
        segment_of(segments, sum(segments) + 1)
