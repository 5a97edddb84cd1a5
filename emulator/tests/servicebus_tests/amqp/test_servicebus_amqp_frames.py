"""Test how frames and performatives are encoded, split, decoded and checked."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from azure.servicebus._pyamqp._decode import decode_frame
from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.amqp.codec import encode, encode_composite
from emulator.servicebus.amqp.errors import DecodeError, FramingError
from emulator.servicebus.amqp.frames import AmqpFrameReader, Frame, encode_frame
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    Transfer,
    build_error,
    read_performative,
)
from emulator.servicebus.amqp.types import Described, Symbol, UInt, ULong, UShort

EXAMPLES: list[Performative] = [
    Open("container", hostname="host", max_frame_size=UInt(65536), properties={"product": "x"}),
    Begin(remote_channel=UShort(3), next_outgoing_id=UInt(1), incoming_window=UInt(5)),
    Attach("link", UInt(0), role=True, source=Described(ULong(0x28), ["address"])),
    Flow(next_incoming_id=UInt(0), handle=UInt(2), link_credit=UInt(10), drain=True),
    Transfer(UInt(1), delivery_id=UInt(2), delivery_tag=b"tag", more=True),
    Disposition(role=True, first=UInt(1), last=UInt(9), settled=True),
    Detach(UInt(1), closed=True, error=build_error("amqp:not-found", "no such queue")),
    End(),
    Close(build_error("amqp:connection:forced", "bye")),
]


def frames(reader: AmqpFrameReader, pieces: list[bytes]) -> Iterator[Frame]:
    for piece in pieces:
        reader.feed(piece)
        while (frame := reader.frame()) is not None:
            yield frame


@given(
    st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=40)), max_size=10),
    st.integers(1, 30),
)
def test_split_bytes_are_read_as_frames(sent: list[tuple[int, bytes]], step: int) -> None:
    stream = b"".join(encode_frame(body, channel) for channel, body in sent)
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    received = [(each.channel, each.body) for each in frames(AmqpFrameReader(512), pieces)]
    assert received == sent


def test_extended_header_is_skipped() -> None:
    reader = AmqpFrameReader(512)
    reader.feed(b"\x00\x00\x00\x0e\x03\x00\x00\x01" + b"\xff" * 4 + b"xy")
    assert reader.frame() == Frame(0, 1, b"xy")


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ("00000201 02 00 0000", "exceeds the limit of 512"),
        ("00000007 02 00 0000", "data offset"),
        ("00000008 01 00 0000", "data offset"),
        ("00000008 03 00 0000", "data offset"),
        ("00000008 02 02 0000", "type"),
    ],
)
def test_invalid_header_raises_before_the_body(head: str, why: str) -> None:
    reader = AmqpFrameReader(512)
    reader.feed(bytes.fromhex(head))
    with pytest.raises(FramingError, match=why):
        reader.frame()


@pytest.mark.parametrize("performative", EXAMPLES, ids=lambda each: type(each).__name__)
def test_performative_survives_encoding(
    performative: Performative,
) -> None:
    body = performative.encode() + b"payload"
    assert read_performative(body) == (performative, len(body) - len(b"payload"))


@pytest.mark.parametrize("performative", EXAMPLES, ids=lambda each: type(each).__name__)
def test_microsofts_decoder_decodes_performatives(performative: Performative) -> None:
    code, fields = decode_frame(memoryview(performative.encode()))
    assert code == performative.code
    assert len(fields) >= len(performative.names())


def test_error_has_three_fields_with_a_null() -> None:
    _, fields = decode_frame(memoryview(EXAMPLES[-1].encode()))
    assert fields[0] == [b"amqp:connection:forced", b"bye", None]


def test_symbol_as_descriptor_is_decoded() -> None:
    body = encode(Described(Symbol("amqp:end:list"), []))
    assert read_performative(body)[0] == End()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (encode("text"), "does not start"),
        (encode(Described(ULong(0x99), [])), "not the descriptor of a performative"),
        (encode(Described(Symbol("amqp:nothing:list"), [])), "neither a number nor a known symbol"),
        (encode(Described([], [])), "neither a number nor a known symbol"),
        (encode_composite(0x10, []), "container_id is missing"),
        (encode_composite(0x12, ["name", UInt(1)]), "role is missing"),
        (encode_composite(0x14, ["one"]), "handle: expected UInt, found str"),
        (encode_composite(0x17, [None, 1]), "has 2 fields"),
    ],
)
def test_invalid_performative_raises_decode_error(body: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read_performative(body)


@given(st.sampled_from(EXAMPLES), st.data())
def test_damaged_performative_decodes_or_raises(
    performative: Performative, data: st.DataObject
) -> None:
    body = bytearray(performative.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        read_performative(bytes(body))


def test_repr_of_sasl_init_hides_credentials() -> None:
    shown: Any = repr(SaslInit(Symbol("PLAIN"), b"\x00name\x00secret"))
    assert "secret" not in shown
