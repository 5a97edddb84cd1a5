"""Run two models that together need more memory than the device has (`./dev bench memory`).

The device is simulated and has 8 GiB. The models need 3 GiB and 6 GiB while they run, and less
while they are idle. Therefore both models can be loaded, but they cannot run at the same time. The
benchmark runs two worker processes in two ways, and counts the jobs with the right result and the
refused memory allocations. With admission, each worker process serves both models, and receives
only jobs for which it has reserved memory. Without admission, each process serves one model, which
is the usual way to share a GPU.
"""

import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.messages import InlineJson, JobError
from lab.benchmarks.figures import Figure, print_report
from tests.conformance.worker.worker_gateway import Gateway, run_gateway
from tests.conformance.worker.worker_heavy import CATALOGUE, GIB
from tests.conformance.worker.worker_services import LocalServices, run_services
from tests.conformance.worker.worker_sharing import send_interleaved, sharing, waits
from worker.memory.simulated_device import AccountRecord

JOBS_COUNT = 200
BUDGET_BYTES = 8 * GIB


@dataclass(frozen=True, slots=True)
class MemoryRun:
    """The result of one run: how the jobs ended, and how much device memory was used.

    `right_count` is the number of jobs with the right result. `failed` has the number of failed
    jobs for each error code. `seconds` is the duration of the run. `record` describes how
    much device memory was used. `longest_wait_seconds` is the longest time that a job waited for
    memory.
    """

    right_count: int
    failed: dict[str, int]
    seconds: float
    record: AccountRecord
    longest_wait_seconds: float


def run(services: LocalServices, settings: dict[str, str], *models: str) -> MemoryRun:
    """Start workers, send them jobs of the models `three` and `six`, and return the result.

    The two models need 3 GiB and 6 GiB of device memory. When all jobs have ended, the workers
    are stopped.

    Args:
        services: The running services that the workers use, such as Service Bus.
        settings: Environment variables of the workers.
        models: For each worker to start, the comma-separated names of the models that it serves.
    """
    with run_gateway() as gateway:
        workers = [services.worker(gateway.host, each, **settings) for each in models]
        try:
            for worker in workers:
                worker.start()
            begin = time.perf_counter()
            jobs = send_interleaved(services, gateway, JOBS_COUNT)
            right_count, failed = count_outcomes(gateway, jobs)
            seconds = time.perf_counter() - begin
        finally:
            for worker in workers:
                worker.signal(signal.SIGTERM)
                worker.exit_code()
    record = AccountRecord.read(Path(settings["WORKER_MEMORY_FOLDER"]) / "cpu" / "account")
    return MemoryRun(right_count, failed, seconds, record, max(waits(workers), default=0.0))


def count_outcomes(gateway: Gateway, jobs: dict[str, int]) -> tuple[int, dict[str, int]]:
    """Return the number of jobs with the right result, and the number of failed jobs by error code.

    `jobs` maps the id of each job to the job's input, which is a number. The right result is the
    square of this number.
    """
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
    """Run jobs of two models on one device, with and without admission, and print the report.

    With admission, a worker receives only jobs for which it has reserved memory. The report says
    how many jobs got the right result, how much memory was used, how many allocations were refused,
    and how long jobs waited for memory.

    Returns:
        1 if a value in the report does not meet its target, otherwise 0.
    """
    with tempfile.TemporaryDirectory(prefix="loosely-memory-") as text:
        folder = Path(text)
        with run_services(folder, CATALOGUE) as services:
            admitted = run(services, sharing(folder / "admitted"), "three,six", "three,six")
            settings = sharing(folder / "not_admitted") | {"WORKER_ADMISSION": "off"}
            not_admitted = run(services, settings, "three", "six")
    return print_report(
        "Models of 3 and 6 GiB on a device of 8 GiB, two processes",
        make_figures(admitted, not_admitted),
    )


def make_figures(admitted: MemoryRun, not_admitted: MemoryRun) -> list[Figure]:
    """Return the rows of a report that compares a run with admission and a run without admission.

    With admission, a worker receives only jobs for which it has reserved memory.
    """
    peak = admitted.record.peak_bytes / GIB
    refused = admitted.record.refused_count
    failures = (
        ", ".join(f"{count} {code}" for code, count in not_admitted.failed.items()) or "0 failed"
    )
    return [
        Figure(
            "admission: jobs with the right result",
            f"{admitted.right_count} of {JOBS_COUNT} in {admitted.seconds:.1f} s",
            "all",
            admitted.right_count == JOBS_COUNT,
        ),
        Figure(
            "admission: peak memory in use",
            f"{peak:.1f} of 8 GiB, {refused} allocations refused",
            "8 GiB at most, 0 refused",
            admitted.record.peak_bytes <= BUDGET_BYTES and not refused,
        ),
        Figure("admission: longest wait for memory", f"{admitted.longest_wait_seconds:.2f} s"),
        Figure(
            "without admission: jobs with the right result",
            f"{not_admitted.right_count} of {JOBS_COUNT} in {not_admitted.seconds:.1f} s; "
            f"{failures}",
            "fewer",
            not_admitted.right_count < JOBS_COUNT,
        ),
        Figure(
            "without admission: allocations refused",
            f"{not_admitted.record.refused_count}",
            "some",
            not_admitted.record.refused_count > 0,
        ),
    ]
