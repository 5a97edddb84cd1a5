"""Measure how long no job succeeds after a kill of the worker (`./dev bench silence --kills 20`).

Eight clients send one job after another. In the middle, the worker gets a SIGKILL. The silence is
the longest time after the kill without a successful response. A delayed job took more than 5 s: the
broker had sent it to the dead process, whose successor does not know its lock, so the lock expires.

The model `late` is ResNet-18 whose code imports torchvision only when it loads, for about 1 s.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from lab.benchmarks.figures import Figure, print_report
from lab.benchmarks.peers import client
from lab.benchmarks.peers.client import Exchange, longest_silence
from lab.benchmarks.peers.measure import make_pictures
from lab.benchmarks.peers.systems import CONFIGURATIONS, ServedPeer, serve
from loosely.local.parts import BROKERS

KILLS = 20
MODELS = ("noop", "resnet18", "late")
PAUSE_SECONDS = 6.0
TARGET_SECONDS = 1.5
_CLIENTS = 8
_BEFORE_SECONDS, _AFTER_SECONDS = 0.5, 2.5
_DELAYED_SECONDS = 5.0
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Kill:
    """What the clients saw of one kill.

    `seconds` is the silence. `delayed` is the number of jobs that took more than 5 s, and `lost`
    the number of jobs without a result.
    """

    seconds: float
    delayed: int
    lost: int

    @classmethod
    def of(cls, exchanges: Sequence[Exchange], killed_at: float, stopped_at: float) -> "Kill":
        """Judge a kill by its exchanges. After `stopped_at`, the clients sent no more jobs.

        The recovery is the first result of a job that was sent after the kill. Jobs in flight at
        the kill may have results after it. After the recovery and `stopped_at`, only delayed jobs
        are left, so a gap between these is no silence.
        """
        found = [each for each in exchanges if each.is_ok and each.end > killed_at]
        recovered_at = min((e.end for e in found if e.begin > killed_at), default=float("inf"))
        counted = [each.end for each in found if each.end <= max(stopped_at, recovered_at)]
        counted = counted or [float("inf")]
        delayed = sum(each.is_ok and each.end - each.begin > _DELAYED_SECONDS for each in exchanges)
        return cls(
            longest_silence(counted, killed_at), delayed, sum(not e.is_ok for e in exchanges)
        )


def summarize(name: str, kills: Sequence[Kill]) -> Figure:
    """Return the row of the report for the kills of one model."""
    seconds = sorted(kill.seconds for kill in kills)
    met = sum(each <= TARGET_SECONDS for each in seconds)
    delayed, lost = sum(kill.delayed for kill in kills), sum(kill.lost for kill in kills)
    return Figure(
        name,
        f"p50 {median(seconds):.2f} s, {seconds[0]:.2f} to {seconds[-1]:.2f}; {met} of "
        f"{len(kills)} within {TARGET_SECONDS:g} s; {delayed} jobs delayed, {lost} lost",
        f"all within {TARGET_SECONDS:g} s, none lost",
        met == len(kills) and not lost,
    )


def kill_parent(served: ServedPeer) -> None:
    """Kill the parent of the process that has loaded a model, which ends with it."""
    for pid in served.model_pids():
        os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)


def measure_kill(served: ServedPeer, kill: Callable[[ServedPeer], None]) -> Kill:
    """Kill the worker once while the clients send jobs."""
    stop = threading.Event()
    exchanges: list[Exchange] = []

    def send_jobs() -> None:
        while not stop.is_set():
            exchanges.extend(client.run(served.requests, 1, 1, _TIMEOUT_SECONDS).found)

    with ThreadPoolExecutor(_CLIENTS) as pool:
        running = [pool.submit(send_jobs) for _ in range(_CLIENTS)]
        time.sleep(_BEFORE_SECONDS)
        kill(served)
        killed_at = time.perf_counter()
        time.sleep(_AFTER_SECONDS)
        stop.set()
        stopped_at = time.perf_counter()
        for each in running:
            each.result()
    return Kill.of(exchanges, killed_at, stopped_at)


def measure(
    model: str,
    broker: str,
    count: int,
    pause_seconds: float,
    kill: Callable[[ServedPeer], None],
) -> Figure:
    """Kill the worker `count` times, each after a pause, and return the row of the report."""
    (configuration,) = (
        each
        for each in CONFIGURATIONS
        if each.is_ours
        and (tuple(each.options) or ("--broker", BROKERS[0])) == ("--broker", broker)
    )
    kills: list[Kill] = []
    with (
        tempfile.TemporaryDirectory(prefix="loosely-silence-") as folder,
        serve(configuration, model, make_pictures(), Path(folder)) as served,
    ):
        for number in range(count):
            time.sleep(pause_seconds)
            kills.append(measure_kill(served, kill))
            sys.stderr.write(f"{model}, kill {number + 1} of {count}: {kills[-1]}\n")
    return summarize(f"{model} on {broker}", kills)


def main(arguments: Sequence[str] = ()) -> int:
    """Measure the silence after kills, and print a table. Return 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="./dev bench silence", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--broker", choices=BROKERS, default=BROKERS[0])
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE_SECONDS,
        metavar="SECONDS",
        help=f"before each kill; a spare process imports meanwhile (default: {PAUSE_SECONDS:g})",
    )
    parser.add_argument(
        "--parent", action="store_true", help="kill the worker's parent process, and so both"
    )
    given = parser.parse_args(arguments)
    kill = kill_parent if given.parent else ServedPeer.kill_model_process
    figures = [
        measure(model, given.broker, given.kills, given.pause, kill) for model in given.models
    ]
    killed = "the worker's parent" if given.parent else "the process with the model"
    return print_report(f"Silence after a kill of {killed}", figures)
