"""Test connections and sessions with frames that are valid, invalid or random."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.servicebus.amqp.connection import AMQP_HEADER, CHANNEL_MAX, SASL_HEADER
from emulator.servicebus.amqp.frames import SASL_FRAME, AmqpFrameReader, encode_frame
from emulator.servicebus.amqp.outcomes import ACCEPTED
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    SaslInit,
    SaslOutcome,
    Transfer,
    read_performative,
)
from emulator.servicebus.amqp.types import Described, Symbol, UInt, ULong, UShort
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import IncomingMessage
from emulator.servicebus.namespace import Namespace
from servicebus_tests.amqp.amqp_peer import (
    BODY,
    QUEUE,
    Peer,
    closed_for,
    condition,
    ended_for,
    serving,
)

RELEASED = Described(ULong(0x26), [])
SCRIPT = [
    AMQP_HEADER,
    *(
        encode_frame(body)
        for body in (
            Open("peer").encode(),
            Begin(incoming_window=UInt(10)).encode(),
            Attach("s", UInt(0), role=False, target=Described(ULong(0x29), ["$cbs"])).encode(),
            Attach("r", UInt(1), role=True, source=Described(ULong(0x28), ["$cbs"])).encode(),
            Flow(incoming_window=UInt(10), handle=UInt(1), link_credit=UInt(9)).encode(),
            Transfer(UInt(0), UInt(0), b"t").encode() + BODY,
            Disposition(role=True, first=UInt(0), settled=True, state=RELEASED).encode(),
            Detach(UInt(0)).encode(),
            End().encode(),
        )
    ),
]


@pytest.mark.parametrize("header", [b"HTTP/1.1", b"AMQP\x02\x01\x00\x00", b"AMQP\x00\x00\x09\x01"])
async def test_unknown_header_gets_sasls_and_a_disconnect(fresh: Peer, header: bytes) -> None:
    fresh.write(header)
    assert await fresh.read() == SASL_HEADER
    assert fresh.transport.is_closing()


@pytest.mark.parametrize(
    ("mechanism", "response", "outcome"),
    [
        ("ANONYMOUS", b"", 0),
        ("MSSBCBS", b"", 0),
        ("PLAIN", b"\x00key\x00value", 0),
        ("PLAIN", b"\x00key\x00wrong", 1),
        ("PLAIN", b"\x00nobody\x00", 1),
        ("PLAIN", b"\xff", 1),
        ("GSSAPI", b"", 1),
    ],
)
async def test_sasl_refuses_invalid_key_and_mechanism(
    fresh: Peer, mechanism: str, response: bytes, outcome: int
) -> None:
    init = SaslInit(Symbol(mechanism), response)
    fresh.write(SASL_HEADER + encode_frame(init.encode(), frame_type=SASL_FRAME))
    reader = AmqpFrameReader(512)
    reader.feed(await fresh.read())
    assert reader.header() == SASL_HEADER
    frames = [reader.frame(), reader.frame()]
    assert frames[1] is not None
    answer, _ = read_performative(frames[1].body)
    assert isinstance(answer, SaslOutcome)
    assert answer.outcome == outcome
    assert fresh.transport.is_closing() == bool(outcome)


async def test_connection_opens_byte_by_byte(fresh: Peer) -> None:
    stream = AMQP_HEADER + b"".join(
        encode_frame(each.encode()) for each in (Open("peer"), Begin(), End(), Close())
    )
    for at in range(len(stream)):
        fresh.write(stream[at : at + 1])
    assert (await fresh.read()).startswith(AMQP_HEADER)
    assert fresh.transport.is_closing()


async def test_link_needs_a_token(fresh: Peer) -> None:
    fresh.write(AMQP_HEADER)
    fresh.send(Open("peer"), Begin(incoming_window=UInt(10)))
    await fresh.read()
    fresh.attach_sender()
    attach, detach = [each for each, _ in await fresh.received()]
    assert isinstance(attach, Attach)
    assert attach.target is None
    assert isinstance(detach, Detach)
    assert condition(detach.error) == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x7f\x00\x00\x00\x02\x00\x00\x00", "amqp:connection:framing-error"),
        (encode_frame(b"\x00\x53\x99\x45"), "amqp:decode-error"),
        (encode_frame(b"garbage"), "amqp:decode-error"),
        (encode_frame(End().encode(), CHANNEL_MAX + 1), "amqp:connection:framing-error"),
        (encode_frame(b"", frame_type=SASL_FRAME), "amqp:connection:framing-error"),
        (encode_frame(Open("again").encode()), "amqp:not-allowed"),
        (encode_frame(Begin().encode()), "amqp:not-allowed"),
        (encode_frame(Begin(remote_channel=UShort(1)).encode(), 5), "amqp:not-allowed"),
        (encode_frame(End().encode(), 9), "amqp:not-allowed"),
    ],
)
async def test_unexpected_frame_closes_the_connection(peer: Peer, data: bytes, why: str) -> None:
    peer.write(data)
    assert await closed_for(peer) == why


async def test_missing_open_or_tiny_frames_close_the_connection(
    served: tuple[Namespace, Broker],
) -> None:
    for performative in (Begin(), Open("peer", max_frame_size=UInt(100))):
        peer = Peer(served[0])
        peer.write(AMQP_HEADER)
        await peer.read()
        peer.send(performative)
        assert (await closed_for(peer)).startswith("amqp:")


async def test_error_leaves_other_connections_open(
    served: tuple[Namespace, Broker], peer: Peer
) -> None:
    other = Peer(served[0])
    await other.open()
    other.write(encode_frame(b"garbage"))
    assert await closed_for(other) == "amqp:decode-error"
    peer.attach_sender()
    assert await peer.received_of(Attach)


async def test_idle_peer_gets_empty_frames_until_the_close(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, idle_seconds=0.3) as (namespace, _):
        peer = Peer(namespace)
        await peer.open(idle_time_out=UInt(200))
        async with asyncio.timeout(30):
            await peer.transport.closed.wait()
        assert peer.transport.written.startswith(encode_frame(b"") * 2)
        assert await closed_for(peer) == "amqp:resource-limit-exceeded"


# Sessions


async def test_invalid_link_handle_ends_the_session(peer: Peer) -> None:
    peer.attach_sender(handle=3)
    await peer.read()
    peer.attach_sender(handle=3)
    assert await ended_for(peer) == "amqp:session:handle-in-use"
    peer.send(End())
    peer.send(Begin(incoming_window=UInt(10)))
    peer.transfer(0, BODY, handle=3)
    assert await ended_for(peer) == "amqp:session:unattached-handle"


async def test_frames_after_a_sessions_end_are_ignored(peer: Peer) -> None:
    peer.attach_sender()
    peer.send(End(), Detach(UInt(0), closed=True))
    assert len(await peer.received_of(End)) == 1
    peer.send(Begin(incoming_window=UInt(10)))
    assert len(await peer.received_of(Begin)) == 1


async def test_handle_over_the_maximum_closes_the_connection(peer: Peer) -> None:
    peer.attach_sender(handle=256)
    assert await closed_for(peer) == "amqp:connection:framing-error"


@settings(max_examples=60)
@given(st.data())
def test_invalid_frames_do_not_affect_other_peers(data: st.DataObject) -> None:
    pieces = [bytearray(each) for each in SCRIPT]
    for _ in range(data.draw(st.integers(0, 4))):
        piece = data.draw(st.sampled_from(pieces))
        piece[data.draw(st.integers(0, len(piece) - 1))] = data.draw(st.integers(0, 255))
    order = data.draw(st.permutations(range(1, len(pieces))))
    said = [
        pieces[0],
        *(pieces[at] for at in (order if data.draw(st.booleans()) else sorted(order))),
    ]
    asyncio.run(_talk([bytes(each) for each in said]))


async def _talk(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with serving(Path(folder)) as (namespace, _):
            hostile = Peer(namespace)
            for piece in pieces:
                if not hostile.transport.is_closing():
                    hostile.write(piece)
                    assert b"amqp:internal-error" not in await hostile.read()
            honest = Peer(namespace)
            await honest.open()
            honest.attach_sender()
            honest.transfer(0, BODY)
            (answer,) = await honest.received_of(Disposition)
            assert answer.state == ACCEPTED


@pytest.mark.parametrize("steps", range(12))
async def test_half_closed_receiver_gets_a_message_once(
    broker: Broker, served: tuple[Namespace, Broker], steps: int
) -> None:
    first, second = Peer(served[0]), Peer(served[0])
    await first.open()
    first.attach_receiver(credit=5)
    await first.read()
    sending = asyncio.create_task(broker.queue(QUEUE).send([IncomingMessage(b"", b"", BODY)]))
    for _ in range(steps):
        await asyncio.sleep(0)
    # asyncio closes the transport if the method returns False.
    if not first.connection.eof_received():
        first.transport.close()
    await sending
    got = len(await first.received_of(Transfer))
    await second.open()
    second.attach_receiver(credit=5)
    assert got + len(await second.received_of(Transfer)) == 1
