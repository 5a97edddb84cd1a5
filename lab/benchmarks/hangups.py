"""Measure how soon the gateway drops the waits of callers that disconnect (`./dev bench hangups`).

Many callers wait for jobs of 20 s, and half of them disconnect. Their waits must end within a
second, although their jobs go on. The number of asyncio tasks in the gateway's processes says how
many waits there are.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lab.benchmarks.figures import Figure, print_report
from loosely import AsyncClient
from tests.e2e.system import System, running

Writer = asyncio.StreamWriter

CALLERS = 500
JOB_SECONDS = 20
MAX_SECONDS = 1.0
WAIT_SECONDS = 150
HOOK = Path(__file__).parent / "task_count"
_POLL_SECONDS = 0.05
_AT_ONCE = 25
_SETTLE_SECONDS = 0.5
_NOISE = 4
_REQUEST = (
    "POST /v1/models/sleeper/jobs?label=hangups HTTP/1.1\r\nhost: localhost\r\n"
    "content-type: text/plain\r\nprefer: wait={wait}\r\ncontent-length: {size}\r\n\r\n{body}"
)

# All jobs start at the same time if they come within a minute.
CATALOGUE = """
[sleeper]
description = "Waits."
implementation = "lab.benchmarks.sleeper"
media_types = ["text/plain"]
max_batch_size = {callers}
max_wait_ms = 60000
deadline_seconds = 300
"""


async def call(port: int, seconds: float) -> tuple[asyncio.StreamReader, Writer]:
    """Submit a job of this many seconds on a new connection, without reading the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = f"{seconds:g}"
    request = _REQUEST.format(wait=WAIT_SECONDS, size=len(body), body=body)
    writer.write(request.encode())
    await writer.drain()
    return reader, writer


async def poll(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until a condition is true, and return after how many seconds it was."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > seconds:
            return float("inf")
        await asyncio.sleep(_POLL_SECONDS)
    return time.monotonic() - begin


async def measure(system: System, folder: Path, callers: int, job_seconds: float) -> list[Figure]:
    """Let callers wait, disconnect half of them, and return the rows of the report.

    `folder` is that of the hook which counts tasks.
    """

    def count_tasks() -> int:
        found = [path for path in folder.iterdir() if path.name.isdigit()]
        return sum(int(path.read_text("ascii")) for path in found)

    async def settle() -> int:
        """Wait until the number of tasks no longer changes, and return it."""
        before = -_NOISE - 1
        while abs(count_tasks() - before) > _NOISE:
            before = count_tasks()
            await asyncio.sleep(_SETTLE_SECONDS)
        return count_tasks()

    idle, each, calls = await settle(), 0.0, list[tuple[asyncio.StreamReader, Writer]]()
    while len(calls) < callers:
        count = min(_AT_ONCE, callers - len(calls))
        calls += await asyncio.gather(*(call(system.port, job_seconds) for _ in range(count)))
        # Otherwise Service Bus would be too busy, and callers would be answered before the end.
        each = each or (await settle() - idle) / count
        expected = idle + each * len(calls) - _NOISE
        await poll(lambda: count_tasks() >= expected, job_seconds / 10)  # noqa: B023 - awaited here
    waiting = await settle()
    gone, staying = calls[: callers // 2], calls[callers // 2 :]
    for _, writer in gone:
        writer.transport.abort()
    expected = idle + (waiting - idle) * len(staying) / callers
    seconds = await poll(lambda: count_tasks() <= expected + _NOISE, job_seconds / 2)
    after = count_tasks()
    async with asyncio.timeout(WAIT_SECONDS):
        answers = await asyncio.gather(*(reader.readuntil(b"\r\n") for reader, _ in staying))
    for _, writer in staying:
        writer.close()

    succeeded = sum(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    async with AsyncClient(system.url) as client:
        jobs = [job async for job in client.jobs(label="hangups")]
        ends = [await client.get(job.id, wait_seconds=60) for job in jobs]
    ended = sum(job.status == "succeeded" for job in ends)
    return [
        Figure("asyncio tasks, idle and with all callers", f"{idle}, {waiting}"),
        Figure(
            f"{len(gone)} of {callers} callers disconnect",
            f"{after} tasks after {seconds:.2f} s",
            f"{MAX_SECONDS:g} s at most",
            seconds <= MAX_SECONDS,
        ),
        Figure(
            "answers of the others",
            f"{succeeded} of {len(staying)}",
            "all",
            succeeded == len(staying),
        ),
        Figure("jobs that succeeded", f"{ended} of {callers}", "all", ended == callers),
    ]


def run(callers: int, job_seconds: float, options: Sequence[str] = ()) -> list[Figure]:
    """Measure on a new system with these options of `loosely up`; return the rows of the report."""
    with tempfile.TemporaryDirectory(prefix="loosely-hangups-") as name:
        folder = Path(name)
        counts = folder / "counts"
        counts.mkdir()
        paths = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
        environment = {"TASK_COUNT_FOLDER": str(counts), "PYTHONPATH": paths}
        catalogue = CATALOGUE.format(callers=callers)
        with running(
            folder / "data", catalogue, environment=environment, options=tuple(options)
        ) as system:
            return asyncio.run(measure(system, counts, callers, job_seconds))


def main(arguments: Sequence[str] = ()) -> int:
    """Measure callers that disconnect, and print the report. Return 1 if a target was missed.

    `arguments` are options of `loosely up`, such as `--isolated`.
    """
    return print_report("Callers that disconnect", run(CALLERS, JOB_SECONDS, arguments))
