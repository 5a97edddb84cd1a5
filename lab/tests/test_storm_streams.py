"""Test that the storm of streams finds each fault in what a reader has got, and no other."""

import json

import pytest

from lab.storm.streams import REDIS, ReadStream, plan_stream_kills, plan_streams
from loosely.client.sse import ServerSentEvent

WHOLE = ("chunk 1-1 a", "chunk 1-2 b", "end 1-3")
AGAIN = ("chunk 1-1 a", "attempt 2-0", "chunk 2-1 a", "chunk 2-2 b", "end 2-3")
SAME_ATTEMPT = ("chunk 1-1 a", "attempt 1-2", "chunk 1-3 ab", "end 1-4")


def read(*events: str, result: str = "ab") -> ReadStream:
    stream = ReadStream()
    for event in events:
        kind, key, *data = event.split()
        value = {"result": result} if kind == "end" else "".join(data)
        stream.take(ServerSentEvent(kind, json.dumps(value), key if "-" in key else None))
    return stream


@pytest.mark.parametrize("events", [WHOLE, AGAIN, SAME_ATTEMPT])
def test_a_right_stream_has_no_fault(events: tuple[str, ...]) -> None:
    assert read(*events).judge("ab") == []


@pytest.mark.parametrize(
    ("events", "fault"),
    [
        (("chunk 1-1 a", "chunk 1-1 a", "end 1-2"), "chunk 1-1 after 1-1"),
        (("chunk 1-2 ab", "end 1-3"), "chunk 1-2 after 1-0"),
        (("chunk 1-1 a", "chunk 1-3 b", "end 1-4"), "chunk 1-3 after 1-1"),
        (("chunk 1-1 a", "chunk 2-1 ab", "end 2-2"), "chunk 2-1 after 1-1"),
        (("chunk 1-1 a", "attempt 2-1", "chunk 2-2 ab", "end 2-3"), "attempt 2-1 after 1-1"),
        (("chunk 1-1 a", "end 1-2"), "the chunks (1 characters) are not the answer (2)"),
        (
            ("chunk 1-1 b", "stream_lost -", "end 1-2"),
            "the chunks (1 characters) are not the answer (2)",
        ),
        (("chunk 1-1 ab",), "the stream has no end"),
    ],
)
def test_each_fault_is_found(events: tuple[str, ...], fault: str) -> None:
    assert fault in read(*events).judge("ab")


def test_a_wrong_result_is_a_fault() -> None:
    assert read(*WHOLE, result="abc").judge("ab") == ["the end has the result 'abc'"]


def test_lost_events_are_no_fault_if_told() -> None:
    stream = read("chunk 1-1 a", "stream_lost -", "end 1-2")
    assert stream.judge("ab") == []
    assert stream.is_lost


def test_each_component_is_killed_in_turn() -> None:
    plan = plan_stream_kills(12, 1, ["functions"], REDIS)
    names = {"functions", "worker", "child of worker", "engine", "blobs", "redis"}
    assert {str(kill) for kill in plan[:6]} == {str(kill) for kill in plan[6:]} == names
    assert plan == plan_stream_kills(12, 1, ["functions"], REDIS)


def test_each_stream_has_its_own_answer() -> None:
    assert len({job.prompt for job in plan_streams(60, 1)}) == 60
