"""Measure batches beside single jobs (`./dev bench batches`).

lines       `noop` lines in one batch: time, processor, memory and storage, beside single jobs for
            which a request waits, and beside low-priority jobs with an orchestration each
small       many small batches at once
tenants     one tenant's batch beside another tenant's jobs, and beside its small batch
pictures    ResNet-18: a batch beside the rate of a saturated worker, and a normal job meanwhile
operations  what a line needs on each service
"""

import argparse
import base64
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from gateway.batches.ids import line_id
from gateway.keys import make_key
from lab.benchmarks import load, saturation
from lab.benchmarks.figures import Figure, print_report
from lab.benchmarks.operations import run_counter
from lab.benchmarks.rig import run_rig
from lab.benchmarks.usage import Usage, watching
from tests import batch_calls
from tests.e2e.system import System, running

MAX_CPU_SHARE = 0.6
MAX_GROWTH_MB = 100.0
MAX_COST_GROWTH = 1.1
MAX_BESIDE = 2.0
MIN_RATE_SHARE = 0.95
WAITING_JOBS = 300
CLIENTS = 16
SMALL_LINES = 5
COUNTED_LINES = 1000
BESIDE_JOBS = 60
BESIDE_LINES = 100
SATURATED_PICTURES = 240
MIN_BUSY_SHARE = 0.95
# A batch may take so long for each line, and the same for its start.
_LINE_SECONDS, _START_SECONDS = 0.1, 120.0
_TEXT = "text/plain"
_LOW = "/v1/models/noop/jobs?priority=low"
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COUNT = re.compile(r"ActiveMessageCount>(\d+)<")

CATALOGUE = """
[noop]
description = "Does nothing."
implementation = "worker.models.noop"
media_types = ["text/plain"]
max_batch_size = 16
max_wait_ms = 0
lock_seconds = 30
"""


