"""Test credit, deliveries and settlements of links. The tests write and read each AMQP frame."""

from uuid import UUID

import pytest

from emulator.servicebus.amqp.codec import Decoder
from emulator.servicebus.amqp.connection import AMQP_HEADER
from emulator.servicebus.amqp.frames import AmqpFrameReader
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
    Transfer,
)
from emulator.servicebus.amqp.sections import DATA, encode_section, split
from emulator.servicebus.amqp.types import Described, Symbol, UInt, ULong
from emulator.servicebus.broker.broker import Broker
from servicebus_tests.amqp.amqp_peer import (
    BODY,
    QUEUE,
    Peer,
    closed_for,
    condition,
    fill,
)

RELEASED = Described(ULong(0x26), [])
REJECTED = Described(ULong(0x25), [])
ABANDONED = Described(ULong(0x27), [True, False])


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


async def test_performatives_and_outcomes_have_all_fields(fresh: Peer, broker: Broker) -> None:
    # azure-servicebus before 7.15 reads fields by their position, so no field may be missing.
    await fill(broker, 4)
    fresh.write(AMQP_HEADER)
    fresh.send(Open("peer"), Begin(incoming_window=UInt(1000), outgoing_window=UInt(1000)))
    cbs = Described(ULong(0x28), ["$cbs"])
    fresh.send(Attach("cbs", UInt(3), role=False, target=Described(ULong(0x29), ["$cbs"])))
    fresh.send(Attach("replies", UInt(4), role=True, source=cbs))
    fresh.send(Attach("refused", UInt(5), role=True, source=Described(ULong(0x28), ["nowhere"])))
    fresh.send(Detach(UInt(4), closed=True), End(), Close())
    opened = await fresh.read()
    peer = Peer(fresh.namespace)
    await peer.open()
    peer.attach_sender()
    peer.transfer(0, BODY)
    peer.attach_receiver(credit=5)
    sent = await peer.read()
    states = (
        ACCEPTED,
        REJECTED,
        RELEASED,
        Described(ULong(0x27), [True]),
        Described(ULong(0x27), []),
    )
    for number, state in enumerate(states):
        peer.send(Disposition(role=True, first=UInt(number), state=state))
    peer.send(Flow(next_incoming_id=UInt(0), incoming_window=UInt(9), echo=True))
    settled = await peer.read()
    lengths = {0x10: 10, 0x11: 8, 0x12: 14, 0x13: 11, 0x14: 11, 0x15: 6, 0x16: 3, 0x17: 1, 0x18: 1}
    outcomes = {0x24: 0, 0x25: 1, 0x26: 0, 0x27: 3}
    seen = set()
    for performative in performatives(opened.removeprefix(AMQP_HEADER) + sent + settled):
        assert len(performative.value) == lengths[performative.descriptor]
        seen.add(performative.descriptor)
        if performative.descriptor == 0x12 and performative.value[5] is not None:
            assert [len(each.value) for each in performative.value[5:7]] == [11, 7]
        if performative.descriptor == 0x15:
            outcome = performative.value[4]
            assert len(outcome.value) == outcomes[outcome.descriptor]
            seen.add(outcome.descriptor)
    assert seen == lengths.keys() | outcomes.keys()


def performatives(stream: bytes) -> list[Described]:
    """Return the performative of each frame in `stream`, with only the fields that were sent."""
    reader = AmqpFrameReader(1 << 20)
    reader.feed(stream)
    found = []
    while (frame := reader.frame()) is not None:
        found.append(Decoder(frame.body).value())
    return found


# Outgoing links


async def test_credit_is_added_to_the_peers_delivery_count(peer: Peer, broker: Broker) -> None:
    await fill(broker, 9)
    peer.attach_receiver(credit=3)
    assert len(await peer.received_of(Transfer)) == 3
    peer.grant(1, 3)  # the peer counts this credit from before the three deliveries
    assert await peer.received_of(Transfer) == []
    peer.grant(1, 3, seen=2)
    assert len(await peer.received_of(Transfer)) == 2
    peer.grant(1, 0, seen=5)
    await fill(broker, 1)
    assert await peer.received_of(Transfer) == []


async def test_drain_delivers_and_uses_up_the_credit(peer: Peer, broker: Broker) -> None:
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


