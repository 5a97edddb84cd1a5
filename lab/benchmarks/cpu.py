"""Measure the processor time of one job in each process (`./dev bench cpu`).

The model of the jobs is `noop`, which does nothing. With `--layers`, the jobs are the tasks `tiny`
and `noop` of the comparison with the peers, and the table has the layers of each process.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from lab.benchmarks import load
from lab.benchmarks.layers import find_processes, measure_layers
from lab.benchmarks.machine import process_seconds
from loosely.local.data_directory import RunningSystem
from loosely.local.parts import BROKERS
from tests.e2e.system import System, running

SIZES: dict[str, int] = {"tiny": 8, "18 KB": 18_000, "26 KB": 26_000}
CLIENTS = (1, 16, 64)
JOBS = 300
WARM_UP_JOBS = 60
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class JobCost:
    """The latency, the throughput and the processor time per job of one measurement.

    `p50_ms` is the median latency. `per_second` is the number of jobs per second. `process_ms` maps
    the name of each process to its processor time per job, in milliseconds.
    """

    p50_ms: float
    per_second: float
    process_ms: dict[str, float]

    @property
    def total_ms(self) -> float:
        """The processor time per job of all processes except the client, in milliseconds."""
        return sum(self.process_ms.values())


def measure(system: System, running_system: RunningSystem, size: int, clients: int) -> JobCost:
    """Send jobs with bodies of `size` bytes from concurrent clients; return the measured values.

    `clients` is the number of clients.

    Raises:
        RuntimeError: if a job failed.
    """
    bodies = [f"{number:08d}".encode().ljust(size, b".") for number in range(100)]
    jobs = load.HttpLoad(system.url, "/v1/models/noop/jobs", "application/octet-stream", bodies)
    load.run(jobs, clients=clients, requests=WARM_UP_JOBS)
    before = _seconds(running_system)
    outcome = load.run(jobs, clients=clients, requests=JOBS)
    after = _seconds(running_system)
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} of {JOBS} jobs failed")
    process_ms = {name: (after[name] - before.get(name, 0.0)) / JOBS * 1000 for name in after}
    return JobCost(outcome.percentile_ms(50), outcome.per_second, process_ms)


def main(arguments: Sequence[str] = ()) -> int:
    """Measure the latency, throughput and processor time of `noop` jobs, and print a table.

    The measurements are repeated in several rounds. Each round measures each combination of body
    size and number of clients once. The printed values are the medians of the rounds. Return 0.
    """
    parser = argparse.ArgumentParser(prog="./dev bench cpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", help="the models of the worker, separated by commas")
    parser.add_argument(
        "--isolated", action="store_true", help="run the app in a process beside its host"
    )
    parser.add_argument("--broker", choices=BROKERS, default=BROKERS[0])
    parser.add_argument(
        "--layers",
        nargs="?",
        type=Path,
        const=Path(tempfile.gettempdir()) / "loosely-layers",
        metavar="FOLDER",
        help="print the layers of each process, and keep the sampled stacks in a folder; "
        "--rounds and --models have no effect",
    )
    options = parser.parse_args(arguments)
    up_options = (*(["--isolated"] if options.isolated else []), "--broker", options.broker)
    if options.layers:
        return measure_layers(options.layers, up_options)
    found: dict[tuple[str, int], list[JobCost]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        running(
            Path(folder) / "data",
            environment={"WORKER_MODELS": options.models} if options.models else {},
            options=up_options,
        ) as system,
    ):
        running_system = RunningSystem.read(Path(folder) / "data")
        assert running_system is not None, "up.json describes no running system"
        for _ in range(options.rounds):
            for name, size in SIZES.items():
                for clients in CLIENTS:
                    cost = measure(system, running_system, size, clients)
                    found.setdefault((name, clients), []).append(cost)
    _print(found)
    return 0


def _seconds(system: RunningSystem) -> dict[str, float]:
    """Return the processor time of each process since its start, by the name of the process.

    The times are in seconds. An isolated app is a child process of the Functions host.
    """
    processes = find_processes(system)
    return {name: sum(map(process_seconds, pids)) for name, pids in processes.items()}


def _print(found: dict[tuple[str, int], list[JobCost]]) -> None:
    names = sorted({name for costs in found.values() for cost in costs for name in cost.process_ms})
    table = Table(title="noop: latency, and processor time of one job in ms (medians)")
    for column in ("body", "clients", "p50 ms", "jobs/s", "CPU ms", *names):
        table.add_column(column, justify="right")
    for (size, clients), costs in found.items():
        row = [size, str(clients)]
        row.append(f"{median(cost.p50_ms for cost in costs):.1f}")
        row.append(f"{median(cost.per_second for cost in costs):.0f}")
        row.append(f"{median(cost.total_ms for cost in costs):.1f}")
        row += [f"{median(cost.process_ms.get(name, 0.0) for cost in costs):.2f}" for name in names]
        table.add_row(*row)
    Console(width=140).print(table)
