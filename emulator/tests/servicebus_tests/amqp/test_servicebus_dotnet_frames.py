"""Replay the frames that Microsoft's SDK for .NET sent, and check the responses.

`dotnet_frames.txt` contains the recorded frames, in cases such as "renew a message's lock". Lock
tokens are replaced, and a new security token is sent, because the recorded tokens are no longer
valid.
"""

import hmac
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus
from uuid import UUID, uuid4

import pytest

from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.codec import encode_list
from emulator.servicebus.amqp.frames import AmqpFrameReader, encode_frame
from emulator.servicebus.amqp.outcomes import ACCEPTED
from emulator.servicebus.amqp.performatives import (
    Attach,
    Detach,
    Disposition,
    Performative,
    Transfer,
    read_performative,
)
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    PROPERTIES,
    VALUE,
    Sections,
    encode_section,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import Described, UInt
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.namespace import Namespace
from manual_clock import ManualClock
from servicebus_tests.amqp.amqp_peer import KEYS, RULES, Peer, condition
from servicebus_tests.amqp.dotnet_frames import CASES

RECORDED_AT = datetime(2026, 11, 26, tzinfo=UTC)
QUEUE = "case-1"


@dataclass
class Exchange:
    """Sends the recorded frames of one case to a namespace, and collects the responses."""

    broker: Broker
    namespace: Namespace
    clock: ManualClock
    key: str = KEYS["key"]
    received: list[tuple[int, Performative, bytes]] = field(default_factory=list)

    async def replay(self, case: str, before: Callable[[int], None] = lambda _: None) -> None:
        """Send each frame of the case. Before each frame, call `before` with the frame's number.

        The number of the first frame is 0.
        """
        peer = Peer(self.namespace)
        reader = AmqpFrameReader(1 << 20)
        cbs_links = 0
        for number, (channel, name, octets) in enumerate(CASES[case]):
            if peer.transport.is_closing():
                break
            before(number)
            peer.write(self._with_live_lock_tokens(name, octets))
            written = await peer.read()
            if channel == "-" or name == "SaslInit":
                continue  # protocol headers and the SASL exchange
            reader.feed(written)
            self._collect(reader)
            cbs_links += name == "Attach" and b"$cbs" in octets
            if cbs_links == 2 and name == "Flow":
                cbs_links = 0
                peer.write(encode_frame(self._put_token(), int(channel)))
                reader.feed(await peer.read())
                self._collect(reader)

    def _collect(self, reader: AmqpFrameReader) -> None:
        while (frame := reader.frame()) is not None:
            if frame.body:
                performative, at = read_performative(frame.body)
                self.received.append((frame.channel, performative, frame.body[at:]))

    def _put_token(self) -> bytes:
        resource = quote_plus(f"sb://localhost/{QUEUE}")
        expiry = int(self.clock.now().timestamp()) + 7 * 24 * 3600
        digest = hmac.digest(self.key.encode(), f"{resource}\n{expiry}".encode(), "sha256")
        signature = quote_plus(b64encode(digest))
        token = f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=key"
        properties = {"operation": "put-token", "name": f"sb://localhost/{QUEUE}"}
        return b"".join(
            (
                Transfer(UInt(0), UInt(0), b"0", UInt(0), settled=True).encode(),
                b"\x00\x53" + bytes((PROPERTIES,)) + encode_list([uuid4()]),
                encode_section(APPLICATION_PROPERTIES, properties),
                encode_section(VALUE, token),
            )
        )

    def _with_live_lock_tokens(self, name: str, octets: bytes) -> bytes:
        if name != "Transfer":
            return octets
        _, at = read_performative(octets[8:])
        sections = split(octets[8 + at :])
        if sections.body[0][2] != VALUE:
            return octets
        value = section_value(sections.body[0])
        for recorded in value.get("lock-tokens", []):
            octets = octets.replace(recorded.bytes, self._last_lock_token().bytes)
        return octets

    def _last_lock_token(self) -> UUID:
        tags = [each.delivery_tag for _, each in self.deliveries()]
        return UUID(bytes_le=tags[-1])

    # What the namespace answered

    def of(self, kind: type[Any], channel: int | None = None) -> list[Any]:
        return [
            each
            for at, each, _ in self.received
            if isinstance(each, kind) and channel in (None, at)
        ]

    def deliveries(self) -> list[tuple[Sections, Any]]:
        """Return the message sections and the transfer of each message delivered from a queue."""
        return [
            (split(payload), each)
            for _, each, payload in self.received
            if isinstance(each, Transfer) and len(each.delivery_tag or b"") == 16
        ]

    def replies(self) -> list[tuple[dict[Any, Any], Any]]:
        """Return the application properties and the value of each reply of $cbs or $management."""
        return [
            (section_value(sections.application_properties), section_value(sections.body[0]))
            for _, each, payload in self.received
            if isinstance(each, Transfer) and len(each.delivery_tag or b"") != 16
            for sections in (split(payload),)
        ]

    def confirmations(self) -> list[Described | None]:
        """Return the delivery state of each disposition that the namespace has sent."""
        return [each.state for each in self.of(Disposition) if not each.role]


@pytest.fixture
async def exchange(tmp_path: Path) -> Any:
    clock = ManualClock(RECORDED_AT)
    broker = await Broker.open(tmp_path / "broker.sqlite3", [QueueSettings(QUEUE)], clock)
    namespace = Namespace(broker, AccessPolicies(RULES, broker), clock)
    try:
        yield Exchange(broker, namespace, clock)
    finally:
        namespace.close()
        await broker.close()


