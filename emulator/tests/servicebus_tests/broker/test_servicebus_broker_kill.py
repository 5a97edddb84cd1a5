"""kill -9 in the middle of work: every promise that was made is kept."""

import subprocess
import sys
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import SystemClock
from emulator.servicebus.broker.message import MessageState, StoredMessage
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import QueueSettings
from servicebus_tests.broker.broker_harness import HeldClock, message

KILLED_PROCESS = Path(__file__).with_name("killed_process.py")


async def _make_queue(database: Path, settings: QueueSettings, *bodies: str) -> None:
    broker = await Broker.open(database, [settings], SystemClock())
    await broker.queue(settings.name).send([message(body) for body in bodies])
    await broker.close()


def _run_until_killed(database: Path, way: str, promise_count: int) -> list[list[str]]:
    """Let a victim work, kill it after so many promises, and return all that it made."""
    victim = subprocess.Popen(
        [sys.executable, str(KILLED_PROCESS), str(database), way],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout is not None
    with victim.stdout:
        lines = [victim.stdout.readline() for _ in range(promise_count)]
        victim.kill()
        lines += victim.stdout.readlines()
    victim.wait()
    return [line.split() for line in lines if line.endswith("\n")]


def _peek_all(queue: Queue) -> list[StoredMessage]:
    found: list[StoredMessage] = []
    while page := queue.peek(found[-1].sequence_number + 1 if found else 0, 10_000):
        found += page
    return found


def _by_body(messages: list[StoredMessage]) -> dict[str, StoredMessage]:
    found = {each.bare.split()[0].decode(): each for each in messages}
    assert len(found) == len(messages), "a message is there twice"
    return found


@pytest.mark.parametrize("promise_count", [1, 37, 500, 2000])
async def test_what_was_acknowledged_is_there_and_what_was_settled_is_not(
    tmp_path: Path, promise_count: int
) -> None:
    database = tmp_path / "q.sqlite"
    await _make_queue(database, QueueSettings("q"))
    promises = _run_until_killed(database, "work", promise_count)
    assert len(promises) >= promise_count
    sent: dict[str, int] = {}
    last: dict[str, str] = {}
    failures: dict[str, int] = defaultdict(int)
    for verb, body, *rest in promises:
        if verb == "sent":
            sent[body] = int(rest[0])
            continue
        last[body] = verb
        if verb == "abandon":
            failures[body] += 1

    broker = await Broker.open(database, [], SystemClock())
    queue = broker.queue("q")
    alive, dead = _peek_all(queue), _peek_all(broker.queue("q/$DeadLetterQueue"))
    assert len(alive) + len(dead) == queue.counts().total
    living, buried = _by_body(alive), _by_body(dead)

    for body, number in sent.items():
        verb = last.get(body, "")
        found = living.get(body) or buried.get(body)
        if verb == "complete":
            assert found is None, "a completed message came back"
        elif found is None:
            # Settled, and killed before the promise could be written down.
            assert verb == "delivered"
        else:
            assert found.sequence_number == number
            assert 0 <= found.delivery_count - failures[body] <= (verb == "delivered")
        if verb == "buried":
            assert body in buried
        if verb == "defer":
            assert living[body].state is MessageState.DEFERRED
    (number,) = await queue.send([message("new")])
    assert number > max([*sent.values(), *(each.sequence_number for each in alive + dead)])
    await broker.close()


async def test_a_message_that_kills_three_times_is_dead_lettered(tmp_path: Path) -> None:
    database = tmp_path / "q.sqlite"
    await _make_queue(database, QueueSettings("q", max_delivery_count=3), "poison")
    for kill_count in range(3):
        assert _run_until_killed(database, "hold", 1) == [["delivered", str(kill_count)]]
        # The lock outlives its broker; it is over for one that opens when it has expired.
        later = HeldClock(SystemClock().now() + timedelta(seconds=61))
        broker = await Broker.open(database, [], later)
        await broker.close()
    broker = await Broker.open(database, [], SystemClock())
    (dead,) = broker.queue("q/$DeadLetterQueue").peek(0, 10)
    assert (dead.bare, dead.dead_letter_reason) == (b"poison", "MaxDeliveryCountExceeded")
    assert broker.queue("q").counts().active == 0
    await broker.close()
