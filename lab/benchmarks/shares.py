"""Measure the fair shares of tenants (`./dev bench shares`).

today    ResNet-18 without shares: how long one tenant waits behind the flood of another
flood    the same with shares, and what the tenant with the flood loses
weights  three tenants with weights 1, 2 and 4, and jobs that differ ten times in their cost
alone    one tenant, with and without shares in turn: latency, rate, and the rate when saturated
many     500 tenants with 20,000 waiting jobs, two gateway processes, a tenant with 50 keys
"""

import argparse
import asyncio
import http.client
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

import httpx

from gateway.keys import Scope, make_key
from lab.benchmarks import load
from lab.benchmarks.figures import Figure, print_report
from lab.benchmarks.instances import processor_seconds
from lab.benchmarks.saturation import PICTURES
from lab.storm import rig as storm_rig
from lab.storm.rig import AZURE_STORAGE, Rig, RigOptions, StormEngine
from tests.e2e.system import System, running

CLIENTS = 16
ALONE_JOBS = 20
RATE_SECONDS = 40.0
MAX_BATCHES_LATER = 2.0
MIN_RATE_SHARE = 0.98
MIN_ALONE_SHARE = 0.99
MAX_WEIGHT_ERROR = 0.05
WINDOW_SECONDS = 60.0
NOOP_JOBS = 400
MANY_TENANTS = 500
MANY_KEYS = 50
NEWCOMER_JOBS = 20
# After the worker's start, and between the kills of gateway processes.
_SETTLE_SECONDS = 10.0
_POLL_SECONDS = 0.05
# The weight of a tenant, and the seconds of its jobs on the device.
WEIGHTED = {"one": (1, 0.03), "two": (2, 0.3), "four": (4, 0.03)}
_SETTLED = re.compile(
    r'^loosely_worker_settled_total\{[^}]*model="(\S+?)"[^}]*\} (\S+)$', re.MULTILINE
)
_TIMEOUT_SECONDS = 900.0

CATALOGUE = """
[resnet18]
description = "torchvision's ResNet-18 with seeded weights."
implementation = "lab.benchmarks.resnet18"
media_types = ["image/jpeg"]
deadline_seconds = 3600
max_deadline_seconds = 3600

[noop]
description = "Does nothing."
implementation = "worker.models.noop"
media_types = ["text/plain"]
lock_seconds = 30
deadline_seconds = 3600
max_deadline_seconds = 3600

[spender]
description = "Uses the device as long as its input says."
implementation = "lab.benchmarks.spender"
media_types = ["text/plain"]
max_batch_size = 1
deadline_seconds = 3600
max_deadline_seconds = 3600

[many]
description = "The same, several at once."
implementation = "lab.benchmarks.spender"
media_types = ["text/plain"]
max_batch_size = 16
lock_seconds = 30
deadline_seconds = 3600
max_deadline_seconds = 3600
"""


class Tenants:
    """API keys of tenants, with the entries of the setting API_KEYS."""

    def __init__(self, names: Iterable[str], keys_each: Mapping[str, int] | None = None) -> None:
        """Create one key for each tenant, or as many as `keys_each` says; and one for `admin`."""
        self.keys: dict[str, list[str]] = {}
        entries = []
        for name in [*names, "admin"]:
            scopes = list(Scope) if name == "admin" else [Scope.JOBS_READ, Scope.JOBS_WRITE]
            for number in range((keys_each or {}).get(name, 1)):
                key, entry = make_key(f"{name} {number}", name, scopes)
                self.keys.setdefault(name, []).append(key)
                entries.append(entry)
        self.api_keys = json.dumps(entries)

    def headers(self, tenant: str, number: int = 0) -> dict[str, str]:
        """Return the headers of a request of this tenant, with its key of this number."""
        keys = self.keys[tenant]
        return {"authorization": f"Bearer {keys[number % len(keys)]}"}


@dataclass(frozen=True, slots=True)
class Submission:
    """One job to submit: its tenant, its model, and its input."""

    tenant: str
    model: str
    media_type: str
    body: bytes