async def test_large_message_is_sent_in_several_transfers(fresh: Peer, broker: Broker) -> None:
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
    assert (first.more, last.more, last.delivery_id) == (True, False, first.delivery_id)
    assert split(b"".join(payload for _, payload in frames)).body == (body,)


async def test_each_settled_message_is_confirmed(peer: Peer, broker: Broker) -> None:
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


async def test_rejections_confirmation_repeats_no_error(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    await peer.read()
    error = Described(ULong(0x1D), [Symbol("com.microsoft:dead-letter"), None, {}])
    peer.send(Disposition(role=True, first=UInt(0), state=Described(ULong(0x25), [error])))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state == Described(ULong(0x25), [None])
    assert broker.queue(QUEUE).counts().dead_letter == 1


async def test_lost_lock_rejects_the_settlement(peer: Peer, broker: Broker) -> None:
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


async def test_settlement_after_detach_leaves_the_lock(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    (transfer,) = await peer.received_of(Transfer)
    peer.send(Detach(UInt(1), closed=True), Disposition(role=True, first=UInt(0), state=ABANDONED))
    assert len(await peer.received_of(Detach)) == 1
    assert transfer.delivery_tag is not None
    await broker.queue(QUEUE).complete(UUID(bytes_le=transfer.delivery_tag))


async def test_settlement_without_outcome_means_redelivery(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    await peer.read()
    peer.send(Disposition(role=True, first=UInt(0), settled=True))
    assert await peer.received_of(Disposition) == []
    peer.grant(1, 1, seen=1)
    assert len(await peer.received_of(Transfer)) == 1


async def test_deliveries_stop_while_the_peer_reads_nothing(peer: Peer, broker: Broker) -> None:
    await fill(broker, 2)
    peer.attach_receiver()
    await peer.read()
    peer.connection.pause_writing()
    assert not peer.transport.reading
    peer.grant(1, 5)
    assert await peer.received_of(Transfer) == []
    peer.connection.resume_writing()
    assert len(await peer.received_of(Transfer)) == 2


# Incoming links


async def test_several_transfers_are_one_message(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    for at in range(len(BODY) - 1):
        peer.transfer(0, BODY[at : at + 1], more=True)
    peer.transfer(0, BODY[-1:])
    (answer,) = await peer.received_of(Disposition)
    assert (answer.role, answer.first, answer.settled, answer.state) == (True, 0, True, ACCEPTED)
    assert [split(each.bare).body for each in broker.queue(QUEUE).peek(1, 10)] == [(BODY,)]


async def test_aborted_delivery_is_discarded(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    peer.transfer(0, BODY, more=True)
    peer.transfer(0, b"", aborted=True)
    peer.transfer(1, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert answer.first == 1
    assert broker.queue(QUEUE).counts().active == 1


async def test_message_over_the_limit_is_not_stored(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    for _ in range(40):
        peer.transfer(0, b"x" * 60_000, more=True)
    peer.transfer(0, b"x")
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == "amqp:link:message-size-exceeded"
    assert broker.queue(QUEUE).counts().active == 0


async def test_malformed_message_closes_the_connection(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    peer.transfer(0, b"\x00\x53\x75\xa0\xff")
    assert await closed_for(peer) == "amqp:decode-error"
    assert broker.queue(QUEUE).counts().active == 0


async def test_presettled_message_gets_no_disposition(peer: Peer, broker: Broker) -> None:
    peer.attach_sender()
    peer.transfer(0, BODY, settled=True)
    assert await peer.received_of(Disposition) == []
    assert broker.queue(QUEUE).counts().active == 1


async def test_incomplete_deliveries_close_the_connection(peer: Peer) -> None:
    for handle in range(60):
        peer.attach_sender(handle=handle)
        for _ in range(4):
            peer.transfer(handle, b"x" * 60_000, handle=handle, more=True)
    assert await closed_for(peer) == "amqp:resource-limit-exceeded"


async def test_sender_gets_new_credit_after_500_messages(peer: Peer) -> None:
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
async def test_unsupported_source_is_refused(peer: Peer, source: Described, why: str) -> None:
    peer.send(Attach("link", UInt(0), role=True, source=source))
    (detach,) = await peer.received_of(Detach)
    assert condition(detach.error) == why
    peer.send(Detach(UInt(0), closed=True))
    peer.attach_receiver(handle=0)
    assert await peer.received_of(Attach)
