"""Measure one, two and three gateway processes behind a balancer (`./dev bench instances`).

The processes share one task hub, one set of blobs and one Service Bus. Each number of processes is
measured twice: the speed without proxies, and then the reads and operations through a proxy that
counts the requests to blob storage.

The operations on the task hub are those that the Azure Storage provider needs for what the local
engine has recorded. A start reads and writes the instance. A control message is put, received and
deleted. An episode reads and writes the instance and the history. An event reads the instance. On
Microsoft's host, a job that starts with its outcome needed 8.8 operations, and a job whose reply
is an event 21.3; by this rule the numbers are 9 and 21.
"""

import argparse
import asyncio
import http.client
import json
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Final
from urllib.parse import urlsplit

import httpx
import psutil
from azure.servicebus import ServiceBusClient
from rich.console import Console
from rich.table import Table

from contract.messages import InlineJson, JobReply, ReplyUrl, decode_request, encode_reply
from lab.benchmarks import load
from lab.benchmarks.machine import process_seconds
from lab.benchmarks.observers import Counts, observe_http
from lab.benchmarks.operations import name_blob_operation
from lab.storm.rig import AZURE_STORAGE, Rig, RigOptions, StormEngine, running

PROCESSES: Final = (1, 2, 3)
CLIENTS: Final = (1, 16, 64)
WAITERS: Final = (1, 100, 500)
JOB_SECONDS: Final = (0.2, 1.0, 5.0)
JOBS: Final = 400
TIMED_JOBS: Final = 30
COUNTED_JOBS: Final = 100
_WATCH_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.2
_BETWEEN_WAITERS_SECONDS: Final = 0.02
# Each orchestration looks for its outcome 10 and 30 s after its start, which no wait causes.
_AFTER_FIRST_CHECKS_SECONDS: Final = 12.0
_WAITING_PARTS: Final = ("gateway", "blobs")
_BODY_BYTES: Final = 26_000
_ORCHESTRATOR_STARTED, _EVENT_RAISED = 12, 15

CATALOGUE = """
[noop]
task = "echo"
description = "Does nothing."
implementation = "worker.models.noop"
media_types = ["application/octet-stream"]
lock_seconds = 30

[timed]
description = "Run by the benchmark itself, which waits as long as the input says."
implementation = "worker.models.noop"
media_types = ["text/plain"]
lock_seconds = 60

[never]
description = "Run by nobody."
implementation = "worker.models.noop"
media_types = ["text/plain"]
lock_seconds = 60
"""


@dataclass
class Measured:
    """What was measured with one number of processes.

    Args:
        p50_ms: The median latency of `noop` jobs, by the number of clients.
        per_second: The number of `noop` jobs per second, by the number of clients.
        job_cpu_ms: The processor time of a `noop` job in all components, by the number of clients.
        late_ms: By the length of a job: the times from the worker's reply to the caller's answer.
        operations: The operations of one `noop` job, by the kind of operation.
        reads: The reads of blobs per second, by the number of waiting requests.
        cpu: The processor time of gateways and blob storage in seconds per second, by the same.
    """

    p50_ms: dict[int, float] = field(default_factory=dict)
    per_second: dict[int, float] = field(default_factory=dict)
    job_cpu_ms: dict[int, float] = field(default_factory=dict)
    late_ms: dict[float, list[float]] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    reads: dict[int, float] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)

    @property
    def job_operations(self) -> float:
        """The storage operations of one job, without the reads that all waiting requests share."""
        return sum(n for name, n in self.operations.items() if name != "GET ends")


