"""A process that works on a queue without end, until it is killed.

Each line on its standard output is a promise: it is written after the call that it tells of has
returned. ``python -m servicebus_tests.broker.killed_process DATABASE work|hold``
"""

import asyncio
import os
import sys
from pathlib import Path

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import SystemClock
from emulator.servicebus.broker.message import Delivery, IncomingMessage, ReceiveMode
from emulator.servicebus.broker.queue import Queue


def _promise(*words: object) -> None:
    # One write, so that a kill leaves whole lines only.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def _hold(queue: Queue) -> None:
    inbox: asyncio.Queue[Delivery] = asyncio.Queue()
    queue.subscribe(ReceiveMode.PEEK_LOCK, inbox.put_nowait).set_credit(1)
    _promise("delivered", (await inbox.get()).message.delivery_count)
    await asyncio.Event().wait()


async def _work(queue: Queue) -> None:
    inbox: asyncio.Queue[Delivery] = asyncio.Queue()
    subscription = queue.subscribe(ReceiveMode.PEEK_LOCK, inbox.put_nowait)

    async def produce() -> None:
        at = 0
        while True:
            bodies = [f"{at + offset}" for offset in range(3)]
            at += 3
            padding = " " * (5000 if at % 2 else 10)
            numbers = await queue.send(
                [IncomingMessage(b"", b"", (body + padding).encode()) for body in bodies]
            )
            for body, number in zip(bodies, numbers, strict=True):
                _promise("sent", body, number)

    async def consume() -> None:
        ways = [queue.complete, queue.abandon, queue.release, queue.defer, None]
        count = 0
        while True:
            subscription.set_credit(2)
            delivery = await inbox.get()
            body, token = delivery.message.bare.split()[0].decode(), delivery.lock_token
            assert token is not None
            _promise("delivered", body, delivery.message.delivery_count)
            way = ways[count % len(ways)]
            count += 1
            if way is None:
                await queue.dead_letter(token, "Bad", None)
                _promise("buried", body)
            else:
                await way(token)
                _promise(way.__name__, body)

    await asyncio.gather(produce(), consume())


async def _main(database: Path, way: str) -> None:
    broker = await Broker.open(database, [], SystemClock())
    await {"work": _work, "hold": _hold}[way](broker.queue("q"))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
