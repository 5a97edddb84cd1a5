"""`loosely scale-model` and `loosely cost`: what a load would need, before it is deployed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from loosely.cli.output import print_to
from loosely.planning.cost import Deployment, estimate
from loosely.planning.load import SHAPES, Load
from loosely.planning.machines import Machines, Work
from loosely.planning.outcome import Sample
from loosely.planning.prices import Prices, PricesUnusable
from loosely.planning.simulation import simulate
from loosely.planning.views import bill_table, cost_notes, outcome_lines
from loosely.scaling.deployed import DEPLOYED
from loosely.scaling.rules import Scaling
from loosely.up.errors import UpError
from loosely.up.repository import find_root

_HOUR_SECONDS = 3600.0
_MODEL = "A model of KEDA and the Kubernetes autoscalers, not a measurement: docs/scaling.md"

LoadOption = Annotated[
    str,
    typer.Option(
        "--load",
        metavar="SHAPE:N",
        help=f"N jobs in the busiest hour of a day that is {', '.join(SHAPES)}; "
        "or 24 numbers of jobs an hour with commas.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Another one has jobs come at other moments.")]
ScaleOption = Annotated[str, typer.Option(metavar="MIN:MAX", help="Workers.")]
TargetOption = Annotated[int, typer.Option(metavar="N", help="messageCount: messages a worker.")]
PollOption = Annotated[float, typer.Option(metavar="S", help="KEDA's pollingInterval.")]
CooldownOption = Annotated[float, typer.Option(metavar="S", help="KEDA's cooldownPeriod.")]
NodesOption = Annotated[str, typer.Option(metavar="MIN:MAX", help="Nodes with a GPU.")]
PerNodeOption = Annotated[int, typer.Option(metavar="N", help="Workers that share a node.")]
NodeStartOption = Annotated[float, typer.Option(metavar="S", help="Until a node has its GPU.")]
ImagePullOption = Annotated[float, typer.Option(metavar="S", help="Once on each new node.")]
ModelLoadOption = Annotated[float, typer.Option(metavar="S", help="Until a worker takes jobs.")]
JobSecondsOption = Annotated[float, typer.Option(metavar="S", help="GPU time of one job alone.")]
BatchOption = Annotated[int, typer.Option(metavar="N", help="Jobs in a full batch.")]
BatchSecondsOption = Annotated[float, typer.Option(metavar="S", help="GPU time of a full batch.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def scale_model(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    load: LoadOption = "office:1000",
    burst: Annotated[
        int, typer.Option(metavar="N", min=0, help="N jobs at once, in place of --load.")
    ] = 0,
    hours: Annotated[float, typer.Option(metavar="H", min=0.1, max=24, help="How long.")] = 24.0,
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
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Draw the chart there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Model how workers and nodes follow a load, and how long jobs wait.

    It is a model of KEDA, the Kubernetes autoscaler and the cluster autoscaler, with delays that
    you measure in your own cluster; it knows no quota, eviction or throttling.
    """
    with _refusals():
        outcome = simulate(
            Load.at_once(burst) if burst else Load.parse(load, seed),
            _scaling(scale, target, poll, cooldown),
            _machines(nodes, workers_per_node, node_start, image_pull, model_load),
            Work(job_seconds, batch, batch_seconds),
            hours * _HOUR_SECONDS,
        )
    if png is not None:
        _draw(outcome.samples, f"{burst} jobs at once" if burst else load, png)
    if as_json:
        typer.echo(json.dumps({"model": _MODEL, **outcome.document()}))
        return
    console = Console()
    for line in (_MODEL, "", *outcome_lines(outcome)):
        print_to(console, Text(line))


def cost(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    load: LoadOption = "office:1000",
    gpu: Annotated[str, typer.Option(metavar="NAME", help="A card of the list of prices.")] = "T4",
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
        float, typer.Option(metavar="S", help="Until a replica of Container Apps has its GPU.")
    ] = 30.0,
    job_seconds: JobSecondsOption = 0.2,
    batch: BatchOption = 8,
    batch_seconds: BatchSecondsOption = 0.6,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Default: infra/prices.yaml."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Model what a load costs a month: on AKS, on Container Apps, and on GPUs that are always on.

    The prices are a file that you edit; none of them was read from Azure's own list.
    """
    with _refusals():
        listed = Prices.load(prices or find_root(Path.cwd()) / "infra" / "prices.yaml")
        deployment = Deployment(
            Load.parse(load, seed),
            _scaling(scale, target, poll, cooldown),
            _machines(nodes, workers_per_node, node_start, image_pull, model_load),
            Work(job_seconds, batch, batch_seconds),
            gpu,
            replica_start,
        )
        found = estimate(deployment, listed)
    if as_json:
        bills = [bill.document() for bill in found.bills]
        document = {"model": _MODEL, "prices_dated": listed.dated, "currency": listed.currency}
        typer.echo(json.dumps({**document, "bills": bills, "on_nodes": found.on_nodes.document()}))
        return
    console = Console()
    print_to(console, bill_table(found, deployment.load))
    for line in cost_notes(found, listed):
        print_to(console, Text(line))


@contextmanager
def _refusals() -> Iterator[None]:
    """End with the reason and 2 where what was asked for makes no sense."""
    try:
        yield
    except (ValueError, PricesUnusable, UpError) as error:
        typer.echo(f"loosely: {error}", err=True)
        raise typer.Exit(2) from None
    except ModuleNotFoundError as error:
        typer.echo(f"loosely: needs {error.name}: pip install 'loosely[planning]'", err=True)
        raise typer.Exit(2) from None


def _draw(samples: list[Sample], title: str, path: Path) -> None:
    from loosely.planning.picture import draw  # noqa: PLC0415 - needs Pillow

    with _refusals():
        try:
            draw(samples, f"{title}: a model of KEDA and the autoscalers", path)
        except OSError as error:
            raise ValueError(f"{path}: {error}") from None


def _scaling(scale: str, target: int, poll: float, cooldown: float) -> Scaling:
    least, most = _range("--scale", scale)
    return replace(
        DEPLOYED,
        min_replica_count=least,
        max_replica_count=most,
        message_count=target,
        polling_interval_seconds=poll,
        cooldown_period_seconds=cooldown,
    )


def _machines(
    nodes: str, per_node: int, node_start: float, image_pull: float, model_load: float
) -> Machines:
    least, most = _range("--nodes", nodes)
    return Machines(node_start, image_pull, model_load, least, most, per_node)


def _range(option: str, text: str) -> tuple[int, int]:
    least, colon, most = text.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal()):
        raise ValueError(f"{option}: expected MIN:MAX as in 0:8, found {text!r}")
    return int(least), int(most)
