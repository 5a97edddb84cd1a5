"""`./dev scale-model` and `./dev cost`: estimate the capacity and the cost of a load."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lab.capacity.chart import draw_picture, draw_text
from lab.capacity.cost import DAYS, Bill, CostEstimate, PlannedDeployment, estimate_cost
from lab.capacity.deployed import DEPLOYED
from lab.capacity.load import SHAPES, JobLoad
from lab.capacity.nodes import BatchTimes, Cluster
from lab.capacity.prices import Prices, PricesUnusable
from lab.capacity.simulation import SimulationResult, SimulationSample, percentiles, simulate
from lab.capacity.tenants import TenantLoad, TenantResult, simulate_tenants
from loosely.cli.output import JsonOption, print_to
from loosely.local.environment import read_environment
from loosely.local.errors import UpError
from loosely.local.model_folder import current_model_folder
from loosely.local.model_scaling import keep_workers, read_model_scaling
from loosely.local.scaling import ScaledObject

_ROOT = Path(__file__).parents[2]
_HOUR_SECONDS = 3600.0
_DISCLAIMER = (
    "A model of KEDA and the Kubernetes autoscalers, not a measurement: docs/how-to/scaling.md"
)

_SHARE_COLUMNS = (
    *("weight", "jobs", "held", "GPU s", "part"),
    *("wait p50", "p95", "one queue p50", "p95"),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

LoadOption = Annotated[
    str,
    typer.Option(
        "--load",
        metavar="SHAPE:N",
        help=f"N jobs in the busiest hour of a day of this shape: {', '.join(SHAPES)}. "
        "Or 24 numbers of jobs per hour, separated by commas.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of the random arrival times.")]
ScaleOption = Annotated[
    str, typer.Option(metavar="MIN:MAX", help="The minimum and maximum number of workers.")
]
TargetOption = Annotated[
    int, typer.Option(metavar="N", help="Messages per worker (KEDA's messageCount).")
]
PollOption = Annotated[float, typer.Option(metavar="S", help="KEDA's pollingInterval in seconds.")]
CooldownOption = Annotated[
    float, typer.Option(metavar="S", help="KEDA's cooldownPeriod in seconds.")
]
NodesOption = Annotated[
    str,
    typer.Option(metavar="MIN:MAX", help="The minimum and maximum number of GPU nodes."),
]
PerNodeOption = Annotated[int, typer.Option(metavar="N", help="Workers per node.")]
NodeStartOption = Annotated[
    float, typer.Option(metavar="S", help="Seconds until a new node's GPU can be used.")
]
ImagePullOption = Annotated[
    float, typer.Option(metavar="S", help="Seconds of the image pull on each new node.")
]
ModelLoadOption = Annotated[
    float, typer.Option(metavar="S", help="Seconds in which a new worker loads its model.")
]
JobSecondsOption = Annotated[
    float, typer.Option(metavar="S", help="GPU seconds of a batch of one job.")
]
BatchOption = Annotated[int, typer.Option(metavar="N", help="Jobs in a full batch.")]
BatchSecondsOption = Annotated[
    float, typer.Option(metavar="S", help="GPU seconds of a full batch.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Keep the workers that `min_workers` and `warm` of this model's entry keep without "
        "jobs. The hours of --load are then local times of its warm periods.",
    ),
]


@app.command()
def scale_model(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    load: LoadOption = "office:1000",
    burst: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Simulate N jobs that arrive together, instead of --load."
        ),
    ] = 0,
    hours: Annotated[
        float, typer.Option(metavar="H", min=0.1, max=24, help="The simulated time in hours.")
    ] = 24.0,
    seed: SeedOption = 1,
    scale: ScaleOption = "0:8",
    target: TargetOption = DEPLOYED.message_count,
    poll: PollOption = DEPLOYED.polling_interval_seconds,
    cooldown: CooldownOption = DEPLOYED.cooldown_period_seconds,
    nodes: NodesOption = "0:8",
    workers_per_node: PerNodeOption = 1,
    node_start: NodeStartOption = 180.0,
    image_pull: ImagePullOption = 60.0,
    model_load: ModelLoadOption = 15.0,
    job_seconds: JobSecondsOption = 0.2,
    batch: BatchOption = 8,
    batch_seconds: BatchSecondsOption = 0.6,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write the chart as a picture."),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate how many workers and nodes a load needs, and how long jobs wait.

    The simulation applies the rules of KEDA, the Kubernetes autoscaler and the cluster autoscaler.
    The default delays are assumptions: measure them in your own cluster. The simulation ignores
    quotas, evictions and throttling.
    """
    with _exit_on_invalid_input():
        result = simulate(
            JobLoad.at_once(burst) if burst else JobLoad.parse(load, seed),
            _keep_workers(_scaling(scale, target, poll, cooldown), model),
            _cluster(nodes, workers_per_node, node_start, image_pull, model_load),
            BatchTimes(job_seconds, batch, batch_seconds),
            hours * _HOUR_SECONDS,
        )
    if png is not None:
        _draw(result.samples, f"{burst} jobs at once" if burst else load, png)
    if as_json:
        typer.echo(json.dumps({"model": _DISCLAIMER, **result.document()}))
        return
    console = Console()
    for line in (_DISCLAIMER, "", *_result_lines(result)):
        print_to(console, Text(line))


