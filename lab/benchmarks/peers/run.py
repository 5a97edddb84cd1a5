"""Compare Loosely with its peers, other ways to serve a model (`./dev bench peers`).

In each round, each system runs each task once. After each run, the program writes all results to
the results file, so that no result is lost if the comparison is interrupted.
"""

import argparse
import importlib.metadata
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from lab.benchmarks.figures import print_report
from lab.benchmarks.machine import describe_machine
from lab.benchmarks.peers import environments
from lab.benchmarks.peers.job import TINY
from lab.benchmarks.peers.measure import (
    CLIENTS,
    FULL,
    QUICK,
    Amounts,
    expected_results,
    make_pictures,
    measure,
    measure_bare,
)
from lab.benchmarks.peers.report import number, render
from lab.benchmarks.peers.results import Comparison, PeerRun, Values
from lab.benchmarks.peers.systems import (
    ALL_TASKS,
    CONFIGURATIONS,
    OWN_ENVIRONMENT,
    ROOT,
    PeerConfiguration,
    find_redis,
    serve,
)
from lab.benchmarks.peers.verdicts import BROKER_PEERS, compare_brokers, print_rates

RESULTS = ROOT / "docs/explanation/benchmarks/peers.json"
_BROKER_TASKS = (TINY, "noop")
_OUR_DISTRIBUTIONS = ("azure-functions", "azure-functions-durable", "azure-servicebus")


@dataclass(frozen=True, slots=True)
class _Step:
    """A planned measurement of one system with one task in one round."""

    round: int
    configuration: PeerConfiguration
    task: str


class PeerBenchmark:
    """Runs Loosely and its peers (other ways to serve a model), and measures them.

    The measured values are added to a `Comparison`.
    """

    def __init__(
        self,
        comparison: Comparison,
        amounts: dict[str, Amounts],
        clients: Sequence[int],
        results: Path,
        folder: Path,
    ) -> None:
        self._comparison = comparison
        self._amounts = amounts
        self._clients = clients
        self._results = results
        self._folder = folder
        self._pictures = make_pictures()
        self._picture = folder / "picture.jpg"
        self._picture.write_bytes(self._pictures[0])
        self._expected = {
            task: expected_results(task, self._pictures, folder) for task in ALL_TASKS
        }

    def run_round(self, number: int, peers: Sequence[str], tasks: Sequence[str]) -> None:
        """Measure the chosen systems once with each of the tasks, as round `number`.

        `peers` contains the names of peers and the keys of configurations, such as
        `celery/polling`.
        """
        for task in tasks:
            bare = self._measure_bare(task)
            for configuration in self._choose(number, peers, task):
                run = self._measure(_Step(number, configuration, task))
                after = self._measure_bare(task)
                if bare and after and not run.error:
                    add_ratios(run.values, bare, after, self._amounts[task].burst)
                bare = after
                self._comparison.runs.append(run)
                self._comparison.write(self._results)
                sys.stderr.write(f"{describe(run)}\n")

    def _choose(self, number: int, peers: Sequence[str], task: str) -> Iterator[PeerConfiguration]:
        """Yield the chosen configurations that can run the task, in reverse order in odd rounds."""
        for configuration in CONFIGURATIONS[::-1] if number % 2 else CONFIGURATIONS:
            is_chosen = {configuration.peer, configuration.key} & set(peers)
            if is_chosen and task in configuration.tasks:
                yield configuration

    def _measure_bare(self, task: str) -> tuple[float, float] | None:
        seconds = self._amounts[task].bare_seconds
        return measure_bare(task, self._picture, seconds) if seconds else None

    def _measure(self, step: _Step) -> PeerRun:
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            try:
                with serve(step.configuration, step.task, self._pictures, Path(folder)) as served:
                    amounts, expected = self._amounts[step.task], self._expected[step.task]
                    values = measure(served, amounts, expected, self._clients)
            except (RuntimeError, AssertionError, OSError, psutil.Error) as error:
                text = f"{type(error).__name__}: {error}"
                sys.stderr.write(f"{text}\n")
                return PeerRun(
                    step.round, step.configuration.key, step.task, {}, text.splitlines()[0][:300]
                )
        return PeerRun(step.round, step.configuration.key, step.task, values)


def add_ratios(
    values: Values, before: tuple[float, float], after: tuple[float, float], burst: int
) -> None:
    """Add the throughput of bare loops to `values`, and compare the system with them.

    `before` and `after` are the pictures per second of two bare loops: with the default settings of
    the C allocator, and with the worker's. The throughput with 16 clients and the duration of a
    burst are divided by those of the loops.
    """
    bare, tuned = ((first + last) / 2 for first, last in zip(before, after, strict=True))
    per_second = values.get("per_second_16") or 0.0
    values |= {"bare_per_second": bare, "tuned_per_second": tuned}
    values |= {"bare_ratio": per_second / bare, "tuned_ratio": per_second / tuned}
    seconds = values.get("burst_seconds")
    if seconds is not None:
        values["burst_ratio"] = seconds / (burst / bare)


def describe(run: PeerRun) -> str:
    """Return the values of a run, or its error, as one line of text."""
    shown = ", ".join(f"{name} {number(value, 2)}" for name, value in run.values.items())
    return f"round {run.round}, {run.task}, {run.key}: {run.error or shown}"


