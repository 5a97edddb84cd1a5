"""``loosely up``: the whole system on this machine."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loosely.cli.scale import (
    CooldownOption,
    PollOption,
    ScaleOption,
    TargetOption,
    local_scaling,
    plan_worker_pool,
)
from loosely.local.errors import UnknownPart, UpError
from loosely.local.parts import PART_NAMES, SystemSettings, loosely_parts
from loosely.local.ports import PORT_COUNT, Ports

if TYPE_CHECKING:
    from loosely.capacity.scaling import ScaledObject
    from loosely.local.run import RunPlan

_DATA_DIRECTORY = ".loosely"


class LogLevel(StrEnum):
    """How much the parts write to their logs."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


PortOption = Annotated[
    int | None,
    typer.Option(
        min=1024,
        max=65535 - PORT_COUNT,
        metavar="PORT",
        help="First of five ports in a row. Default: 7071 for the gateway, 5672 and 5300 "
        "for Service Bus, 10000 for blobs, 8081 for the worker's health.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        metavar="DIR",
        help="Where jobs, blobs and logs are kept. Default: .loosely in the repository.",
    ),
]
LogLevelOption = Annotated[
    LogLevel | None,
    typer.Option(
        metavar="LEVEL",
        help="How much is logged: debug, info, warning or error. Default: LOG_LEVEL, else info.",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PARTS", help="Start these parts alone, separated by commas."),
]
WithoutOption = Annotated[
    list[str] | None,
    typer.Option(metavar="PARTS", help="Leave these parts out, separated by commas."),
]


class Engine(StrEnum):
    """Which durable engine keeps the jobs' orchestrations."""

    local = "local"
    azure_storage = "azure-storage"


EngineOption = Annotated[
    Engine,
    typer.Option(
        help="Durable engine: local, or azure-storage for the Azure Storage provider's order of "
        "writes. Each has data of its own.",
    ),
]
VisibilityTimeoutOption = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        metavar="SECONDS",
        help="With azure-storage: how long messages of a host that died stay invisible. "
        "Default: 60.",
    ),
]
CrashAtOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="POINT[:NAME]",
        help="With azure-storage: the host dies once at this point; may be given several times.",
    ),
]
CrashRateOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="P",
        help="With azure-storage: probability that an episode ends in a crash of the host.",
    ),
]
SplitBrainRateOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="P",
        help="With azure-storage: probability that a second owner runs an episode, too.",
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(metavar="N", help="With azure-storage: seed of the random faults.")
]


def up(  # noqa: PLR0913, PLR0917 - Typer makes an option of each
    port: PortOption = None,
    data: DataOption = None,
    log_level: LogLevelOption = None,
    only: OnlyOption = None,
    without: WithoutOption = None,
    scale: ScaleOption = None,
    scale_target: TargetOption = 5,
    scale_poll: PollOption = 1.0,
    scale_cooldown: CooldownOption = 20.0,
    engine: EngineOption = Engine.local,
    visibility_timeout: VisibilityTimeoutOption = None,
    crash_at: CrashAtOption = None,
    crash_rate: CrashRateOption = None,
    split_brain_rate: SplitBrainRateOption = None,
    seed: SeedOption = None,
) -> None:
    """Start the whole system on this machine: blobs, Service Bus, gateway and worker.

    Every part is a process that is restarted when it dies. Ctrl-C stops them in order.
    """
    scaling = None
    if scale is not None:
        scaling = local_scaling(scale, scale_target, scale_poll, scale_cooldown)
    # Here and below: the other commands need not pay for what only `up` loads.
    from rich.console import Console  # noqa: PLC0415

    from loosely.local.environment import find_root  # noqa: PLC0415
    from loosely.local.run import run  # noqa: PLC0415

    try:
        options = engine_options(
            engine,
            {
                "--visibility-timeout": visibility_timeout,
                "--crash-at": crash_at,
                "--crash-rate": crash_rate,
                "--split-brain-rate": split_brain_rate,
                "--seed": seed,
            },
        )
        names = choose(only or [], without or [])
        if scaling is not None and "worker" not in names:
            raise UnknownPart("--scale: the worker is left out")
        root = find_root(Path.cwd())
        directory = (data or root / _DATA_DIRECTORY).resolve()
        ports = Ports() if port is None else Ports.from_base(port)
        exit_code = run(
            lambda: _plan(root, directory, ports, log_level, names, scaling, options),
            directory,
            Console(),
        )
    except UpError as error:
        typer.echo(f"loosely up: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(exit_code)


def choose(only: Sequence[str], without: Sequence[str]) -> frozenset[str]:
    """Return the names of the parts to start.

    Raises:
        UnknownPart: an option names a part that does not exist, or nothing is left.
    """
    named = {
        option: frozenset(name.strip() for name in ",".join(values).split(",") if name.strip())
        for option, values in (("--only", only), ("--without", without))
    }
    for option, names in named.items():
        for name in sorted(names - set(PART_NAMES)):
            raise UnknownPart(
                f"{option}: there is no part {name!r}; the parts are {', '.join(PART_NAMES)}"
            )
    left = (named["--only"] or frozenset(PART_NAMES)) - named["--without"]
    if not left:
        raise UnknownPart("--only and --without leave nothing to start")
    return left


def engine_options(
    engine: Engine, faults: Mapping[str, float | list[str] | None]
) -> tuple[str, ...]:
    """Return the Functions host's options for an engine, and the faults to inject.

    Raises:
        BadParameter: an option of the azure-storage engine is given without it.
    """
    given = [
        (option, str(value))
        for option, values in faults.items()
        if values is not None
        for value in (values if isinstance(values, list) else [values])
    ]
    if engine is Engine.local:
        if given:
            raise typer.BadParameter(f"{given[0][0]} needs --engine azure-storage")
        return ()
    return ("--engine", engine.value, *(word for pair in given for word in pair))


def _plan(  # noqa: PLR0913, PLR0917 - one for each thing that was asked for
    root: Path,
    directory: Path,
    ports: Ports,
    log_level: LogLevel | None,
    names: frozenset[str],
    scaling: "ScaledObject | None",
    options: tuple[str, ...],
) -> "RunPlan":
    from loosely.local.data_directory import reply_token_key  # noqa: PLC0415
    from loosely.local.environment import read_environment, shared_environment  # noqa: PLC0415
    from loosely.local.run import RunPlan  # noqa: PLC0415

    user = read_environment()
    catalogue = user.get("MODEL_CATALOGUE")
    settings = SystemSettings(
        root=root,
        data=directory,
        ports=ports,
        reply_token_key=reply_token_key(directory),
        catalogue=Path(catalogue).resolve() if catalogue else None,
        log_level=log_level or user.get("LOG_LEVEL", LogLevel.info).lower(),
        engine_options=options,
    )
    parts = {part.name: part for part in loosely_parts(settings) if part.name in names}
    worker_pool = None
    if scaling is not None:
        worker_pool = plan_worker_pool(settings, scaling, parts.pop("worker"), user)
    return RunPlan(
        parts=tuple(parts.values()),
        worker_pool=worker_pool,
        directory=root,
        data=directory,
        url=settings.gateway_url,
        picture=_as_typed_here(root / "examples" / "chelsea.jpg"),
        environment=shared_environment(root, user),
    )


def _as_typed_here(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
