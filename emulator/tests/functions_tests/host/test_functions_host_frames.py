import json
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.functions.app.frames import (
    MAX_BODY_BYTES,
    FrameError,
    FrameReader,
    encode_frame,
    encode_prefix,
)

heads = st.lists(
    st.one_of(st.integers(-(2**53), 2**53), st.text(), st.none(), st.lists(st.text())), min_size=1
)
frames = st.lists(st.tuples(heads, st.binary(max_size=200)), max_size=6)


@given(frames, st.lists(st.integers(0, 2000), max_size=12))
def test_fragments_are_read_as_frames(
    sent: list[tuple[list[object], bytes]], cuts: list[int]
) -> None:
    stream = b"".join(encode_frame(head, body) for head, body in sent)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    reader = FrameReader()
    received = [frame for a, b in pairwise(places) for frame in reader.feed(stream[a:b])]
    assert received == sent


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_random_bytes_are_frames_or_raise_frame_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            for head, body in reader.feed(piece):
                assert isinstance(head, list)
                assert isinstance(body, bytes)
    except FrameError:
        pass


def test_prefix_and_body_equal_the_frame() -> None:
    assert encode_prefix(["a"], 3) + b"xyz" == encode_frame(["a"], b"xyz")


@pytest.mark.parametrize("head", [b"{}", b"[]", b"1", b"[", b"\xff", b"[" * 100_000])
def test_head_must_be_a_nonempty_json_array(head: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(struct.pack("!II", len(head), 0) + head)


def test_frame_over_the_limit_is_refused_early() -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(struct.pack("!II", 2**31, 0))
    with pytest.raises(FrameError):
        FrameReader().feed(struct.pack("!II", 2, MAX_BODY_BYTES + 1))


def test_heads_are_compact_json() -> None:
    assert encode_frame([1, {"a": "b"}])[8:] == b'[1,{"a":"b"}]'
    assert json.loads(encode_frame(["ü"])[8:]) == ["ü"]
