"""Test that the documents show the computed operations, prices and limits of lines of batches."""

from pathlib import Path

import pytest

from gateway.batches.model import SEGMENT_LINES
from gateway.batches.step import MAX_WINDOW, MIN_WINDOW
from gateway.batches.wake import EVENTS_A_SECOND, PAUSE_SECONDS
from lab.capacity.batches import (
    ACTIONS_PER_STEP,
    STEPS_PER_SECOND,
    LineUse,
    compute_line_use,
)
from lab.capacity.batches import (
    SEGMENT_LINES as COUNTED_SEGMENT_LINES,
)
from lab.capacity.limits import DeploymentLimits, find_limits
from lab.capacity.prices import Prices

ROOT = Path(__file__).parents[2]
CAPACITY = (ROOT / "docs/explanation/capacity.md").read_text("utf-8")
COST = (ROOT / "docs/how-to/cost.md").read_text("utf-8")
PRICES = Prices.load(ROOT / "infra" / "prices.yaml")
RATE = 50
MILLION = compute_line_use(RATE)


def total(use: LineUse) -> float:
    return sum(use.cost(PRICES).values())


@pytest.mark.parametrize("rate", [1, 10, 50, 250])
def test_operations_of_a_line_are_documented(rate: int) -> None:
    use = compute_line_use(rate)
    cells = [
        str(rate),
        f"{use.blob_writes:.2f}",
        f"{use.blob_reads:.2f}",
        f"{use.service_bus:.0f}",
        f"{use.executions:.2f}",
        f"{use.actions:.2f}",
        f"{total(use):.2f}",
    ]
    assert f"| {' | '.join(cells)} |" in CAPACITY


def test_a_million_lines_are_documented() -> None:
    counts = (MILLION.blob_writes, MILLION.blob_reads, MILLION.service_bus, MILLION.executions)
    for (item, usd), count in zip(MILLION.cost(PRICES).items(), counts, strict=True):
        assert f"| {item} | {count:.2f} | {usd:.2f} |" in COST
    assert f"| sum | | {total(MILLION):.2f} |" in COST


def test_hours_of_a_million_lines_are_documented() -> None:
    text, hours = " ".join(COST.split()), 1e6 / RATE / 3600
    memory = hours * 3600 * 2 * (PRICES.price("functions.gb_second").amount or 0)
    gpus = [
        hours * (PRICES.price(f"{group}.Standard_NC4as_T4_v3").amount or 0)
        for group in ("node_hour_spot", "node_hour_on_demand")
    ]
    assert f"The million takes {hours:.1f} hours." in text
    assert f"that is {memory:.2f} USD on demand" in text
    assert f"{hours:.1f} hours of a T4 are {gpus[0]:.2f} USD on spot and {gpus[1]:.2f}" in text


def test_ceilings_of_lines_are_documented() -> None:
    for limit in find_limits(MILLION.shape, DeploymentLimits()):
        rate = limit.jobs_per_second
        if rate != float("inf"):
            assert f" | {int(rate):,} | {1e6 / rate / 60:.0f} min |" in COST, limit.name


def test_paces_are_those_of_the_gateway() -> None:
    assert STEPS_PER_SECOND == 1 / PAUSE_SECONDS
    assert COUNTED_SEGMENT_LINES == SEGMENT_LINES
    batches = int(DeploymentLimits().actions_per_second / STEPS_PER_SECOND / ACTIONS_PER_STEP)
    text = " ".join(CAPACITY.split())
    assert f"the steps of {batches} batches at their full pace" in text
    assert f"at most {EVENTS_A_SECOND} events a second" in text
    assert f"has {MIN_WINDOW} to {MAX_WINDOW:,} lines in its queue" in text
