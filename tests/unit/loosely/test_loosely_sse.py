"""Test the parser of `text/event-stream` with streams that are cut at any byte."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely.client.sse import MAX_EVENT_BYTES, EventParser, EventTooLong, ServerSentEvent

_LINE_ENDS = st.sampled_from(["\n", "\r", "\r\n"])
_VALUES = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=9)
_EVENTS = st.builds(
    ServerSentEvent,
    _VALUES,
    st.lists(_VALUES, min_size=1, max_size=3).map("\n".join),
    st.none() | _VALUES,
)


@st.composite
def _streams(draw: st.DrawFn) -> tuple[list[ServerSentEvent], bytes]:
    """Draw events, and the same as text with any line ends, comments and unknown fields."""
    events = draw(st.lists(_EVENTS, max_size=5))
    lines = [": a comment"]
    for event in events:
        lines += [f"event: {event.type}", *(f"data: {line}" for line in event.data.split("\n"))]
        lines += ["retry: 10", "unknown"] if draw(st.booleans()) else []
        lines += [] if event.id is None else [f"id: {event.id}"]
        lines.append("")
    return events, "".join(line + draw(_LINE_ENDS) for line in lines).encode()


def _parse(*pieces: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(_streams(), st.lists(st.integers(0, 400)))
def test_cuts_change_nothing(stream: tuple[list[ServerSentEvent], bytes], cuts: list[int]) -> None:
    events, text = stream
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(edges)]
    # Bare CRs and LFs that meet are one line end, so that two events may become one.
    assert _parse(*pieces) == _parse(text)
    if b"\r" not in text:
        assert _parse(text) == events


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_are_parsed(pieces: list[bytes]) -> None:
    assert _parse(*pieces) == _parse(b"".join(pieces))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"data:a\n\n", [ServerSentEvent("", "a")]),
        (b"data:  a\n\n", [ServerSentEvent("", " a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent("", "a")]),
        (b"data\n\n", [ServerSentEvent("", "")]),
        (b"data: a\ndata: b\r\r\n", [ServerSentEvent("", "a\nb")]),
        (b"data: a\r\ndata: b\r\n\r\n", [ServerSentEvent("", "a\nb")]),
        (b"event: x\nid: 1\n\ndata: a\n\n", [ServerSentEvent("", "a")]),
        (b"id: 1\0\ndata: a\n\n", [ServerSentEvent("", "a")]),
        (b"data: a\n", []),
        (b":data: a\n\n", []),
    ],
)
def test_fields_as_in_the_standard(text: bytes, expected: list[ServerSentEvent]) -> None:
    assert _parse(text) == expected


def test_event_is_complete_at_its_last_cr() -> None:
    assert _parse(b"data: a\r\r") == [ServerSentEvent("", "a")]


@pytest.mark.parametrize("text", [b"data: ", b"data: a\ndata: "])
def test_endless_event_is_refused(text: bytes) -> None:
    with pytest.raises(EventTooLong):
        _parse(text, b"a" * MAX_EVENT_BYTES)
