"""Test that scaling.md, cost.md and capacity.md have the computed figures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from lab.capacity.__main__ import app
from lab.capacity.cost import FOLLOW_READS_PER_SECOND, MONTH_HOURS, count_looks
from lab.capacity.deployed import DEPLOYED
from lab.capacity.prices import Prices
from loosely.cli import app as loosely_app
from loosely.cli.up import parse_scaling
from loosely.local.scaling import ScaledObject

DOCS = Path(__file__).parents[2] / "docs"
SCALING = (DOCS / "how-to/scaling.md").read_text("utf-8")
COST = (DOCS / "how-to/cost.md").read_text("utf-8")
CAPACITY = (DOCS / "explanation/capacity.md").read_text("utf-8")
EXAMPLES = [
    (command, expected)
    for document in (SCALING, COST, CAPACITY)
    for command, expected in re.findall(
        r"^```console\n\$ ./dev (.*?)\n(.*?)^```", document, re.DOTALL | re.MULTILINE
    )
]


def printed(command: str, program: Typer = app) -> str:
    # The same width on any terminal.
    done = CliRunner().invoke(program, command.split(), env={"COLUMNS": "80", "TERM": "dumb"})
    assert done.exit_code == 0, done.output
    return done.output


def figures(command: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(f"{command} --json"))
    return found


@pytest.mark.parametrize(("command", "expected"), EXAMPLES)
def test_command_prints_documented_output(command: str, expected: str) -> None:
    lines = [line.rstrip() for line in printed(command).rstrip().splitlines()]
    assert lines == expected.rstrip().splitlines()


def test_examples_cover_all_commands() -> None:
    commands = [command.split()[0] for command, _ in EXAMPLES]
    assert commands == ["scale-model", "cost", "share-model", "share-model"]


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("| 1 | {p50:.0f} s | {p95:.0f} s |", "--target 1"),
        ("| 4 | {p50:.0f} s | {p95:.0f} s |", "--target 4"),
        ("| 10 | {p50:.0f} s | {p95:.0f} s |", "--target 10"),
        ("| 5, with `--nodes 8:8` | {p50:.0f} s | {p95:.0f} s |", "--nodes 8:8"),
    ],
)
def test_waits_by_target_are_documented(row: str, options: str) -> None:
    burst = "scale-model --burst 200 --hours 1 --job-seconds 4 --batch 1 --batch-seconds 4"
    assert row.format_map(figures(f"{burst} {options}")["wait_seconds"]) in SCALING


@pytest.mark.parametrize("cooldown", [300, 1800])
def test_waits_by_cooldown_are_documented(cooldown: int) -> None:
    found = figures(f"scale-model --load office:1000 --cooldown {cooldown}")
    answer = found["answer_seconds"]
    row = f"| {cooldown} | {answer['p95']:.1f} s | {answer['p99']:.1f} s |"
    assert f"{row} {found['gpu_hours']:.1f} |" in SCALING


@pytest.mark.parametrize(
    ("row", "options"),
    [
        ("`office:1000`, T4, `--cooldown 1800`", "--load office:1000 --cooldown 1800"),
        (
            "`office:60 --gpu A100 --job-seconds 10 --batch 1 --batch-seconds 10`",
            "--load office:60 --gpu A100 --job-seconds 10 --batch 1 --batch-seconds 10",
        ),
    ],
)
def test_monthly_costs_are_documented(row: str, options: str) -> None:
    totals = [f"{bill['total']:,.0f}" for bill in figures(f"cost {options}")["bills"]]
    assert f"| {row} | {' | '.join(totals)} |" in COST


def jobs_of_capacity() -> dict[str, list[float]]:
    """Return the numbers in each row of the table "For each job" of docs/explanation/capacity.md.

    The keys are the kinds of jobs, which are in the first column.
    """
    section = CAPACITY.partition("## For each job\n")[2].partition("\n## ")[0].splitlines()
    table = [line for line in section if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


def test_million_jobs_cost_operations_times_prices() -> None:
    prices = Prices.load(DOCS.parent / "infra" / "prices.yaml")
    each_million = [
        (prices.price("storage.ten_thousand_writes").amount or 0) * 100,
        (prices.price("storage.ten_thousand_reads").amount or 0) * 100,
        prices.price("service_bus.million_operations").amount or 0,
        prices.price("functions.million_executions").amount or 0,
    ]
    expected_text = " ".join(CAPACITY.split())
    assert (
        "writes at {:.2f}, the reads at {:.2f}, the Service Bus operations at {:.2f}"
        " and the executions at {:.2f} a million".format(*each_million)
    ) in expected_text
    assert prices.price("durable.million_actions").amount is None, (
        "if it has a price, add it to the sum"
    )
    jobs = jobs_of_capacity()
    assert len(jobs) == 5
    for name, (*operations, _, total) in jobs.items():
        cost = sum(number * price for number, price in zip(operations, each_million, strict=True))
        assert total == pytest.approx(cost, abs=0.005), name


def test_cost_uses_documented_operations() -> None:
    prices = Prices.load(DOCS.parent / "infra" / "prices.yaml")
    jobs = list(jobs_of_capacity().values())
    small, large, waiting = jobs[:3]
    assert large[:3] == [
        prices.usage("writes_per_job"),
        prices.usage("reads_per_job"),
        prices.usage("service_bus_operations_per_job"),
    ]
    # A short job starts with its outcome, so it has one turn of the orchestrator less.
    assert small[3:5] == [
        prices.usage("executions_per_job") - 1,
        prices.usage("durable_actions_per_job") - 1,
    ]
    assert waiting[1] == count_looks(20) + 3, (
        "the start, the worker's and the orchestration's check"
    )
    read_price = prices.price("storage.ten_thousand_reads").amount or 0
    hour = FOLLOW_READS_PER_SECOND * 3600
    expected_text = (
        f"{hour:,.0f} reads an hour, {hour * read_price / 1e4:.3f} USD, and at most "
        f"{hour * MONTH_HOURS * read_price / 1e4:.0f} USD a month"
    )
    assert expected_text in " ".join(CAPACITY.split())


def test_default_settings_are_documented() -> None:
    keda, ours = ScaledObject(), DEPLOYED
    local = parse_scaling("0:4", 5, 1.0, 20.0)
    targets = f"{local.message_count} | {keda.message_count} | {ours.message_count}"
    assert f"| `--scale-target N` | {targets} |" in SCALING
    assert (
        f"| `--scale-poll S` | {local.polling_interval_seconds:g} s "
        f"| {keda.polling_interval_seconds:g} s, HPA {keda.sync_period_seconds:g} s "
        f"| {ours.polling_interval_seconds:g} s, HPA {ours.sync_period_seconds:g} s |"
    ) in SCALING
    windows = [
        f"{each.cooldown_period_seconds:g} s, HPA "
        f"{each.behavior.scale_down.stabilization_window_seconds:g} s"
        for each in (keda, ours)
    ]
    shown = f"{local.cooldown_period_seconds:g} s | {' | '.join(windows)}"
    assert f"| `--scale-cooldown S` | {shown} |" in SCALING
    help_ = " ".join(printed("up --help", loosely_app).replace("│", " ").split())
    for default in ("[default: 5]", "[default: 1.0]", "[default: 20.0]"):
        assert default in help_


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("scale-model --load lunch:3", "expected flat:N"),
        ("scale-model --scale 8", "--scale: expected MIN:MAX"),
        ("scale-model --nodes 3:1", "nodes: the minimum must be"),
        ("scale-model --batch-seconds 0.1", "a full batch must take at least as long"),
        ("scale-model --png /no/such/folder/a.png --burst 1", "/no/such/folder/a.png"),
        ("cost --gpu B200", "the price list has no GPU 'B200'"),
        ("cost --model offices", "the catalogue has no model 'offices'; its models are "),
        ("cost --prices /no/such/file.yaml", "/no/such/file.yaml"),
    ],
)
def test_invalid_option_exits_with_2(command: str, message: str) -> None:
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_png_option_writes_picture(tmp_path: Path) -> None:
    printed(f"scale-model --burst 5 --hours 1 --png {tmp_path / 'a.png'}")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
