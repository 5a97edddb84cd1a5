"""Test what the gateway needs of a broker, the same on every broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from contract.brokers import REASON_EXPIRED, DeadMessage
from contract.catalogue import Catalogue
from contract.queues import names
from gateway.brokers.port import HandleLetter, Queues
from gateway.errors import Unavailable, UnknownQueue
from tests.conformance.brokers.conftest import GatewayBroker
from tests.conformance.brokers.gateway_calls import (
    PATIENCE_SECONDS,
    QUEUE,
    message,
    sends_again,
    wait_for_count,
    wait_until,
)

# The garbage collector closes the sockets of some libraries after their broker has died.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@asynccontextmanager
async def watching(queues: Queues, handle: HandleLetter) -> AsyncIterator[None]:
    if queues.has_dead_letter_trigger:
        pytest.skip("the Functions host passes the dead letters of this broker")
    watch = asyncio.create_task(queues.watch_dead_letters(names(Catalogue.load()), handle))
    try:
        yield
        assert not watch.done()
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def test_broker_has_a_name_for_people(queues: Queues) -> None:
    assert queues.broker_name in {"Service Bus", "RabbitMQ", "Redis"}
    await queues.check(QUEUE)
    assert await queues.find_refusal() is None


async def test_sent_messages_are_counted_in_their_queue(queues: Queues) -> None:
    assert (await queues.count(QUEUE)).active == 0
    await asyncio.gather(*(queues.send(QUEUE, message(number)) for number in range(200)))
    await wait_for_count(queues, 200)
    assert (await queues.count("noop")).active == 0


async def test_oldest_message_is_shown_if_the_broker_can(queues: Queues) -> None:
    await queues.send(QUEUE, message(1))
    assert (await queues.oldest(QUEUE) is not None) == queues.can_see_oldest


async def test_missing_queue_is_unknown(queues: Queues) -> None:
    with pytest.raises(UnknownQueue):
        await queues.send("nobody-made-this", message(1))
    with pytest.raises(Unavailable):
        await queues.count("nobody-made-this")
    await queues.send(QUEUE, message(1))
    await wait_for_count(queues, 1)


async def test_cancelled_sends_do_not_disturb_others(queues: Queues) -> None:
    tasks = [asyncio.create_task(queues.send(QUEUE, message(number))) for number in range(60)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [None] * 30
    assert (await queues.count(QUEUE)).active >= 30
    await queues.send(QUEUE, message(100))


async def test_expired_message_is_a_dead_letter(queues: Queues) -> None:
    seen: asyncio.Queue[tuple[str, DeadMessage]] = asyncio.Queue()

    async def handle(queue: str, letter: DeadMessage) -> None:
        seen.put_nowait((queue, letter))

    async with watching(queues, handle), asyncio.timeout(PATIENCE_SECONDS):
        await queues.send(QUEUE, message(7, lives_seconds=0.1))
        queue, letter = await seen.get()
        assert (queue, letter.message_id, letter.body) == (QUEUE, "job-7", b"body 7")
        assert (letter.reason, letter.correlation_id) == (REASON_EXPIRED, "job-7")
        assert letter.enqueued_at is not None
        assert letter.properties["traceparent"] == "00-1"
        await wait_for_count(queues, 0)

        async def is_removed() -> bool:
            return (await queues.count(QUEUE)).dead == 0

        await wait_until(is_removed)
        assert seen.empty()


async def test_dead_letter_is_handled_again_after_a_failure(queues: Queues) -> None:
    attempts: asyncio.Queue[int] = asyncio.Queue()

    async def handle(queue: str, letter: DeadMessage) -> None:
        attempts.put_nowait(1)
        if attempts.qsize() == 1:
            raise Unavailable("durable", "switched off")

    async with watching(queues, handle):
        await queues.send(QUEUE, message(8, lives_seconds=0.1))

        async def is_handled_again() -> bool:
            return attempts.qsize() == 2 and (await queues.count(QUEUE)).dead == 0

        await wait_until(is_handled_again)


async def test_dead_letters_are_taken_after_a_restart_of_the_broker(
    gateway_broker: GatewayBroker, queues: Queues
) -> None:
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def handle(queue: str, letter: DeadMessage) -> None:
        seen.put_nowait(letter.message_id)

    async with watching(queues, handle), asyncio.timeout(PATIENCE_SECONDS):
        await queues.send(QUEUE, message(1, lives_seconds=0.1))
        assert await seen.get() == "job-1"
        await asyncio.to_thread(gateway_broker.server.kill)
        await asyncio.to_thread(gateway_broker.server.start)
        # RabbitMQ lets only the first message of a queue expire, so this goes to another queue.
        await sends_again(queues, 99, "noop")
        await queues.send(QUEUE, message(2, lives_seconds=0.1))
        while await seen.get() != "job-2":
            pass


async def test_broker_that_is_down_is_unavailable(
    gateway_broker: GatewayBroker, queues: Queues
) -> None:
    await queues.send(QUEUE, message(1))
    await asyncio.to_thread(gateway_broker.server.kill)
    try:
        for call in (
            lambda: queues.send(QUEUE, message(2)),
            lambda: queues.count(QUEUE),
            lambda: queues.check(QUEUE),
        ):
            begun_at = time.monotonic()
            with pytest.raises(Unavailable) as caught:
                await call()
            assert time.monotonic() - begun_at < 10
            assert caught.value.service == "queue"
            assert "guest" not in str(caught.value)
    finally:
        await asyncio.to_thread(gateway_broker.server.start)


async def test_no_confirmed_message_is_lost_if_the_broker_is_killed(
    gateway_broker: GatewayBroker, queues: Queues
) -> None:
    await queues.send(QUEUE, message(0))
    sent: list[int] = []
    has_sent = asyncio.Event()

    async def send(number: int) -> None:
        with suppress(Unavailable):
            await queues.send(QUEUE, message(number))
            sent.append(number)
            has_sent.set()

    tasks = [asyncio.create_task(send(number)) for number in range(1, 1500)]
    await has_sent.wait()
    await asyncio.to_thread(gateway_broker.server.kill)
    await asyncio.gather(*tasks)
    await asyncio.to_thread(gateway_broker.server.start)
    await sends_again(queues, 2000)
    found = (await queues.count(QUEUE)).active
    # A message that was not confirmed may be there too.
    assert len(sent) + 2 <= found <= 1501


async def test_silent_broker_is_unavailable_and_then_used_again(
    gateway_broker: GatewayBroker, queues: Queues
) -> None:
    await queues.send(QUEUE, message(1))
    with gateway_broker.server.paused():
        begun_at = time.monotonic()
        with pytest.raises(Unavailable):
            await queues.send(QUEUE, message(2))
        assert time.monotonic() - begun_at < 15
    await sends_again(queues, 3)
    assert (await queues.count(QUEUE)).active >= 2
