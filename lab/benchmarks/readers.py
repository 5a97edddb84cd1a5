"""Let many readers follow streams, on both stores of streams (`./dev bench readers`).

500 readers follow 25 jobs that emit 20 chunks a second each. The report has the memory and the
processor time of a stream, and the latency of a `noop` job: alone, beside the readers, beside
readers that stop reading, and beside a client that reconnects 1,000 times.
"""

import asyncio
import multiprocessing
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from lab.benchmarks.figures import Figure, print_report
from lab.benchmarks.load import HttpLoad
from lab.benchmarks.load import run as run_load
from lab.benchmarks.machine import process_seconds
from tests.e2e.system import System, running
from tests.stream_stores import running_redis

JOBS = 25
READERS = 500
RATE = 20
SECONDS = 30.0
DEAF_READERS = 50
RECONNECTS = 1000
NOOPS = 100
MAX_RATIO = 2.0

CATALOGUE = """
[noop]
description = "Does nothing."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]

[talker]
description = "Emits chunks."
implementation = "lab.benchmarks.talker"
media_types = ["text/plain"]
result_media_type = "text/plain"
deadline_seconds = 600
reports_progress = true
max_concurrent_jobs = 64
"""


async def _follow(session: aiohttp.ClientSession, url: str, ends_at: float) -> tuple[int, int]:
    """Read a stream until a time; return the response's status and how many events came."""
    count = 0
    async with session.get(url) as response:
        if response.status != 200:
            return response.status, 0
        try:
            async with asyncio.timeout(ends_at - time.monotonic()):
                async for piece in response.content.iter_any():
                    count += piece.count(b"event: chunk")
        except TimeoutError:
            pass
        return response.status, count


async def _follow_all(urls: Sequence[str], seconds: float) -> tuple[Counter[int], int]:
    ends_at = time.monotonic() + seconds
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        found = await asyncio.gather(*(_follow(session, url, ends_at) for url in urls))
    return Counter(status for status, _ in found), sum(count for _, count in found)


def follow_all(urls: Sequence[str], seconds: float) -> tuple[Counter[int], int]:
    """Follow streams for this time; return the statuses, and how many chunks came in all."""
    return asyncio.run(_follow_all(urls, seconds))


async def _reconnect(url: str, count: int) -> Counter[int]:
    statuses = Counter[int]()
    async with aiohttp.ClientSession() as session:
        for _ in range(count):
            async with session.get(url, headers={"Last-Event-ID": "1-5"}) as response:
                statuses[response.status] += 1
                await response.content.readany()
                response.close()
    return statuses


def reconnect(url: str, count: int) -> Counter[int]:
    """Open a stream, read its first event and hang up, this many times; return the statuses."""
    return asyncio.run(_reconnect(url, count))


@contextmanager
def deaf_readers(port: int, paths: Sequence[str]) -> Iterator[None]:
    """Open streams during the `with` block, and read nothing from them."""
    with ExitStack() as opened:
        for path in paths:
            found = opened.enter_context(socket.socket())
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            found.connect(("127.0.0.1", port))
            found.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        yield


@dataclass(frozen=True, slots=True)
class Use:
    """Processor time in seconds and memory in bytes of the system's processes."""

    seconds: dict[str, float]
    gateway_bytes: int

    @classmethod
    def now(cls, system: System) -> "Use":
        """Measure the processes now."""
        names = ("functions", "worker", "blobs")
        pids = {name: system.pid(name) for name in names}
        return cls(
            {name: process_seconds(pid) for name, pid in pids.items()},
            psutil.Process(pids["functions"]).memory_info().rss,
        )


def noop_ms(system: System) -> float:
    """Return the median latency of `noop` jobs, one after another."""
    load = HttpLoad(system.url, "/v1/models/noop/jobs", "application/octet-stream", [b"x"])
    return median(run_load(load, 1, NOOPS).latencies_ms)


