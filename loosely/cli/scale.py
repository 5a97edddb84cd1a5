"""The options of `loosely up --scale`: a number of workers that follows the queues."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from loosely.capacity.scaling import Behavior, ScaledObject
from loosely.client.settings import read_api_key
from loosely.local.parts import Part, SystemSettings, worker_replica

if TYPE_CHECKING:
    from loosely.local.worker_pool import WorkerPoolPlan

_HINT = "--scale"

ScaleOption = Annotated[
    str | None,
    typer.Option(
        metavar="MIN:MAX",
        help="Number of workers, by the queues' lengths and KEDA's formula. MIN may be 0.",
    ),
]
TargetOption = Annotated[
    int,
    typer.Option("--scale-target", min=1, metavar="N", help="Messages per worker."),
]
PollOption = Annotated[
    float,
    typer.Option(
        "--scale-poll", min=0.1, metavar="SECONDS", help="How often the queues are counted."
    ),
]
CooldownOption = Annotated[
    float,
    typer.Option(
        "--scale-cooldown",
        min=0.0,
        metavar="SECONDS",
        help="How long workers stay when there is less work.",
    ),
]


def local_scaling(
    text: str, target: int, poll_seconds: float, cooldown_seconds: float
) -> ScaledObject:
    """Return the scaling for ``--scale``: KEDA's rules with the times of one machine.

    The autoscaler decides as often as KEDA instead of every 15 s, and scales down after the
    cool-down instead of 300 s: a process starts in seconds, a GPU node in minutes.

    Raises:
        typer.BadParameter: ``text`` is not MIN:MAX, or a number is out of range.
    """
    least, colon, most = text.partition(":")
    if not (colon and least.isdecimal() and most.isdecimal()):
        raise typer.BadParameter(f"expected MIN:MAX as in 0:4, found {text!r}", param_hint=_HINT)
    try:
        usual = Behavior()
        down = replace(usual.scale_down, stabilization_window_seconds=cooldown_seconds)
        return ScaledObject(
            message_count=target,
            polling_interval_seconds=poll_seconds,
            cooldown_period_seconds=cooldown_seconds,
            min_replica_count=int(least),
            max_replica_count=int(most),
            sync_period_seconds=poll_seconds,
            behavior=replace(usual, scale_down=down),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=_HINT) from None


def plan_worker_pool(
    settings: SystemSettings, scaling: ScaledObject, worker: Part, user: Mapping[str, str]
) -> "WorkerPoolPlan":
    """Return the pool of workers that replaces the single ``worker``."""
    from loosely.local.worker_pool import QueueMonitor, WorkerPoolPlan  # noqa: PLC0415

    least, most = scaling.min_replica_count, scaling.max_replica_count
    served = [name.strip() for name in user.get("WORKER_MODELS", "").split(",") if name.strip()]
    return WorkerPoolPlan(
        part=replace(
            worker,
            summary=f"{least} to {most} workers, one per {scaling.message_count} messages",
            address="",
        ),
        scaling=scaling,
        monitor=QueueMonitor(settings.gateway_url, served, read_api_key()),
        make_worker=partial(worker_replica, settings),
        first_port=settings.ports.worker_health,
    )