@dataclass
class TimedWorker:
    """A worker that runs the jobs of the model `timed`, each as long as its input says.

    Args:
        connection: The connection string of Service Bus.
        replied_at: When the reply of each job was sent, by its job id, in seconds since 1970.
    """

    connection: str
    replied_at: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Receive and run jobs until `stop` is called."""
        with (
            ServiceBusClient.from_connection_string(self.connection) as client,
            client.get_queue_receiver("timed") as receiver,
        ):
            while not self._stop.is_set():
                for message in receiver.receive_messages(max_message_count=50, max_wait_time=1):
                    body = b"".join(message.body)
                    receiver.complete_message(message)
                    threading.Thread(target=self._run_job, args=(body,)).start()

    def stop(self) -> None:
        """Let `run` return within a second."""
        self._stop.set()

    def _run_job(self, body: bytes) -> None:
        request = decode_request(body)
        assert isinstance(request.reply_to, ReplyUrl)
        begun_at = datetime.now(UTC)
        time.sleep(float(request.input.data))  # type: ignore[union-attr]  # the input is inline
        reply = JobReply(request.job_id, InlineJson(1), begun_at, datetime.now(UTC))
        url = urlsplit(request.reply_to.url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        connection.connect()
        self.replied_at[request.job_id] = time.time()
        path = f"{url.path}?{url.query}"
        connection.request("POST", path, encode_reply(reply), {"content-type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        if status not in {202, 410}:
            raise RuntimeError(f"the reply was refused with status {status}")


async def measure_speed(rig: Rig) -> Measured:
    """Measure the latency and the rate of `noop` jobs, and how late callers are answered."""
    found = Measured()
    bodies = [f"{number:08d}".encode().ljust(_BODY_BYTES, b".") for number in range(100)]
    jobs = load.HttpLoad(rig.url, "/v1/models/noop/jobs", "application/octet-stream", bodies)
    await asyncio.to_thread(load.run, jobs, 16, 200)
    for clients in CLIENTS:
        count = JOBS if clients > 1 else JOBS // 3
        cpu = processor_seconds(rig)
        outcome = await asyncio.to_thread(load.run, jobs, clients, count)
        found.job_cpu_ms[clients] = (processor_seconds(rig) - cpu) / count * 1000
        if outcome.failures:
            raise RuntimeError(f"{outcome.failures} of {count} jobs failed")
        found.p50_ms[clients] = outcome.percentile_ms(50)
        found.per_second[clients] = outcome.per_second
    worker = TimedWorker(rig.service_bus_connection)
    running_worker = asyncio.create_task(asyncio.to_thread(worker.run))
    try:
        for seconds in JOB_SECONDS:
            found.late_ms[seconds] = await _measure_lateness(rig.url, worker, seconds)
    finally:
        worker.stop()
        await running_worker
    return found


async def _measure_lateness(url: str, worker: TimedWorker, seconds: float) -> list[float]:
    """Run jobs of this length one after the other; return how late their callers were answered."""

    async def one(number: int) -> float:
        await asyncio.sleep(number * 0.13)
        # Each caller has a connection of its own, so that the balancer spreads the callers.
        # To load the certificates would block this loop, which is also the balancer's.
        async with httpx.AsyncClient(
            base_url=url, timeout=120, trust_env=False, verify=False
        ) as client:
            answer = await client.post(
                "/v1/models/timed/jobs",
                content=str(seconds),
                headers={"content-type": "text/plain", "prefer": "wait=60"},
            )
        answered_at = time.time()
        if answer.status_code != 200:
            raise RuntimeError(f"a job ended with status {answer.status_code}: {answer.text}")
        return (answered_at - worker.replied_at[answer.json()["id"]]) * 1000

    return await asyncio.gather(*(one(number) for number in range(TIMED_JOBS)))


async def count_operations(rig: Rig, blobs: Counts, found: Measured) -> None:
    """Count the operations of a `noop` job."""
    body = b"."
    jobs = load.HttpLoad(rig.url, "/v1/models/noop/jobs", "application/octet-stream", [body])
    await asyncio.to_thread(load.run, jobs, 4, 60)
    await asyncio.sleep(_SETTLE_SECONDS)
    hub, counted = _HubCounts.read(rig.task_hub), blobs.read()
    await asyncio.to_thread(load.run, jobs, 4, COUNTED_JOBS)
    await asyncio.sleep(_SETTLE_SECONDS)
    used = blobs.read() - counted
    for name, count in used.items():
        if name.split(" ")[1] in {"outcomes", "ends"}:
            found.operations[name] = count / COUNTED_JOBS  # type: ignore[assignment]  # a mean
    hub_operations = (_HubCounts.read(rig.task_hub) - hub).operations
    found.operations["task hub"] = hub_operations / COUNTED_JOBS  # type: ignore[assignment]


async def _watch_waiters(rig: Rig, blobs: Counts, found: Measured, waiters: int) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=rig.url, timeout=120, limits=limits, trust_env=False
    ) as client:

        async def wait(number: int) -> None:
            await asyncio.sleep(number * _BETWEEN_WAITERS_SECONDS)
            await client.post(
                "/v1/models/never/jobs",
                content=b".",
                headers={"content-type": "text/plain", "prefer": "wait=60"},
            )

        waiting = [asyncio.create_task(wait(number)) for number in range(waiters)]
        while _HubCounts.read(rig.task_hub).starts < waiters:
            ended, _ = await asyncio.wait(
                waiting, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if ended:
                raise RuntimeError(f"a request does not wait: {ended.pop().exception()!r}")
        await asyncio.sleep(_AFTER_FIRST_CHECKS_SECONDS)
        before, cpu = blobs.read(), processor_seconds(rig, *_WAITING_PARTS)
        begun_at = time.monotonic()
        await asyncio.sleep(_WATCH_SECONDS)
        seconds = time.monotonic() - begun_at
        used = blobs.read() - before
        found.cpu[waiters] = (processor_seconds(rig, *_WAITING_PARTS) - cpu) / seconds
        reads = sum(count for name, count in used.items() if name.startswith(("GET", "HEAD")))
        found.reads[waiters] = reads / seconds
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def processor_seconds(rig: Rig, *parts: str) -> float:
    """Return the processor time in seconds of the parts with these prefixes, or of all parts."""
    total = 0.0
    for name, processes in rig.processes().items():
        if name.rpartition(" ")[2].startswith(parts or ("",)):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    total += process_seconds(process.pid)
    return total


@dataclass(frozen=True, slots=True)
class _HubCounts:
    """What a task hub has recorded since its creation."""

    starts: int
    messages: int
    episodes: int
    events: int

    @classmethod
    def read(cls, path: Path) -> "_HubCounts":
        """Read the counts from the task hub in this file."""
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as hub:
            starts = hub.execute("SELECT count(*) FROM instances").fetchone()[0]
            sequence = hub.execute("SELECT seq FROM sqlite_sequence WHERE name='control_messages'")
            messages = (sequence.fetchone() or (0,))[0]
            kinds = Counter(
                int(event["EventType"])
                for (text,) in hub.execute("SELECT events FROM history")
                for event in json.loads(f"[{text}]")
            )
        return cls(starts, messages, kinds[_ORCHESTRATOR_STARTED], kinds[_EVENT_RAISED])

    def __sub__(self, earlier: "_HubCounts") -> "_HubCounts":
        return _HubCounts(
            self.starts - earlier.starts,
            self.messages - earlier.messages,
            self.episodes - earlier.episodes,
            self.events - earlier.events,
        )

    @property
    def operations(self) -> int:
        """The operations that the Azure Storage provider needs for this, see the module."""
        return 2 * self.starts + 3 * self.messages + 4 * self.episodes + self.events


@asynccontextmanager
async def system(processes: int, observers: Counts | None = None) -> AsyncIterator[Rig]:
    """Run a system with this number of gateway processes in the `with` block.

    With `observers`, the requests to blob storage pass a proxy that counts them.
    """
    engine = StormEngine(AZURE_STORAGE, gateways=processes)
    options = RigOptions(
        catalogue=CATALOGUE,
        environment={
            "WORKER_MODELS": "noop",
            "HEARTBEATS": "false",
            "MINUTE_SUMS": "false",
            "WORKER_HEARTBEAT_SECONDS": "0",
        },
        has_links=observers is not None,
        observers=(
            {} if observers is None else {"blobs": observe_http(observers, name_blob_operation)}
        ),
    )
    with tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder:
        async with running(Path(folder), engine, options) as rig:
            await rig.start("worker")
            yield rig


async def measure(processes: int, *, counts: bool) -> Measured:
    """Measure a new system with this number of gateway processes."""
    async with system(processes) as rig:
        found = await measure_speed(rig)
    if counts:
        blobs = Counts()
        async with system(processes, blobs) as rig:
            await count_operations(rig, blobs, found)
        for waiters in WAITERS:
            async with system(processes, blobs) as rig:
                await _watch_waiters(rig, blobs, found, waiters)
    return found


def main(arguments: Sequence[str] = ()) -> int:
    """Measure each number of processes, and print a table of the medians. Return 0."""
    parser = argparse.ArgumentParser(prog="./dev bench instances", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", default=",".join(map(str, PROCESSES)))
    parser.add_argument("--speed-only", action="store_true", help="do not count operations")
    options = parser.parse_args(arguments)
    numbers = [int(text) for text in options.processes.split(",")]
    found: dict[int, list[Measured]] = {number: [] for number in numbers}
    for round_number in range(options.rounds):
        for number in numbers:
            counts = not options.speed_only and round_number == 0
            found[number].append(asyncio.run(measure(number, counts=counts)))
    Console(width=120).print(_table(found))
    return 0


def _table(found: dict[int, list[Measured]]) -> Table:
    table = Table(title="gateway processes on one task hub (medians of the rounds)")
    table.add_column("processes")
    for number in found:
        table.add_column(str(number), justify="right")

    def add(name: str, texts: list[str]) -> None:
        table.add_row(name, *texts)

    def middle(read: str, key: float) -> list[str]:
        return [f"{median(getattr(m, read)[key] for m in ms):.1f}" for ms in found.values()]

    for clients in CLIENTS:
        add(f"noop, {clients} clients: p50 ms", middle("p50_ms", clients))
        add(f"noop, {clients} clients: jobs/s", middle("per_second", clients))
    for clients in CLIENTS:
        add(f"noop, {clients} clients: CPU ms of a job", middle("job_cpu_ms", clients))
    for seconds in JOB_SECONDS:
        texts = []
        for measured in found.values():
            late = [value for m in measured for value in m.late_ms[seconds]]
            percentiles = quantiles(late, n=100, method="inclusive")
            texts.append(f"{percentiles[49]:.0f} / {percentiles[94]:.0f}")
        add(f"job of {seconds:g} s, answered after its reply: p50 / p95 ms", texts)
    firsts = [measured[0] for measured in found.values()]
    if not firsts[0].operations:
        return table
    add("storage operations of a noop job", [f"{m.job_operations:.1f}" for m in firsts])
    for name in sorted({name for m in firsts for name in m.operations}):
        add(f"  {name}", [f"{m.operations[name]:.2f}" for m in firsts])
    for waiters in WAITERS:
        add(f"{waiters} waiting: reads of blobs/s", [f"{m.reads[waiters]:.1f}" for m in firsts])
        add(f"{waiters} waiting: CPU, s/s", [f"{m.cpu[waiters]:.3f}" for m in firsts])
    return table