@dataclass
class Submitter:
    """Submits jobs to a gateway from several threads, without waiting for their ends."""

    url: str
    tenants: Tenants
    latencies_ms: list[float] = field(default_factory=list)
    #: The ids of the jobs, in the order of their acceptance.
    ids: list[str] = field(default_factory=list)

    def submit_all(self, jobs: Iterable[Submission], clients: int = CLIENTS) -> float:
        """Submit jobs in their order, and return the seconds. Raises RuntimeError if refused."""
        left, lock, begun_at = iter(enumerate(jobs)), threading.Lock(), time.perf_counter()

        def client() -> None:
            target = urlsplit(self.url)
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            while True:
                with lock:
                    number, job = next(left, (0, None))
                if job is None:
                    return connection.close()
                self._submit(connection, job, number)

        with ThreadPoolExecutor(clients) as pool:
            for each in [pool.submit(client) for _ in range(clients)]:
                each.result()
        return time.perf_counter() - begun_at

    def _submit(self, connection: http.client.HTTPConnection, job: Submission, number: int) -> None:
        headers = {
            "content-type": job.media_type,
            "prefer": "respond-async",
            **self.tenants.headers(job.tenant, number),
        }
        begun_at = time.perf_counter()
        connection.request("POST", f"/v1/models/{job.model}/jobs", job.body, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status != 202:
            raise RuntimeError(f"a job was answered {response.status}: {text[:500]!r}")
        self.latencies_ms.append((time.perf_counter() - begun_at) * 1000)
        self.ids.append(json.loads(text)["id"])


def settled(health_port: int) -> dict[str, float]:
    """Return how many messages of each model the worker has settled."""
    text = httpx.get(f"http://127.0.0.1:{health_port}/metrics", timeout=30).text
    counts: dict[str, float] = {}
    for model, count in _SETTLED.findall(text):
        counts[model] = counts.get(model, 0.0) + float(count)
    return counts


def measure_rate(health_port: int, model: str, seconds: float) -> float:
    """Return how many jobs of a model the worker ends in a second."""
    first, begun_at = settled(health_port).get(model, 0.0), time.perf_counter()
    time.sleep(seconds)
    count = settled(health_port).get(model, 0.0) - first
    return count / (time.perf_counter() - begun_at)


def time_jobs(
    system: System, tenants: Tenants, job: Submission, count: int
) -> tuple[list[float], list[dict[str, Any]]]:
    """Submit a job each second, and wait for all. Return the seconds of each, and the jobs."""

    def run(number: int) -> tuple[float, dict[str, Any]]:
        time.sleep(max(0.0, begun_at + number - time.perf_counter()))
        sent_at = time.perf_counter()
        answer = httpx.post(
            f"{system.url}/v1/models/{job.model}/jobs",
            content=job.body,
            headers={
                "content-type": job.media_type,
                "prefer": "wait=200",
                **tenants.headers(job.tenant),
            },
            timeout=_TIMEOUT_SECONDS,
        )
        if answer.status_code != 200:
            raise RuntimeError(f"a job ended with {answer.status_code}: {answer.text}")
        return time.perf_counter() - sent_at, answer.json()

    begun_at = time.perf_counter()
    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(run, range(count)))
    return [seconds for seconds, _ in found], [each for _, each in found]


@dataclass(frozen=True, slots=True)
class Flood:
    """What two tenants had while one of them floods the queue.

    Rates are in jobs a second, times in seconds.
    """

    jobs: int
    submit_rate: float
    alone_seconds: list[float]
    alone_queued_seconds: list[float]
    beside_seconds: list[float]
    beside_queued_seconds: list[float]
    batch_seconds: float
    rate_alone: float
    rate_beside: float
    beside_rate: float


