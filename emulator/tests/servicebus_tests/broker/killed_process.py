"""Use a queue until this process is killed.

Usage: `python killed_process.py DATABASE work|hold`. With `work`, the process sends, receives and
settles messages. With `hold`, it receives one message and keeps the message lock. The process
writes a line to standard output after each call of the queue has returned.
"""

import asyncio
import os
import sys
from pathlib import Path

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import IncomingMessage, MessageDelivery, ReceiveMode
from emulator.servicebus.broker.queue import Queue


def _report(*words: object) -> None:
    # Use one write, so that only whole lines are written before a kill.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def _hold(queue: Queue) -> None:
    receiver: asyncio.Queue[MessageDelivery] = asyncio.Queue()
    queue.subscribe(ReceiveMode.PEEK_LOCK, receiver.put_nowait).set_credit(1)
    _report("delivered", (await receiver.get()).message.delivery_count)
    await asyncio.Event().wait()


async def _work(queue: Queue) -> None:
    receiver: asyncio.Queue[MessageDelivery] = asyncio.Queue()
    subscription = queue.subscribe(ReceiveMode.PEEK_LOCK, receiver.put_nowait)

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
                _report("sent", body, number)

    async def consume() -> None:
        ways = [queue.complete, queue.abandon, queue.release, queue.defer, None]
        count = 0
        while True:
            subscription.set_credit(2)
            delivery = await receiver.get()
            body, token = delivery.message.bare.split()[0].decode(), delivery.lock_token
            assert token is not None
            _report("delivered", body, delivery.message.delivery_count)
            way = ways[count % len(ways)]
            count += 1
            if way is None:
                await queue.dead_letter(token, "Bad", None)
                _report("dead_lettered", body)
            else:
                await way(token)
                _report(way.__name__, body)

    await asyncio.gather(produce(), consume())


async def _main(database: Path, way: str) -> None:
    broker = await Broker.open(database, [], WallClock())
    await {"work": _work, "hold": _hold}[way](broker.queue("q"))


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2]))