def application_properties(sections: Sections) -> dict[str, Any]:
    value: dict[str, Any] = section_value(sections.application_properties)
    return value


def active(exchange: Exchange) -> int:
    return exchange.broker.queue(QUEUE).counts().active


async def test_application_properties_are_received_unchanged(
    exchange: Exchange,
) -> None:
    case = "send, receive, complete with every property type"
    await exchange.replay(case)
    (sent,) = (octets for _, name, octets in CASES[case] if name == "Transfer")
    _, at = read_performative(sent[8:])
    ((received, _),) = exchange.deliveries()
    assert received.application_properties == split(sent[8 + at :]).application_properties
    assert exchange.of(Disposition)[0].state == ACCEPTED
    assert exchange.confirmations() == [ACCEPTED]
    assert active(exchange) == 0


async def test_abandon_counts_and_sets_properties(
    exchange: Exchange,
) -> None:
    await exchange.replay("abandon with properties to modify")
    (first, _), (second, _), *_ = exchange.deliveries()
    assert section_value(first.header)[4] == 0
    assert section_value(second.header)[4] == 1
    assert application_properties(second) == {"why": "x"}


async def test_dead_letter_sets_reason_and_properties(
    exchange: Exchange,
) -> None:
    await exchange.replay(
        "dead-letter with reason, description and an extra property; receive from the dead-letter"
        " queue"
    )
    assert [each.descriptor for each in exchange.confirmations() if each] == [0x25]
    _, (dead, _) = exchange.deliveries()
    assert application_properties(dead) == {
        "DeadLetterReason": "why",
        "DeadLetterErrorDescription": "desc",
        "extra": 1,
    }


async def test_defer_sets_properties(
    exchange: Exchange,
) -> None:
    await exchange.replay("defer with properties; receive deferred")
    (_, deferred) = exchange.replies()[-1]
    (item,) = deferred["messages"]
    assert application_properties(split(item["message"])) == {"p": "q"}
    assert isinstance(item["lock-token"], UUID)


async def test_client_schedules_cancels_and_peeks(
    exchange: Exchange,
) -> None:
    case = "schedule two, cancel one, peek, receive"
    attaches = [at for at, (_, name, _) in enumerate(CASES[case]) if name == "Attach"]

    def advance(number: int) -> None:
        if number == attaches[-1]:  # the receiver waits until the message becomes active
            exchange.clock.moment = RECORDED_AT + timedelta(days=2)
            exchange.broker.transactions.tick()

    await exchange.replay(case, advance)
    _, *replies = exchange.replies()
    assert [properties["statusCode"] for properties, _ in replies] == [200, 200, 200, 200, 204]
    assert [value.get("sequence-numbers") for _, value in replies[:2]] == [[1], [2]]
    ((later, _),) = exchange.deliveries()
    assert section_value(later.body[0]) == b"later"
    assert exchange.confirmations() == [ACCEPTED]


async def test_client_renews_a_lock(exchange: Exchange) -> None:
    await exchange.replay("renew a message's lock")
    properties, value = exchange.replies()[-1]
    assert properties["statusCode"] == 200
    assert len(value["expirations"]) == 1
    assert exchange.confirmations() == [ACCEPTED]


async def test_client_settles_through_a_second_receiver(
    exchange: Exchange,
) -> None:
    await exchange.replay("settle by another receiver")
    _, *replies = exchange.replies()
    assert [properties["statusCode"] for properties, _ in replies] == [200, 204]
    assert active(exchange) == 0


async def test_client_receives_and_deletes(
    exchange: Exchange,
) -> None:
    await exchange.replay("receive and delete")
    ((message, transfer),) = exchange.deliveries()
    assert transfer.settled
    assert section_value(message.body[0]) == b"rd"
    assert exchange.replies()[-1][0]["statusCode"] == 204


async def test_transaction_is_refused_with_an_error(
    exchange: Exchange,
) -> None:
    await exchange.replay("transaction: send and complete together")
    refusals = [condition(each.error) for each in exchange.of(Detach, channel=3) if each.error]
    assert refusals == ["amqp:not-implemented"] * 2


async def test_client_accepts_a_session(exchange: Exchange) -> None:
    await exchange.broker.delete_queue(QUEUE)
    await exchange.broker.create_queue(QueueSettings(QUEUE, requires_session=True))
    await exchange.replay("accept a session")
    # The case ends with a second receiver, which has no session and is refused.
    reply, refusal = exchange.of(Attach, channel=1)
    assert refusal.source is None
    assert reply.source.value[7] == {"com.microsoft:session-filter": "s1"}
    assert reply.properties["com.microsoft:locked-until-utc"] > 0


async def test_session_receiver_needs_a_queue_with_sessions(
    exchange: Exchange,
) -> None:
    await exchange.replay("accept a session")
    (refusal,) = (each for each in exchange.of(Detach) if each.error)
    assert condition(refusal.error) == "amqp:not-allowed"


async def test_wrong_key_is_refused_with_401(
    exchange: Exchange,
) -> None:
    exchange.key = "wrong"
    await exchange.replay("wrong key")
    ((properties, _),) = exchange.replies()
    assert properties["status-code"] == 401


async def test_client_peeks_from_a_sequence_number(
    exchange: Exchange,
) -> None:
    await exchange.replay("peek from a sequence number")
    _, (_, everything), (_, rest) = exchange.replies()
    assert [len(each["messages"]) for each in (everything, rest)] == [3, 2]
    assert exchange.confirmations() == [ACCEPTED] * 3
    assert active(exchange) == 0
