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

CALLERS = 500
JOB_SECONDS = 20
MAX_SECONDS = 1.0
WAIT_SECONDS = 150
HOOK = Path(__file__).parent / "task_count"
_POLL_SECONDS = 0.05
_AT_ONCE = 25
_REQUEST = (
    "POST /v1/models/sleeper/jobs?label=hangups HTTP/1.1\r\nhost: localhost\r\n"
    "content-type: text/plain\r\nprefer: wait={wait}\r\ncontent-length: {size}\r\n\r\n{body}"
)

CATALOGUE = """
[sleeper]
description = "Waits."
implementation = "lab.benchmarks.sleeper"
media_types = ["text/plain"]
max_batch_size = 500
max_wait_ms = 5000
deadline_seconds = 300
"""


async def call(port: int, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
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


async def measure(
    system: System, folder: Path, callers: int = CALLERS, job_seconds: float = JOB_SECONDS
) -> list[Figure]:
    """Let callers wait, disconnect half of them, and return the rows of the report.

    `folder` is that of the hook which counts tasks.
    """

    def count_tasks() -> int:
        found = [path for path in folder.iterdir() if path.name.isdigit()]
        return sum(int(path.read_text("ascii")) for path in found)

    await poll(lambda: count_tasks() > 0, 10)
    idle = count_tasks()
    calls: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    while len(calls) < callers:
        calls.append(await call(system.port, job_seconds))
        # Otherwise Service Bus would be too busy, and callers would be answered before the end.
        await poll(lambda: count_tasks() >= idle + len(calls) - _AT_ONCE, job_seconds)
    await asyncio.sleep(job_seconds / 10)
    waiting = count_tasks()
    gone, staying = calls[: callers // 2], calls[callers // 2 :]
    for _, writer in gone:
        writer.transport.abort()
    expected = idle + (waiting - idle) * len(staying) / callers
    seconds = await poll(lambda: count_tasks() <= expected * 1.02 + 5, job_seconds / 2)
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


def main(arguments: Sequence[str] = ()) -> int:
    """Measure callers that disconnect, and print the report. Return 1 if a target was missed.

    `arguments` are options of `loosely up`, such as `--isolated`.
    """
    with tempfile.TemporaryDirectory(prefix="loosely-hangups-") as name:
        folder = Path(name)
        counts = folder / "counts"
        counts.mkdir()
        paths = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
        environment = {"TASK_COUNT_FOLDER": str(counts), "PYTHONPATH": paths}
        with running(
            folder / "data", CATALOGUE, environment=environment, options=tuple(arguments)
        ) as system:
            figures = asyncio.run(measure(system, counts))
    return print_report("Callers that disconnect", figures)
