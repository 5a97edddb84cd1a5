"""Test the limits of tenants on our emulator, with several processes, and kills."""

import asyncio
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from gateway.clock import utc_now
from gateway.shares.usage import FLUSH_SECONDS, Usage
from tests.conformance.gateway.emulated_services import ROOT
from tests.conformance.gateway.limits_process import RECORD_SECONDS, open_blobs, take

MODULE = "tests.conformance.gateway.limits_process"


def start(blob_port: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, str(blob_port), *arguments],
        cwd=Path(ROOT),
        stdin=subprocess.PIPE,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"},
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_two_processes_get_exactly_10_places(blob_port: int) -> None:
    owner = uuid4().hex[:16]
    async with open_blobs(blob_port) as blobs:
        assert await take(blobs, owner, 100, 90) == 90
    processes = [start(blob_port, "take", owner, "100", "100") for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = (asyncio.to_thread(process.communicate, "go\n") for process in processes)
    outputs = await asyncio.gather(*answers)
    assert sum(int(output) for output, _ in outputs) == 10


async def test_a_kill_loses_the_last_seconds_only(blob_port: int) -> None:
    owner = uuid4().hex[:16]
    counted = 0
    for _ in range(2):
        process = start(blob_port, "record", owner)
        await asyncio.sleep(2 * FLUSH_SECONDS)
        process.kill()
        output, _ = process.communicate()
        counted += int(output.split()[-1])
    async with open_blobs(blob_port) as blobs:
        usage = Usage(blobs, utc_now)
        found = (await usage.summarize())[owner].day_jobs
    # The time since the last write, and that of the write.
    assert counted - 2 * 1.5 * FLUSH_SECONDS / RECORD_SECONDS <= found <= counted
    assert found > 0
