"""Test AMQP links with a session filter, and requests to $management for message sessions."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.codec import decode, encode, encode_list
from emulator.servicebus.amqp.performatives import Attach, Detach, Disposition, End, Flow, Transfer
from emulator.servicebus.amqp.types import Described, Int, Symbol, Timestamp, UByte, UInt, ULong
from emulator.servicebus.broker.authorization import ALL_RIGHTS
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.errors import SessionLockLost
from emulator.servicebus.broker.message import IncomingMessage
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import QueueSettings, QueueStatus
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from manual_clock import ManualClock
from servicebus_tests.amqp.amqp_peer import BODY, QUEUE, RULES, Peer, condition

FILTER = "com.microsoft:session-filter"
LOCKED_UNTIL = "com.microsoft:locked-until-utc"
ACCEPTED = Described(ULong(0x24), [])
SETTINGS = QueueSettings(QUEUE, lock_duration=timedelta(seconds=30), requires_session=True)


class Served:
    """A namespace whose queue requires sessions, its broker, and a client of the namespace."""

    def __init__(self, broker: Broker, clock: ManualClock) -> None:
        self.broker = broker
        self.clock = clock
        self.namespace = Namespace(broker, AccessPolicies(RULES, broker), clock)
        self.peer = Peer(self.namespace)

    @property
    def queue(self) -> Queue:
        return self.broker.queue(QUEUE)

    async def send(self, session_id: str) -> None:
        await self.queue.send([IncomingMessage(b"", b"", BODY, session_id=session_id)])

    def attach(
        self, value: Any, timeout_ms: int | None = None, handle: int = 1, name: str = FILTER
    ) -> None:
        """Attach a receiver with the session filter `value`, None for the next session."""
        self.peer.send(
            Attach(
                f"receiver-{handle}",
                UInt(handle),
                role=True,
                snd_settle_mode=UByte(0),
                rcv_settle_mode=UByte(1),
                source=Described(ULong(0x28), [QUEUE, *[None] * 6, {Symbol(name): value}]),
                target=Described(ULong(0x29), ["here"]),
                properties=None
                if timeout_ms is None
                else {Symbol("com.microsoft:timeout"): UInt(timeout_ms)},
            )
        )

    async def attached(self) -> Attach:
        """Check that the server accepted the link, and return the server's attach performative."""
        (attach,) = await self.peer.received_of(Attach)
        assert attach.source is not None
        return attach


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    clock = ManualClock()
    broker = await Broker.open(tmp_path / "broker.sqlite3", [SETTINGS], clock)
    served = Served(broker, clock)
    await served.peer.open()
    yield served
    served.namespace.close()
    await broker.close()


def filter_of(attach: Attach) -> Any:
    assert attach.source is not None
    return attach.source.value[7]


async def test_reply_has_session_id_and_expiry_in_ticks(
    served: Served,
) -> None:
    served.attach("s")
    attach = await served.attached()
    assert filter_of(attach) == {FILTER: "s"}
    assert attach.properties is not None
    ticks = attach.properties[LOCKED_UNTIL]
    until = datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    assert until == served.clock.moment + SETTINGS.lock_duration


async def test_reply_repeats_the_filters_descriptor(
    served: Served,
) -> None:
    served.attach(Described(ULong(0x137000000C), "s"))
    assert filter_of(await served.attached()) == {FILTER: Described(ULong(0x137000000C), "s")}


async def test_non_exclusive_session_is_refused(served: Served) -> None:
    value = Described(ULong(0x137000000E), ["s", None])
    served.attach(value, name="com.microsoft:non-exclusive-session-filter")
    (detach,) = await served.peer.received_of(Detach)
    assert detach.error is not None
    assert detach.error.value[:1] == ["amqp:not-implemented"]
    assert detach.error.value[1].startswith("non-exclusive locks on message sessions are not")


async def test_filter_must_be_string_or_null(
    served: Served,
) -> None:
    served.attach(1)
    (detach,) = await served.peer.received_of(Detach)
    assert condition(detach.error) == "amqp:invalid-field"


