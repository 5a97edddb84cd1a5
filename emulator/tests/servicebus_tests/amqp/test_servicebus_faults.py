"""Test the simulated faults: throttling, detached links and latency."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.amqp.errors import MessageFault
from emulator.servicebus.amqp.outcomes import ACCEPTED
from emulator.servicebus.amqp.performatives import Attach, Detach, Disposition
from emulator.servicebus.amqp.transport import DelayLine, Latency
from emulator.servicebus.amqp.types import Described
from emulator.servicebus.broker.authorization import ALL_RIGHTS
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.settings import QueueSettings
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.namespace import Namespace
from emulator.servicebus.request_response import AmqpRequest
from manual_clock import ManualClock
from servicebus_tests.amqp.amqp_peer import BODY, QUEUE, RULES, Peer, condition

BUSY = "com.microsoft:server-busy"


def description(error: Described | None) -> str:
    assert error is not None
    return str(error.value[1])


async def test_throttled_send_is_not_stored(served: tuple[Namespace, Broker], peer: Peer) -> None:
    namespace, broker = served
    peer.attach_sender()
    await peer.read()
    namespace.faults.throttle(1, None)
    peer.transfer(0, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == BUSY
    assert "Error code: 50009." in description(answer.state.value[0])
    assert broker.queue(QUEUE).counts().active == 0
    namespace.faults.throttle(0, None)
    peer.transfer(1, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert broker.queue(QUEUE).counts().active == 1


async def test_throttling_refuses_links_and_management(
    served: tuple[Namespace, Broker], peer: Peer
) -> None:
    namespace, broker = served
    namespace.faults.throttle(1, None)
    peer.attach_receiver()
    (detach,) = await peer.received_of(Detach)
    assert condition(detach.error) == BUSY
    request = AmqpRequest({"operation": "com.microsoft:peek-message"}, {})
    reply = await manage(
        broker.queue(QUEUE), namespace.faults, ALL_RIGHTS, AcceptedSessions(), request
    )
    assert (reply.properties["statusCode"], reply.properties["errorCondition"]) == (503, BUSY)


async def test_throttled_queue_leaves_others_alone(
    served: tuple[Namespace, Broker], peer: Peer
) -> None:
    namespace, _ = served
    peer.attach_sender()
    await peer.read()
    namespace.faults.throttle(1, None, QUEUE.upper())
    peer.transfer(0, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert answer.state is not None
    assert condition(answer.state.value[0]) == BUSY
    text = "the entity is being throttled. Error code: 50002. Please wait 4 seconds and try again."
    assert text in description(answer.state.value[0])
    namespace.faults.throttle(1, None, f"{QUEUE}2")
    peer.transfer(1, BODY)
    (answer,) = await peer.received_of(Disposition)
    assert answer.state == ACCEPTED


def throttled(faults: NamespaceFaults, count: int) -> list[bool]:
    found = []
    for _ in range(count):
        try:
            faults.check_message(QUEUE)
        except MessageFault:
            found.append(True)
        else:
            found.append(False)
    return found


def test_throttling_has_a_share_and_an_end() -> None:
    clock = ManualClock()
    faults = NamespaceFaults(clock)
    faults.throttle(0.25, 10)
    assert throttled(faults, 8) == [False, False, False, True] * 2
    clock.moment += timedelta(seconds=10)
    assert throttled(faults, 8) == [False] * 8


async def test_maintenance_detaches_one_queue_or_all(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    settings = [QueueSettings(QUEUE), QueueSettings("other")]
    broker = await Broker.open(tmp_path / "broker.sqlite3", settings, clock)
    namespace = Namespace(broker, AccessPolicies(RULES, broker), clock)
    peer = Peer(namespace)
    await peer.open()
    peer.attach_sender(QUEUE, 0)
    peer.attach_receiver(1, address=f"{QUEUE}/$DeadLetterQueue")
    peer.attach_sender("other", 2)
    peer.attach_sender("$cbs", 3)
    assert len(await peer.received_of(Attach)) == 4
    assert namespace.detach_links(QUEUE.upper()) == 2
    detached = await peer.received_of(Detach)
    assert [each.handle for each in detached] == [0, 1]
    assert {condition(each.error) for each in detached} == {"amqp:link:detach-forced"}
    assert namespace.detach_links() == 1
    assert namespace.detach_links() == 0
    namespace.close()
    await broker.close()


async def test_only_an_idle_link_is_detached(served: tuple[Namespace, Broker], peer: Peer) -> None:
    namespace, _ = served
    peer.attach_sender()
    await peer.read()
    assert namespace.detach_idle_links() == 0
    namespace.faults.idle_link_seconds = 600
    assert namespace.detach_idle_links() == 0
    namespace.faults.idle_link_seconds = 0
    assert namespace.detach_idle_links() == 1
    (detach,) = await peer.received_of(Detach)
    assert condition(detach.error) == "amqp:link:detach-forced"
    assert "IdleTimerExpired" in description(detach.error)


async def test_reduced_latency_keeps_the_order() -> None:
    latency = Latency(0.02)
    arrived: asyncio.Queue[bytes] = asyncio.Queue()
    line = DelayLine(latency, arrived.put_nowait)
    started = asyncio.get_running_loop().time()
    line.put(b"a")
    line.put(b"b")
    latency.seconds = 0
    line.put(b"c")
    assert arrived.empty()
    got = [await asyncio.wait_for(arrived.get(), 30) for _ in range(3)]
    assert got == [b"a", b"b", b"c"]
    assert asyncio.get_running_loop().time() - started >= 0.02
    line.put(b"d")
    assert arrived.get_nowait() == b"d"


async def test_latency_delays_received_frames(served: tuple[Namespace, Broker], peer: Peer) -> None:
    namespace, _ = served
    namespace.faults.latency.seconds = 0.02
    peer.attach_sender()
    assert await peer.read() == b""
    ends_at = asyncio.get_running_loop().time() + 30
    answers: list[Any] = []
    while not answers and asyncio.get_running_loop().time() < ends_at:
        answers = await peer.received_of(Attach)
    assert len(answers) == 1
