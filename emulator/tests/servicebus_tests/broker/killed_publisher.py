"""Send messages to the topic `t` until this process is killed.

Usage: `python killed_publisher.py DATABASE [STATEMENT]`. After each send, the process writes the
bodies of the messages to standard output, as a line of JSON. If STATEMENT is given, the process
counts its SQL statements after the first send, and kills itself before it runs the statement with
this number.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from emulator.clock import WallClock
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import IncomingMessage


class _Killer:
    """Counts SQL statements, and kills this process before statement number `statement` runs."""

    def __init__(self, statement: int) -> None:
        self._left = statement

    def count(self, _: str) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


async def _main(database: Path, statement: int | None) -> None:
    broker = await Broker.open(database, [], WallClock())
    topic = broker.topic("t")
    at = 0
    while True:
        bodies = [str(at + offset) for offset in range(2 + at % 2)]
        at += len(bodies)
        padding = " " * (3000 if at % 2 else 10)
        await topic.send([IncomingMessage(b"", b"", (body + padding).encode()) for body in bodies])
        # Use one write, so that only whole lines are written before a kill.
        os.write(1, (json.dumps(bodies) + "\n").encode())
        if statement is not None:
            broker.transactions.store.connection.set_trace_callback(_Killer(statement).count)
            statement = None


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