async def test_next_session_is_answered_by_a_message(
    served: Served,
) -> None:
    served.attach(None)
    served.peer.grant(1, 5)  # a client may grant credit before the reply
    assert await served.peer.received() == []
    await served.send("s")
    (attach, _), (transfer, _) = await served.peer.received()
    assert isinstance(attach, Attach)
    assert filter_of(attach) == {FILTER: "s"}
    assert isinstance(transfer, Transfer)


async def test_wait_for_a_session_ends_at_its_timeout(
    served: Served,
) -> None:
    served.attach(None, timeout_ms=0)
    attach, detach = [each for each, _ in await served.peer.received()]
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    assert isinstance(detach, Detach)
    assert condition(detach.error) == "com.microsoft:timeout"
    await served.send("s")
    assert served.queue.accept_session("s")  # the receiver does not wait any longer
    served.peer.send(Detach(UInt(1), closed=True))
    served.attach("other")
    assert await served.attached()


async def test_receiver_can_detach_while_it_waits(served: Served) -> None:
    served.attach(None)
    served.peer.send(Detach(UInt(1), closed=True))
    attach, detach = [each for each, _ in await served.peer.received()]
    assert isinstance(attach, Attach)
    assert attach.source is None
    assert isinstance(detach, Detach)
    await served.send("s")
    assert served.queue.accept_session("s")
    assert await served.peer.received() == []


async def test_session_offered_during_a_detach_is_released(
    served: Served,
) -> None:
    served.attach(None)
    await served.peer.received()
    await served.send("s")  # the reply is sent in the next iteration of the event loop
    served.peer.send(Detach(UInt(1), closed=True))
    await served.peer.received()
    assert served.queue.accept_session("s")


async def test_disabled_queue_detaches_a_waiting_receiver(
    served: Served,
) -> None:
    served.attach(None)
    await served.broker.update_queue(
        QueueSettings(QUEUE, requires_session=True, status=QueueStatus.DISABLED)
    )
    assert served.namespace.detach_disabled_links(served.queue) == 1
    attach, detach = [each for each, _ in await served.peer.received()]
    assert isinstance(attach, Attach)
    assert attach.source is None
    assert isinstance(detach, Detach)
    assert condition(detach.error) == "com.microsoft:entity-disabled"


@pytest.mark.parametrize("ending", ["detach", "end", "connection"])
async def test_end_of_the_link_releases_the_session(served: Served, ending: str) -> None:
    await served.send("s")
    served.attach("s")
    served.peer.grant(1, 1)
    (transfer,) = await served.peer.received_of(Transfer)
    if ending == "detach":
        served.peer.send(Detach(UInt(1), closed=True))
    elif ending == "end":
        served.peer.send(End())
    else:
        served.peer.connection.connection_lost(None)
    lock = served.queue.accept_session("s")
    (record,) = served.queue.peek(0, 9)
    assert record.delivery_count == 0
    assert lock.is_valid(served.clock.moment)
    assert transfer.delivery_tag is not None
    if ending == "detach":
        # The delivery is forgotten: a late disposition does not settle the message.
        served.peer.send(Disposition(role=True, first=UInt(0), settled=True, state=ACCEPTED))
        await served.peer.received()
        assert len(served.queue.peek(0, 9)) == 1


async def test_expired_session_lock_detaches_the_link(
    served: Served,
) -> None:
    await served.send("s")
    served.attach("s")
    served.peer.grant(1, 1)
    await served.peer.received()
    served.clock.moment += SETTINGS.lock_duration
    served.broker.transactions.tick()
    (detach,) = await served.peer.received_of(Detach)
    assert condition(detach.error) == "com.microsoft:session-lock-lost"
    assert served.queue.accept_session("s")


async def test_settlement_after_the_expiry_is_lock_lost(
    served: Served,
) -> None:
    await served.send("s")
    served.attach("s")
    served.peer.grant(1, 1)
    await served.peer.received()
    served.clock.moment += SETTINGS.lock_duration  # the broker has not noticed it yet
    served.peer.send(Disposition(role=True, first=UInt(0), state=ACCEPTED))
    (answer,) = await served.peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == "com.microsoft:session-lock-lost"


