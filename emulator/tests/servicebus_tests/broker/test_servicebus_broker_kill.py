"""Test that acknowledged changes survive if SIGKILL ends the process of the broker."""

import subprocess
import sys
from collections import defaultdict
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import MessageState, StoredMessage
from emulator.servicebus.broker.queue import Queue
from emulator.servicebus.broker.settings import QueueSettings
from manual_clock import ManualClock
from servicebus_tests.broker.broker_harness import message

KILLED_PROCESS = Path(__file__).with_name("killed_process.py")


async def _make_queue(database: Path, settings: QueueSettings, *bodies: str) -> None:
    broker = await Broker.open(database, [settings], WallClock())
    await broker.queue(settings.name).send([message(body) for body in bodies])
    await broker.close()


def _run_until_killed(database: Path, way: str, report_count: int) -> list[list[str]]:
    """Run killed_process.py, kill it after `report_count` lines, and return all lines in words."""
    process = subprocess.Popen(
        [sys.executable, str(KILLED_PROCESS), str(database), way],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        lines = [process.stdout.readline() for _ in range(report_count)]
        process.kill()
        lines += process.stdout.readlines()
    process.wait()
    return [line.split() for line in lines if line.endswith("\n")]


def _peek_all(queue: Queue) -> list[StoredMessage]:
    found: list[StoredMessage] = []
    while page := queue.peek(found[-1].sequence_number + 1 if found else 0, 10_000):
        found += page
    return found


def _by_body(messages: list[StoredMessage]) -> dict[str, StoredMessage]:
    found = {each.bare.split()[0].decode(): each for each in messages}
    assert len(found) == len(messages), "a message exists twice"
    return found


@pytest.mark.parametrize("report_count", [1, 37, 500, 2000])
async def test_acknowledged_changes_survive_a_kill(tmp_path: Path, report_count: int) -> None:
    database = tmp_path / "q.sqlite"
    await _make_queue(database, QueueSettings("q"))
    reports = _run_until_killed(database, "work", report_count)
    assert len(reports) >= report_count
    sent: dict[str, int] = {}
    last: dict[str, str] = {}
    failures: dict[str, int] = defaultdict(int)
    for verb, body, *rest in reports:
        if verb == "sent":
            sent[body] = int(rest[0])
            continue
        last[body] = verb
        if verb == "abandon":
            failures[body] += 1

    broker = await Broker.open(database, [], WallClock())
    queue = broker.queue("q")
    alive, dead = _peek_all(queue), _peek_all(broker.queue("q/$DeadLetterQueue"))
    assert len(alive) + len(dead) == queue.counts().total
    living, dead_lettered = _by_body(alive), _by_body(dead)

    for body, number in sent.items():
        verb = last.get(body, "")
        found = living.get(body) or dead_lettered.get(body)
        if verb == "complete":
            assert found is None, "a completed message exists again"
        elif found is None:
            # The process was killed between the settlement and the report.
            assert verb == "delivered"
        else:
            assert found.sequence_number == number
            assert 0 <= found.delivery_count - failures[body] <= (verb == "delivered")
        if verb == "dead_lettered":
            assert body in dead_lettered
        if verb == "defer":
            assert living[body].state is MessageState.DEFERRED
    (number,) = await queue.send([message("new")])
    assert number > max([*sent.values(), *(each.sequence_number for each in alive + dead)])
    await broker.close()


async def test_three_kills_during_delivery_dead_letter(
    tmp_path: Path,
) -> None:
    database = tmp_path / "q.sqlite"
    await _make_queue(database, QueueSettings("q", max_delivery_count=3), "poison")
    for kill_count in range(3):
        assert _run_until_killed(database, "hold", 1) == [["delivered", str(kill_count)]]
        # The lock survives the kill, and has expired when this broker is opened.
        later = ManualClock(WallClock().now() + timedelta(seconds=61))
        broker = await Broker.open(database, [], later)
        await broker.close()
    broker = await Broker.open(database, [], WallClock())
    (dead,) = broker.queue("q/$DeadLetterQueue").peek(0, 10)
    assert (dead.bare, dead.dead_letter_reason) == (b"poison", "MaxDeliveryCountExceeded")
    assert broker.queue("q").counts().active == 0
    await broker.close()