@app.command()
def cost(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    load: LoadOption = "office:1000",
    gpu: Annotated[
        str, typer.Option(metavar="NAME", help="The name of a GPU in the price list.")
    ] = "T4",
    seed: SeedOption = 1,
    scale: ScaleOption = "0:8",
    target: TargetOption = DEPLOYED.message_count,
    poll: PollOption = DEPLOYED.polling_interval_seconds,
    cooldown: CooldownOption = DEPLOYED.cooldown_period_seconds,
    nodes: NodesOption = "0:8",
    workers_per_node: PerNodeOption = 1,
    node_start: NodeStartOption = 180.0,
    image_pull: ImagePullOption = 60.0,
    model_load: ModelLoadOption = 15.0,
    replica_start: Annotated[
        float,
        typer.Option(
            metavar="S", help="Seconds until the GPU of a new Container Apps replica can be used."
        ),
    ] = 30.0,
    job_seconds: JobSecondsOption = 0.2,
    batch: BatchOption = 8,
    batch_seconds: BatchSecondsOption = 0.6,
    prices: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="The price list. Default: infra/prices.yaml."
        ),
    ] = None,
    model: ModelOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate the monthly cost of a load on AKS, on Container Apps and on GPUs that are always on.

    Before you rely on a total, write the prices of your region into the price list. The supplied
    prices come from other publications, not from Azure's own price list.
    """
    with _exit_on_invalid_input():
        listed = Prices.load(prices or _ROOT / "infra" / "prices.yaml")
        deployment = PlannedDeployment(
            JobLoad.parse(load, seed),
            _keep_workers(_scaling(scale, target, poll, cooldown), model),
            _cluster(nodes, workers_per_node, node_start, image_pull, model_load),
            BatchTimes(job_seconds, batch, batch_seconds),
            gpu,
            replica_start,
        )
        found = estimate_cost(deployment, listed)
    if as_json:
        typer.echo(json.dumps(cost_document(found, listed)))
        return
    print_cost(Console(), found, deployment.load, listed)


@app.command()
def share_model(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    tenant: Annotated[
        list[str],
        typer.Option(
            metavar="NAME:KEY=N,…",
            help="A tenant. Its keys: weight; rate, in jobs a second; burst, jobs at once; from, "
            "the second of its first job; cost, times the seconds of --job-seconds; running, its "
            "limit of running jobs.",
        ),
    ],
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Workers, all ready.")] = 1,
    seconds: Annotated[float, typer.Option(metavar="S", min=1, help="The simulated time.")] = 300.0,
    seed: SeedOption = 1,
    job_seconds: JobSecondsOption = 0.2,
    batch: BatchOption = 8,
    batch_seconds: BatchSecondsOption = 0.6,
    as_json: JsonOption = False,
) -> None:
    """Predict what each tenant gets of a model's GPUs, and how long its jobs wait.

    The jobs are ordered by the gateway's own account. For comparison, the same jobs wait in one
    queue. The waits, in seconds, are those of the jobs that have started at the end.
    """
    with _exit_on_invalid_input():
        loads = [TenantLoad.parse(each) for each in tenant]
        times = BatchTimes(job_seconds, batch, batch_seconds)
        found, queued = (
            simulate_tenants(
                loads,
                times,
                workers=workers,
                duration_seconds=seconds,
                seed=seed,
                has_shares=has_shares,
            )
            for has_shares in (True, False)
        )
    if as_json:
        documents = {name: each.document() for name, each in found.items()}
        without = {name: each.document() for name, each in queued.items()}
        typer.echo(json.dumps({"tenants": documents, "without_shares": without}))
        return
    print_to(Console(), _share_table(loads, found, queued))


def _share_table(
    loads: list[TenantLoad], found: dict[str, TenantResult], queued: dict[str, TenantResult]
) -> Table:
    """Return a table of what each tenant gets, with fair shares and in one queue."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("tenant", no_wrap=True)
    for header in (
        "weight",
        "jobs",
        "held",
        "GPU s",
        "part",
        "p50",
        "p95",
        "one queue: p50",
        "p95",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    total = sum(each.device_seconds for each in found.values()) or 1.0
    for load in loads:
        each = found[load.name]
        table.add_row(
            Text(load.name),
            *(f"{load.weight:g}", f"{each.jobs:,}", f"{each.peak_held:,}"),
            *(f"{each.device_seconds:,.1f}", f"{each.device_seconds / total:.0%}"),
            *_waits(each),
            *_waits(queued[load.name]),
        )
    return table


def _waits(result: TenantResult) -> list[str]:
    found = percentiles(result.wait_seconds)
    return [f"{found[name]:,.1f}" if found else "-" for name in ("p50", "p95")]


def cost_document(found: CostEstimate, prices: Prices) -> dict[str, Any]:
    """Return a cost estimate as a JSON object."""
    return {
        "model": _DISCLAIMER,
        "prices_dated": prices.dated,
        "currency": prices.currency,
        "bills": [bill.document() for bill in found.bills],
        "simulated_days": found.simulated_days,
        "on_nodes": found.on_nodes.document(),
    }


def print_cost(console: Console, found: CostEstimate, load: JobLoad, prices: Prices) -> None:
    """Print a cost estimate for a load: a table of the bills, and explanations."""
    print_to(console, _bill_table(found, load))
    for line in _cost_notes(found, prices):
        print_to(console, Text(line))


def _keep_workers(scaling: ScaledObject, model: str | None) -> ScaledObject:
    """Add the minimum and the warm periods of a model's catalogue entry to ``scaling``."""
    if model is None:
        return scaling
    models = read_model_scaling(current_model_folder().catalogue, read_environment())
    if model not in models:
        raise ValueError(
            f"--model: the catalogue has no model {model!r}; its models are {', '.join(models)}"
        )
    return keep_workers(scaling, [models[model]])


@contextmanager
def _exit_on_invalid_input() -> Iterator[None]:
    """Print an error of an option or of the price list on one line, and exit with status 2."""
    try:
        yield
    except (ValueError, PricesUnusable, UpError) as error:
        typer.echo(f"dev: {error}", err=True)
        raise typer.Exit(2) from None


def _draw(samples: list[SimulationSample], title: str, path: Path) -> None:
    with _exit_on_invalid_input():
        try:
            draw_picture(samples, f"{title}: a model of KEDA and the autoscalers", path)
        except OSError as error:
            raise ValueError(f"{path}: {error}") from None


def _scaling(scale: str, target: int, poll: float, cooldown: float) -> ScaledObject:
    minimum, maximum = _parse_range("--scale", scale)
    return replace(
        DEPLOYED,
        min_replica_count=minimum,
        max_replica_count=maximum,
        message_count=target,
        polling_interval_seconds=poll,
        cooldown_period_seconds=cooldown,
    )


def _cluster(
    nodes: str, per_node: int, node_start: float, image_pull: float, model_load: float
) -> Cluster:
    minimum, maximum = _parse_range("--nodes", nodes)
    return Cluster(node_start, image_pull, model_load, minimum, maximum, per_node)


def _parse_range(option: str, text: str) -> tuple[int, int]:
    minimum, colon, maximum = text.partition(":")
    if not (colon and minimum.isdecimal() and maximum.isdecimal()):
        raise ValueError(f"{option}: expected MIN:MAX as in 0:8, found {text!r}")
    return int(minimum), int(maximum)


def _result_lines(result: SimulationResult) -> list[str]:
    """Return the lines to print for a simulation: a chart, then the totals."""
    answered = "all answered" if not result.unanswered else f"{result.unanswered:,} unanswered"
    share = result.busy_hours / result.node_hours if result.node_hours else 0.0
    paid, worked = f"{result.node_hours:.1f} h paid for", f"{result.busy_hours:.1f} h of work"
    return [
        *draw_text(result.samples),
        "",
        f"jobs      {result.jobs:,}, {answered}",
        f"wait      {_times(percentiles(result.wait_seconds))}",
        f"answer    {_times(percentiles(result.answer_seconds))}",
        f"workers   {result.peak_workers} at most",
        f"nodes     {result.peak_nodes} at most, {paid}, {worked} ({share:.0%})",
    ]


def _times(found: Mapping[str, float]) -> str:
    if not found:
        return "no job was started"
    return "   ".join(f"{name} {seconds:,.1f} s" for name, seconds in found.items())


def _bill_table(found: CostEstimate, load: JobLoad) -> Table:
    """Return a table of the monthly costs, with one column for each kind of deployment."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("per month", no_wrap=True)
    for bill in found.bills:
        table.add_column(bill.name, justify="right", no_wrap=True)
    table.add_row("GPU hours", *(f"{bill.gpu_hours:,.0f}" for bill in found.bills))
    for item in found.bills[0].by_item():
        table.add_row(item, *(_sum(bill, item) for bill in found.bills))
    table.add_row("total", *(f"{bill.total:,.2f}" for bill in found.bills), style="bold")
    thousands = load.jobs_per_day * DAYS / 1000
    table.add_row("per 1,000 jobs", *(f"{bill.total / thousands:,.3f}" for bill in found.bills))
    waits = [_p95(found.on_nodes)] * 2
    if found.on_replicas is not None:
        waits.append(_p95(found.on_replicas))
    table.add_row("answer, p95", *waits, Text("-"))
    return table


def _sum(bill: Bill, item: str) -> str:
    sums = bill.by_item()
    if item not in sums:
        return "-"
    amount = sums[item]
    is_assumed = any(
        line.price.is_assumed and line.amount for line in bill.lines if line.item == item
    )
    return "?" if amount is None else f"{'~' if is_assumed else ''}{amount:,.2f}"


def _p95(result: SimulationResult) -> str:
    found = percentiles(result.answer_seconds)
    return f"{found['p95']:,.1f} s" if found else "-"


def _cost_notes(found: CostEstimate, prices: Prices) -> Iterator[str]:
    """Yield the explanations that are printed below the table of monthly costs."""
    yield ""
    yield (
        f"A model with list prices, {prices.currency}, {prices.region}, dated {prices.dated}; "
        "docs/how-to/cost.md has the formulas."
    )
    yield "~  includes assumed prices, for which no quote was found"
    unknown = sorted({what for bill in found.bills for what in bill.unknown})
    if unknown:
        yield f"?  not included, because the price is not known: {', '.join(unknown)}"
    yield "Always on: the cost of the GPUs only, with enough GPUs for the busiest hour."


if __name__ == "__main__":
    app(prog_name="./dev")