def run_flood(folder: Path, jobs: int, beside: int, *, has_shares: bool) -> Flood:
    """Let tenant `a` flood ResNet-18, and tenant `b` submit a job each second, `beside` jobs."""
    tenants = Tenants(["a", "b"])
    environment = {
        "API_KEYS": tenants.api_keys,
        "SHARES": str(has_shares).lower(),
        "WORKER_MODELS": "resnet18",
    }
    pictures = [path.read_bytes() for path in PICTURES]
    with running(folder, CATALOGUE, environment=environment) as system:
        health = system.part("worker").ports["worker health"]
        own = Submission("b", "resnet18", "image/jpeg", pictures[0])
        time_jobs(system, tenants, own, 3)
        alone, found_alone = time_jobs(system, tenants, own, ALONE_JOBS)
        submitter = Submitter(system.url, tenants)
        with system.paused("worker"):
            seconds = submitter.submit_all(
                Submission("a", "resnet18", "image/jpeg", pictures[n % len(pictures)])
                for n in range(jobs)
            )
        time.sleep(5.0)
        rate_alone = measure_rate(health, "resnet18", RATE_SECONDS)
        first, begun_at = settled(health)["resnet18"], time.perf_counter()
        waits, found = time_jobs(system, tenants, own, beside)
        ended = settled(health)["resnet18"] - first
        took = time.perf_counter() - begun_at
    batches = [job["timing"]["inference_ms"] / 1000 for job in found]
    return Flood(
        jobs,
        jobs / seconds,
        alone,
        queued_seconds(found_alone),
        waits,
        queued_seconds(found),
        median(batches),
        rate_alone,
        (ended - beside) / took,
        beside / took,
    )


