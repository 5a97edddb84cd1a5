"""Count the operations of one job on each service, in a running system (`./dev bench operations`).

The system's connections to Service Bus, to blob storage and to the gateway go through proxies that
count operations. The episodes, activities and actions of Durable Functions are counted in the
histories that the Functions host stores. Each job runs alone.
"""

import contextlib
import json
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from contract.names import ENDS, webhook_instance
from gateway.batches.store import BATCHES
from lab.benchmarks.observers import Counts, observe_amqp, observe_http
from lab.benchmarks.proxy import run_proxies
from lab.benchmarks.remote import ProxiedSystem, run_behind_proxies
from lab.capacity.cost import count_looks

CATALOGUE = """
[noop]
task = "echo"
description = "For counts."
implementation = "worker.models.noop"
media_types = ["application/octet-stream", "text/plain"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 30

[big]
description = "For counts."
implementation = "tests.e2e.big_result"
media_types = ["application/octet-stream"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 30
"""

_ENVIRONMENT = {
    "WORKER_MODELS": "noop,big",
    # Background operations would disturb the counts.
    "HEARTBEATS": "false",
    "MINUTE_SUMS": "false",
    "WORKER_HEARTBEAT_SECONDS": "0",
    "GUARD_ALLOW": "127.0.0.1",
    "WEBHOOK_SECRETS": "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
}

_ORCHESTRATOR_STARTED, _TASK_SCHEDULED = 12, 4
"""Numbers of events in Durable Task's histories (`EventType`)."""

_ACTIONS = frozenset(
    {
        0,  # ExecutionStarted
        3,  # ExecutionTerminated
        _TASK_SCHEDULED,
        5,  # TaskCompleted
        6,  # TaskFailed
        11,  # TimerFired
        15,  # EventRaised
    }
)
"""Each of these events in a history is one action of the Durable Task Scheduler.

An action is a message that the scheduler dispatches to the app: a start, an activity, the result of
an activity, a timer that fires, or an external event.
"""

_OF_A_JOB = ("send", "receive", "complete", "abandon", "dead-letter", "renew")
"""The operations on Service Bus that belong to a job.

The others belong to a connection (`authorise`) or to a time: a gateway reads the length of a queue
at most every five seconds (`management`).
"""

_OF_A_TIME = ("shares", "tenants", "usage")
"""The folders of blobs that each process reads or writes now and then, however many jobs it has."""

_PARAMETERS: tuple[str, ...] = ("webhook_url", "deadline_seconds")

SMALL_BYTES = 8
LARGE_INPUT_BYTES = 80_000
LARGE_RESULT_BYTES = 40_000
POLLS = 3
# A worker asks the gateway about a job that waited longer than this.
ASKED_AFTER_SECONDS = 2.0
_SETTLED_SECONDS = 0.3
_DEADLINE_SECONDS = 60.0
# The first jobs open connections and links.
_WARM_UP_JOBS = 5


@dataclass(frozen=True, slots=True)
class JobOperations:
    """The numbers of operations that one job needs on each service.

    `service_bus` counts sends, receives, settlements and renewals. `http_requests` counts requests
    to the gateway from callers and workers. `actions` counts the messages that Azure's Durable Task
    Scheduler would dispatch to the app. `turns` counts the executions of the job's orchestrators
    (episodes), and `activities` counts the activities that they called.

    `waited_seconds` is how long a request waited for the job's outcome. If the request looked for
    the outcome's blob during this time, `blob_reads` includes these reads. It does not include the
    reads of the log of ends, which all waiting requests of an instance share.
    """

    blob_writes: int
    blob_reads: int
    service_bus: int
    http_requests: int
    actions: int
    turns: int = 0
    activities: int = 0
    waited_seconds: float = 0.0

    @property
    def executions(self) -> int:
        """The highest possible number of function executions.

        An execution of the orchestrator may process several actions that arrive together.
        """
        return self.http_requests + self.actions

    @property
    def most_waiting_reads(self) -> int:
        """The largest number of times that the gateway can have read the outcome."""
        return count_looks(self.waited_seconds)


