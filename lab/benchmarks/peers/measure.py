"""Measure one running system, and a bare loop, which runs the same model without a server."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
from PIL import Image, ImageOps

from lab.benchmarks.machine import Processors, process_seconds
from lab.benchmarks.peers import client
from lab.benchmarks.peers.client import Exchange, longest_silence
from lab.benchmarks.peers.job import NOOP_RESULT, TINY
from lab.benchmarks.peers.results import Values
from lab.benchmarks.peers.systems import CATALOGUE, CLASSIFIER, ROOT, ServedPeer

CLIENTS = (1, 16, 64)
_WARM_UP_CLIENTS = 16
BATCH_SIZE = 8
_PICTURE = ROOT / "examples" / "chelsea.jpg"
_QUALITY = 91
_BURST_TIMEOUT_SECONDS = 120.0
_LOSS_TIMEOUT_SECONDS = 30.0
_RECOVERY_SECONDS = 60.0
_RETRY_PAUSE_SECONDS = 0.05
_SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many requests each measurement sends, and how many seconds a bare loop runs.

    A bare loop runs only the model, without a server.

    Attributes:
        one_client: The number of requests that one client sends, one after another.
        saturation: The number of requests that many clients send.
        burst: The number of requests that are sent at the same time; 0 omits this measurement.
        kill_requests: The number of requests of the measurement that kills the model process; 0
            omits this measurement.
        bare_seconds: The seconds for which the bare loop runs; 0 omits the bare loop.
    """

    one_client: int
    saturation: int
    burst: int
    kill_requests: int
    bare_seconds: float

    @property
    def kill_after(self) -> int:
        """The number of responses after which the model process is killed."""
        return self.kill_requests // 5


FULL = {
    TINY: Amounts(200, 800, 0, 0, 0.0),
    "noop": Amounts(200, 800, 400, 100, 0.0),
    "resnet18": Amounts(40, 128, 400, 100, 4.0),
    CLASSIFIER: Amounts(40, 256, 0, 0, 4.0),
}
QUICK = {
    TINY: Amounts(20, 80, 0, 0, 0.0),
    "noop": Amounts(20, 80, 40, 30, 0.0),
    "resnet18": Amounts(8, 32, 40, 30, 1.0),
    CLASSIFIER: Amounts(8, 32, 0, 0, 1.0),
}


def make_pictures() -> list[bytes]:
    """Return four variants of the picture chelsea.jpg as JPEGs of about 26 KB.

    The variants are the original, its mirror image, and both of these upside down.
    """
    picture = Image.open(_PICTURE).convert("RGB")
    mirrored = ImageOps.mirror(picture)
    variants = (picture, mirrored, ImageOps.flip(picture), ImageOps.flip(mirrored))
    return [_encode(variant) for variant in variants]


def _encode(picture: Image.Image) -> bytes:
    output = BytesIO()
    picture.save(output, "JPEG", quality=_QUALITY)
    return output.getvalue()


