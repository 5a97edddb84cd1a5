"""Measure the whole system (`./dev bench`).

All measurements are made in one run, so that their results can be compared.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import httpx

from lab.benchmarks import load, peaks
from lab.benchmarks.figures import Figure, print_report
from loosely.local.data_directory import RunningSystem
from tests.e2e.system import ROOT, System, running

PICTURE = ROOT / "examples" / "chelsea.jpg"
ROUND_TRIPS = 400
THROUGHPUT_JOBS = 1200
CLASSIFIER_TURNS = 5
CLASSIFIER_JOBS = 96
BURST_JOBS = 400
QUEUED_JOBS = 5000
PICTURE_BYTES = 26_000
CLIENTS = 16
MANY_CLIENTS = 64
BATCH_SIZE = 8
BARE_SECONDS = 2.0
_BINARY = "application/octet-stream"


def make_noop_load(system: System, size_bytes: int) -> load.HttpLoad:
    """Return requests for `noop` jobs, with different bodies of `size_bytes` bytes."""
    bodies = [f"{number:08d}".encode().ljust(size_bytes, b".") for number in range(100)]
    return load.HttpLoad(system.url, "/v1/models/noop/jobs", _BINARY, bodies)


def measure_latency(system: System, name: str, size_bytes: int, target_ms: float) -> Figure:
    """Measure the latency of `noop` jobs of one client, and return a row of the report.

    The client sends each request after the previous response. `name` describes the jobs in the
    report. The target is a median latency of less than `target_ms`.
    """
    jobs = make_noop_load(system, size_bytes)
    load.run(jobs, clients=1, requests=100)
    outcome = load.run(jobs, clients=1, requests=ROUND_TRIPS)
    p50, p95, p99 = (outcome.percentile_ms(percent) for percent in (50, 95, 99))
    value = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
    met = p50 < target_ms and not outcome.failures
    return Figure(f"noop, {name}, 1 client", value, f"p50 under {target_ms:g} ms", met)


def measure_throughput(
    system: System, name: str, size_bytes: int, clients: int, target: float
) -> Figure:
    """Measure the throughput with `clients` concurrent clients, and return a row of the report.

    The target is `target` jobs per second.
    """
    jobs = make_noop_load(system, size_bytes)
    load.run(jobs, clients=clients, requests=100)
    outcome = load.run(jobs, clients=clients, requests=THROUGHPUT_JOBS)
    value = f"{outcome.per_second:.0f} jobs/s, {outcome.failures} of {THROUGHPUT_JOBS} failed"
    met = outcome.per_second >= target and not outcome.failures
    return Figure(f"noop, {name}, {clients} clients", value, f"{target:g} jobs/s or more", met)


def measure_noop(system: System) -> list[Figure]:
    """Measure the latency and the throughput of `noop` jobs, and return the rows of the report.

    The model `noop` does nothing, so the measured times do not include the time of a model.
    """
    return [
        measure_latency(system, "tiny body", 8, 6),
        measure_throughput(system, "tiny body", 8, CLIENTS, 300),
        measure_throughput(system, "tiny body", 8, MANY_CLIENTS, 300),
        measure_latency(system, "26 KB", PICTURE_BYTES, 8),
        measure_throughput(system, "26 KB", PICTURE_BYTES, CLIENTS, 250),
        measure_throughput(system, "26 KB", PICTURE_BYTES, MANY_CLIENTS, 250),
    ]


def measure_bare_loop(*tuned: str) -> float:
    """Run `lab.benchmarks.bare`, and return how many images per second it classifies.

    With "tuned", it uses the worker's settings of the C allocator.
    """
    arguments = [str(PICTURE), str(BATCH_SIZE), str(BARE_SECONDS), *tuned]
    command = [sys.executable, "-m", "lab.benchmarks.bare", *arguments]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def measure_efficiency(system: System) -> list[Figure]:
    """Compare the classifier's throughput with a bare loop, and return the rows of the report.

    A bare loop is a program that runs only the model, without messages. The system gets a steady
    load in several turns, and then many requests at the same time (a burst). The turns are short,
    and the bare loop runs before and after each, because the speed of a machine changes within
    seconds. Each time, it runs once with the default settings of the C allocator, and once with the
    worker's settings, which make it faster.
    """
    picture = load.HttpLoad(
        system.url, "/v1/models/classifier/jobs", "image/jpeg", [PICTURE.read_bytes()]
    )
    load.run(picture, clients=CLIENTS, requests=CLIENTS * 2)
    turns, bare, tuned = [], [measure_bare_loop()], [measure_bare_loop("tuned")]
    for _ in range(CLASSIFIER_TURNS):
        turns.append(load.run(picture, clients=CLIENTS, requests=CLASSIFIER_JOBS))
        bare.append(measure_bare_loop())
        tuned.append(measure_bare_loop("tuned"))
    burst = load.run(picture, clients=BURST_JOBS, requests=BURST_JOBS)
    bare_burst = mean((bare[-1], measure_bare_loop()))
    makespan = burst.seconds / (BURST_JOBS / bare_burst)
    return [
        _efficiency("classifier compared with a bare loop", turns, bare, 1.0),
        _efficiency(
            "classifier compared with a bare loop with the worker's allocator settings",
            turns,
            tuned,
            0.9,
        ),
        Figure(
            f"burst of {BURST_JOBS} classifier jobs",
            f"{burst.seconds:.1f} s, {makespan:.2f} of the bare loop, {burst.failures} failed",
            "at most 1.05 of the bare loop",
            makespan <= 1.05 and not burst.failures,
        ),
    ]


def _efficiency(
    name: str, turns: Sequence[load.HttpLoadResult], loops: Sequence[float], target: float
) -> Figure:
    """Compare each turn with the loops before and after it; the row shows the median and all."""
    ratios = sorted(
        turn.per_second / mean(around) for turn, around in zip(turns, pairwise(loops), strict=True)
    )
    rate, ratio = median(turn.per_second for turn in turns), median(ratios)
    each = ", ".join(f"{value:.2f}" for value in ratios)
    value = f"{rate:.1f} of {median(loops):.1f} images/s: {ratio:.2f} ({each})"
    met = ratio >= target and not any(turn.failures for turn in turns)
    return Figure(name, value, f"{target:g} or more", met)


def measure_memory(running_system: RunningSystem, when: str) -> list[Figure]:
    """Measure the peak memory of each process, and return the rows of the report.

    The report shows the text `when` beside the values, for example "after these measurements". Only
    the total memory of all processes except the worker has a target.
    """
    found = peaks.peaks_mb(running_system)
    others = sum(peak for name, peak in found.items() if not name.startswith("worker"))
    each = ", ".join(f"{name} {peak:.0f}" for name, peak in found.items())
    return [
        Figure(
            f"peak memory without the worker, {when}",
            f"{others:.0f} MB",
            "under 300 MB",
            others < 300,
        ),
        Figure("peak memory by process", f"{each} (MB)"),
    ]


def measure_queued_memory(data: Path) -> list[Figure]:
    """Measure the memory of a system with many queued jobs and no worker.

    `data` is the data directory of the system. Return the rows of the report.
    """
    with running(data, without=("worker",)) as system:
        jobs = make_noop_load(system, PICTURE_BYTES)
        load.run(jobs, clients=CLIENTS, requests=QUEUED_JOBS, prefer="respond-async")
        found = RunningSystem.read(data)
        assert found is not None, "up.json describes no running system"
        return measure_memory(found, f"{QUEUED_JOBS} jobs of 26 KB queued")


def measure_start(system: System) -> list[Figure]:
    """Start a system, and measure how soon the gateway and then all components are ready.

    Return the rows of the report.
    """
    begin = time.perf_counter()
    gateway_seconds: list[float] = []

    def watch_gateway() -> None:
        while not gateway_seconds:
            try:
                if httpx.get(f"{system.url}/v1/health/ready", timeout=5).status_code == 200:
                    gateway_seconds.append(time.perf_counter() - begin)
            except httpx.TransportError:
                pass  # the gateway does not listen yet
            time.sleep(0.02)

    # A daemon, so that this process can end if the system does not start.
    watching = threading.Thread(target=watch_gateway, daemon=True)
    watching.start()
    system.start()
    seconds = time.perf_counter() - begin
    watching.join()
    (gateway,) = gateway_seconds
    return [
        Figure("from the start to a ready gateway", f"{gateway:.1f} s", "under 2 s", gateway < 2),
        Figure(
            "from the start to a ready system",
            f"{seconds:.1f} s",
            "under 3 s",
            seconds < 3,
        ),
    ]


def measure(folder: Path) -> list[Figure]:
    """Measure the start-up, latency, throughput and memory of a system with its data in `folder`.

    Return the rows of the report. They also contain the memory of a second system, which has many
    queued jobs and no worker.
    """
    system = System(folder / "data")
    try:
        figures = measure_start(system)
        figures += measure_noop(system)
        figures += measure_efficiency(system)
        found = RunningSystem.read(folder / "data")
        assert found is not None, "up.json describes no running system"
        figures += measure_memory(found, "after these measurements")
    finally:
        system.stop()
    return figures + measure_queued_memory(folder / "queued")


def main(arguments: Sequence[str] = ()) -> int:
    """Measure the whole system and print a table. Return 1 if a target was missed, otherwise 0."""
    with tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder:
        figures = measure(Path(folder))
    return print_report("Loosely, measured in one run", figures)
