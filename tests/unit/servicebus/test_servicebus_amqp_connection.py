"""Connections, sessions and links, frame by frame."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.servicebus.amqp.connection import AMQP_HEADER, CHANNEL_MAX, SASL_HEADER
from emulator.servicebus.amqp.frames import SASL_FRAME, FrameReader, encode_frame
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
from emulator.servicebus.amqp.sections import DATA, encode_section, split
from emulator.servicebus.amqp.types import Described, Symbol, UInt, ULong, UShort
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.messages import read_message
from emulator.servicebus.server import Namespace
from tests.unit.servicebus.servicebus_amqp_peer import QUEUE, Peer, serving

BODY = encode_section(DATA, b"body")
RELEASED = Described(ULong(0x26), [])
ABANDONED = Described(ULong(0x27), [True, False])


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Namespace, Broker]]:
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
async def broker(served: tuple[Namespace, Broker]) -> Broker:
    return served[1]


@pytest.fixture
async def fresh(served: tuple[Namespace, Broker]) -> Peer:
    """A peer that has connected and said nothing."""
    return Peer(served[0])


@pytest.fixture
async def peer(fresh: Peer) -> Peer:
    """A peer with a session."""
    await fresh.open()
    return fresh


def condition(error: Described | None) -> str:
    assert error is not None
    assert len(error.value) == 3
    return str(error.value[0])


async def closed_for(peer: Peer) -> str:
    (close,) = await peer.received_of(Close)
    assert peer.transport.is_closing()
    return condition(close.error)


async def ended_for(peer: Peer) -> str:
    (end,) = await peer.received_of(End)
    assert not peer.transport.is_closing()
    return condition(end.error)


async def fill(broker: Broker, count: int, payload: bytes = BODY) -> None:
    await broker.queue(QUEUE).send([read_message(payload)] * count)


# The connection


@pytest.mark.parametrize("header", [b"HTTP/1.1", b"AMQP\x02\x01\x00\x00", b"AMQP\x00\x00\x09\x01"])
async def test_another_protocol_is_told_ours_and_closed(fresh: Peer, header: bytes) -> None:
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
async def test_sasl(fresh: Peer, mechanism: str, response: bytes, outcome: int) -> None:
    init = SaslInit(Symbol(mechanism), response)
    fresh.write(SASL_HEADER + encode_frame(init.encode(), frame_type=SASL_FRAME))
    reader = FrameReader(512)
    reader.feed(await fresh.read())
    assert reader.header() == SASL_HEADER
    frames = [reader.frame(), reader.frame()]
    assert frames[1] is not None
    answer, _ = read_performative(frames[1].body)
    assert isinstance(answer, SaslOutcome)
    assert answer.outcome == outcome
    assert fresh.transport.is_closing() == bool(outcome)


async def test_everything_may_come_byte_by_byte(fresh: Peer) -> None:
    stream = AMQP_HEADER + b"".join(
        encode_frame(each.encode()) for each in (Open("peer"), Begin(), End(), Close())
    )
    for at in range(len(stream)):
        fresh.write(stream[at : at + 1])
    assert (await fresh.read()).startswith(AMQP_HEADER)
    assert fresh.transport.is_closing()


async def test_without_a_token_nothing_can_be_attached(fresh: Peer) -> None:
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
async def test_what_closes_a_connection(peer: Peer, data: bytes, why: str) -> None:
    peer.write(data)
    assert await closed_for(peer) == why


async def test_frames_before_open_or_too_small_frames_close(
    served: tuple[Namespace, Broker],
) -> None:
    for performative in (Begin(), Open("peer", max_frame_size=UInt(100))):
        peer = Peer(served[0])
        peer.write(AMQP_HEADER)
        await peer.read()
        peer.send(performative)
        assert (await closed_for(peer)).startswith("amqp:")


async def test_one_peers_end_is_not_anothers(served: tuple[Namespace, Broker], peer: Peer) -> None:
    other = Peer(served[0])
    await other.open()
    other.write(encode_frame(b"garbage"))
    assert await closed_for(other) == "amqp:decode-error"
    peer.attach_sender()
    assert await peer.received_of(Attach)


async def test_a_silent_peer_is_closed_and_one_that_asks_is_kept_alive(tmp_path: Path) -> None:
    async with serving(tmp_path, idle_seconds=0.3) as (namespace, _):
        peer = Peer(namespace)
        await peer.open(idle_time_out=UInt(200))
        async with asyncio.timeout(5):
            await peer.transport.closed.wait()
        assert peer.transport.written.startswith(encode_frame(b"") * 2)
        assert await closed_for(peer) == "amqp:resource-limit-exceeded"


# Sessions


async def test_handles(peer: Peer) -> None:
    peer.attach_sender(handle=3)
    await peer.read()
    peer.attach_sender(handle=3)
    assert await ended_for(peer) == "amqp:session:handle-in-use"
    peer.send(End())
    peer.send(Begin(incoming_window=UInt(10)))
    peer.transfer(0, BODY, handle=3)
    assert await ended_for(peer) == "amqp:session:unattached-handle"


async def test_an_ended_session_may_be_followed_by_what_was_on_its_way(peer: Peer) -> None:
    peer.attach_sender()
    peer.send(End(), Detach(UInt(0), closed=True))
    assert len(await peer.received_of(End)) == 1
    peer.send(Begin(incoming_window=UInt(10)))
    assert len(await peer.received_of(Begin)) == 1


async def test_a_handle_out_of_range_closes(peer: Peer) -> None:
    peer.attach_sender(handle=256)
    assert await closed_for(peer) == "amqp:connection:framing-error"


async def test_transfers_wait_for_the_peers_window(fresh: Peer, broker: Broker) -> None:
    await fresh.open(window=2)
    await fill(broker, 5)
    fresh.attach_receiver()
    fresh.grant(1, 10, window=2)
    assert len(await fresh.received_of(Transfer)) == 2
    fresh.send(Flow(next_incoming_id=UInt(2), incoming_window=UInt(1)))
    assert len(await fresh.received_of(Transfer)) == 1
    fresh.send(Flow(next_incoming_id=UInt(3), incoming_window=UInt(100)))
    assert len(await fresh.received_of(Transfer)) == 2


# Links that give


async def test_credit_counts_from_what_the_peer_has_seen(peer: Peer, broker: Broker) -> None:
    await fill(broker, 9)
    peer.attach_receiver(credit=3)
    assert len(await peer.received_of(Transfer)) == 3
    peer.grant(1, 3)  # has not seen the three yet
    assert await peer.received_of(Transfer) == []
    peer.grant(1, 3, seen=2)
    assert len(await peer.received_of(Transfer)) == 2
    peer.grant(1, 0, seen=5)
    await fill(broker, 1)
    assert await peer.received_of(Transfer) == []


async def test_drain_sends_what_there_is_and_gives_the_rest_of_the_credit_back(
    peer: Peer, broker: Broker
) -> None:
    await fill(broker, 2)
    peer.attach_receiver()
    await peer.read()
    peer.grant(1, 10, drain=True)
    received = [each for each, _ in await peer.received()]
    assert [type(each) for each in received] == [Transfer, Transfer, Flow]
    flow = received[-1]
    assert isinstance(flow, Flow)
    assert (flow.delivery_count, flow.link_credit, flow.drain) == (10, 0, True)
    await fill(broker, 1)
    assert await peer.received() == []


async def test_a_large_message_comes_in_frames_of_the_peers_size(
    fresh: Peer, broker: Broker
) -> None:
    await fresh.open(max_frame_size=512)
    body = encode_section(DATA, bytes(range(256)) * 16)
    await fill(broker, 1, body)
    fresh.attach_receiver(credit=1)
    frames = [pair for pair in await fresh.received() if isinstance(pair[0], Transfer)]
    assert len(frames) > 8
    assert all(len(payload) <= 512 - 8 for _, payload in frames)
    first, last = frames[0][0], frames[-1][0]
    assert isinstance(first, Transfer)
    assert isinstance(last, Transfer)
    assert (first.more, last.more, last.delivery_id) == (True, False, None)
    assert split(b"".join(payload for _, payload in frames)).bare == body


async def test_settlements_are_answered_with_the_outcome(peer: Peer, broker: Broker) -> None:
    await fill(broker, 4)
    peer.attach_receiver(credit=4)
    transfers = await peer.received_of(Transfer)
    assert [each.delivery_id for each in transfers] == [0, 1, 2, 3]
    peer.send(Disposition(role=True, first=UInt(0), last=UInt(0xFFFF), state=ACCEPTED))
    answers = await peer.received_of(Disposition)
    assert sorted(int(each.first) for each in answers) == [0, 1, 2, 3]
    assert all(each.settled and each.state == ACCEPTED and not each.role for each in answers)
    assert broker.queue(QUEUE).counts().active == 0
    peer.send(Disposition(role=True, first=UInt(0), state=ACCEPTED))
    assert await peer.received() == []


async def test_a_dead_letter_is_confirmed_without_its_error(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    await peer.read()
    error = Described(ULong(0x1D), [Symbol("com.microsoft:dead-letter"), None, {}])
    peer.send(Disposition(role=True, first=UInt(0), state=Described(ULong(0x25), [error])))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state == Described(ULong(0x25), [])
    assert broker.queue(QUEUE).counts().dead_letter == 1


async def test_a_lost_lock_is_an_error_in_a_rejection(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    (transfer,) = await peer.received_of(Transfer)
    assert transfer.delivery_tag is not None
    await broker.queue(QUEUE).complete(UUID(bytes_le=transfer.delivery_tag))
    peer.send(Disposition(role=True, first=UInt(0), state=ACCEPTED))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert answer.state.descriptor == 0x25
    assert condition(answer.state.value[0]) == "com.microsoft:message-lock-lost"


async def test_a_late_settlement_after_a_detach_leaves_the_lock(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    (transfer,) = await peer.received_of(Transfer)
    peer.send(Detach(UInt(1), closed=True), Disposition(role=True, first=UInt(0), state=ABANDONED))
    assert len(await peer.received_of(Detach)) == 1
    assert transfer.delivery_tag is not None
    await broker.queue(QUEUE).complete(UUID(bytes_le=transfer.delivery_tag))


async def test_what_is_settled_without_a_word_is_not_lost(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    await peer.read()
    peer.send(Disposition(role=True, first=UInt(0), settled=True))
    assert await peer.received_of(Disposition) == []
    peer.grant(1, 1, seen=1)
    assert len(await peer.received_of(Transfer)) == 1


async def test_a_peer_that_does_not_read_is_not_sent_more(peer: Peer, broker: Broker) -> None:
    await fill(broker, 2)
    peer.attach_receiver()
    await peer.read()
    peer.connection.pause_writing()
    assert not peer.transport.reading
    peer.grant(1, 5)
    assert await peer.received_of(Transfer) == []
    peer.connection.resume_writing()
    assert len(await peer.received_of(Transfer)) == 2


# Links that take


async def test_a_delivery_in_parts_is_one_message(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    for at in range(len(BODY) - 1):
        peer.transfer(0, BODY[at : at + 1], more=True)
    peer.transfer(0, BODY[-1:])
    (answer,) = await peer.received_of(Disposition)
    assert (answer.role, answer.first, answer.settled, answer.state) == (True, 0, True, ACCEPTED)
    assert [each.bare for each in broker.queue(QUEUE).peek(1, 10)] == [BODY]


async def test_an_aborted_delivery_never_was(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    peer.transfer(0, BODY, more=True)
    peer.transfer(0, b"", aborted=True)
    peer.transfer(1, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert answer.first == 1
    assert broker.queue(QUEUE).counts().active == 1


async def test_a_message_over_the_limit_is_refused_without_being_kept(
    peer: Peer, broker: Broker
) -> None:
    peer.attach_sender()
    for _ in range(40):
        peer.transfer(0, b"x" * 60_000, more=True)
    peer.transfer(0, b"x")
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == "amqp:link:message-size-exceeded"
    assert broker.queue(QUEUE).counts().active == 0


async def test_a_broken_message_closes(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    peer.transfer(0, b"\x00\x53\x75\xa0\xff")
    assert await closed_for(peer) == "amqp:decode-error"
    assert broker.queue(QUEUE).counts().active == 0


async def test_a_message_that_is_settled_already_is_not_answered(
    peer: Peer, broker: Broker
) -> None:
    peer.attach_sender()
    peer.transfer(0, BODY, settled=True)
    assert await peer.received_of(Disposition) == []
    assert broker.queue(QUEUE).counts().active == 1


async def test_too_much_of_what_is_not_complete_closes(peer: Peer) -> None:
    for handle in range(60):
        peer.attach_sender(handle=handle)
        for _ in range(4):
            peer.transfer(handle, b"x" * 60_000, handle=handle, more=True)
    assert await closed_for(peer) == "amqp:resource-limit-exceeded"


async def test_credit_is_topped_up(peer: Peer) -> None:
    peer.attach_sender()
    (flow,) = await peer.received_of(Flow)
    assert (flow.link_credit, flow.delivery_count) == (1000, 0)
    for delivery_id in range(500):
        peer.transfer(delivery_id, BODY, settled=True)
    (flow,) = await peer.received_of(Flow)
    assert (flow.link_credit, flow.delivery_count) == (1000, 500)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (Described(ULong(0x28), [None]), "amqp:not-implemented"),
        (Described(ULong(0x99), [QUEUE]), "amqp:not-implemented"),
        (Described([], [QUEUE]), "amqp:not-implemented"),
        (Described(ULong(0x28), ["http://[x"]), "amqp:invalid-field"),
        (Described(ULong(0x28), ["nowhere"]), "amqp:not-found"),
        (Described(ULong(0x28), ["nowhere/$management"]), "amqp:not-found"),
        (
            Described(
                ULong(0x28),
                [QUEUE, *[None] * 6, {Symbol("com.microsoft:session-filter"): None}],
            ),
            "amqp:not-allowed",
        ),
    ],
)
async def test_sources_that_are_refused(peer: Peer, source: Described, why: str) -> None:
    peer.send(Attach("link", UInt(0), role=True, source=source))
    (detach,) = await peer.received_of(Detach)
    assert condition(detach.error) == why
    peer.send(Detach(UInt(0), closed=True))
    peer.attach_receiver(handle=0)
    assert await peer.received_of(Attach)


# Anything at all

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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_peer_says_the_server_serves_the_next(data: st.DataObject) -> None:
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
