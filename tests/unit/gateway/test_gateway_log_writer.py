"""Test which lines the writer of logs appends together."""

import asyncio

from gateway.storage.logs import MAX_APPEND_BYTES, LogWriter
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.skipping import run


def memory() -> MemoryBlobs:
    return MemoryBlobs(MemoryPayloads(), ManualClock())


def test_lines_within_the_gather_time_share() -> None:
    async def main() -> int:
        blobs = memory()
        writer = LogWriter(blobs, gather_seconds=0.02)

        async def append_later(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await writer.append("log", b"line")

        await asyncio.gather(*(append_later(number * 0.005) for number in range(4)))
        assert blobs.payloads.blobs["log"][1] == b"line\n" * 4
        return blobs.write_count

    assert run(main()) == 1


def test_long_lines_do_not_share() -> None:
    async def main() -> int:
        blobs = memory()
        writer = LogWriter(blobs)
        line = bytes(MAX_APPEND_BYTES // 2)
        await asyncio.gather(*(writer.append("log", line) for _ in range(3)))
        assert len(blobs.payloads.blobs["log"][1]) == 3 * (len(line) + 1)
        return blobs.write_count

    assert run(main()) == 3