def queued_seconds(jobs: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return how many seconds each job waited before a worker received it."""
    return [job["timing"]["queued_ms"] / 1000 for job in jobs]


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return quantiles(values, n=100, method="inclusive")[94]


def measure_today(folder: Path, jobs: int, all_jobs: int) -> list[Figure]:
    """Measure without shares, with a smaller flood, what follows for one of `all_jobs` jobs."""
    flood = run_flood(folder, jobs, 10, has_shares=False)
    return [
        Figure(
            f"without shares: behind {jobs:,} jobs, a job each second",
            f"p50 {median(flood.beside_seconds):.1f}, p95 {p95(flood.beside_seconds):.1f} s; "
            f"alone p50 {median(flood.alone_seconds):.2f}, p95 {p95(flood.alone_seconds):.2f} s",
        ),
        Figure(
            "without shares: one tenant alone",
            f"{flood.rate_alone:.2f} jobs/s; {all_jobs:,} jobs take "
            f"{all_jobs / flood.rate_alone:.0f} s, and a job behind them waits as long",
        ),
    ]


def measure_flood(folder: Path, jobs: int, beside: int) -> list[Figure]:
    """Measure with shares how long one tenant waits beside the flood of another."""
    flood = run_flood(folder, jobs, beside, has_shares=True)
    later = p95(flood.beside_queued_seconds) - p95(flood.alone_queued_seconds)
    allowed = MAX_BATCHES_LATER * flood.batch_seconds
    total = flood.rate_beside + flood.beside_rate
    share = total / flood.rate_alone
    return [
        Figure(f"{jobs:,} jobs were submitted", f"{flood.submit_rate:.0f} jobs/s"),
        Figure(
            f"beside them a job each second, of {beside}, from the request to the answer",
            f"p50 {median(flood.beside_seconds):.2f}, p95 {p95(flood.beside_seconds):.2f} s; "
            f"alone p50 {median(flood.alone_seconds):.2f}, p95 {p95(flood.alone_seconds):.2f} s",
        ),
        Figure(
            "its wait before a worker received it",
            f"p50 {median(flood.beside_queued_seconds):.2f}, "
            f"p95 {p95(flood.beside_queued_seconds):.2f} s; "
            f"alone p95 {p95(flood.alone_queued_seconds):.2f} s: p95 {later:.2f} s more",
            f"{allowed:.2f} s more at most: two batches of {flood.batch_seconds:.2f} s",
            later <= allowed,
        ),
        Figure(
            "jobs/s of both tenants, of the flood's alone",
            f"{flood.rate_beside:.2f} + {flood.beside_rate:.2f} of {flood.rate_alone:.2f}: "
            f"{share:.3f}",
            f"{MIN_RATE_SHARE:g} or more",
            share >= MIN_RATE_SHARE,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Ran:
    """One job on the device, as the model `spender` has written it down."""

    tenant: str
    begun_at: float
    ended_at: float

    @classmethod
    def read(cls, path: Path) -> "list[Ran]":
        """Read the jobs that have ended so far."""
        if not path.exists():
            return []
        lines = path.read_text("utf-8").rpartition("\n")[0].splitlines()
        return [cls(tenant, float(b), float(e)) for tenant, b, e in map(str.split, lines)]


def measure_shares(ran: Sequence[Ran], until: float) -> list[dict[str, float]]:
    """Return each tenant's share of the device, for each window of a minute before `until`."""
    first, found = ran[0].begun_at, []
    start = first + WINDOW_SECONDS / 12
    while start + WINDOW_SECONDS <= until:
        used = Counter[str]()
        for job in ran:
            overlap = min(job.ended_at, start + WINDOW_SECONDS) - max(job.begun_at, start)
            used[job.tenant] += max(0.0, overlap)  # type: ignore[assignment]  # seconds
        found.append({tenant: seconds / used.total() for tenant, seconds in used.items()})
        start += 1.0
    return found


def measure_weights(folder: Path, seconds: float) -> list[Figure]:
    """Let tenants with different weights and jobs of different cost use one device."""
    tenants, path = Tenants(WEIGHTED), folder.parent / "ran"
    environment = {"API_KEYS": tenants.api_keys, "WORKER_MODELS": "spender"}
    weights = sum(weight for weight, _ in WEIGHTED.values())
    expected = {name: weight / weights for name, (weight, _) in WEIGHTED.items()}
    counts = {
        name: round(1.2 * seconds * expected[name] / cost) for name, (_, cost) in WEIGHTED.items()
    }
    with running(folder, CATALOGUE, environment=environment) as system:
        for name, (weight, _) in WEIGHTED.items():
            set_tenant(system.url, tenants, name, weight=weight)
        time.sleep(3.0)
        with system.paused("worker"):
            Submitter(system.url, tenants).submit_all(
                Submission(name, "spender", "text/plain", f"{path} {name} {cost}".encode())
                for name, cost in interleave(counts)
            )
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            time.sleep(1.0)
        ran = Ran.read(path)
    ended = Counter(job.tenant for job in ran)
    until = min(
        [ran[-1].ended_at]
        + [job.ended_at for job in ran if ended[job.tenant] >= 0.98 * counts[job.tenant]]
    )
    windows = measure_shares(ran, until)
    errors = [
        max(abs(window.get(name, 0.0) / share - 1) for name, share in expected.items())
        for window in windows
    ]
    busy = sum(job.ended_at - job.begun_at for job in ran) / (ran[-1].ended_at - ran[0].begun_at)
    shown = ", ".join(
        f"{name} {min(w.get(name, 0) for w in windows):.3f} to "
        f"{max(w.get(name, 0) for w in windows):.3f} of {share:.3f}"
        for name, share in expected.items()
    )
    return [
        Figure(
            f"weights 1 : 2 : 4, shares of the device in each of {len(windows)} minutes",
            f"{shown}: at most {max(errors):.1%} wrong",
            f"{MAX_WEIGHT_ERROR:.0%} at most",
            max(errors) <= MAX_WEIGHT_ERROR,
        ),
        Figure("the device was busy", f"{busy:.1%}, {len(ran):,} jobs: {dict(ended)}"),
    ]


def interleave(counts: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Yield the tenants of WEIGHTED with their costs, mixed evenly."""
    order = sorted((n / count, name) for name, count in counts.items() for n in range(count))
    for _, name in order:
        yield name, WEIGHTED[name][1]


def set_tenant(url: str, tenants: Tenants, name: str, **settings: float) -> None:
    """Change the settings of a tenant. Raises HTTPStatusError if they are refused."""
    path = f"{url}/v1/admin/tenants/{name}"
    httpx.put(path, json=settings, headers=tenants.headers("admin")).raise_for_status()


@dataclass
class AloneRounds:
    """What one system had in each round with one tenant alone."""

    p50_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    saturated_rate: list[float] = field(default_factory=list)

    def add(self, system: System, tenants: Tenants, pictures: int) -> None:
        """Measure `noop` with short queues, and ResNet-18 with a long one.

        The rate of ResNet-18 is that of all jobs, from the first submit to the last end.
        """
        jobs = load.HttpLoad(
            system.url, "/v1/models/noop/jobs", "text/plain", [b"a job"], tenants.headers("a")
        )
        for clients, count in ((1, NOOP_JOBS // 2), (CLIENTS, NOOP_JOBS)):
            outcome = load.run(jobs, clients, count)
            if outcome.failures:
                raise RuntimeError(f"{outcome.failures} of {count} jobs failed")
            if clients == 1:
                self.p50_ms.append(outcome.percentile_ms(50))
            else:
                self.per_second.append(outcome.per_second)
        health = system.part("worker").ports["worker health"]
        first, picture = settled(health).get("resnet18", 0.0), PICTURES[0].read_bytes()
        # The worker runs while the jobs are submitted. With shares, the gateway sends most of them
        # to the queue later, so the time includes all sends with and without shares.
        begun_at = time.perf_counter()
        Submitter(system.url, tenants).submit_all(
            Submission("a", "resnet18", "image/jpeg", picture) for _ in range(pictures)
        )
        while settled(health).get("resnet18", 0.0) < first + pictures:
            time.sleep(_POLL_SECONDS)
            if time.perf_counter() - begun_at > pictures:
                raise TimeoutError(f"{pictures} pictures have not ended in as many seconds")
        self.saturated_rate.append(pictures / (time.perf_counter() - begun_at))


def measure_alone(folder: Path, rounds: int, pictures: int) -> list[Figure]:
    """Compare a system with shares and one without, in turn, with one tenant."""
    tenants = Tenants(["a"])
    found = {True: AloneRounds(), False: AloneRounds()}
    with ExitStack() as stack:
        systems = {}
        for has_shares in found:
            own = folder / str(has_shares)
            own.mkdir(parents=True)
            environment = {
                "API_KEYS": tenants.api_keys,
                "SHARES": str(has_shares).lower(),
                "WORKER_MODELS": "noop,resnet18",
            }
            systems[has_shares] = stack.enter_context(
                running(own / "data", CATALOGUE, environment=environment)
            )
            AloneRounds().add(systems[has_shares], tenants, pictures // 10)
        for number in range(rounds):
            for has_shares in (True, False) if number % 2 else (False, True):
                found[has_shares].add(systems[has_shares], tenants, pictures)
    shared, plain = found[True], found[False]
    return [
        compare("noop, short queue: p50 ms of 1 client", shared.p50_ms, plain.p50_ms),
        compare(
            f"noop, short queue: jobs/s of {CLIENTS} clients", shared.per_second, plain.per_second
        ),
        compare(
            "ResNet-18, one tenant alone, long queue: jobs/s",
            shared.saturated_rate,
            plain.saturated_rate,
            MIN_ALONE_SHARE,
        ),
    ]


def compare(
    name: str, shared: Sequence[float], plain: Sequence[float], least: float | None = None
) -> Figure:
    """Return the row that compares the rounds with shares with those without."""
    ratios = sorted(one / other for one, other in zip(shared, plain, strict=True))
    ratio = median(ratios)
    return Figure(
        name,
        f"{median(shared):.1f} with shares, {median(plain):.1f} without: {ratio:.3f} "
        f"({', '.join(f'{each:.2f}' for each in ratios)})",
        f"{least:g} or more" if least else "",
        least is None or ratio >= least,
    )


async def measure_many(folder: Path, waiting: int, seconds: float) -> list[Figure]:
    """Let many tenants wait, with two gateway processes, and then let their jobs in.

    The jobs of all tenants are equal in number and cost. One tenant submits its jobs with many
    keys. While the jobs are let in, each gateway process is killed once.
    """
    names = [f"t{number}" for number in range(MANY_TENANTS - 1)]
    tenants = Tenants([*names, "keys", "new"], {"keys": MANY_KEYS})
    path = folder / "ran"
    plain_ms = await _wait_without_shares(folder / "plain", tenants, waiting)
    engine = StormEngine(AZURE_STORAGE, gateways=2)
    options = RigOptions(
        catalogue=CATALOGUE,
        environment={"API_KEYS": tenants.api_keys, "WORKER_MODELS": "many"},
    )
    async with storm_rig.running(folder / "shares", engine, options) as rig:
        submitter = Submitter(rig.url, tenants)
        body = f"{path} {{}} 0"
        jobs = [
            Submission(name, "many", "text/plain", body.format(name).encode())
            for name in [*names, "keys"] * -(-waiting // MANY_TENANTS)
        ][:waiting]
        cpu = processor_seconds(rig)
        took = await asyncio.to_thread(submitter.submit_all, jobs)
        held_ms = (processor_seconds(rig) - cpu) / waiting * 1000
        memory = max(
            each.memory_info().rss / 2**20
            for name, processes in rig.processes().items()
            if "gateway" in name
            for each in processes
        )
        admin = {"headers": tenants.headers("admin")}
        place_ms, place = await _time_get(rig.url, f"/v1/jobs/{submitter.ids[-1]}", **admin)
        admin_ms, _ = await _time_get(rig.url, "/v1/admin/tenants", **admin)
        cpu = processor_seconds(rig, "gateway", "app", "child", "blobs", "servicebus")
        await asyncio.sleep(_SETTLE_SECONDS)
        idle = processor_seconds(rig, "gateway", "app", "child", "blobs", "servicebus") - cpu
        let_in = await _let_in(rig, tenants, path, body, seconds)
    first, latest = submitter.latencies_ms[:1000], submitter.latencies_ms[-1000:]
    return [
        Figure(
            f"{waiting:,} waiting jobs of {MANY_TENANTS} tenants were submitted",
            f"{waiting / took:.0f} jobs/s; p50 {median(first):.0f} ms for the first 1,000, "
            f"{median(latest):.0f} ms for the last",
        ),
        Figure(
            "CPU of a waiting job, all processes",
            f"{held_ms:.2f} ms; without shares {plain_ms:.2f} ms",
        ),
        Figure("the largest gateway process", f"{memory:.0f} MB"),
        Figure("the last job says", f"{place.get('queue')}, p50 {place_ms:.0f} ms"),
        Figure("GET /v1/admin/tenants, p50", f"{admin_ms:.0f} ms"),
        Figure("CPU while all wait", f"{idle / _SETTLE_SECONDS:.3f} s/s"),
        *let_in,
    ]


async def _wait_without_shares(folder: Path, tenants: Tenants, waiting: int) -> float:
    """Return the processor time in ms of a job that waits in the queue, without shares."""
    options = RigOptions(
        catalogue=CATALOGUE, environment={"API_KEYS": tenants.api_keys, "SHARES": "false"}
    )
    engine = StormEngine(AZURE_STORAGE, gateways=2)
    async with storm_rig.running(folder, engine, options) as rig:
        jobs = [Submission("new", "many", "text/plain", b"none new 0")] * waiting
        cpu = processor_seconds(rig)
        await asyncio.to_thread(Submitter(rig.url, tenants).submit_all, jobs)
        return (processor_seconds(rig) - cpu) / waiting * 1000


async def _time_get(url: str, path: str, **options: Any) -> tuple[float, dict[str, Any]]:
    """Return the median time of a GET request in ms, and its answer."""
    latencies_ms, found = [], {}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        for _ in range(NEWCOMER_JOBS):
            begun_at = time.perf_counter()
            found = (await client.get(path, **options)).json()
            latencies_ms.append((time.perf_counter() - begun_at) * 1000)
    return median(latencies_ms), found


async def _let_in(
    rig: Rig, tenants: Tenants, path: Path, body: str, seconds: float
) -> list[Figure]:
    """Start the worker, kill each gateway process once, and let a new tenant submit jobs."""
    await rig.start("worker")
    await asyncio.sleep(_SETTLE_SECONDS)
    earlier, begun_at = Ran.read(path), time.time()
    await asyncio.sleep(seconds)
    ran, ended_at = Ran.read(path), time.time()
    counts = Counter(job.tenant for job in ran[len(earlier) :])
    others = [count for name, count in counts.items() if name != "keys"]
    waits = []
    async with httpx.AsyncClient(base_url=rig.url, timeout=120, trust_env=False) as client:
        for _ in range(NEWCOMER_JOBS):
            sent_at = time.perf_counter()
            answer = await client.post(
                "/v1/models/many/jobs",
                content=body.format("new"),
                headers={
                    "content-type": "text/plain",
                    "prefer": "wait=100",
                    **tenants.headers("new"),
                },
            )
            answer.raise_for_status()
            waits.append(time.perf_counter() - sent_at)
    pauses = []
    for name in rig.gateways:
        killed_at = time.time()
        await rig.members[name].kill()
        await rig.members[name].wait_until_ready()
        await asyncio.sleep(_SETTLE_SECONDS)
        later = [job.ended_at for job in Ran.read(path) if job.ended_at > killed_at]
        times = [killed_at, *later, time.time()]
        pauses.append(max(after - before for before, after in pairwise(times)))
    return [
        Figure(
            "let in and run, of all tenants",
            f"{len(ran[len(earlier) :]) / (ended_at - begun_at):.0f} jobs/s",
        ),
        Figure(
            f"jobs of the tenant with {MANY_KEYS} keys meanwhile",
            f"{counts['keys']}; others {min(others)} to {max(others)}, p50 {median(others):g}",
        ),
        Figure(
            "a job of a new tenant meanwhile", f"p50 {median(waits):.2f}, p95 {p95(waits):.2f} s"
        ),
        Figure(
            "longest pause of the device after the kill of a gateway process, of each",
            ", ".join(f"{pause:.1f} s" for pause in pauses),
        ),
    ]


def main(arguments: Sequence[str] = ()) -> int:
    """Measure shares, and print the report. Return 1 if a target was missed, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="./dev bench shares",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = ("today", "flood", "weights", "alone", "many")
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)} (default: all)")
    add("--flood", type=int, default=10_000, help="jobs of the flood (%(default)s)")
    add("--today", type=int, default=4_000, help="the same without shares (%(default)s)")
    add("--beside", type=int, default=120, help="jobs beside the flood (%(default)s)")
    add("--seconds", type=float, default=120.0, help="of the weights (%(default)s)")
    add("--rounds", type=int, default=4, help="with and without shares (%(default)s)")
    add("--pictures", type=int, default=300, help="in each round (%(default)s)")
    add("--waiting", type=int, default=20_000, help="jobs of many tenants (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(names)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    figures: list[Figure] = []
    for part in options.parts or names:
        sys.stderr.write(f"{part}\n")
        with tempfile.TemporaryDirectory(prefix="loosely-shares-") as name:
            folder = Path(name) / "data"
            match part:
                case "today":
                    figures += measure_today(folder, options.today, options.flood)
                case "flood":
                    figures += measure_flood(folder, options.flood, options.beside)
                case "weights":
                    figures += measure_weights(folder, options.seconds)
                case "alone":
                    figures += measure_alone(folder, options.rounds, options.pictures)
                case _:
                    for each in ("plain", "shares"):
                        (folder / each).mkdir(parents=True)
                    many = measure_many(folder, options.waiting, options.seconds / 4)
                    figures += asyncio.run(many)
    return print_report("Shares", figures)
