"""Test that observers count AMQP and HTTP operations, however the bytes are cut into chunks."""

from collections import Counter

import pytest

from emulator.servicebus.amqp.codec import encode
from emulator.servicebus.amqp.frames import SASL_FRAME, encode_frame
from emulator.servicebus.amqp.performatives import Attach, Disposition, Transfer
from emulator.servicebus.amqp.sections import APPLICATION_PROPERTIES, DATA, encode_section
from emulator.servicebus.amqp.types import Described, Symbol, UInt, ULong
from lab.benchmarks.observers import BATCH_FORMAT, Counts, observe_amqp, observe_http
from lab.benchmarks.operations import name_blob_operation

_HEADERS = b"AMQP\x03\x01\x00\x00", b"AMQP\x00\x01\x00\x00"
_SOURCE, _TARGET = ULong(0x28), ULong(0x29)
_ACCEPTED = Described(ULong(0x24), [])


def attach(handle: int, *, is_receiver: bool, source: str = "me", target: str = "me") -> bytes:
    return encode_frame(
        Attach(
            "link",
            UInt(handle),
            is_receiver,
            source=Described(_SOURCE, [source]),
            target=Described(_TARGET, [target]),
        ).encode()
    )


def transfer(handle: int, payload: bytes = b"", *, more: bool = False) -> bytes:
    return encode_frame(Transfer(UInt(handle), more=more).encode() + payload)


def request(handle: int, operation: str) -> bytes:
    properties = {"operation": operation}
    return transfer(handle, encode_section(APPLICATION_PROPERTIES, properties))


def count(sent: bytes, received: bytes, chunk_bytes: int) -> Counter[str]:
    counts = Counts()
    from_client, from_server = observe_amqp(counts)()
    for observe, data in ((from_client, sent), (from_server, received)):
        for begin in range(0, len(data), chunk_bytes):
            observe(data[begin : begin + chunk_bytes])
    return counts.read()


def test_each_message_of_a_batch_is_counted() -> None:
    payload = encode_section(DATA, b"first") + encode_section(DATA, b"second")
    first = Transfer(UInt(0), message_format=UInt(BATCH_FORMAT), more=True).encode()
    frames = encode_frame(first + payload[:9]), transfer(0, payload[9:]), transfer(0)
    sent = attach(0, is_receiver=False, target="noop") + b"".join(frames)
    assert count(_HEADERS[1] + sent, b"", 100_000) == {"send": 3}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100_000])
def test_amqp_messages_and_settlements_are_counted(chunk_bytes: int) -> None:
    sasl = encode_frame(encode(Described(Symbol("amqp:sasl-init:list"), [])), 0, SASL_FRAME)
    sent = b"".join(
        (
            *(_HEADERS[0], sasl, _HEADERS[1], encode_frame(b"")),
            *(attach(0, is_receiver=False, target="noop"), transfer(0), transfer(0, more=True)),
            transfer(0),  # the end of the second message
            *(attach(1, is_receiver=False, target="$cbs"), transfer(1)),
            attach(2, is_receiver=False, target="noop/$management"),
            *(request(2, "com.microsoft:renew-lock"), request(2, "com.microsoft:peek-message")),
            attach(3, is_receiver=True, source="noop"),
            encode_frame(Disposition(True, UInt(4), UInt(6), True, _ACCEPTED).encode()),
        )
    )
    received = b"".join(
        (
            *(*_HEADERS, attach(3, is_receiver=False, source="noop"), transfer(3), transfer(3)),
            *(attach(2, is_receiver=False, source="noop/$management"), transfer(2)),
            encode_frame(Disposition(True, UInt(0), UInt(0), True, _ACCEPTED).encode()),
        )
    )
    assert count(sent, received, chunk_bytes) == {
        "send": 2,
        "authorise": 1,
        "renew": 1,
        "peek": 1,
        "complete": 3,
        "receive": 2,
    }


@pytest.mark.parametrize("chunk_bytes", [1, 9, 100_000])
def test_http_requests_are_counted_without_bodies(chunk_bytes: int) -> None:
    data = (
        b"PUT /account/payloads/outcomes/1?sig=x HTTP/1.1\r\nContent-Length: 12\r\n\r\n"
        b"GET / HTTP\r\n"
        b"GET /account/payloads/outcomes/1 HTTP/1.1\r\nhost: a\r\n\r\n"
        b"GET /account/payloads?comp=list HTTP/1.1\r\nhost: a\r\n\r\n"
    )
    counts = Counts()
    observe, _ = observe_http(counts, name_blob_operation)()
    for begin in range(0, len(data), chunk_bytes):
        observe(data[begin : begin + chunk_bytes])
    assert counts.read() == {"PUT outcomes": 1, "GET outcomes": 1, "GET payload": 1}
