from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely import UnexpectedAnswer
from loosely.events import EventParser, Message

STREAM = (
    "\ufeffretry: 2000\r\n\r\n: still here\n\nevent: status\rid: 1.0.0\rdata: {\ndata:  1}\n\n"
    "data\n\nid: 2\ndata: \u00fc\n\nevent: lost\ndata: no end"
)
MESSAGES = [
    Message("status", "{\n 1}", "1.0.0"),
    Message("message", "", "1.0.0"),
    Message("message", "\u00fc", "2"),
]


@given(st.lists(st.integers(0, len(STREAM.encode()))))
def test_it_does_not_matter_where_a_stream_is_cut(cuts: list[int]) -> None:
    raw = STREAM.encode()
    edges = [0, *sorted(cuts), len(raw)]
    parser = EventParser("there")
    found = [message for start, end in pairwise(edges) for message in parser.feed(raw[start:end])]
    assert found == MESSAGES
    assert parser.retry_ms == 2000


@given(st.lists(st.binary()))
def test_any_bytes_are_read(chunks: list[bytes]) -> None:
    parser = EventParser("there")
    for chunk in chunks:
        parser.feed(chunk)


@pytest.mark.parametrize("chunk", [b"x" * 2**20, b"data: " + b"x" * 2**20 + b"\n"])
def test_an_event_without_end_is_refused(chunk: bytes) -> None:
    parser = EventParser("there")

    def feed() -> None:
        for _ in range(20):
            parser.feed(chunk)

    with pytest.raises(UnexpectedAnswer, match="does not end"):
        feed()