def make_lines(count: int, size_bytes: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the lines of a batch of `noop` jobs, with inputs of at least this size."""
    for number in range(count):
        text = f"the text of the line {number}".ljust(size_bytes, ".")
        yield {"custom_id": f"line-{number}", "input": {"text": text}}


def run_batch(http: httpx.Client, model: str, data: bytes, count: int) -> dict[str, Any]:
    """Run a batch of an uploaded file to its end. Raises RuntimeError unless all lines succeed."""
    file = {"upload": batch_calls.upload(http, data)}
    batch_id = batch_calls.create_batch(http, model, file=file)
    batch = batch_calls.wait_for_batch(http, batch_id, _START_SECONDS + count * _LINE_SECONDS)
    if batch["status"] != "succeeded" or batch["counts"]["succeeded"] != count:
        raise RuntimeError(f"the batch ended as {batch}")
    return batch


def check_results(http: httpx.Client, batch: Mapping[str, Any], count: int) -> None:
    """Raise RuntimeError unless the results have each line once, in the order of the input."""
    found = [line["custom_id"] for line in batch_calls.read_output(http, batch["id"], "results")]
    if found != [f"line-{number}" for number in range(count)]:
        raise RuntimeError(f"the results have {len(found)} lines, or another order")


def ran_seconds(batch: Mapping[str, Any], since: str = "created_at") -> float:
    """Return how long a batch took, with the check of its file; without it since `started_at`."""
    first, last = (datetime.fromisoformat(batch[name]) for name in (since, "finished_at"))
    return (last - first).total_seconds()


def measure_waiting(system: System, clients: int, size_bytes: int = 0) -> Usage:
    """Run jobs for which requests wait."""
    body = b"the text of a job".ljust(size_bytes, b".")
    jobs = load.HttpLoad(system.url, "/v1/models/noop/jobs", _TEXT, [body])
    load.run(jobs, clients, WAITING_JOBS // 3)
    with watching(system) as usage:
        outcome = load.run(jobs, clients, WAITING_JOBS)
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} of {WAITING_JOBS} jobs failed")
    return usage


def measure_jobs(system: System, count: int, size_bytes: int = 0) -> Usage:
    """Run jobs of low priority, each with an orchestration of its own."""
    body = b"the text of a job".ljust(size_bytes, b".")
    jobs = load.HttpLoad(system.url, _LOW, _TEXT, [body])
    with watching(system) as usage:
        outcome = load.run(jobs, CLIENTS, count, "respond-async")
        _wait_until_empty(system, _START_SECONDS + count * _LINE_SECONDS)
        last = system.submit("noop", b"the last job", _TEXT)
    if outcome.failures or last.status_code != 200:
        raise RuntimeError(f"{outcome.failures} of {count} jobs were refused")
    return usage


def _wait_until_empty(system: System, seconds: float) -> None:
    url = f"http://127.0.0.1:{system.part('servicebus').ports['servicebus admin']}/noop-low"
    ends_at = time.monotonic() + seconds
    while int(_COUNT.findall(httpx.get(url, params={"api-version": "2021-05"}).text)[0]):
        if time.monotonic() > ends_at:
            raise TimeoutError("the jobs of low priority have not ended")
        time.sleep(batch_calls.POLL_SECONDS)


def measure_lines(
    system: System, counts: Sequence[int], jobs: int, size_bytes: int = 0
) -> list[Figure]:
    """Measure batches of these sizes, waiting jobs, and jobs with an orchestration each."""
    single = measure_waiting(system, 1, size_bytes)
    many = measure_waiting(system, CLIENTS, size_bytes)
    run_batch(system.http, "noop", batch_calls.encode_lines(make_lines(100)), 100)
    found: dict[int, Usage] = {}
    figures: list[Figure] = []
    for count in counts:
        data = batch_calls.encode_lines(make_lines(count, size_bytes))
        with watching(system) as usage:
            batch = run_batch(system.http, "noop", data, count)
        check_results(system.http, batch, count)
        seconds = ran_seconds(batch)
        found[count] = usage
        figures += [
            Figure(
                f"{count:,} lines: time",
                f"{seconds:.1f} s, {count / seconds:.0f} lines/s, {len(data) / 1e6:.1f} MB",
            ),
            *_compare_cpu(f"{count:,} lines", usage.cpu_ms(count), single, many),
            Figure(f"{count:,} lines: CPU of a line", usage.show_cpu(count)),
            _show_memory(f"{count:,} lines", usage),
            Figure(f"{count:,} lines: stored for a line", usage.show_stored(count)),
        ]
    if jobs:
        full = measure_jobs(system, jobs, size_bytes)
        share = min(usage.cpu_ms(count) for count, usage in found.items()) / full.cpu_ms(jobs)
        figures += [
            Figure(
                f"{jobs:,} jobs with an orchestration each: time",
                f"{full.seconds:.1f} s, {jobs / full.seconds:.0f} jobs/s",
            ),
            Figure("the same: CPU of a job", full.show_cpu(jobs)),
            Figure("the same: peak memory", _memory_text(full)),
            Figure("the same: stored for a job", full.show_stored(jobs)),
            Figure("CPU of a line, of such a job's", f"{share:.2f}"),
        ]
    if len(found) > 1:
        largest, smallest = max(found), min(found)
        growth = found[largest].cpu_ms(largest) / found[smallest].cpu_ms(smallest)
        figures.append(
            Figure(
                f"CPU of a line of {largest:,}, of one of {smallest:,}",
                f"{growth:.2f}",
                f"{MAX_COST_GROWTH:g} at most",
                growth <= MAX_COST_GROWTH,
            )
        )
    return figures


def _compare_cpu(name: str, line_ms: float, single: Usage, many: Usage) -> list[Figure]:
    def compared(usage: Usage, clients: str) -> Figure:
        share = line_ms / usage.cpu_ms(WAITING_JOBS)
        return Figure(
            f"{name}: CPU of a line, of a waiting job's, {clients}",
            f"{line_ms:.2f} of {usage.cpu_ms(WAITING_JOBS):.2f} ms: {share:.2f}",
            f"{MAX_CPU_SHARE:g} at most",
            share <= MAX_CPU_SHARE,
        )

    return [compared(single, "1 client"), compared(many, f"{CLIENTS} clients")]


def _show_memory(name: str, usage: Usage) -> Figure:
    return Figure(
        f"{name}: memory before, and its peak",
        _memory_text(usage),
        f"+{MAX_GROWTH_MB:g} MB at most in each process",
        max(usage.growth_mb.values()) <= MAX_GROWTH_MB,
    )


def _memory_text(usage: Usage) -> str:
    each = (f"{name} {was:.0f} {peak:.0f}" for name, (was, peak) in usage.memory_mb.items())
    return f"{', '.join(each)} MB"


def measure_small(system: System, count: int) -> list[Figure]:
    """Create many batches of a few items at once, and wait until all have ended."""
    items = list(make_lines(SMALL_LINES))
    latencies_ms: list[float] = []

    def create(_: int) -> str:
        begun = time.perf_counter()
        found = batch_calls.create_batch(system.http, "noop", items=items)
        latencies_ms.append((time.perf_counter() - begun) * 1000)
        return found

    with watching(system) as usage:
        with ThreadPoolExecutor(CLIENTS) as pool:
            ids = list(pool.map(create, range(count)))
        created_at = latest = time.perf_counter()
        statuses: Counter[str] = Counter()
        left, ends_at = list(ids), time.monotonic() + _START_SECONDS + count * _LINE_SECONDS
        while left:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{len(left)} of {count} batches have not ended: {left[:3]}")
            batch = batch_calls.wait_for_batch(system.http, left.pop(), ends_at - time.monotonic())
            statuses[f"{batch['status']}, {batch['counts']['succeeded']} succeeded"] += 1
            latest = time.perf_counter()
    lines = count * SMALL_LINES
    for batch_id in ids[:: max(1, count // 20)]:
        check_results(system.http, {"id": batch_id}, SMALL_LINES)
    expected = {f"succeeded, {SMALL_LINES} succeeded": count}
    name = f"{count:,} batches of {SMALL_LINES} lines"
    return [
        Figure(f"{name}: ended as", str(dict(statuses)), "all succeed", statuses == expected),
        Figure(f"{name}: p50 of a POST", f"{median(latencies_ms):.0f} ms, {CLIENTS} clients"),
        Figure(
            f"{name}: time",
            f"{usage.seconds:.1f} s, of which {latest - created_at:.1f} s after the last POST",
        ),
        Figure(f"{name}: CPU of a batch", usage.show_cpu(count)),
        Figure(f"{name}: CPU of a line", f"{usage.cpu_ms(lines):.2f} ms"),
        _show_memory(name, usage),
        Figure(f"{name}: stored for a batch", usage.show_stored(count)),
    ]


def measure_tenants(folder: Path, count: int, options: Sequence[str]) -> list[Figure]:
    """Measure the jobs and a small batch of one tenant beside the batch of another."""
    keys = {name: make_key(name, name) for name in ("large", "other")}
    environment = {"API_KEYS": json.dumps([entry for _, entry in keys.values()])}
    with running(folder, CATALOGUE, environment=environment, options=tuple(options)) as system:
        large, other = (
            httpx.Client(
                base_url=system.url,
                headers={"authorization": f"Bearer {keys[name][0]}"},
                timeout=120,
            )
            for name in keys
        )
        with large, other:
            few = batch_calls.encode_lines(make_lines(BESIDE_LINES))
            run_batch(other, "noop", few, BESIDE_LINES)
            alone_ms, alone = (
                _time_jobs(other),
                ran_seconds(run_batch(other, "noop", few, BESIDE_LINES)),
            )
            data = batch_calls.encode_lines(make_lines(count))
            with ThreadPoolExecutor(1) as pool:
                running_batch = pool.submit(run_batch, large, "noop", data, count)
                time.sleep(3.0)
                beside_ms = _time_jobs(other)
                beside = ran_seconds(run_batch(other, "noop", few, BESIDE_LINES))
                is_beside = not running_batch.done()
                seconds = ran_seconds(running_batch.result())
    ratio = beside_ms / alone_ms
    name = f"beside another tenant's {count:,} lines"
    return [
        Figure("the other batch ran during all of this", str(is_beside), "True", is_beside),
        Figure(
            f"a waiting job {name}, p50",
            f"{alone_ms:.1f} ms alone, {beside_ms:.1f} ms: {ratio:.2f}",
            f"{MAX_BESIDE:g} times at most",
            ratio <= MAX_BESIDE,
        ),
        Figure(f"a batch of {BESIDE_LINES} lines {name}", f"{alone:.1f} s alone, {beside:.1f} s"),
        Figure(f"the {count:,} lines meanwhile", f"{count / seconds:.0f} lines/s"),
    ]


def _time_jobs(http: httpx.Client) -> float:
    """Return the median latency in ms of waiting jobs, one after the other."""
    latencies_ms = []
    for _ in range(BESIDE_JOBS):
        begun = time.perf_counter()
        answer = http.post(
            "/v1/models/noop/jobs", content=b"a job", headers={"content-type": _TEXT}
        )
        if answer.status_code != 200:
            raise RuntimeError(f"a job ended with {answer.status_code}: {answer.text}")
        latencies_ms.append((time.perf_counter() - begun) * 1000)
    return median(latencies_ms)


def measure_pictures(folder: Path, count: int, options: Sequence[str]) -> list[Figure]:
    """Compare a batch of pictures with a saturated worker, and time normal jobs meanwhile."""
    pictures = [path.read_bytes() for path in saturation.PICTURES]
    encoded = [base64.b64encode(each).decode() for each in pictures]
    data = batch_calls.encode_lines(
        {
            "custom_id": f"line-{number}",
            "input": {"base64": encoded[number % len(encoded)], "media_type": "image/jpeg"},
        }
        for number in range(count)
    )
    saturated: list[float] = []
    environment = {"WORKER_MODELS": "resnet18"}
    catalogue = saturation.CATALOGUE
    (folder / "rig").mkdir(parents=True)

    def saturate() -> None:
        run = saturation.worker_run(rig, "resnet18", SATURATED_PICTURES, 600.0)
        saturated.append(run.throughput.per_second)

    with (
        run_rig(folder / "rig", catalogue, "resnet18") as rig,
        running(
            folder / "data", catalogue, environment=environment, options=tuple(options)
        ) as system,
    ):
        system.submit("resnet18", pictures[0], "image/jpeg")
        saturate()
        with rig.paused():
            alone = _time_pictures(system, pictures[0], 5)
            with ThreadPoolExecutor(1) as pool:
                batch = pool.submit(run_batch, system.http, "resnet18", data, count)
                beside = _time_pictures_during(system, pictures[0], batch.done)
                found = batch.result()
        check_results(system.http, found, count)
        busy, batch_seconds = _read_device_times(system, found["id"], count)
        saturate()
    seconds = ran_seconds(found, "started_at")
    rate, checked_seconds = count / seconds, ran_seconds(found) - seconds
    share = rate / (sum(saturated) / len(saturated))
    later = max(beside) - median(alone)
    return [
        Figure(
            f"{count:,} pictures, of a saturated worker's rate",
            f"{rate:.1f} of {', '.join(f'{each:.1f}' for each in saturated)} a second: {share:.3f}"
            f"; before, the file was checked in {checked_seconds:.1f} s",
            f"{MIN_RATE_SHARE:g} or more",
            share >= MIN_RATE_SHARE,
        ),
        Figure(
            "the device ran, first to last line",
            f"{busy:.1%}",
            f"{MIN_BUSY_SHARE:.0%} or more",
            busy >= MIN_BUSY_SHARE,
        ),
        Figure(
            f"a normal job meanwhile, of {len(beside)}",
            f"{median(alone):.2f} s alone; p50 {median(beside):.2f}, at most {max(beside):.2f} s",
            f"{batch_seconds:.2f} s later at most, as the longest batch of the GPU",
            later <= batch_seconds,
        ),
    ]


def _read_device_times(system: System, batch_id: str, count: int) -> tuple[float, float]:
    """Return for which share of a batch the device ran, and its longest run in seconds."""
    # The lines that ran together have the same start and duration.
    runs = set()
    for number in range(1, count + 1):
        job = system.job(line_id(batch_id, number))
        begun_at = datetime.fromisoformat(job["started_at"]).timestamp()
        runs.add((begun_at, float(job["timing"]["inference_ms"]) / 1000))
    first, last = min(begun for begun, _ in runs), max(begun + took for begun, took in runs)
    return sum(took for _, took in runs) / (last - first), max(took for _, took in runs)


def _time_pictures(system: System, picture: bytes, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        begun = time.perf_counter()
        answer = system.submit("resnet18", picture, "image/jpeg")
        if answer.status_code != 200:
            raise RuntimeError(f"a job ended with {answer.status_code}: {answer.text}")
        seconds.append(time.perf_counter() - begun)
    return seconds


def _time_pictures_during(
    system: System, picture: bytes, has_ended: Callable[[], bool]
) -> list[float]:
    """Submit a normal job every few seconds until the batch has ended."""
    seconds: list[float] = []
    time.sleep(5.0)
    while not has_ended():
        found = _time_pictures(system, picture, 1)
        # The last job may have run beside no batch.
        if not has_ended():
            seconds += found
        time.sleep(2.0)
    return seconds


def measure_operations(folder: Path, count: int) -> list[Figure]:
    """Count the operations of a line on each service, behind proxies."""
    with run_counter(folder) as counter:
        data = batch_calls.encode_lines(make_lines(count))
        run_batch(counter.http, "noop", data, count)
        before = counter.read()
        batch = run_batch(counter.http, "noop", data, count)
        counted = [now - was for now, was in zip(counter.read(), before, strict=True)]
    figures = [Figure(f"{count:,} lines, behind proxies", f"{ran_seconds(batch):.1f} s")]
    for name, found in zip(("Service Bus", "blob storage", "gateway"), counted, strict=True):
        named = Counter[str]()
        for operation, number in found.items():
            named[_ID.sub("ID", operation)] += number
        each = (f"{operation} {number / count:.3f}" for operation, number in sorted(named.items()))
        figures.append(Figure(f"operations of a line: {name}", ", ".join(each)))
    return figures


def main(arguments: Sequence[str] = ()) -> int:
    """Measure batches, and print the report. Return 1 if a target was missed, otherwise 0."""
    parser = argparse.ArgumentParser(
        prog="./dev bench batches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    names = ("lines", "small", "tenants", "pictures", "operations")
    add("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)} (default: all)")
    add("--lines", default="5000,50000", help="sizes of the batches (%(default)s)")
    add("--bytes", type=int, default=0, help="size of the input of a line (a few words)")
    add("--jobs", type=int, default=5000, help="jobs with an orchestration each (%(default)s)")
    add("--batches", type=int, default=1000, help="small batches (%(default)s)")
    add("--beside", type=int, default=5000, help="lines beside another tenant (%(default)s)")
    add("--pictures", type=int, default=2000, help="pictures of the batch (%(default)s)")
    add("--isolated", action="store_true", help="run the app in a process beside its host")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(names)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    counts = [int(text) for text in options.lines.split(",")]
    up = ("--isolated",) if options.isolated else ()
    figures: list[Figure] = []
    for part in options.parts or names:
        sys.stderr.write(f"{part}\n")
        with tempfile.TemporaryDirectory(prefix="loosely-batches-") as name:
            folder = Path(name) / "data"
            match part:
                case "lines":
                    with running(folder, CATALOGUE, options=up) as system:
                        figures += measure_lines(system, counts, options.jobs, options.bytes)
                case "small":
                    with running(folder, CATALOGUE, options=up) as system:
                        figures += measure_small(system, options.batches)
                case "tenants":
                    figures += measure_tenants(folder, options.beside, up)
                case "pictures":
                    figures += measure_pictures(folder, options.pictures, up)
                case _:
                    folder.mkdir()
                    figures += measure_operations(folder, COUNTED_LINES)
    return print_report("Batches", figures)
