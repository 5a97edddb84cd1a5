"""Compare Loosely with Celery on the same broker, over all rounds of one run."""

import math
from collections.abc import Iterator, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from lab.benchmarks.figures import Figure
from lab.benchmarks.peers.results import Comparison
from lab.benchmarks.peers.systems import ALL_TASKS, CONFIGURATIONS

SAME_BROKER = {"loosely-rabbitmq": "celery-rabbitmq", "loosely-redis": "celery"}
"""The peers that run on the same broker: Loosely, and Celery."""

BROKER_PEERS = tuple(name for pair in SAME_BROKER.items() for name in pair)


def compare_brokers(comparison: Comparison, clients: Sequence[int]) -> list[Figure]:
    """Return a verdict for each broker, task and number of clients that both systems have.

    Of Celery, the configuration with the higher median counts. Loosely is ahead if the median of
    its jobs per second is at least as high. A ratio compares the two systems in the same round.
    """
    figures = []
    for ours, theirs in SAME_BROKER.items():
        for task in ALL_TASKS:
            for count in clients:
                own = _rates(comparison, f"{ours}/up", task, count)
                others = {
                    each.key: rates
                    for each in CONFIGURATIONS
                    if each.peer == theirs and (rates := _rates(comparison, each.key, task, count))
                }
                if own and others:
                    key = max(others, key=lambda name: median(others[name].values()))
                    figures.append(_verdict(f"{ours}, {task}, {count}", own, key, others[key]))
    return figures


def _verdict(name: str, own: dict[int, float], key: str, other: dict[int, float]) -> Figure:
    ratios = [own[each] / (other[each] or math.inf) for each in own if each in other]
    ratio = median(own.values()) / (median(other.values()) or math.inf)
    return Figure(
        f"{name} client{'s' if not name.endswith(' 1') else ''}",
        f"{describe_range(list(own.values()))} jobs/s; {key} "
        f"{describe_range(list(other.values()))}: {ratio:.2f}"
        + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""),
        "ahead",
        ratio >= 1.0,
    )


def describe_range(values: Sequence[float]) -> str:
    """Return the median of values with their range, as text."""
    middle, least, most = (f"{each:.0f}" for each in (median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def print_rates(comparison: Comparison, clients: Sequence[int]) -> None:
    """Print the rates, the latencies and the processor time of all systems."""
    table = Table(
        title="Jobs/s with their range; p50 in ms; CPU of a job in ms, without the client"
    )
    for column in ("task", "system", *(f"clients: {count}" for count in clients)):
        table.add_column(column, justify="left" if column in {"task", "system"} else "right")
    for task, key, cells in _rows(comparison, clients):
        table.add_row(task, key, *cells)
    Console(width=160).print(table)


def _rows(comparison: Comparison, clients: Sequence[int]) -> Iterator[tuple[str, str, list[str]]]:
    for task in ALL_TASKS:
        for each in CONFIGURATIONS:
            cells = []
            for count in clients:
                rates = list(_rates(comparison, each.key, task, count).values())
                name = "p50_ms" if count == 1 else f"p50_ms_{count}"
                latency = list(_values(comparison, each.key, task, name).values())
                cpu_ms = list(_values(comparison, each.key, task, f"cpu_ms_{count}").values())
                cells.append(
                    f"{describe_range(rates)}; {median(latency):.1f}; {median(cpu_ms):.2f}"
                    if rates and latency and cpu_ms
                    else "-"
                )
            if set(cells) != {"-"}:
                yield task, each.key, cells


def _rates(comparison: Comparison, key: str, task: str, clients: int) -> dict[int, float]:
    return _values(comparison, key, task, f"per_second_{clients}")


def _values(comparison: Comparison, key: str, task: str, name: str) -> dict[int, float]:
    """Return a finite value of the successful runs by round."""
    return {
        run.round: value
        for run in comparison.runs
        if run.key == key and run.task == task and (value := run.values.get(name)) is not None
    }
