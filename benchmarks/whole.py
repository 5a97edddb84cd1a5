"""Measure latency, throughput, efficiency and memory of the whole system (`./dev bench`).

All values come from one run, so they can be compared with each other.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks import load, peaks
from benchmarks.figures import Figure, print_report
from loosely.local.data_directory import RunningSystem
from tests.e2e.system import ROOT, System, running

PICTURE = ROOT / "examples" / "chelsea.jpg"
ROUND_TRIPS = 400
THROUGHPUT_JOBS = 1200
CLASSIFIER_JOBS = 240
CLIENTS = 16
BATCH_SIZE = 8
BARE_SECONDS = 6.0


def make_noop_load(system: System) -> load.HttpLoad:
    bodies = [f"job {number}".encode() for number in range(100)]
    return load.HttpLoad(system.url, "/v1/models/noop/jobs", "application/octet-stream", bodies)


def measure_round_trip(system: System) -> list[Figure]:
    """Measure the latency of requests that one client sends one after another."""
    load.run(make_noop_load(system), clients=1, requests=50)
    outcome = load.run(make_noop_load(system), clients=1, requests=ROUND_TRIPS)
    p50, p95, p99 = (outcome.percentile_ms(percent) for percent in (50, 95, 99))
    value = f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
    target = "p50 under 25 ms"
    return [Figure("noop round trip, 1 client", value, target, p50 < 25 and not outcome.failures)]


def measure_throughput(system: System) -> list[Figure]:
    """Measure the throughput when there are enough clients to keep the whole system busy."""
    load.run(make_noop_load(system), clients=CLIENTS, requests=100)
    outcome = load.run(make_noop_load(system), clients=CLIENTS, requests=THROUGHPUT_JOBS)
    value = f"{outcome.per_second:.0f} jobs/s, {outcome.failures} of {THROUGHPUT_JOBS} failed"
    met = outcome.per_second >= 60 and not outcome.failures
    return [Figure(f"noop throughput, {CLIENTS} clients", value, "60 jobs/s or more", met)]


def measure_bare_loop(*tuned: str) -> float:
    arguments = [str(PICTURE), str(BATCH_SIZE), str(BARE_SECONDS), *tuned]
    command = [sys.executable, "-m", "benchmarks.bare", *arguments]
    return float(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def measure_efficiency(system: System) -> list[Figure]:
    """Compare the throughput of the busy system with the throughput of `benchmarks.bare`.

    `benchmarks.bare` is a loop without HTTP and queues. The loop is measured before and after the
    system, and the mean is used. Each measurement is made twice: with the default settings of the C
    allocator, and with the worker's settings of the C allocator.
    """
    picture = load.HttpLoad(
        system.url, "/v1/models/classifier/jobs", "image/jpeg", [PICTURE.read_bytes()]
    )
    load.run(picture, clients=CLIENTS, requests=CLIENTS * 2)
    before = measure_bare_loop(), measure_bare_loop("tuned")
    outcome = load.run(picture, clients=CLIENTS, requests=CLASSIFIER_JOBS)
    bare, tuned = (
        mean(pair)
        for pair in zip(before, (measure_bare_loop(), measure_bare_loop("tuned")), strict=True)
    )
    ratio = outcome.per_second / bare
    met = ratio >= 0.9 and not outcome.failures
    value = f"{outcome.per_second:.1f} of {bare:.1f} images/s: {ratio:.2f}"
    compared_with_tuned = (
        f"{outcome.per_second:.1f} of {tuned:.1f} images/s: {outcome.per_second / tuned:.2f}"
    )
    return [
        Figure("classifier compared with a bare loop", value, "ratio 0.9 or more", met),
        Figure("the same with the worker's allocator in the loop", compared_with_tuned),
    ]


def measure_memory(running_system: RunningSystem) -> list[Figure]:
    """Measure the peak memory of each process.

    Only the sum without the worker has a target.
    """
    found = peaks.peaks_mb(running_system)
    others = sum(peak for name, peak in found.items() if not name.startswith("worker"))
    each = ", ".join(f"{name} {peak:.0f}" for name, peak in found.items())
    return [
        Figure("peak memory without the worker", f"{others:.0f} MB", "under 500 MB", others < 500),
        Figure("peak memory by process", f"{each} (MB)"),
    ]


def measure(data: Path) -> list[Figure]:
    begin = time.perf_counter()
    with running(data) as system:
        ready_seconds = time.perf_counter() - begin
        figures = [
            Figure("from up to ready", f"{ready_seconds:.1f} s", "15 s", ready_seconds <= 15)
        ]
        for part in (measure_round_trip, measure_throughput, measure_efficiency):
            figures += part(system)
        found = RunningSystem.read(data)
        assert found is not None, "the system is running"
        return figures + measure_memory(found)


def main(arguments: Sequence[str] = ()) -> int:
    """Measure the whole system, and print the report. Return 1 if a target was missed."""
    with tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder:
        figures = measure(Path(folder) / "data")
    return print_report("Loosely, measured in one run", figures)