def measure(
    served: ServedPeer,
    amounts: Amounts,
    expected: Sequence[Any],
    clients: Sequence[int] = CLIENTS,
) -> Values:
    """Send many requests for one task to a system, and return the measured values by name.

    Args:
        served: The running system.
        amounts: The number of requests of each measurement.
        expected: The right result for each request body. If `expected` is empty, no result is
            checked.
        clients: The numbers of clients with which the throughput is measured.
    """
    requests = served.requests
    exchanges: list[Exchange] = []
    values: Values = {"ready_seconds": served.ready_seconds}
    client.run(requests, _WARM_UP_CLIENTS, max(_WARM_UP_CLIENTS, amounts.saturation // 10))
    with _machine(values, served):
        for count in clients:
            used_seconds = _seconds_of(served.processes())
            found = client.run(
                requests, count, amounts.one_client if count == 1 else amounts.saturation
            )
            used_seconds = _seconds_of(served.processes()) - used_seconds
            values[f"cpu_ms_{count}"] = used_seconds * 1000 / len(found.found)
            exchanges += found.ok
            percentiles = latency(found.ok)
            values |= percentiles if count == 1 else {f"p50_ms_{count}": percentiles["p50_ms"]}
            values[f"per_second_{count}"] = len(found.ok) / found.seconds if found.ok else 0.0
            values[f"failures_{count}"] = len(found.found) - len(found.ok)
        if amounts.burst:
            found = client.run(requests, amounts.burst, amounts.burst, _BURST_TIMEOUT_SECONDS)
            exchanges += found.ok
            values["burst_seconds"] = found.seconds if found.ok else None
            values["burst_failures"] = len(found.found) - len(found.ok)
    if served.model_pids():
        values["model_mb"], values["others_mb"] = served.peaks_mb()
    if amounts.kill_requests:
        values |= _measure_loss(served, amounts, exchanges)
    if expected:
        values["wrong"] = _count_wrong(served, exchanges, expected)
    return values


def latency(exchanges: Sequence[Exchange]) -> Values:
    """Return `p50_ms` and `p95_ms`: the median and the 95th percentile of the latencies, in ms.

    Both values are None if there are fewer than two requests in `exchanges`.
    """
    times = [(each.end - each.begin) * 1000 for each in exchanges]
    if len(times) < 2:
        return {"p50_ms": None, "p95_ms": None}
    return {"p50_ms": median(times), "p95_ms": quantiles(times, n=20, method="inclusive")[18]}


def _measure_loss(served: ServedPeer, amounts: Amounts, exchanges: list[Exchange]) -> Values:
    """Kill the model process during a burst of requests, and count the requests that fail.

    The clients of the burst do not repeat a failed request. Immediately after the kill, a new
    client sends a request, and repeats it until it succeeds.

    Return the number of failed requests of the burst as `lost`. Return the longest time after the
    kill in which no client got a successful response as `silence_seconds`, which is None if the
    system did not recover.

    Args:
        served: The running system.
        amounts: How many requests to send, and after how many responses to kill the process.
        exchanges: The successful requests are added to this list.
    """
    requests = served.requests
    killed_at = math.inf
    new_client = ThreadPoolExecutor(1)
    recovery: list[Future[float | None]] = []

    def kill(answered: int) -> None:
        nonlocal killed_at
        if answered == amounts.kill_after:
            served.kill_model_process()
            killed_at = time.perf_counter()
            recovery.append(new_client.submit(_wait_for_recovery, served))

    found = client.run(
        requests, amounts.kill_requests, amounts.kill_requests, _LOSS_TIMEOUT_SECONDS, kill
    )
    exchanges += found.ok
    recovered_at = recovery[0].result() if recovery else None
    new_client.shutdown()
    silence = None
    if recovered_at is not None:
        silence = longest_silence([*(each.end for each in found.ok), recovered_at], killed_at)
    return {"lost": amounts.kill_requests - len(found.ok), "silence_seconds": silence}


def _wait_for_recovery(served: ServedPeer) -> float | None:
    """Repeat a request until it succeeds, and return the time of the successful response.

    The time is a value of `time.perf_counter()`, in seconds. Return None if no request succeeds
    within `_RECOVERY_SECONDS`.
    """
    give_up_at = time.perf_counter() + _RECOVERY_SECONDS
    while time.perf_counter() < give_up_at:
        if found := client.run(served.requests, 1, 1, _LOSS_TIMEOUT_SECONDS).ok:
            return found[0].end
        time.sleep(_RETRY_PAUSE_SECONDS)
    return None


def _count_wrong(served: ServedPeer, exchanges: Sequence[Exchange], expected: Sequence[Any]) -> int:
    def is_right(each: Exchange) -> bool:
        try:
            result = served.read_result(each.body)
            return is_same_result(result, expected[each.number % len(expected)])
        except (KeyError, IndexError, TypeError, ValueError):
            return False

    return sum(not is_right(each) for each in exchanges)


def is_same_result(result: Any, expected: Any) -> bool:
    """Return whether a result has the expected best class, and its score within 0.1 %."""
    best, right = result["labels"][0], expected["labels"][0]
    is_close = math.isclose(best["score"], right["score"], rel_tol=_SCORE_TOLERANCE)
    return best["index"] == right["index"] and is_close


@contextmanager
def _machine(values: Values, served: ServedPeer) -> Iterator[None]:
    """Measure how busy the machine is, and add the measured values to `values`.

    The added values are `load_average`, the load average before the block; `stolen_share`, the
    fraction of the processor time that other virtual machines used during the block; and
    `others_share`, the fraction that other programs of this machine used during the block.
    """
    values["load_average"] = os.getloadavg()[0]
    before, ours = Processors.now(), _used_seconds(served)
    yield
    machine, ours = Processors.now() - before, _used_seconds(served) - ours
    values["stolen_share"] = machine.stolen_share
    values["others_share"] = max(0.0, machine.used_seconds - ours) / machine.all_seconds


def _used_seconds(served: ServedPeer) -> float:
    """Return the processor time, in seconds, that the served system and this process have used.

    The time of each process begins at the start of the process.
    """
    return _seconds_of([psutil.Process(), *served.processes()])


def _seconds_of(processes: Iterable[psutil.Process]) -> float:
    """Return the processor time, in seconds, that the running processes have used."""
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process_seconds(process.pid)
    return total


def expected_results(task: str, pictures: Sequence[bytes], folder: Path) -> list[Any]:
    """Return the right result for each picture; none for the unchecked task `classifier`.

    For `resnet18`, a new process runs the model on files that are written to `folder`.
    """
    if task in {TINY, "noop"}:
        return [NOOP_RESULT] * len(pictures)
    if task == CLASSIFIER:
        return []
    paths = []
    for number, picture in enumerate(pictures):
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(picture)
    return list(_run_json("lab.benchmarks.peers.job", "expect", *map(str, paths)))


def measure_bare(task: str, picture: Path, seconds: float) -> tuple[float, float]:
    """Run the model without a server: with the default and with the worker's settings of malloc.

    Return the images per second of both runs.
    """
    command = ("lab.benchmarks.bare", str(picture), str(BATCH_SIZE), str(seconds))
    model = ("--catalogue", str(CATALOGUE), "--model", task)
    plain, tuned = (_run_json(*command, *more, *model) for more in ((), ("tuned",)))
    return float(plain), float(tuned)


def _run_json(*command: str) -> Any:
    environment = {**os.environ, "TORCH_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"}
    output = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, check=True, capture_output=True
    ).stdout
    return json.loads(output)