COLUMNS: dict[str, Callable[[JobOperations], int]] = {
    "blob writes": lambda job: job.blob_writes,
    "blob reads": lambda job: job.blob_reads,
    "Service Bus operations": lambda job: job.service_bus,
    "HTTP requests": lambda job: job.http_requests,
    "function executions": lambda job: job.executions,
    "Durable actions": lambda job: job.actions,
}
"""The columns of the table in docs/explanation/capacity.md."""


@dataclass(slots=True)
class OperationCounter:
    """Runs jobs on a system, and counts the operations of each job on each service.

    The operations are counted by proxies in the system's connections.
    """

    system: ProxiedSystem
    service_bus: Counts
    blobs: Counts
    gateway: Counts
    receiver_url: str
    http: httpx.Client = field(init=False)
    """The client, whose requests go through the gateway's proxy."""

    def __post_init__(self) -> None:
        """Create the HTTP client that sends requests to the gateway through its proxy."""
        self.http = httpx.Client(base_url=self.system.remote.gateway_url, timeout=120)

    def close(self) -> None:
        """Close the connections to the gateway."""
        self.http.close()

    def warm_up(self) -> None:
        """Run jobs of each model, so that all connections are open before the first count."""
        for _ in range(_WARM_UP_JOBS):
            self._submit()
        for _ in range(3):
            self._submit_large()
        self._wait_until_settled([])

    def count(self, kind: str) -> JobOperations:
        """Run one job of a kind in `KINDS` on an idle system; return its number of operations."""
        self._wait_until_settled([])
        before = self.read()
        job_id, waited_seconds = KINDS[kind](self)
        self._wait_until_settled([job_id])
        service_bus, blobs, gateway = (
            now - was for now, was in zip(self.read(), before, strict=True)
        )
        turns, events = self._history(job_id)
        return JobOperations(
            blob_writes=_count_methods(blobs, "PUT"),
            blob_reads=_count_methods(blobs, "GET", "HEAD") - blobs[f"GET {ENDS.rstrip('/')}"],
            service_bus=sum(service_bus[name] for name in _OF_A_JOB),
            http_requests=gateway.total(),
            actions=sum(n for kind, n in events.items() if kind in _ACTIONS),
            turns=turns,
            activities=events[_TASK_SCHEDULED],
            waited_seconds=waited_seconds,
        )

    def read(self) -> list[Counter[str]]:
        """Return the counts of operations on Service Bus, blob storage and the gateway."""
        return [each.read() for each in (self.service_bus, self.blobs, self.gateway)]

    def run_small(self) -> tuple[str, float]:
        """Run a small job in one waiting request. Return its id and how long the request waited."""
        return self._submit()

    def run_keyed(self) -> tuple[str, float]:
        """Run a small job with an Idempotency-Key. Return its id and the wait."""
        return self._submit(idempotency_key=f"key-{time.monotonic_ns()}")

    def run_large(self) -> tuple[str, float]:
        """Run a job that has an Idempotency-Key and stores its input and its result as blobs.

        Returns:
            The job's id, and how long the request waited for the end of the job, in seconds.
        """
        job_id, seconds = self._submit_large(idempotency_key=f"key-{time.monotonic_ns()}")
        # Until the orchestration has ended, the gateway reads the outcome, too.
        self._wait_until_ended([job_id])
        result = self.http.get(f"/v1/jobs/{job_id}/result", follow_redirects=True)
        if len(result.content) < LARGE_RESULT_BYTES:
            raise RuntimeError(
                f"the job's result has {len(result.content)} bytes, expected at least "
                f"{LARGE_RESULT_BYTES} bytes"
            )
        return job_id, seconds

    def run_polled(self) -> tuple[str, float]:
        """Run a job with a small body. Read its status while it is queued and once after its end.

        Returns:
            The job's id, and the seconds that a request waited for the result: always 0.0.
        """
        with self._paused_worker():
            job_id, _ = self._submit(prefer="respond-async")
            for _ in range(POLLS):
                self._expect(job_id, "queued")
        self._wait_until_settled([job_id])
        self._expect(job_id, "succeeded")
        return job_id, 0.0

    def run_webhook(self) -> tuple[str, float]:
        """Run a small job with a webhook, until it is delivered. Return its id and the wait."""
        job_id, seconds = self._submit(webhook_url=self.receiver_url)
        self._wait_until_ended([job_id, webhook_instance(job_id)])
        return job_id, seconds

    def run_cancelled(self) -> tuple[str, float]:
        """Cancel a job while it is queued and the worker is paused.

        When the worker continues, it asks the gateway whether to run the job.

        Returns:
            The job's id, and 0.0, because no request waits for the result.
        """
        with self._paused_worker():
            begun_at = time.monotonic()
            job_id, _ = self._submit(prefer="respond-async")
            response = self.http.delete(f"/v1/jobs/{job_id}")
            if response.status_code != HTTPStatus.ACCEPTED:
                raise RuntimeError(
                    f"the cancellation of the job {job_id} was refused with status "
                    f"{response.status_code}: {response.text}"
                )
            self._wait_until_ended([job_id])
            time.sleep(max(0.0, begun_at + ASKED_AFTER_SECONDS + 0.1 - time.monotonic()))
        return job_id, 0.0

    def run_expired(self) -> tuple[str, float]:
        """Send a job that expires before the worker starts it. Return its id and no wait."""
        with self._paused_worker():
            job_id, _ = self._submit(prefer="respond-async", deadline_seconds="1")
            self._wait_until_ended([job_id])
        return job_id, 0.0

    def _expect(self, job_id: str, status: str) -> None:
        found = self.http.get(f"/v1/jobs/{job_id}").json()["status"]
        if found != status:
            raise RuntimeError(f"the status of the job {job_id} is {found}, expected {status}")

    @contextlib.contextmanager
    def _paused_worker(self) -> Iterator[None]:
        (process,) = psutil.Process(self.system.programs["worker"].process.pid).children()
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    def _submit_large(self, **options: str) -> tuple[str, float]:
        content = str(LARGE_RESULT_BYTES).encode().ljust(LARGE_INPUT_BYTES)
        return self._post("big", content, options)

    def _submit(self, **options: str) -> tuple[str, float]:
        return self._post("noop", b"." * SMALL_BYTES, options)

    def _post(self, model: str, content: bytes, options: dict[str, str]) -> tuple[str, float]:
        headers = {
            name.replace("_", "-"): options[name]
            for name in ("prefer", "idempotency_key")
            if name in options
        }
        params: dict[str, str] = {name: options[name] for name in _PARAMETERS if name in options}
        begun_at = time.monotonic()
        answer = self.http.post(
            f"/v1/models/{model}/jobs",
            content=content,
            params=params,
            headers={"content-type": "application/octet-stream", **headers},
        )
        if answer.status_code not in {200, 202}:
            raise RuntimeError(
                f"the job was refused with status {answer.status_code}: {answer.text}"
            )
        return str(answer.json()["id"]), time.monotonic() - begun_at

    def _wait_until_ended(self, instances: Sequence[str]) -> None:
        end = time.monotonic() + _DEADLINE_SECONDS
        while not all(self._is_ended(each) for each in instances):
            if time.monotonic() > end:
                raise RuntimeError(
                    f"orchestrations did not end within {_DEADLINE_SECONDS} s: {instances}"
                )
            time.sleep(0.05)

    def _wait_until_settled(self, instances: Sequence[str]) -> None:
        """Wait until orchestrations have ended, all messages are settled, and no count changes.

        `instances` contains the ids of the orchestrations. The counts must stay the same for
        `_SETTLED_SECONDS`.

        Raises:
            RuntimeError: if this takes more than `_DEADLINE_SECONDS`.
        """
        self._wait_until_ended(instances)
        end = time.monotonic() + _DEADLINE_SECONDS
        before: list[Counter[str]] = []
        changed_at = time.monotonic()
        while True:
            now = self.read()
            if now != before:
                before, changed_at = now, time.monotonic()
            elif (
                now[0]["complete"] >= now[0]["send"]
                and time.monotonic() - changed_at > _SETTLED_SECONDS
            ):
                return
            if time.monotonic() > end:
                raise RuntimeError(
                    f"after {_DEADLINE_SECONDS} s, messages were not settled or the counts of "
                    f"operations still changed: {now}"
                )
            time.sleep(0.05)

    def _is_ended(self, instance: str) -> bool:
        found = self._query("SELECT status FROM instances WHERE id = ?", instance)
        return bool(found) and found[0][0] in {"Completed", "Failed", "Terminated"}

    def _history(self, job_id: str) -> tuple[int, Counter[int]]:
        """Return the number of executions of a job's orchestrators, and the counts of their events.

        A job has one orchestration, or two if the job has a webhook. The second value maps each
        type of history event to the number of events of this type in these orchestrations.
        """
        rows = self._query(
            "SELECT events FROM history WHERE id IN (?, ?)", job_id, webhook_instance(job_id)
        )
        events = [event for (text,) in rows for event in json.loads(f"[{text}]")]
        kinds = Counter(int(event["EventType"]) for event in events)
        return kinds[_ORCHESTRATOR_STARTED], kinds

    def _query(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        path = self.system.local.data / "functions" / "durable.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return database.execute(statement, values).fetchall()


KINDS = {
    "small, one request": OperationCounter.run_small,
    "small, with an Idempotency-Key": OperationCounter.run_keyed,
    "large: key, input and result in blobs, result read": OperationCounter.run_large,
    f"small, polled {POLLS} times while queued, once at the end": OperationCounter.run_polled,
    "small, with a webhook": OperationCounter.run_webhook,
    "cancelled while it is queued": OperationCounter.run_cancelled,
    "expired while it is queued": OperationCounter.run_expired,
}
"""The kinds of jobs. docs/explanation/capacity.md has a row for each of them."""


class _Receiver(BaseHTTPRequestHandler):
    """An HTTP handler that responds to each webhook with status 204."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name in the base class
        pass


@contextlib.contextmanager
def run_receiver() -> Iterator[str]:
    """Run an HTTP server that receives webhooks during the `with` block, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def run_counter(folder: Path) -> Iterator[OperationCounter]:
    """Run a system during the `with` block, and yield an object that counts its operations.

    Proxies count the requests to the system's gateway, its Service Bus and its blob storage.
    """
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE, encoding="utf-8")
    service_bus, blobs, gateway = Counts(), Counts(), Counts()
    observers = (
        observe_http(gateway, lambda method, target: f"{method} {target.split('?')[0]}"),
        observe_amqp(service_bus),
        observe_http(service_bus, lambda *_: "management"),
        observe_http(blobs, name_blob_operation),
    )
    with (
        run_receiver() as receiver_url,
        run_behind_proxies(
            folder,
            lambda ports: run_proxies(ports, 0.0, observers),
            catalogue=catalogue,
            environment=_ENVIRONMENT,
        ) as system,
    ):
        counter = OperationCounter(system, service_bus, blobs, gateway, receiver_url)
        with contextlib.closing(counter):
            counter.warm_up()
            yield counter


def _count_methods(blobs: Counter[str], *methods: str) -> int:
    """Return the number of blob operations of a job with these HTTP methods."""
    found = 0
    for name, count in blobs.items():
        method, folder = name.split(" ")
        found += count if method in methods and folder not in _OF_A_TIME else 0
    return found


def name_blob_operation(method: str, target: str) -> str:
    """Return the name of a request to blob storage: its method and folder, such as `GET outcomes`.

    A blob without a folder is a payload. The blobs of a batch have the names of their kinds, such
    as `PUT batches/ends`.
    """
    names = target.split("?", maxsplit=1)[0].strip("/").split("/")[2:]
    if len(names) > 2 and f"{names[0]}/" == BATCHES:
        return f"{method} {BATCHES}{names[2]}"
    return f"{method} {names[0] if len(names) > 1 else 'payload'}"


def main(_: Sequence[str] = ()) -> int:
    """Count the operations of one job of each kind, and print a table. Return 0."""
    table = Table(title="operations of one job")
    table.add_column("job")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        run_counter(Path(folder)) as counter,
    ):
        for kind in KINDS:
            found = counter.count(kind)
            table.add_row(kind, *(str(read(found)) for read in COLUMNS.values()))
    Console(width=120).print(table)
    return 0