def measure(system: System, store: str) -> list[Figure]:
    """Measure one store, and return its rows of the report."""
    noop_ms(system)
    alone = noop_ms(system)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as clients:
        clients.submit(follow_all, [], 1.0).result()
        text = f"{SECONDS * 6:g} {RATE}".encode()
        ids = [system.accept("talker", text, "text/plain", "?stream=true") for _ in range(JOBS)]
        paths = [f"/v1/jobs/{ids[number % JOBS]}/events" for number in range(READERS)]
        urls = [f"{system.url}{path}" for path in paths]
        idle = Use.now(system)
        begun = time.monotonic()
        reading = clients.submit(follow_all, urls, SECONDS)
        time.sleep(SECONDS / 3)
        before, middle = Use.now(system), time.monotonic()
        beside = noop_ms(system)
        time.sleep(max(0.0, begun + SECONDS - 2.0 - time.monotonic()))
        after, seconds = Use.now(system), time.monotonic() - middle
        statuses, chunks = reading.result()
        quiet = noop_ms(system)
        with deaf_readers(system.port, paths[:DEAF_READERS]):
            time.sleep(5.0)
            deaf_before = Use.now(system)
            deaf = noop_ms(system)
            time.sleep(5.0)
            deaf_bytes = Use.now(system).gateway_bytes - deaf_before.gateway_bytes
        reconnecting = clients.submit(reconnect, urls[0], RECONNECTS)
        beside_reconnects = noop_ms(system)
        reconnects = reconnecting.result()
        for job in ids:
            system.http.delete(f"/v1/jobs/{job}")
    busy = {name: (after.seconds[name] - before.seconds[name]) / seconds for name in after.seconds}
    memory_kib = (after.gateway_bytes - idle.gateway_bytes) / READERS / 1024
    gateway_ms = busy["functions"] / READERS * 1000
    text_of = " ".join(f"{name} {share:.2f}" for name, share in busy.items())

    def compared(name: str, found: float, base: float) -> Figure:
        ratio = found / base
        value = f"{base:.1f}, {found:.1f} ms ({ratio:.2f})"
        return Figure(f"{store}: {name}", value, f"{MAX_RATIO:g} times", ratio <= MAX_RATIO)

    all_open = statuses == {200: READERS}
    return [
        Figure(f"{store}: open streams by status", f"{dict(statuses)}", "all 200", all_open),
        Figure(
            f"{store}: chunks a second that readers got",
            f"{chunks / SECONDS:.0f} of {READERS * RATE}",
        ),
        Figure(f"{store}: memory of the gateway for a stream", f"{memory_kib:.0f} KiB"),
        Figure(f"{store}: processor time of the gateway for a stream", f"{gateway_ms:.2f} ms/s"),
        Figure(f"{store}: busy processors", text_of),
        compared("noop p50 alone, beside the readers", beside, alone),
        compared(f"noop p50 beside {JOBS} jobs, and {DEAF_READERS} deaf readers", deaf, quiet),
        Figure(f"{store}: memory that deaf readers took in 5 s", f"{deaf_bytes / 1024:.0f} KiB"),
        compared(f"noop p50 beside {RECONNECTS} reconnects", beside_reconnects, quiet),
        Figure(f"{store}: reconnects by status", f"{dict(reconnects)}"),
    ]


def run(store: str, options: Sequence[str] = ()) -> list[Figure]:
    """Measure one store, `blobs` or `redis`, on a new system; return the rows of the report."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loosely-readers-")))
        environment = {"MAX_TENANT_STREAMS": "1000", "MAX_STREAMS": "1000"}
        if store == "redis":
            environment["STREAM_REDIS_URL"] = stack.enter_context(running_redis(folder))
        system = stack.enter_context(
            running(folder / "data", CATALOGUE, environment=environment, options=tuple(options))
        )
        return measure(system, store)


def main(arguments: Sequence[str] = ()) -> int:
    """Measure both stores, and print the report. Return 1 if a target was missed.

    `arguments` are options of `loosely up`, such as `--isolated`.
    """
    figures = [figure for store in ("blobs", "redis") for figure in run(store, arguments)]
    return print_report(f"{READERS} readers of {JOBS} streams", figures)
