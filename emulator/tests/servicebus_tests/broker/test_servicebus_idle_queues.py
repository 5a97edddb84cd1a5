"""Test that the broker deletes queues, topics and subscriptions that nobody uses."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.message import ReceiveMode
from emulator.servicebus.broker.settings import (
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
    subscription_address,
)
from manual_clock import START
from servicebus_tests.broker.broker_harness import RunningBroker, message

IDLE = timedelta(minutes=5)
SETTINGS = QueueSettings("q", auto_delete_on_idle=IDLE)
SUBSCRIPTION = subscription_address("t", "s")


async def pass_time(servicebus: RunningBroker, minutes: float) -> list[str]:
    """Advance the clock, and return the addresses of the queues and topics that remain."""
    servicebus.clock.moment += timedelta(minutes=minutes)
    await servicebus.broker.delete_idle()
    return [each.address for each in (*servicebus.broker.queues(), *servicebus.broker.topics())]


async def test_only_an_idle_queue_with_the_setting_is_deleted(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path, SETTINGS, QueueSettings("other"))
    assert await pass_time(servicebus, 4.9) == ["other", "q"]
    await servicebus.queue().send([message("x")])
    assert await pass_time(servicebus, 4.9) == ["other", "q"]
    servicebus.queue().counts()  # to look at the queue is not to use it
    assert await pass_time(servicebus, 0.1) == ["other"]
    servicebus.settings = ()
    await servicebus.restart()
    assert [each.address for each in servicebus.broker.queues()] == ["other"]


async def test_receiver_or_scheduled_message_is_use(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path, SETTINGS)
    dead_letters = servicebus.queue("q/$DeadLetterQueue")
    receiver = dead_letters.subscribe(ReceiveMode.PEEK_LOCK, print)
    assert await pass_time(servicebus, 60) == ["q"]
    receiver.close()
    at = servicebus.clock.moment + timedelta(minutes=30)
    await servicebus.queue().schedule([message("x", scheduled_at=at)])
    assert await pass_time(servicebus, 20) == ["q"]
    servicebus.clock.moment = at
    servicebus.broker.transactions.tick()
    assert await pass_time(servicebus, 5) == []


async def test_use_of_a_subscription_keeps_its_topic(tmp_path: Path) -> None:
    topic = TopicSettings("t", auto_delete_on_idle=IDLE)
    settings = SubscriptionSettings(SUBSCRIPTION, auto_delete_on_idle=IDLE)
    servicebus = await RunningBroker.open(tmp_path, topic, settings)
    receiver = servicebus.queue(SUBSCRIPTION).subscribe(ReceiveMode.PEEK_LOCK, print)
    assert await pass_time(servicebus, 60) == ["t"]
    receiver.close()
    await pass_time(servicebus, 4)
    await servicebus.queue("t").send([message("x")])
    assert await pass_time(servicebus, 1) == ["t"]
    assert servicebus.broker.topic("t").subscriptions == []
    assert await pass_time(servicebus, 5) == []


async def test_start_begins_the_idle_time_again(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path, SETTINGS)
    servicebus.clock.moment += timedelta(days=1)
    await servicebus.restart()
    assert servicebus.queue().settings == SETTINGS
    assert await pass_time(servicebus, 4) == ["q"]


async def test_creation_and_update_times_survive_a_restart(tmp_path: Path) -> None:
    servicebus = await RunningBroker.open(tmp_path, SETTINGS)
    servicebus.clock.moment += timedelta(days=1)
    servicebus.settings = [replace(SETTINGS, user_metadata="new")]
    await servicebus.broker.update_queue(servicebus.settings[0])
    servicebus.clock.moment += timedelta(days=1)
    await servicebus.restart()
    queue = servicebus.queue()
    assert (queue.created_at, queue.updated_at) == (START, START + timedelta(days=1))


def test_under_five_minutes_is_refused() -> None:
    with pytest.raises(ArgumentError, match="AutoDeleteOnIdle must be at least 5 minutes"):
        replace(SETTINGS, auto_delete_on_idle=timedelta(minutes=4))
