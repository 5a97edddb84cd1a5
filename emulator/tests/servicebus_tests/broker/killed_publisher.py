"""Send messages to the topic `t` until this process is killed.

Usage: `python killed_publisher.py DATABASE`. After each send, the process writes the bodies of the
messages to standard output, as a line of JSON.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.clock import WallClock
from emulator.servicebus.broker.message import IncomingMessage


async def _main(database: Path) -> None:
    broker = await Broker.open(database, [], WallClock())
    topic = broker.topic("t")
    at = 0
    while True:
        bodies = [str(at + offset) for offset in range(1 + at % 3)]
        at += len(bodies)
        padding = " " * (3000 if at % 2 else 10)
        await topic.send([IncomingMessage(b"", b"", (body + padding).encode()) for body in bodies])
        # Use one write, so that only whole lines are written before a kill.
        os.write(1, (json.dumps(bodies) + "\n").encode())


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
