"""Test what only RabbitMQ does to the gateway: alarms, deleted queues and lost cluster nodes."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aio_pika
import pytest

from contract.catalogue import Catalogue
from contract.rabbitmq import dead_queue
from gateway.brokers.rabbitmq import REFUSAL, TRY_SECONDS, RabbitQueues
from gateway.errors import Unavailable
from tests.broker_servers import RabbitServer, running_rabbitmq_cluster
from tests.conformance.brokers.gateway_calls import (
    QUEUE,
    message,
    sends_again,
    wait_for_count,
    wait_until,
)


@pytest.fixture
def url(rabbit_server: RabbitServer) -> str:
    return rabbit_server.add_host(secrets.token_hex(4))


@pytest.fixture
async def rabbit_queues(url: str) -> AsyncIterator[RabbitQueues]:
    queues = RabbitQueues(url, Catalogue.load())
    yield queues
    await queues.close()


@pytest.mark.parametrize(
    ("alarm", "end"),
    [
        (
            ("set_vm_memory_high_watermark", "absolute", "1MB"),
            ("set_vm_memory_high_watermark", "0.6"),
        ),
        (("set_disk_free_limit", "90000000000000"), ("set_disk_free_limit", "1MB")),
    ],
    ids=["memory", "disk"],
)
async def test_alarm_refuses_messages_until_it_ends(
    rabbit_server: RabbitServer,
    rabbit_queues: RabbitQueues,
    alarm: tuple[str, ...],
    end: tuple[str, ...],
) -> None:
    await rabbit_queues.send(QUEUE, message(1))
    await asyncio.to_thread(rabbit_server.control, *alarm)
    try:

        async def is_refused() -> bool:
            with suppress(Unavailable):
                async with asyncio.timeout(0.5):
                    await rabbit_queues.send(QUEUE, message(2))
            return await rabbit_queues.find_refusal() == REFUSAL

        with suppress(TimeoutError):
            await wait_until(is_refused)
        begun_at = time.monotonic()
        with pytest.raises(Unavailable, match=REFUSAL):
            await rabbit_queues.send(QUEUE, message(3))
        with pytest.raises(Unavailable, match=REFUSAL):
            await rabbit_queues.check(QUEUE)
        # Counts are read from a connection that RabbitMQ does not block.
        assert (await rabbit_queues.count(QUEUE)).active >= 1
        assert time.monotonic() - begun_at < TRY_SECONDS, "it has waited for RabbitMQ"
    finally:
        await asyncio.to_thread(rabbit_server.control, *end)
    await sends_again(rabbit_queues, 4)
    assert await rabbit_queues.find_refusal() is None
    await rabbit_queues.check(QUEUE)
    assert (await rabbit_queues.count(QUEUE)).active >= 2


async def test_deleted_queue_is_declared_again(url: str, rabbit_queues: RabbitQueues) -> None:
    await rabbit_queues.send(QUEUE, message(1))
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        for name in (QUEUE, dead_queue(QUEUE)):
            await channel.queue_delete(name)
    assert (await rabbit_queues.count(QUEUE)).active == 0
    async with await aio_pika.connect(url) as connection:
        await (await connection.channel()).queue_delete(QUEUE)
    await rabbit_queues.send(QUEUE, message(2))
    await wait_for_count(rabbit_queues, 1)


async def test_queue_with_other_arguments_is_used_as_it_is(
    url: str, rabbit_queues: RabbitQueues, caplog: pytest.LogCaptureFixture
) -> None:
    async with await aio_pika.connect(url) as connection:
        await (await connection.channel()).declare_queue(QUEUE, durable=True)
    await rabbit_queues.send(QUEUE, message(1))
    await rabbit_queues.send("noop", message(1))
    await wait_for_count(rabbit_queues, 1)
    assert f"the queue {QUEUE} is not as the catalogue describes it" in caplog.text


@pytest.mark.thorough
@pytest.mark.timeout(180)
async def test_cluster_loses_no_confirmed_message_with_a_node(tmp_path: Path) -> None:
    with running_rabbitmq_cluster(tmp_path, 3) as nodes:
        url = nodes[2].url
        queues = RabbitQueues(url, Catalogue.load())
        try:
            for number in range(50):
                await queues.send(QUEUE, message(number))
            # The queues were declared on this node, so their leaders are mostly there.
            for killed in (nodes[0], nodes[1]):
                await asyncio.to_thread(killed.kill)
                if killed is nodes[0]:
                    await sends_again(queues, 100)
                    await wait_for_count(queues, 51)
            # One node of three is no majority.
            with pytest.raises(Unavailable):
                await queues.send(QUEUE, message(101))
            await asyncio.to_thread(nodes[0].start)
            await sends_again(queues, 102)
            assert (await queues.count(QUEUE)).active in {52, 53}
        finally:
            await queues.close()
