"""The worker's adapter of RabbitMQ, with a real server that the tests kill and pause."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from contract.brokers import REASON_EXPIRED
from contract.errors import InvalidSetting
from contract.names import PROPERTY_WORKER_DEATH
from contract.rabbitmq import (
    dead_queue,
    dead_queue_arguments,
    queue_arguments,
    read_dead_message,
)
from tests.broker_servers import RabbitServer, running_rabbitmq
from worker.brokers.port import LockedMessage
from worker.brokers.rabbitmq import link as link_module
from worker.brokers.rabbitmq.connection import connect, read_parameters
from worker.brokers.rabbitmq.link import RabbitLink
from worker.brokers.rabbitmq.sender import Publisher, open_reply_sender
from worker.errors import BrokerUnavailable, LockLost, ReplyForbidden, Settlement
from worker.processes.history import NO_HISTORY, DeliveryHistory
from worker.processes.lock_journal import LockJournals, WorkerDeath

ROOT = Path(__file__).resolve().parents[3]
NUMBERS = itertools.count()
LOCK_SECONDS = 60.0
WAIT_SECONDS = 20.0


class ModelQueueOnRabbit:
    """One queue of the server, and the links of a test to it."""

    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.name = f"model-{next(NUMBERS)}"
        self.parameters = read_parameters(server.url)
        self._links: list[RabbitLink] = []

    def link(self, journals: LockJournals | None = None) -> RabbitLink:
        """Return a connected link."""
        declarations = {
            dead_queue(self.name): dead_queue_arguments(),
            self.name: queue_arguments(3600, 100, self.name),
        }
        found = RabbitLink(self.parameters, self.name, declarations, LOCK_SECONDS, journals)
        found.connect()
        self._links.append(found)
        return found

    def send(self, *bodies: str, **properties: Any) -> None:
        """Send messages whose ids are their bodies."""
        connection = connect(self.parameters)
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish(
                "",
                self.name,
                body.encode(),
                pika.BasicProperties(message_id=body, delivery_mode=2, **properties),
                mandatory=True,
            )
        connection.close()

    def count(self, queue: str = "") -> int:
        """Return how many messages wait in the queue."""
        connection = connect(self.parameters)
        found = connection.channel().queue_declare(queue or self.name, passive=True)
        connection.close()
        return int(found.method.message_count)

    def close(self) -> None:
        """Close the links, and delete the queue."""
        for each in self._links:
            each.disconnect()
        connection = connect(self.parameters)
        for name in (self.name, dead_queue(self.name)):
            connection.channel().queue_delete(name)
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """Run one RabbitMQ for the tests of this module."""
    with running_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as running:
        yield running


@pytest.fixture
def queue(server: RabbitServer) -> Iterator[ModelQueueOnRabbit]:
    """Create a queue of its own for each test."""
    found = ModelQueueOnRabbit(server)
    try:
        found.link().disconnect()
        yield found
    finally:
        found.close()


def receive(link: RabbitLink, count: int, room: int = 0) -> list[LockedMessage]:
    """Return `count` messages, in the order in which they arrive."""
    found: list[LockedMessage] = []
    ends_at = time.monotonic() + WAIT_SECONDS
    while len(found) < count and time.monotonic() < ends_at:
        link.connect()
        found += link.receive_messages(count - len(found), 1.0, room)
    assert len(found) == count
    return found


def bodies(messages: list[LockedMessage]) -> list[str]:
    return [(each.body or b"").decode() for each in messages]


def wait_until(is_true: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WAIT_SECONDS
    while not is_true():
        assert time.monotonic() < ends_at


def test_a_link_takes_no_more_messages_than_it_has_room_for(queue: ModelQueueOnRabbit) -> None:
    queue.send(*"abcdef")
    first, second = queue.link(), queue.link()

    taken = receive(first, 2)

    assert not first.has_credit
    assert bodies(taken) == ["a", "b"]
    assert bodies(receive(second, 4)) == ["c", "d", "e", "f"]
    assert first.complete_messages(taken) == [True, True]
    first.stop_receiving()
    assert not first.has_credit


def test_no_delivery_of_a_busy_link_is_counted(queue: ModelQueueOnRabbit) -> None:
    sent = [str(number) for number in range(400)]
    queue.send(*sent)
    link, choices = queue.link(), random.Random(1)
    seen: list[str] = []
    held: list[LockedMessage] = []

    while len(set(seen)) < len(sent):
        received = link.receive_messages(choices.randint(1, 16), 0.2, choices.choice([0, 16, 32]))
        assert {each.delivery_count for each in received} <= {0}
        seen += bodies(received)
        held += received
        if len(held) > 20 or not received:
            assert all(link.complete_messages(held))
            held.clear()
        if choices.random() < 0.1:
            link.stop_receiving()

    assert sorted(seen) == sorted(sent)


def test_a_released_message_is_not_counted_and_comes_before_others(
    queue: ModelQueueOnRabbit,
) -> None:
    queue.send(*"abcde")
    link = queue.link()
    (first,) = receive(link, 1)

    link.settle_message(first, Settlement.RELEASE, "", "")
    again = receive(link, 3)

    assert "a" in bodies(again)
    assert {each.delivery_count for each in again} == {0}
    assert all(link.complete_messages(again))


def test_an_abandoned_message_is_counted_and_keeps_its_history(queue: ModelQueueOnRabbit) -> None:
    queue.send("a", headers={"traceparent": "00-1"})
    link = queue.link()
    (first,) = receive(link, 1)
    history = NO_HISTORY.add_failure()

    link.settle_message(first, Settlement.ABANDON, "", "", history)
    (again,) = receive(link, 1)

    assert (again.delivery_count, again.history) == (1, history)
    assert again.properties["traceparent"] == "00-1"
    assert again.token == first.token
    link.settle_message(again, Settlement.RELEASE, "", "")
    (released,) = receive(link, 1)
    assert (released.delivery_count, released.history) == (1, history)


def test_a_dead_letter_has_its_reason(queue: ModelQueueOnRabbit) -> None:
    queue.send("a")
    link = queue.link()
    (message,) = receive(link, 1)

    link.settle_message(message, Settlement.DEAD_LETTER, "malformed-message", "It is no JSON.")

    connection = connect(queue.parameters)
    _, properties, body = connection.channel().basic_get(dead_queue(queue.name), auto_ack=True)
    connection.close()
    letter = read_dead_message(body, properties.headers, properties.message_id, None, None)
    assert (letter.body, letter.message_id) == (b"a", "a")
    assert (letter.reason, letter.description) == ("malformed-message", "It is no JSON.")
    assert queue.count() == 0


def test_the_copy_of_a_message_expires_when_the_message_would(queue: ModelQueueOnRabbit) -> None:
    now = round(time.time() * 1000)
    queue.send("a", headers={"enqueued-at": now, "expires-at": now + 500})
    link = queue.link()
    (message,) = receive(link, 1)

    link.settle_message(message, Settlement.RELEASE, "", "")

    assert not link.has_credit
    wait_until(lambda: queue.count(dead_queue(queue.name)) == 1)
    connection = connect(queue.parameters)
    _, properties, body = connection.channel().basic_get(dead_queue(queue.name), auto_ack=True)
    connection.close()
    letter = read_dead_message(body, properties.headers, "a", None, None)
    assert letter.reason == REASON_EXPIRED


def test_ranges_and_single_messages_are_completed(queue: ModelQueueOnRabbit) -> None:
    queue.send(*"abcdef")
    link = queue.link()
    held = receive(link, 6)

    assert link.complete_messages([held[2], held[0], held[5]]) == [True, True, True]
    assert link.complete_messages([held[0]]) == [False]
    link.disconnect()

    assert sorted(bodies(receive(queue.link(), 3))) == ["b", "d", "e"]


def test_the_end_of_the_connection_ends_its_locks(queue: ModelQueueOnRabbit) -> None:
    queue.send("a")
    link = queue.link()
    (message,) = receive(link, 1)
    assert link.renew_lock(message, 1.0)

    link.disconnect()
    link.connect()

    with pytest.raises(LockLost):
        link.renew_lock(message, 1.0)
    with pytest.raises(LockLost):
        link.settle_message(message, Settlement.COMPLETE, "", "")
    (again,) = receive(link, 1)
    assert (again.delivery_count, again.history) == (1, NO_HISTORY)


def test_a_lock_that_is_lost_in_this_process_gives_the_message_back(
    queue: ModelQueueOnRabbit,
) -> None:
    queue.send("a")
    link = queue.link()
    (message,) = receive(link, 1)

    link.forget_token(message)

    (again,) = receive(link, 1)
    assert again.delivery_count == 1


def test_a_thread_that_hangs_renews_no_lock(
    queue: ModelQueueOnRabbit, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.send("a")
    link = queue.link()
    (message,) = receive(link, 1)
    monkeypatch.setattr(link_module, "HEARTBEAT_SECONDS", -1)

    with pytest.raises(BrokerUnavailable, match="does not answer"):
        link.renew_lock(message, 1.0)


_HOLD = """
import sys
from pathlib import Path
from contract.rabbitmq import queue_arguments
from worker.brokers.rabbitmq.connection import read_parameters
from worker.brokers.rabbitmq.link import RabbitLink
from worker.processes.history import LockState
from worker.processes.lock_journal import LockJournals
url, queue, folder = sys.argv[1:]
link = RabbitLink(read_parameters(url), queue, {}, 60.0, LockJournals(Path(folder)))
link.connect()
running, waiting = link.receive_messages(1, 20.0) + link.receive_messages(1, 20.0)
running.note_state(LockState.RUNNING_ALONE)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_journal_of_a_killed_worker_says_which_job_it_ran(
    queue: ModelQueueOnRabbit, tmp_path: Path
) -> None:
    queue.send("running", "waiting")
    command = [sys.executable, "-c", _HOLD, queue.server.url, queue.name, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'functions'}"}
    with subprocess.Popen(
        command, env=environ, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    death = WorkerDeath(worker.pid, "worker-1", "was killed by SIGSEGV", is_crash=True)
    killed_at = time.monotonic()

    link = queue.link(LockJournals(tmp_path, death))
    again = {each.message_id: each for each in receive(link, 2)}

    # No lock must expire first.
    assert time.monotonic() - killed_at < LOCK_SECONDS / 2
    assert again["running"].history == DeliveryHistory(failed_count=1, running_count=1)
    assert "SIGSEGV" in again["running"].properties[PROPERTY_WORKER_DEATH]
    assert again["waiting"].history == DeliveryHistory(waiting_count=1)
    assert PROPERTY_WORKER_DEATH not in again["waiting"].properties
    assert {each.delivery_count for each in again.values()} == {1}


def test_a_message_that_nobody_explains_twice_is_a_suspect(queue: ModelQueueOnRabbit) -> None:
    queue.send("a")
    histories = []
    for _ in range(3):
        link = queue.link()
        histories += [receive(link, 1)[0].history]
        link.disconnect()

    assert histories == [
        NO_HISTORY,
        NO_HISTORY,
        DeliveryHistory(killed_count=1, running_count=1),
    ]


def test_no_message_is_lost_with_the_broker(queue: ModelQueueOnRabbit) -> None:
    queue.send(*"abc")
    link = queue.link()
    held = receive(link, 3)
    assert link.complete_messages(held[:1]) == [True]
    wait_until(lambda: _unacknowledged(queue) == 2)

    queue.server.kill()
    with pytest.raises(BrokerUnavailable):
        link.receive_messages(1, WAIT_SECONDS)
    with pytest.raises(BrokerUnavailable):
        link.connect()
    queue.server.start()

    assert sorted(bodies(receive(link, 2))) == ["b", "c"]


def test_a_full_broker_still_takes_messages_back(queue: ModelQueueOnRabbit) -> None:
    queue.send(*"abc")
    link = queue.link()
    completed, released, dead = receive(link, 3)
    queue.server.control("set_vm_memory_high_watermark", "0.00001")
    try:
        assert link.complete_messages([completed]) == [True]
        link.settle_message(released, Settlement.RELEASE, "", "")
        began_at = time.monotonic()
        link.settle_message(dead, Settlement.DEAD_LETTER, "reason", "")
        # Only the first message waits for RabbitMQ, for 5 s.
        assert time.monotonic() - began_at < 4.0
        assert link.is_connected
        again = receive(link, 2)
        assert bodies(again) == ["b", "c"]
        assert [each.delivery_count for each in again] == [1, 1]
    finally:
        queue.server.control("set_vm_memory_high_watermark", "0.6")


def test_a_queue_with_other_arguments_is_used_as_it_is(queue: ModelQueueOnRabbit) -> None:
    connection = connect(queue.parameters)
    channel = connection.channel()
    channel.queue_delete(queue.name)
    channel.queue_declare(queue.name, durable=True, arguments={"x-queue-type": "quorum"})
    connection.close()
    queue.send("a")

    assert bodies(receive(queue.link(), 1)) == ["a"]


def test_a_reply_to_a_missing_queue_is_forbidden(queue: ModelQueueOnRabbit) -> None:
    publisher = Publisher(queue.parameters)
    send = open_reply_sender(publisher, f"{queue.name}-missing")
    with pytest.raises(ReplyForbidden, match="does not exist"):
        send(b"{}", "job")

    open_reply_sender(publisher, queue.name)(b"{}", "job")
    publisher.close()
    assert queue.count() == 1


@pytest.mark.parametrize(
    ("find", "replacement"),
    [(":guest@", ":s3cret@"), ("%2F", "missing-host")],
    ids=["password", "virtual-host"],
)
def test_a_refused_connection_says_why_without_the_password(
    server: RabbitServer, find: str, replacement: str
) -> None:
    url = server.url.replace(find, replacement)

    with pytest.raises(BrokerUnavailable) as raised:
        connect(read_parameters(url))

    assert "s3cret" not in str(raised.value)
    assert "guest" not in str(raised.value)
    assert "ACCESS_REFUSED" in str(raised.value) or "missing-host" in str(raised.value)


def test_a_url_that_is_malformed_is_not_repeated() -> None:
    with pytest.raises(InvalidSetting) as raised:
        read_parameters("amqp://user:s3cret@host:port/")

    assert "s3cret" not in str(raised.value)
    options = read_parameters("amqps://user:s3cret@host/vhost").ssl_options
    assert options is not None
    assert options.context.check_hostname


def _unacknowledged(queue: ModelQueueOnRabbit) -> int:
    listed = queue.server.control(
        "list_queues", "name", "messages_unacknowledged", "--no-table-headers", "--quiet"
    )
    counts = dict(line.split() for line in listed.splitlines() if line.strip())
    return int(counts[queue.name])
