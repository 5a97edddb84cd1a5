"""Test the queues in a real Redis: its scripts against a model, kills, restarts and full memory."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from contract.brokers import REASON_EXPIRED, BrokerMessage
from contract.redis_queues import (
    DUPLICATES_MS,
    EXPIRE,
    FORGET_CONSUMERS,
    GROUP,
    LONGEST_LOCK_MS,
    SEND,
    TAKE,
    fields_of,
    from_token,
    queue_keys,
    read_dead_message,
    send_keys,
    to_token,
)
from gateway.brokers.redis_streams import RedisQueues
from gateway.errors import Unavailable, UnknownQueue
from tests.broker_servers import BrokerServer, running_redis_server
from worker.brokers.port import LockedMessage
from worker.brokers.redis.broker import RedisBroker
from worker.brokers.redis.link import RedisLink
from worker.errors import BrokerUnavailable, LockLost, Settlement
from worker.processes.history import NO_HISTORY, DeliveryHistory
from worker.processes.lock_journal import LockJournals

LOCK_SECONDS = 30.0
SHORTEST_LOCK_SECONDS = 0.001
WAIT_SECONDS = 20.0

# Receive two messages, say so, and wait to be killed.
HOLDER = """
import sys
from pathlib import Path
from worker.brokers.redis.broker import RedisBroker
from worker.processes.history import LockState
from worker.processes.lock_journal import LockJournals
url, queue, folder = sys.argv[1:]
link = RedisBroker(url).open_link(queue, 30, LockJournals(Path(folder)))
link.connect()
found = link.receive_messages(2, 5)
found[0].note_state(LockState.RUNNING_ALONE)
print(len(found), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    with running_redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


class RedisQueue:
    """A queue for one test, and connections to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.name = f"q{uuid.uuid4().hex[:8]}"
        self.keys = queue_keys(self.name)
        self.client: Any = redis.Redis.from_url(url)
        self.client.xgroup_create(self.keys[0], GROUP, id="0", mkstream=True)
        self._send = self.client.register_script(SEND)
        self._links: list[RedisLink] = []

    def send(self, message_id: str, time_to_live_ms: int = 0) -> bool:
        """Send a message. Return False if Redis knows its id."""
        fields = fields_of(BrokerMessage(message_id.encode(), message_id, message_id))
        args = [DUPLICATES_MS, time_to_live_ms, *fields]
        return bool(self._send(keys=send_keys(self.name, message_id), args=args))

    def send_expired(self, message_id: str) -> bool:
        """Send a message that has expired when this returns."""
        is_new = self.send(message_id, 1)
        self.wait_for_next_millisecond()
        return is_new

    def wait_for_next_millisecond(self) -> None:
        """Wait until more than a millisecond has passed in Redis."""
        began_at = self._now_ms()
        while self._now_ms() <= began_at + 1:
            pass

    def link(
        self, lock_seconds: float = LOCK_SECONDS, journals: LockJournals | None = None
    ) -> RedisLink:
        link = RedisBroker(self.url).open_link(self.name, lock_seconds, journals)
        self._links.append(link)
        link.connect()
        return link

    def expire(self) -> int:
        """Let a gateway move expired messages to the dead letters."""
        return int(self.client.register_script(EXPIRE)(keys=self.keys, args=[LONGEST_LOCK_MS, 100]))

    def close(self) -> None:
        for link in self._links:
            link.disconnect()
        self.client.close()

    def _now_ms(self) -> float:
        seconds, microseconds = self.client.time()
        return float(seconds * 1000 + microseconds / 1000)


@pytest.fixture
def queue(server: BrokerServer) -> Iterator[RedisQueue]:
    queue = RedisQueue(server.url)
    yield queue
    queue.close()


def ids(messages: list[LockedMessage]) -> list[str]:
    return [each.message_id for each in messages]


@dataclass
class Sent:
    """What the model knows of a message. `lock` counts its deliveries; None if it is not locked."""

    message_id: str
    is_expired: bool
    was_taken: bool = False
    count: int = 0
    history: DeliveryHistory = NO_HISTORY
    lock: object | None = None


@dataclass
class Delivered:
    """A delivery, and the model's lock that it has."""

    message: LockedMessage
    sent: Sent
    lock: object
    link: RedisLink


WORKERS = st.sampled_from([0, 1])
NUMBERS = st.integers(0, 30)
HOW = [Settlement.ABANDON, Settlement.RELEASE, Settlement.COMPLETE, Settlement.DEAD_LETTER]


class LockMachine(RuleBasedStateMachine):
    """Two workers with long locks, and one to whom each lock has expired."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RedisQueue(self.url)
        self.workers = [self.queue.link(), self.queue.link()]
        self.late = self.queue.link(lock_seconds=SHORTEST_LOCK_SECONDS)
        self.known: set[str] = set()
        self.sent: list[Sent] = []
        self.delivered: list[Delivered] = []
        self.dead_count = 0

    def teardown(self) -> None:
        self.queue.close()

    @initialize()
    def send_and_take_some(self) -> None:
        for number in range(31, 35):
            self.send(number, is_expired=False)
        self.take(0, 2)

    @rule(number=NUMBERS, is_expired=st.booleans())
    def send(self, number: int, is_expired: bool) -> None:
        message_id = f"m{number}"
        send = self.queue.send_expired if is_expired else self.queue.send
        assert send(message_id) == (message_id not in self.known)
        if message_id not in self.known:
            self.known.add(message_id)
            self.sent.append(Sent(message_id, is_expired))

    @rule(worker=WORKERS, limit=st.integers(1, 3))
    def take(self, worker: int, limit: int) -> None:
        free = [each for each in self.sent if each.lock is None]
        expected: list[Sent] = []
        # What was given back comes first, both in the order in which they were sent.
        for each in sorted(free, key=lambda one: not one.was_taken):
            if len(expected) == limit:
                break
            if each.is_expired:
                self.bury(each)
            else:
                expected.append(each)
        found = self.workers[worker].receive_messages(limit, 0)
        assert ids(found) == [each.message_id for each in expected]
        self.note(found, self.workers[worker])

    @rule()
    def take_all_with_expired_locks(self) -> None:
        for each in [one for one in self.sent if one.lock is None and one.is_expired]:
            self.bury(each)
        self.queue.wait_for_next_millisecond()
        self.late._cursor = "0-0"
        found = self.late.receive_messages(1000, 0)
        assert sorted(ids(found)) == sorted(each.message_id for each in self.sent)
        self.note(found, self.late)

    @precondition(lambda self: self.delivered)
    @rule(number=NUMBERS, how=st.sampled_from(HOW), is_lost=st.booleans())
    def settle(self, number: int, how: Settlement, is_lost: bool) -> None:
        suiting = [each for each in self.delivered if (each.sent.lock is not each.lock) == is_lost]
        if not suiting:
            return
        each = suiting[number % len(suiting)]
        history = DeliveryHistory(failed_count=number + 1)
        try:
            each.link.settle_message(each.message, how, "reason", "description", history)
        except LockLost:
            assert each.sent.lock is not each.lock
            return
        assert each.sent.lock is each.lock
        each.sent.lock = None
        if how is Settlement.COMPLETE:
            self.sent.remove(each.sent)
        elif how is Settlement.DEAD_LETTER:
            self.bury(each.sent)
        elif how is Settlement.RELEASE:
            each.sent.count -= 1
            # Its next delivery has the same number. The worker settles each delivery once.
            self.delivered = [other for other in self.delivered if other is not each]
        else:
            each.sent.history = history

    @rule()
    def complete_together(self) -> None:
        here = [each for each in self.delivered if each.link is self.workers[0]]
        done = self.workers[0].complete_messages([each.message for each in here])
        for each, is_done in zip(here, done, strict=True):
            assert is_done == (each.sent.lock is each.lock)
            if is_done:
                each.sent.lock = None
                self.sent.remove(each.sent)

    @rule(number=NUMBERS)
    def renew(self, number: int) -> None:
        if not self.delivered:
            return
        each = self.delivered[number % len(self.delivered)]
        try:
            self.late.renew_lock(each.message, 1.0)
        except LockLost:
            assert each.sent.lock is not each.lock
        else:
            assert each.sent.lock is each.lock

    @rule(worker=WORKERS)
    def lose_connection(self, worker: int) -> None:
        link = self.workers[worker]
        link._broken(OSError("the connection was lost"))
        link.connect()

    @rule()
    def expire(self) -> None:
        free = [each for each in self.sent if each.lock is None and each.is_expired]
        assert self.queue.expire() == len(free)
        for each in free:
            self.bury(each)

    @invariant()
    def redis_has_what_the_model_has(self) -> None:
        client, (stream, dead, histories, expiries) = self.queue.client, self.queue.keys
        assert client.xlen(stream) == len(self.sent)
        assert client.xlen(dead) == self.dead_count
        assert client.hlen(histories) == sum(each.history != NO_HISTORY for each in self.sent)
        assert client.zcard(expiries) == sum(each.is_expired for each in self.sent)
        pending = client.xpending(stream, GROUP)["pending"]
        assert pending == sum(each.was_taken for each in self.sent)

    def bury(self, each: Sent) -> None:
        self.sent.remove(each)
        self.dead_count += 1

    def note(self, found: list[LockedMessage], link: RedisLink) -> None:
        by_id = {each.message_id: each for each in self.sent}
        for message in found:
            sent = by_id[message.message_id]
            assert message.delivery_count == sent.count
            assert message.history == sent.history
            sent.count += 1
            sent.was_taken = True
            sent.lock = object()
            self.delivered.append(Delivered(message, sent, sent.lock, link))


def test_the_scripts_do_what_a_simple_model_does(server: BrokerServer) -> None:
    class Machine(LockMachine):
        url = server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_token_names_the_entry_and_its_holder() -> None:
    consumer = f"host-1-{uuid.uuid4().hex[:12]}"
    token = to_token(b"1796236431553-7", consumer)
    assert len(token) == 16
    assert from_token(token) == ("1796236431553-7", consumer[-12:])


def test_messages_of_a_killed_process_are_delivered_at_once(
    queue: RedisQueue, tmp_path: Path
) -> None:
    queue.send("a")
    queue.send("b")
    with running_holder(queue, tmp_path) as holder:
        # The holder's locks last, so nobody else gets its messages.
        assert not queue.link().receive_messages(2, 0.05)
        holder.send_signal(signal.SIGKILL)
    assert not queue.link().receive_messages(2, 0.05)
    found = queue.link(journals=LockJournals(tmp_path)).receive_messages(2, 0)
    assert [(each.message_id, each.delivery_count) for each in found] == [("a", 1), ("b", 1)]
    assert found[0].history == DeliveryHistory(killed_count=1, running_count=1)
    assert found[1].history == DeliveryHistory(waiting_count=1)


def test_another_machine_takes_them_after_the_lock_time(queue: RedisQueue, tmp_path: Path) -> None:
    queue.send("a")
    queue.send("b")
    with running_holder(queue, tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
    # With a lock time of 0, each lock has expired.
    found = queue.link(lock_seconds=0.0).receive_messages(2, 0)
    assert [(each.message_id, each.delivery_count) for each in found] == [("a", 1), ("b", 1)]
    # The journal of the dead process names locks that are no more: it takes back nothing.
    assert not queue.link(journals=LockJournals(tmp_path)).receive_messages(2, 0.05)


def test_a_link_gives_back_what_an_unread_answer_has_locked(queue: RedisQueue) -> None:
    queue.send("held")
    link = queue.link()
    (held,) = link.receive_messages(1, 0)
    queue.send("unread")
    queue.client.register_script(TAKE)(keys=queue.keys, args=[link._consumer, 30_000, 5, "0-0"])
    link._broken(OSError("the connection was lost before the answer"))
    link.connect()
    (found,) = queue.link().receive_messages(2, 0)
    assert (found.message_id, found.delivery_count) == ("unread", 0)
    link.settle_message(held, Settlement.COMPLETE, "", "")


def test_an_old_lock_of_the_same_link_settles_nothing(queue: RedisQueue, tmp_path: Path) -> None:
    queue.send("a")
    link = queue.link(lock_seconds=0.0, journals=LockJournals(tmp_path))
    (first,) = link.receive_messages(1, 0)
    (second,) = link.receive_messages(1, 0)
    link.forget_token(first)
    assert link.journal is not None
    assert link.journal.tokens == [second.token]
    with pytest.raises(LockLost):
        link.settle_message(first, Settlement.COMPLETE, "", "")
    assert link.complete_messages([first, second]) == [False, True]


def test_an_expired_message_that_was_given_back_is_dead_lettered(queue: RedisQueue) -> None:
    queue.send("a", time_to_live_ms=60_000)
    link = queue.link()
    (found,) = link.receive_messages(1, 0)
    history = DeliveryHistory(failed_count=2)
    link.settle_message(found, Settlement.ABANDON, "", "", history)
    queue.client.zadd(queue.keys[3], {found.handle.id: 1})
    assert queue.expire() == 1
    ((entry_id, fields),) = queue.client.xrange(queue.keys[1])
    letter = read_dead_message(entry_id, fields)
    assert (letter.message_id, letter.reason) == ("a", REASON_EXPIRED)
    assert letter.delivery_count == 1
    assert history.to_properties().items() <= letter.properties.items()


def test_consumers_of_dead_workers_are_deleted(queue: RedisQueue) -> None:
    queue.send("a")
    idle, busy = queue.link(), queue.link()
    busy.receive_messages(1, 0)
    assert not idle.receive_messages(1, 0)
    queue.client.register_script(FORGET_CONSUMERS)(keys=queue.keys[:1], args=[-1])
    (left,) = queue.client.xinfo_consumers(queue.keys[0], GROUP)
    assert left["name"].decode() == busy._consumer
    # One that still lives is created again.
    queue.send("b")
    assert ids(idle.receive_messages(1, 0)) == ["b"]


async def test_full_memory_refuses_sends_and_not_completions(tmp_path: Path) -> None:
    with running_redis_server(tmp_path) as server:
        queues, name = RedisQueues(server.url, ["noop"]), "noop"
        link = RedisBroker(server.url).open_link(name, LOCK_SECONDS)
        client: Any = redis.Redis.from_url(server.url)
        try:
            await queues.send(name, BrokerMessage(b"1", "a", "a"))
            assert await queues.find_refusal() is None
            link.connect()
            client.config_set("maxmemory", 1)
            refused = r"Redis stores no new messages: its memory is full"
            with pytest.raises(Unavailable, match=refused):
                await queues.send(name, BrokerMessage(b"2", "b", "b"))
            with pytest.raises(Unavailable, match=refused):
                await queues.check(name)
            assert await queues.find_refusal() == "its memory is full (maxmemory)"
            (found,) = link.receive_messages(1, 0)
            link.settle_message(found, Settlement.COMPLETE, "", "")
            client.config_set("maxmemory", 0)
            # The refused message was not noted as sent.
            await queues.send(name, BrokerMessage(b"2", "b", "b"))
            await queues.check(name)
            assert (await queues.count(name)).active == 1
        finally:
            link.disconnect()
            client.close()
            await queues.close()


@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
async def test_a_killed_redis_has_all_confirmed_messages(tmp_path: Path, appendfsync: str) -> None:
    with running_redis_server(tmp_path, "--appendfsync", appendfsync) as server:
        queues = RedisQueues(server.url, ["noop"])
        broker = RedisBroker(server.url)
        reply, link = broker.open_sender("noop"), broker.open_link("noop", LOCK_SECONDS)
        try:
            sends = [
                queues.send("noop", BrokerMessage(b"", f"m{number}", "")) for number in range(200)
            ]
            await asyncio.gather(*sends)
            reply(b"", "reply-1")
            link.connect()
            (held,) = link.receive_messages(1, 0)
            server.kill()
            with pytest.raises(Unavailable):
                await queues.send("noop", BrokerMessage(b"", "late", ""))
            with pytest.raises(BrokerUnavailable):
                link.receive_messages(1, 0)
            with pytest.raises(BrokerUnavailable):
                link.connect()
            server.start()
            # Redis has forgotten the scripts, and nothing else.
            await queues.send("noop", BrokerMessage(b"", "late", ""))
            reply(b"", "reply-2")
            assert (await queues.count("noop")).active == 203
            link.connect()
            link.settle_message(held, Settlement.COMPLETE, "", "")
            assert len(link.receive_messages(1000, 0)) == 202
        finally:
            link.disconnect()
            await queues.close()


async def test_queues_that_were_deleted_are_created_again(tmp_path: Path) -> None:
    with running_redis_server(tmp_path) as server:
        queues = RedisQueues(server.url, ["noop"])
        client: Any = redis.Redis.from_url(server.url)
        try:
            await queues.send("noop", BrokerMessage(b"", "a", ""))
            client.flushall()
            with pytest.raises(Unavailable, match="deleted"):
                await queues.send("noop", BrokerMessage(b"", "a", ""))
            await queues.send("noop", BrokerMessage(b"", "a", ""))
            with pytest.raises(UnknownQueue):
                await queues.send("other", BrokerMessage(b"", "a", ""))
        finally:
            client.close()
            await queues.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], []),
        (["--appendfsync", "everysec"], ["set appendfsync to always"]),
        (["--appendonly", "no"], ["set appendonly to yes"]),
        (["--maxmemory-policy", "allkeys-lru"], ["set maxmemory-policy to noeviction"]),
        (["--rename-command", "CONFIG", ""], []),
    ],
    ids=["safe", "each-second", "not-stored", "evicting", "forbidden"],
)
async def test_settings_that_lose_messages_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], expected: list[str]
) -> None:
    with running_redis_server(tmp_path, *options) as server:
        queues = RedisQueues(server.url, ["noop"])
        try:
            with caplog.at_level(logging.INFO, "gateway.brokers.redis_streams"):
                await queues.send("noop", BrokerMessage(b"", "a", ""))
        finally:
            await queues.close()
    logged = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(logged) == len(expected)
    assert all(text in line for text, line in zip(expected, logged, strict=True))


@contextmanager
def running_holder(queue: RedisQueue, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process that has received two messages, and wait for its end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, queue.url, queue.name, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "2\n"
        yield holder
