"""Count the remote round trips for which the caller of one `noop` job waits (`./dev bench hops`).

A hop is one round trip to a service that is remote in Azure. The job's latency is measured without
a delay and with a delay of D for each round trip. The number of hops is the difference of the two
latencies, divided by D. A message in one direction is half a hop, for example the delivery of a
message to a worker that already waits for it.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from lab.benchmarks import load
from lab.benchmarks.proxy import run_proxies
from lab.benchmarks.remote import run_behind_proxies

SIZES: dict[str, int] = {"tiny": 8, "40 KB": 40_000, "80 KB": 80_000}
DELAY_MS = 50.0
ROUNDS = 3
JOBS = 15
# The end of a job, for example its settlement, takes longer than the caller waits. The next job is
# sent after this pause, so that it finds an idle system.
PAUSE_SECONDS = 0.4
# After 20 jobs, the gateway expects that it records all outcomes itself, and reads them less often.
WARM_UP_JOBS = 25


@dataclass(frozen=True, slots=True)
class ReadHop:
    """A step between the request and the response of a `noop` job with a small body.

    The step runs from `begin` to `end`. Both times are counted in round trips since the arrival of
    the request, and are known from reading the code, not from measurements. `what` describes the
    step.
    """

    begin: float
    end: float
    what: str


READ_HOPS = (
    ReadHop(0, 0.5, "the gateway sends the message, which arrives at Service Bus"),
    ReadHop(0.5, 1, "Service Bus confirms the message to the gateway"),
    ReadHop(0.5, 1, "meanwhile: Service Bus delivers the message to the waiting worker"),
    ReadHop(1, 1.5, "the worker's reply arrives at the gateway"),
    ReadHop(1.5, 2.5, "the waiting request starts the orchestration with the outcome"),
)
"""The steps between a request and its response, in the order in which they begin.

A step whose text begins with "meanwhile" runs at the same time as the step before it.

A body over 64 KiB needs two more hops: the gateway writes the body to a blob before it sends the
message, and the worker reads the blob.
"""


@dataclass(frozen=True, slots=True)
class HopCount:
    """Computes the number of hops of one kind of job: the round trips for which the caller waits.

    `base_ms` are latencies that were measured without a delay. `delayed_ms` are latencies that were
    measured while each remote round trip took `delay_ms` longer. All times are in milliseconds.
    """

    base_ms: Sequence[float]
    delayed_ms: Sequence[float]
    delay_ms: float

    @property
    def median_hops(self) -> float:
        """The number of round trips for which the caller waits, by the median latencies."""
        return (median(self.delayed_ms) - median(self.base_ms)) / self.delay_ms

    @property
    def fewest_hops(self) -> float:
        """The same by the shortest latencies, which other programs disturb least."""
        return (min(self.delayed_ms) - min(self.base_ms)) / self.delay_ms


@contextlib.contextmanager
def run_system(folder: Path, delay_ms: float) -> Iterator[str]:
    """Run a system whose remote connections are delayed, and yield the gateway's URL.

    The delayed ones are those that cross the network in Azure, not those of callers. The Functions
    host itself delays its storage transactions.
    """
    options = ("--engine", "azure-storage", "--storage-delay", str(delay_ms))
    with run_behind_proxies(
        folder, lambda ports: run_proxies(ports, delay_ms / 1000), options
    ) as system:
        yield system.local.gateway_url


def measure_latencies(url: str, size_bytes: int, jobs: int) -> list[float]:
    """Send `jobs` jobs to an idle system, one after another, and return their latencies in ms.

    The body of each job has `size_bytes` bytes. `url` is the URL of the gateway.

    Raises:
        RuntimeError: if a job failed.
    """
    requests = _requests(url, size_bytes)
    load.run(requests, clients=1, requests=2)
    latencies_ms: list[float] = []
    for _ in range(jobs):
        time.sleep(PAUSE_SECONDS)
        outcome = load.run(requests, clients=1, requests=1)
        if outcome.failures:
            raise RuntimeError(
                f"a job of {size_bytes} bytes failed, so the latency could not be measured"
            )
        latencies_ms += outcome.latencies_ms
    return latencies_ms


def main(arguments: Sequence[str] = ()) -> int:
    """Measure for how many hops the caller of a `noop` job waits, and print the numbers.

    A hop is a round trip to a service that is remote in Azure. The jobs are measured without and
    with an added delay for each hop. The number of hops is the difference divided by the delay.

    The measurements are repeated in several rounds, and each round measures each body size. The
    printed values are the medians of the rounds. Return 0.
    """
    parser = argparse.ArgumentParser(prog="./dev bench hops", description=__doc__)
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[DELAY_MS])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    found: dict[tuple[str, float], list[HopCount]] = {}
    for _ in range(options.rounds):
        base = _measure_sizes(0.0)
        for delay_ms in options.delay_ms:
            delayed = _measure_sizes(delay_ms)
            for size in SIZES:
                count = HopCount(base[size], delayed[size], delay_ms)
                found.setdefault((size, delay_ms), []).append(count)
    _print(found)
    return 0


def _measure_sizes(delay_ms: float) -> dict[str, list[float]]:
    with (
        tempfile.TemporaryDirectory(prefix="loosely-bench-") as folder,
        run_system(Path(folder), delay_ms) as url,
    ):
        load.run(_requests(url, 1), clients=1, requests=WARM_UP_JOBS)
        return {name: measure_latencies(url, size, JOBS) for name, size in SIZES.items()}


def _requests(url: str, size_bytes: int) -> load.HttpLoad:
    body = b"." * size_bytes
    return load.HttpLoad(url, "/v1/models/noop/jobs", "application/octet-stream", [body])


def _print(found: dict[tuple[str, float], list[HopCount]]) -> None:
    console = Console(width=100)
    table = Table(title="noop, one client: the round trips that a caller waits for")
    for column in ("body", "delay ms", "p50 ms without", "p50 ms with", "hops", "at best"):
        table.add_column(column, justify="right")
    for (size, delay_ms), counts in found.items():
        table.add_row(
            size,
            f"{delay_ms:g}",
            f"{median(median(count.base_ms) for count in counts):.1f}",
            f"{median(median(count.delayed_ms) for count in counts):.1f}",
            _describe([count.median_hops for count in counts]),
            _describe([count.fewest_hops for count in counts]),
        )
    console.print(table)
    steps = Table(title="found by reading the code: the steps of a job with a small body")
    for column in ("from (round trips)", "to", "step"):
        steps.add_column(column)
    for hop in READ_HOPS:
        steps.add_row(f"{hop.begin:g}", f"{hop.end:g}", hop.what)
    console.print(steps)
    console.print("A body over 64 KiB needs two more round trips: to write and to read its blob.")


def _describe(hops: Sequence[float]) -> str:
    """Return a text with the median of `hops`, followed by all values in parentheses."""
    return f"{median(hops):.1f} ({', '.join(f'{each:.1f}' for each in hops)})"
