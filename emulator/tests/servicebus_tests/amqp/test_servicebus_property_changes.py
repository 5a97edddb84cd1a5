"""Test the properties that receivers set when they settle a message."""

from typing import Any
from uuid import UUID

import pytest

from emulator.clock import WallClock
from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.amqp.performatives import Disposition, Transfer
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    encode_section,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import Array, Described, Int, Symbol, UInt, ULong
from emulator.servicebus.broker.authorization import ALL_RIGHTS
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from servicebus_tests.amqp.amqp_peer import QUEUE, Peer, condition, fill

MESSAGE = encode_section(APPLICATION_PROPERTIES, {"kept": 1, "why": "old"}) + encode_section(
    DATA, b"body"
)


def modified(*fields: Any) -> Described:
    return Described(ULong(0x27), list(fields))


async def receive(peer: Peer, handle: int = 1, seen: int = 0) -> tuple[int, dict[str, Any], UUID]:
    """Receive a message. Return its delivery count, application properties and lock token."""
    peer.grant(handle, 1, seen=seen, next_incoming_id=UInt(seen))
    ((transfer, payload),) = [
        pair for pair in await peer.received() if isinstance(pair[0], Transfer)
    ]
    assert isinstance(transfer, Transfer)
    assert transfer.delivery_tag is not None
    sections = split(payload)
    properties = section_value(sections.application_properties)
    token = UUID(bytes_le=transfer.delivery_tag)
    return section_value(sections.header)[4], properties, token


async def test_abandon_keeps_earlier_changes(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver()
    states = [
        modified(),
        modified(None, None, {Symbol("why"): "x"}),
        modified(None, False, {"n": Int(1)}),
        modified(False, False, {"n": Int(2)}),
        modified(True),
    ]
    for number, state in enumerate(states):
        count, _, _ = await receive(peer, seen=number)
        assert count == number
        peer.send(Disposition(role=True, first=UInt(number), state=state))
    assert (await receive(peer, seen=5))[:2] == (5, {"kept": 1, "why": "x", "n": 2})


async def test_ten_abandons_dead_letter_the_message(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver(credit=100)
    for number in range(10):
        assert len(await peer.received_of(Transfer)) == 1
        peer.send(Disposition(role=True, first=UInt(number), state=modified()))
    assert await peer.received_of(Transfer) == []
    (dead,) = broker.queue(f"{QUEUE}/$DeadLetterQueue").peek(1, 10)
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"


async def test_changes_over_64_kib_are_refused(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver()
    await receive(peer)
    first, second = ({f"{name}{n}": "x" * 20_000 for n in range(2)} for name in "ab")
    peer.send(Disposition(role=True, first=UInt(0), state=modified(None, None, first)))
    _, _, token = await receive(peer, seen=1)
    peer.send(Disposition(role=True, first=UInt(1), state=modified(None, None, second)))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == "com.microsoft:argument-error"
    await broker.queue(QUEUE).complete(token)


async def test_name_must_be_text(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver()
    await receive(peer)
    peer.send(Disposition(role=True, first=UInt(0), state=modified(None, None, {Int(1): "x"})))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == "com.microsoft:argument-error"


async def update(broker: Broker, status: str, token: UUID, properties: object) -> AmqpReply:
    body = {
        "lock-tokens": Array([token]),
        "disposition-status": status,
        "properties-to-modify": properties,
    }
    request = AmqpRequest({"operation": "com.microsoft:update-disposition"}, body)
    return await manage(
        broker.queue(QUEUE), NamespaceFaults(WallClock()), ALL_RIGHTS, AcceptedSessions(), request
    )


@pytest.mark.parametrize(
    ("status", "address"),
    [("abandoned", QUEUE), ("defered", QUEUE), ("suspended", f"{QUEUE}/$DeadLetterQueue")],
)
async def test_update_disposition_changes_properties(
    peer: Peer, broker: Broker, status: str, address: str
) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver()
    _, _, token = await receive(peer)
    reply = await update(broker, status, token, {"why": "x"})
    assert reply.properties["statusCode"] == 200
    (message,) = broker.queue(address).peek(1, 10)
    assert dict(message.property_changes) == {"why": b"\xa1\x01x"}


async def test_update_disposition_needs_a_map(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1, MESSAGE)
    peer.attach_receiver()
    _, _, token = await receive(peer)
    reply = await update(broker, "abandoned", token, "why=x")
    assert reply.properties["statusCode"] == 400
