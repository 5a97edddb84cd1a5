"""`loosely up --scale`: as many workers as the queues ask for."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from loosely.capacity.scaling import Behavior, ScaledObject
from loosely.client.settings import read_api_key
from loosely.up.system import Settings, worker_replica

if TYPE_CHECKING:
    from loosely.up.fleet import FleetPlan
    from loosely.up.parts import Part

_HINT = "--scale"

ScaleOption = Annotated[
    str | None,
    typer.Option(
        metavar="MIN:MAX",
        help="So many workers, by the length of the queues and KEDA's formula; MIN may be 0.",
    ),
]
TargetOption = Annotated[
    int,
    typer.Option("--scale-target", min=1, metavar="N", help="Messages for each worker."),
]
PollOption = Annotated[
    float,
    typer.Option("--scale-poll", min=0.1, metavar="SECONDS", help="How often queues are counted."),
]
CooldownOption = Annotated[
    float,
    typer.Option(
        "--scale-cooldown",
        min=0.0,
        metavar="SECONDS",
        help="How long workers stay when there is less to do.",
    ),
]


def local_scaling(
    text: str, target: int, poll_seconds: float, cooldown_seconds: float
) -> ScaledObject:
    """Return what ``--scale`` asks for: KEDA's rules at the pace of one machine.

    The autoscaler looks as often as KEDA, and steps down after the cool-down, in place of 15 s
    and 300 s: a process comes in seconds, where a GPU node takes minutes.
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


def fleet_plan(
    settings: Settings, scaling: ScaledObject, worker: "Part", user: Mapping[str, str]
) -> "FleetPlan":
    """Return the workers that take the place of ``worker``."""
    from loosely.up.fleet import FleetPlan  # noqa: PLC0415
    from loosely.up.workload import Workload  # noqa: PLC0415

    least, most = scaling.min_replica_count, scaling.max_replica_count
    served = [name.strip() for name in user.get("WORKER_MODELS", "").split(",") if name.strip()]
    return FleetPlan(
        part=replace(
            worker,
            summary=f"{least} to {most} workers, one for {scaling.message_count} messages",
            address="",
        ),
        scaling=scaling,
        workload=Workload(settings.gateway_url, served, read_api_key()),
        replica=partial(worker_replica, settings),
        first_port=settings.ports.worker_health,
    )
