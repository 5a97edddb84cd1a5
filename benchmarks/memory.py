"""`./dev bench memory`: two models that do not fit together, their memory admitted and hoped for.

Three units and six on a device of eight, which is a budget on the CPU that refuses what a card
would. Loaded they fit beside one another, at work they do not. With admission two processes serve
both models; without, each process serves one, as anyone would share a card.
"""

import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Figure, report
from contract.messages import InlineJson, JobError
from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from tests.conformance.worker.worker_heavy import CATALOGUE, GIB
from tests.conformance.worker.worker_services import LocalServices, run_services
from tests.conformance.worker.worker_sharing import send_interleaved, sharing, waits
from worker.memory.simulated_device import AccountRecord

JOBS_COUNT = 200
BUDGET_BYTES = 8 * GIB


@dataclass(frozen=True, slots=True)
class Run:
    """What came of all jobs, and what the device saw meanwhile."""

    right_count: int
    failed: dict[str, int]
    seconds: float
    record: AccountRecord
    longest_wait_seconds: float


def run(services: LocalServices, settings: dict[str, str], *models: str) -> Run:
    """Serve the jobs of both models by one process for each of these."""
    with run_gateway() as gateway:
        workers = [services.worker(gateway.host, each, **settings) for each in models]
        try:
            for worker in workers:
                worker.start()
            begin = time.perf_counter()
            jobs = send_interleaved(services, gateway, JOBS_COUNT)
            right_count, failed = outcomes(gateway, jobs)
            seconds = time.perf_counter() - begin
        finally:
            for worker in workers:
                worker.signal(signal.SIGTERM)
                worker.exit_code()
    record = AccountRecord.read(Path(settings["WORKER_MEMORY_FOLDER"]) / "cpu" / "account")
    return Run(right_count, failed, seconds, record, max(waits(workers), default=0.0))


def outcomes(gateway: Gateway, jobs: dict[str, int]) -> tuple[int, dict[str, int]]:
    """How many were answered right, and how many failed by their codes."""
    right_count, failed = 0, dict[str, int]()
    for identity, number in jobs.items():
        try:
            outcome = gateway.taken(identity).outcome
        except AssertionError:
            failed["no answer"] = failed.get("no answer", 0) + 1
            continue
        if isinstance(outcome, JobError):
            failed[outcome.code] = failed.get(outcome.code, 0) + 1
        elif outcome == InlineJson({"square": number**2}):
            right_count += 1
    return right_count, failed


def main(arguments: Sequence[str] = ()) -> int:
    """Measure both; exit code 1 where admission missed its targets."""
    with tempfile.TemporaryDirectory(prefix="loosely-memory-") as text:
        folder = Path(text)
        with run_services(folder, CATALOGUE) as services:
            admitted = run(services, sharing(folder / "admitted"), "three,six", "three,six")
            settings = sharing(folder / "hoped") | {"WORKER_ADMISSION": "off"}
            hoped = run(services, settings, "three", "six")
    return report(
        "Three units and six on a device of eight, two processes", figures(admitted, hoped)
    )


def figures(admitted: Run, hoped: Run) -> list[Figure]:
    """The report."""
    peak = admitted.record.peak_bytes / GIB
    refused = admitted.record.refused_count
    failures = ", ".join(f"{count} {code}" for code, count in hoped.failed.items()) or "none failed"
    return [
        Figure(
            "admitted: jobs answered right",
            f"{admitted.right_count} of {JOBS_COUNT} in {admitted.seconds:.1f} s",
            "all",
            admitted.right_count == JOBS_COUNT,
        ),
        Figure(
            "admitted: most memory in use",
            f"{peak:.1f} of 8 GiB, {refused} allocations refused",
            "8 GiB at most, none refused",
            admitted.record.peak_bytes <= BUDGET_BYTES and not refused,
        ),
        Figure("admitted: longest wait for memory", f"{admitted.longest_wait_seconds:.2f} s"),
        Figure(
            "not admitted: jobs answered right",
            f"{hoped.right_count} of {JOBS_COUNT} in {hoped.seconds:.1f} s; {failures}",
            "fewer",
            hoped.right_count < JOBS_COUNT,
        ),
        Figure(
            "not admitted: allocations refused",
            f"{hoped.record.refused_count}",
            "some",
            hoped.record.refused_count > 0,
        ),
    ]
