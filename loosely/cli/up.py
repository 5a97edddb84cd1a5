"""The command ``loosely up``, which starts the whole system on this machine."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loosely.client.settings import read_api_key
from loosely.local.broker_server import find_server
from loosely.local.data_directory import (
    broker_password,
    copy_catalogue,
    note_data_directory,
    reply_token_key,
    service_bus_keys,
)
from loosely.local.environment import (
    check_requirements,
    find_root,
    read_cors_origins,
    read_environment,
    read_setting,
    shared_environment,
)
from loosely.local.errors import UnknownPart, UpError
from loosely.local.example import choose_example
from loosely.local.model_folder import ModelFolder, current_model_folder
from loosely.local.model_scaling import ModelScaling, keep_workers, read_model_scaling
from loosely.local.parts import (
    BROKERS,
    Part,
    SystemSettings,
    loosely_parts,
    part_names,
    worker_part,
)
from loosely.local.ports import PORT_COUNT, Ports
from loosely.local.run import RunPlan, forget_killed_loads, run
from loosely.local.scaling import Behavior, ScaledObject

if TYPE_CHECKING:
    from loosely.local.worker_pool import WorkerPoolPlan


LogLevel = Literal["debug", "info", "warning", "error"]
EngineChoice = Literal["local", "azure-storage"]
BrokerChoice = Literal["servicebus", "rabbitmq", "redis"]


def up(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    port: Annotated[
        int | None,
        typer.Option(
            min=1024,
            max=65535 - PORT_COUNT,
            metavar="PORT",
            help="The first of five consecutive ports. Default: 7071 for the gateway, 5672 and "
            "5300 for Service Bus, 10000 for blobs, 8081 for the worker's health.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Directory for jobs, blobs and logs. Default: .loosely in the model folder.",
        ),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Use each change of the models and of the catalogue: restart the worker, and "
            "let Service Bus and the gateway read the catalogue again. A file with an error is "
            "not used.",
        ),
    ] = False,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            metavar="LEVEL",
            help="Lowest level to log: debug, info, warning or error. Default: LOG_LEVEL or info.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMPONENTS", help="Start only these components, separated by commas."
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMPONENTS", help="Do not start these components, separated by commas."
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX",
            help="Adjust the number of workers to the queues by KEDA's formula. MIN may be 0.",
        ),
    ] = None,
    scale_target: Annotated[
        int,
        typer.Option("--scale-target", min=1, metavar="N", help="Messages per worker."),
    ] = 5,
    scale_poll: Annotated[
        float,
        typer.Option(
            "--scale-poll",
            min=0.1,
            metavar="SECONDS",
            help="Time between two readings of the queues' lengths.",
        ),
    ] = 1.0,
    scale_cooldown: Annotated[
        float,
        typer.Option(
            "--scale-cooldown",
            min=0.0,
            metavar="SECONDS",
            help="Time until workers that are not needed are stopped.",
        ),
    ] = 20.0,
    engine: Annotated[
        EngineChoice,
        typer.Option(
            help="Durable engine: local, or azure-storage for the Azure Storage provider's order "
            "of writes. Each engine has its own data.",
        ),
    ] = "local",
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated",
            help="Run the gateway's app in a process beside its host, as Azure does. Default: one "
            "process for both, which needs less time for each job.",
        ),
    ] = False,
    broker: Annotated[
        BrokerChoice,
        typer.Option(
            help="The queues: the local Service Bus, or rabbitmq or redis with the server that is "
            "installed on this machine.",
        ),
    ] = "servicebus",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also answer requests for this host name. May be repeated. Default: only "
            "localhost.",
        ),
    ] = None,
) -> None:
    """Start the whole system on this machine: blobs, Service Bus, gateway and worker.

    The system serves the models of the model folder that contains the current directory. The
    command `loosely new` makes such a folder. Outside a model folder, the system serves the models
    that ship with Loosely.

    Each component is a process, and is restarted when it dies. Ctrl-C stops all components in
    order.
    """
    scaling = None
    if scale is not None:
        scaling = parse_scaling(scale, scale_target, scale_poll, scale_cooldown)
    try:
        names = choose_parts(only or [], without or [], broker)
        if scaling is not None and "worker" not in names:
            raise UnknownPart("--scale needs the worker, but --only or --without excludes it")
        check_requirements()
        folder = current_model_folder()
        data = (data or folder.data).resolve()
        root, user = find_root(), read_environment()
        settings = SystemSettings(
            root,
            data,
            Ports() if port is None else Ports.from_base(port),
            reply_token_key="",
            log_level=log_level or user.get("LOG_LEVEL", "info").lower(),
            catalogue=folder.catalogue,
            engine_options=("--engine", engine),
            is_isolated=isolated,
            allowed_hosts=tuple(allow_host or ()),
            cors_origins=read_cors_origins(root, user),
            served_models=user.get("WORKER_MODELS", "") if "worker" in names else "",
            is_watching=watch,
            broker=broker,
        )
        if broker in names and broker != BROKERS[0]:
            find_server(broker)
        # Other users must not read jobs, logs and keys. The components inherit this mask.
        os.umask(0o077)
        make_plan = partial(_make_plan, settings, folder, user, names, scaling)
        exit_code = run(make_plan, data)
    except UpError as error:
        typer.echo(f"loosely up: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(exit_code)


def choose_parts(
    only: Sequence[str], without: Sequence[str], broker: str = BROKERS[0]
) -> frozenset[str]:
    """Return the names of the components to start. Raises UnknownPart."""
    named = {
        option: frozenset(name.strip() for name in ",".join(values).split(",") if name.strip())
        for option, values in (("--only", only), ("--without", without))
    }
    for option, names in named.items():
        for name in sorted(names - set(part_names(broker))):
            raise UnknownPart(
                f"{option}: there is no component {name!r}; "
                f"the components are {', '.join(part_names(broker))}"
            )
    left = (named["--only"] or frozenset(part_names(broker))) - named["--without"]
    if not left:
        raise UnknownPart("no component is left to start: change --only or --without")
    return left


def parse_scaling(
    text: str, target: int, poll_seconds: float, cooldown_seconds: float
) -> ScaledObject:
    """Return the scaling settings for ``--scale MIN:MAX``: one interval for both autoscalers."""
    minimum, colon, maximum = text.partition(":")
    if not (colon and minimum.isdecimal() and maximum.isdecimal()):
        raise typer.BadParameter(
            f"expected MIN:MAX as in 0:4, found {text!r}", param_hint="--scale"
        )
    try:
        default = Behavior()
        scale_down = replace(default.scale_down, stabilization_window_seconds=cooldown_seconds)
        return ScaledObject(
            message_count=target,
            polling_interval_seconds=poll_seconds,
            cooldown_period_seconds=cooldown_seconds,
            min_replica_count=int(minimum),
            max_replica_count=int(maximum),
            sync_period_seconds=poll_seconds,
            behavior=replace(default, scale_down=scale_down),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scale") from None


def plan_worker_pool(
    settings: SystemSettings,
    scaling: ScaledObject,
    models: Mapping[str, ModelScaling],
    worker: Part,
    user: Mapping[str, str],
) -> "WorkerPoolPlan":
    """Return the plan of a pool for the models in ``WORKER_MODELS``, by default for all."""
    # Imports httpx, which only a pool needs.
    from loosely.local.worker_pool import QueueMonitor, WorkerPoolPlan  # noqa: PLC0415

    names = [name.strip() for name in user.get("WORKER_MODELS", "").split(",") if name.strip()]
    scaling = keep_workers(
        scaling, (model for name, model in models.items() if name in names or not names)
    )
    minimum, maximum = scaling.min_replica_count, scaling.max_replica_count
    return WorkerPoolPlan(
        part=replace(
            worker,
            summary=f"{minimum} to {maximum} workers, one per {scaling.message_count} messages",
            address="",
        ),
        scaling=scaling,
        monitor=QueueMonitor(settings.gateway_url, names, read_api_key()),
        make_worker=partial(worker_part, settings),
        first_port=settings.ports.worker_health,
        # RabbitMQ says only how many messages wait.
        counts_held=settings.broker != "rabbitmq",
    )


def _make_plan(
    settings: SystemSettings,
    folder: ModelFolder,
    user: Mapping[str, str],
    chosen: frozenset[str],
    scaling: ScaledObject | None,
) -> RunPlan:
    root, data = settings.root, settings.data
    forget_killed_loads(data)
    note_data_directory(folder.data, data)
    settings = replace(
        settings,
        reply_token_key=reply_token_key(data),
        # A Service Bus that this command does not start does not have these keys.
        service_bus_keys=service_bus_keys(data) if "servicebus" in chosen else {},
        broker_password=broker_password(data) if settings.broker != BROKERS[0] else "",
    )
    copy_catalogue(folder.catalogue, settings.checked_catalogue)
    parts = {part.name: part for part in loosely_parts(settings) if part.name in chosen}
    worker_pool = None
    if scaling is not None:
        models = read_model_scaling(folder.catalogue, user)
        worker_pool = plan_worker_pool(settings, scaling, models, parts.pop("worker"), user)
    here = Path.cwd()
    examples = next(path for path in (folder.path / "examples", root / "examples") if path.is_dir())
    return RunPlan(
        parts=tuple(parts.values()),
        worker_pool=worker_pool,
        directory=folder.path,
        data=data,
        url=settings.gateway_url,
        models=folder.catalogue,
        watched_code=folder.code if settings.is_watching else None,
        example=choose_example(
            folder.catalogue,
            examples.relative_to(here) if examples.is_relative_to(here) else examples,
            needs_key=bool(read_setting("API_KEYS", root, user)),
        ),
        environment=shared_environment(root, user, folder.path),
    )