def collect_facts(amounts: dict[str, Amounts]) -> dict[str, str]:
    """Return facts about a comparison by name: date, commit, machine, and numbers of requests.

    `amounts` has the numbers of requests for each task.
    """
    noop, resnet = amounts["noop"], amounts["resnet18"]
    return describe_machine() | {
        "noop requests": _describe_amounts(noop),
        "resnet18 requests": _describe_amounts(resnet),
        "burst requests": str(noop.burst),
    }


def _describe_amounts(amounts: Amounts) -> str:
    return f"{amounts.one_client} with one client, {amounts.saturation} each with 16 and with 64"


def _read(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def collect_versions(
    configurations: Sequence[PeerConfiguration], tasks: Sequence[str]
) -> dict[str, str]:
    """Return the version of each program and library that the comparison runs, by its name."""
    found: dict[str, str] = {}
    names = (
        each.environment_for(task)
        for each in configurations
        for task in tasks
        if not each.is_ours and task in each.tasks
    )
    for name in dict.fromkeys(name for name in names if name != OWN_ENVIRONMENT):
        found |= {
            (f"{key} (arq)" if name == "arq" and key == "redis" else key): value
            for key, value in environments.versions(name).items()
        }
    if any(each.uses_redis for each in configurations):
        found["redis-server"] = _read(find_redis(), "--version").split("v=")[1].split()[0]
    found |= {name: importlib.metadata.version(name) for name in _OUR_DISTRIBUTIONS}
    return dict(sorted(found.items()))


def print_summary(comparison: Comparison) -> None:
    """Print a table of the most important medians of each system."""
    names = (
        *("p50_ms", "per_second_16", "per_second_64", "bare_ratio", "burst_failures"),
        *("burst_seconds", "lost", "silence_seconds", "others_mb", "wrong"),
    )
    summary = Table(title="Medians")
    for column in ("task", "system", *names):
        summary.add_column(column, justify="left" if column in {"task", "system"} else "right")
    for task in ALL_TASKS:
        for each in CONFIGURATIONS:
            values = comparison.medians(each.key, task)
            if values:
                cells = [number(values[name], 2) if name in values else "-" for name in names]
                summary.add_row(task, each.key, *cells)
    Console(width=160).print(summary)


def _list(choices: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(
                    f"{name!r} is unknown: use one or more of {', '.join(choices)}"
                )
        return names

    return parse


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] = ()) -> int:
    """Compare Loosely with its peers (other ways to serve a model), and write the results.

    The results are written to a JSON file, and to `benchmarks.md` with its charts. Return 1 if
    a run failed or Loosely is behind Celery on the same broker, otherwise 0.
    """
    parser = argparse.ArgumentParser(prog="./dev bench peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how many rounds (default: 3)")
    names = list(dict.fromkeys(name for each in CONFIGURATIONS for name in (each.peer, each.key)))
    parser.add_argument(
        "--peers",
        type=_list(names),
        help="systems to run, for example loosely,celery/polling (default: all)",
    )
    parser.add_argument(
        "--tasks",
        type=_list(ALL_TASKS),
        help=f"tasks to run, of {','.join(ALL_TASKS)} (default: all)",
    )
    parser.add_argument(
        "--clients",
        type=_numbers,
        default=list(CLIENTS),
        help="numbers of clients (default: 1,16,64)",
    )
    parser.add_argument(
        "--brokers",
        action="store_true",
        help="only the rates of Loosely and Celery on the same brokers, without bursts and kills; "
        "does not write the page",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round with few requests; does not write the page",
    )
    parser.add_argument(
        "--results",
        type=Path,
        help=f"JSON file of the values (default: {RESULTS.relative_to(ROOT)})",
    )
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs/explanation", help="where to write the page"
    )
    parser.add_argument(
        "--render", type=Path, help="run nothing, and write the page from this JSON file"
    )
    options = parser.parse_args(arguments)
    if options.render:
        render(Comparison.read(options.render), options.docs)
        return 0
    # Exit by an exception when SIGTERM arrives, so that the `with` blocks stop the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    peers = options.peers or (BROKER_PEERS if options.brokers else names)
    tasks = options.tasks or (_BROKER_TASKS if options.brokers else ALL_TASKS)
    chosen = [each for each in CONFIGURATIONS if {each.peer, each.key} & set(peers)]
    amounts = QUICK if options.quick else FULL
    if options.brokers:
        amounts = {task: replace(each, burst=0, kill_requests=0) for task, each in amounts.items()}
    has_page = not (options.quick or options.brokers)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loosely-peers-") as name:
        results = options.results or (RESULTS if has_page else Path(name) / "peers.json")
        versions = collect_versions(chosen, tasks)
        comparison = Comparison(collect_facts(amounts), versions, options.quick)
        benchmark = PeerBenchmark(comparison, amounts, options.clients, results, Path(name))
        for round_number in range(1, 2 if options.quick else options.rounds + 1):
            benchmark.run_round(round_number, peers, tasks)
        comparison.facts["duration"] = f"{(time.monotonic() - begin) / 60:.0f} minutes"
        comparison.write(results)
    if has_page:
        render(comparison, options.docs)
        print_summary(comparison)
    print_rates(comparison, options.clients)
    verdicts = compare_brokers(comparison, options.clients)
    is_behind = bool(verdicts) and print_report("Beside Celery on the same broker", verdicts)
    return 1 if is_behind or any(run.error for run in comparison.runs) else 0