async def test_drain_before_the_reply_is_ignored(served: Served) -> None:
    served.attach(None)
    served.peer.grant(1, 5, drain=True)
    assert await served.peer.received() == []
    await served.send("s")
    assert [type(each) for each, _ in await served.peer.received()] == [Attach, Transfer]
    served.peer.grant(1, 4, seen=1, drain=True)
    assert await served.peer.received_of(Flow)


# Requests to $management


async def request(
    served: Served, sessions: AcceptedSessions, operation: str, **body: Any
) -> AmqpReply:
    value = {name.replace("_", "-"): each for name, each in body.items()}
    message = AmqpRequest({"operation": f"com.microsoft:{operation}"}, value)
    faults = NamespaceFaults(served.clock)
    return await manage(served.queue, faults, ALL_RIGHTS, sessions, message)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("renew-session-lock", {}),
        ("get-session-state", {}),
        ("set-session-state", {"session_state": b"x"}),
        ("receive-by-sequence-number", {"sequence_numbers": [1], "receiver_settle_mode": UInt(1)}),
        (
            "update-disposition",
            {"disposition_status": "completed", "lock_tokens": [UUID(int=1)]},
        ),
    ],
)
async def test_operation_needs_the_session_lock(
    served: Served, operation: str, body: dict[str, Any]
) -> None:
    sessions = AcceptedSessions()
    lock = served.queue.accept_session("s")  # another connection holds the session
    never = await request(served, sessions, operation, session_id="s", **body)
    sessions.add(served.queue, lock)
    served.clock.moment += SETTINGS.lock_duration
    expired = await request(served, sessions, operation, session_id="s", **body)
    for reply in (never, expired):
        assert reply.properties["statusCode"] == SessionLockLost.status_code
        assert reply.properties["errorCondition"] == "com.microsoft:session-lock-lost"


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("renew-session-lock", {}),
        ("renew-session-lock", {"session_id": 1}),
        ("get-session-state", {"session_id": None}),
        ("set-session-state", {"session_id": "s", "session_state": "text"}),
        ("get-message-sessions", {}),
        ("get-message-sessions", {"last_updated_time": Timestamp(0), "skip": -1, "top": 1}),
        ("get-message-sessions", {"last_updated_time": Timestamp(0), "skip": 0, "top": 0}),
        ("get-message-sessions", {"last_updated_time": Timestamp(-(10**15)), "skip": 0, "top": 1}),
    ],
)
async def test_malformed_operation_gets_400(
    served: Served, operation: str, body: dict[str, Any]
) -> None:
    sessions = AcceptedSessions()
    sessions.add(served.queue, served.queue.accept_session("s"))
    reply = await request(served, sessions, operation, **body)
    assert reply.properties["statusCode"] == 400
    assert reply.properties["errorCondition"] == "com.microsoft:argument-error"


async def test_list_contains_ids_sent_as_symbols(
    served: Served,
) -> None:
    for session_id in ("b", Symbol("a")):
        properties = encode_list([*[None] * 10, session_id])
        served.peer.attach_sender()
        served.peer.transfer(0, b"\x00\x53\x73" + properties + BODY, settled=True)
        served.peer.send(Detach(UInt(0), closed=True))
        await served.peer.received()
    served.attach(Symbol("c"))
    sessions = AcceptedSessions()
    sessions.add(served.queue, served.queue.accept_session("d"))
    await request(served, sessions, "set-session-state", session_id="d", session_state=b"x")
    everything = {"last_updated_time": Timestamp(253402300800000), "top": Int(9)}
    reply = await request(served, sessions, "get-message-sessions", skip=Int(0), **everything)
    assert decode(encode(reply.value["sessions-ids"])) == ["a", "b", "d"]


async def test_list_is_returned_in_pages(served: Served) -> None:
    for session_id in "cab":
        await served.send(session_id)
    everything = {"last_updated_time": Timestamp(253402300800000), "top": Int(2)}
    sessions = AcceptedSessions()
    reply = await request(served, sessions, "get-message-sessions", skip=Int(1), **everything)
    assert reply.value == {"skip": 1, "sessions-ids": ["b", "c"]}
    reply = await request(served, sessions, "get-message-sessions", skip=Int(3), **everything)
    assert reply.properties["statusCode"] == 204
