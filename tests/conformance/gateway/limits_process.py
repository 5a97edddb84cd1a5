"""A process that uses up limits: `python -m ... BLOBS take OWNER LIMIT COUNT`, or `record OWNER`.

It takes the places one after the other when it has read a line, and prints how many it has got, or
each time how many jobs it has counted.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

from gateway.clock import utc_now
from gateway.shares.places import Places
from gateway.shares.usage import Usage
from gateway.storage.azure import AzureBlobs, PayloadContainer
from gateway.storage.blobs import Blobs
from tests.conformance.gateway.emulated_services import storage

RECORD_SECONDS = 0.01
"""How often a job ends."""


@asynccontextmanager
async def open_blobs(blob_port: int) -> AsyncIterator[Blobs]:
    container = PayloadContainer(storage(blob_port))
    try:
        yield AzureBlobs(container)
    finally:
        await container.close()


async def take(blobs: Blobs, owner: str, limit: int, count: int) -> int:
    """Take places for `count` jobs at the same time; return how many got one."""

    async def has_ended(_: str) -> bool:
        return False

    places, deadline = Places(blobs, utc_now, has_ended), utc_now() + timedelta(minutes=5)
    taking = (places.take(owner, limit, {str(uuid4()): deadline}) for _ in range(count))
    return sum(taken.count for taken in await asyncio.gather(*taking))


async def _record(blobs: Blobs, owner: str) -> None:
    usage, count = Usage(blobs, utc_now), 0
    while True:
        usage.record(owner, "noop", 0.001, is_limited=True)
        count += 1
        print(count, flush=True)  # noqa: T201 - the test reads it
        await asyncio.sleep(RECORD_SECONDS)


async def _main(blob_port: str, action: str, owner: str, *numbers: str) -> None:
    async with open_blobs(int(blob_port)) as blobs:
        if action == "record":
            await _record(blobs, owner)
        limit, count = map(int, numbers)
        print("ready", flush=True)  # noqa: T201 - the test reads it
        sys.stdin.readline()
        taken = [await take(blobs, owner, limit, 1) for _ in range(count)]
        print(sum(taken))  # noqa: T201 - the test reads it


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
