"""Send messages by the gateway's adapters in tests, and wait for what follows."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from contract.brokers import BrokerMessage
from gateway.brokers.port import Queues
from gateway.errors import Unavailable

QUEUE = "classifier"
PATIENCE_SECONDS = 30.0


def message(number: int, *, lives_seconds: float | None = None) -> BrokerMessage:
    return BrokerMessage(
        b"body %d" % number,
        f"job-{number}",
        f"job-{number}",
        {"traceparent": "00-1"},
        None if lives_seconds is None else timedelta(seconds=lives_seconds),
    )


async def wait_until(call: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await call():  # noqa: ASYNC110 - the state of a server
            await asyncio.sleep(0.02)


async def wait_for_count(queues: Queues, count: int) -> None:
    async def is_there() -> bool:
        return (await queues.count(QUEUE)).active == count

    await wait_until(is_there)


async def sends_again(queues: Queues, number: int, queue: str = QUEUE) -> None:
    async def is_sent() -> bool:
        with suppress(Unavailable):
            await queues.send(queue, message(number))
            return True
        return False

    await wait_until(is_sent)
