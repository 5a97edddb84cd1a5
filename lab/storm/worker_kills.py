"""Kill the worker at random moments under load, and check that each job gets one final status.

`./dev conformance worker [--kills N] [--seed N] [--isolated]` kills the worker many times. It
prints how many jobs ran more than once. This is not an error, because Service Bus delivers messages
at least once.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from azure.servicebus import ServiceBusClient, ServiceBusSubQueue

from tests.e2e.system import System, add_form_option, running, until

CATALOGUE = """
[counting]
description = "Logs its jobs."
implementation = "tests.e2e.counting_model"
media_types = ["text/plain"]
deadline_seconds = 900
max_batch_size = 4
lock_seconds = 5
"""

_JOB_MS = 20
_BACKLOG = 80


@dataclass(frozen=True)
class WorkerKillReport:
    """The result of a test that kills the worker.

    Attributes:
        jobs: The number of jobs.
        kills: The number of kills.
        runs: How often the model ran a job, including repeated runs of the same job.
        rerun_jobs: The number of jobs that ran more than once.
        seconds: The duration of the test.
    """

    jobs: int
    kills: int
    runs: int
    rerun_jobs: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.jobs} jobs: 0 lost, each with one final status; "
            f"{self.rerun_jobs} ran more than once, {self.runs - self.jobs} reruns in all; "
            f"{self.seconds:.0f} s"
        )


class JobSubmitter:
    """Submits jobs until it is stopped, and pauses while too many jobs wait for the worker."""

    def __init__(self, system: System, ran: Path) -> None:
        self._system = system
        self._ran = ran
        self._off = threading.Event()
        self.jobs: dict[int, str] = {}

    def ran(self) -> Counter[int]:
        """Return how often the model has run each job, by the number of the job."""
        text = self._ran.read_text("utf-8") if self._ran.exists() else ""
        # The kill may have truncated the last line.
        return Counter(int(line) for line in text.rpartition("\n")[0].split())

    def run(self) -> None:
        """Submit jobs until `stop` is called."""
        while not self._off.is_set():
            if len(self.jobs) - len(self.ran()) > _BACKLOG:
                self._off.wait(0.05)
                continue
            number = len(self.jobs)
            data = f"{self._ran} {number} {_JOB_MS}".encode()
            self.jobs[number] = self._system.accept("counting", data, content_type="text/plain")

    def stop(self) -> None:
        """Stop submitting jobs."""
        self._off.set()


def kill_at_random(
    folder: Path, kills: int, seed: int, say: Callable[[str], None], options: tuple[str, ...] = ()
) -> WorkerKillReport:
    """Kill the worker `kills` times under load, check each job, and return a report.

    This function starts a system that stores its files in `folder`. `seed` determines the time
    between the kills. `say` prints a line after each kill. `options` are those of `loosely up`.

    Raises:
        AssertionError: if a job is lost, or its final status changes.
    """
    begun, chance = time.monotonic(), random.Random(seed)
    catalogue = folder / "models.toml"
    catalogue.write_text(CATALOGUE, encoding="utf-8")
    with (
        running(folder / "data", catalogue, options=options) as system,
        ThreadPoolExecutor(1) as pool,
    ):
        load = JobSubmitter(system, folder / "ran")
        submitting = pool.submit(load.run)
        try:
            for kill in range(1, kills + 1):
                threading.Event().wait(chance.uniform(0.2, 2.0))
                system.kill_and_wait("worker")
                say(f"kill {kill} of {kills}: {len(load.jobs)} jobs accepted")
        finally:
            load.stop()
        submitting.result()
        _check(system, load.jobs)
        counts = load.ran()
    assert set(counts) == set(load.jobs)
    return WorkerKillReport(
        jobs=len(load.jobs),
        kills=kills,
        runs=counts.total(),
        rerun_jobs=sum(count > 1 for count in counts.values()),
        seconds=time.monotonic() - begun,
    )


def _check(system: System, jobs: dict[int, str]) -> None:
    ended = {number: system.final(job_id, seconds=120) for number, job_id in jobs.items()}
    for number, job in ended.items():
        assert job["status"] == "succeeded", job
        assert job["result"] == {"number": str(number)}
    until(lambda: not _left(system), 30, "the queues are empty")
    # A second reply would change the times of a final job.
    assert {number: system.job(job_id) for number, job_id in jobs.items()} == ended


def _left(system: System) -> bool:
    with ServiceBusClient.from_connection_string(system.service_bus) as client:
        for below in (None, ServiceBusSubQueue.DEAD_LETTER):
            with client.get_queue_receiver("counting", sub_queue=below) as receiver:
                if receiver.peek_messages(1):
                    return True
    return False


def main(arguments: list[str]) -> int:
    """Kill the worker many times, print the report, and return the exit code 0."""
    parser = argparse.ArgumentParser(prog="./dev conformance worker")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    add_form_option(parser)
    options = parser.parse_args(arguments)
    sys.stdout.write(f"seed {options.seed}\n")
    with tempfile.TemporaryDirectory(prefix="loosely-kills-") as folder:
        figures = kill_at_random(Path(folder), options.kills, options.seed, _say, options.form)
    _say(str(figures))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
