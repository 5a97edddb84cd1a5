"""Test that errors have the texts of Azure Service Bus, because some clients parse these texts."""

import re
from uuid import UUID

from emulator.servicebus.amqp.connection import AMQP_HEADER
from emulator.servicebus.amqp.performatives import (
    Attach,
    Begin,
    Detach,
    Disposition,
    Open,
    Transfer,
)
from emulator.servicebus.amqp.types import Described, UInt, ULong
from emulator.servicebus.broker.broker import Broker
from servicebus_tests.amqp.amqp_peer import QUEUE, Peer, fill

TRACKING = (
    r" TrackingId:[0-9a-f-]{36}_G0, SystemTracker:localhost:(?P<entity>[^,]+),"
    r" Timestamp:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
)


def check(error: Described | None, condition: str, text: str, entity: str = QUEUE) -> None:
    assert error is not None
    found, description, _ = error.value
    assert found == condition
    match = re.fullmatch(re.escape(text) + TRACKING, description)
    assert match is not None, description
    assert match["entity"] == entity


async def refusal_of(peer: Peer) -> Described | None:
    (detach,) = await peer.received_of(Detach)
    return detach.error


async def test_unknown_queue_has_the_text_that_clients_parse(peer: Peer) -> None:
    peer.attach_receiver(address="nowhere")
    error = await refusal_of(peer)
    text = "The messaging entity 'nowhere' could not be found."
    check(error, "amqp:not-found", text, "nowhere")
    assert error is not None
    # The pattern of @azure/core-amqp, which recognizes the error by its text.
    assert re.search("The messaging entity .* could not be found.*", error.value[1], re.IGNORECASE)


async def test_missing_access_names_the_claim(fresh: Peer) -> None:
    fresh.write(AMQP_HEADER)
    fresh.send(Open("peer"), Begin(incoming_window=UInt(9), outgoing_window=UInt(9)))
    await fresh.read()
    for claim, attach in (("Send", fresh.attach_sender), ("Listen", fresh.attach_receiver)):
        attach()
        text = (
            f"Unauthorized access. '{claim}' claim(s) are required to perform this operation."
            " Resource: 'sb://localhost/queue'."
        )
        check(await refusal_of(fresh), "amqp:unauthorized-access", text)


async def test_lost_lock_has_azures_text(peer: Peer, broker: Broker) -> None:
    await fill(broker, 1)
    peer.attach_receiver(credit=1)
    (transfer,) = await peer.received_of(Transfer)
    assert transfer.delivery_tag is not None
    await broker.queue(QUEUE).complete(UUID(bytes_le=transfer.delivery_tag))
    peer.send(Disposition(role=True, first=UInt(0), state=Described(ULong(0x24), [])))
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    text = (
        "The lock supplied is invalid. Either the lock expired, or the message has already been"
        " removed from the queue, or was received by a different receiver instance."
    )
    check(answer.state.value[0], "com.microsoft:message-lock-lost", text)


async def test_session_receiver_error_names_requires_session(
    peer: Peer,
) -> None:
    filters = {"com.microsoft:session-filter": None}
    source = Described(ULong(0x28), [QUEUE, *[None] * 6, filters])
    peer.send(Attach("link", UInt(0), role=True, source=source))
    text = (
        "A sessionful message receiver cannot be created on an entity that does not require"
        " sessions. Ensure RequiresSession is set to true when creating a Queue or Subscription to"
        " enable sessionful behavior."
    )
    check(await refusal_of(peer), "amqp:not-allowed", text)
