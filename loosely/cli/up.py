"""``loosely up``: the whole system on this machine."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loosely.up.errors import UnknownPart, UpError
from loosely.up.parts import Part
from loosely.up.ports import PORT_COUNT, Ports
from loosely.up.system import PART_NAMES, Settings, base_environment, loosely_parts

_DATA_DIRECTORY = ".loosely"


class LogLevel(StrEnum):
    """How much the parts write to their logs."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def up(
    port: Annotated[
        int | None,
        typer.Option(
            min=1024,
            max=65535 - PORT_COUNT,
            metavar="PORT",
            help="First of five ports in a row. Default: 7071 for the gateway, 5672 and 5300 "
            "for Service Bus, 10000 for blobs, 8081 for the worker's health.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Where jobs, blobs and logs are kept. Default: .loosely in the repository.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            metavar="LEVEL",
            help="How much the parts log: debug, info, warning, error. Default: LOG_LEVEL, else info.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help="Start these parts alone, separated by commas."),
    ] = None,
    without: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help="Leave these parts out, separated by commas."),
    ] = None,
) -> None:
    """Start the whole system on this machine: blobs, Service Bus, gateway and worker.

    Every part is a process that is restarted when it dies. Ctrl-C stops them in order.
    """
    from rich.console import Console  # noqa: PLC0415 - the help must not pay for it

    from loosely.up.data import reply_token_key  # noqa: PLC0415
    from loosely.up.repository import find_root  # noqa: PLC0415
    from loosely.up.run import Plan, run  # noqa: PLC0415

    user = dict(os.environ)
    try:
        names = choose(only, without)
        root = find_root(Path.cwd())
        directory = (data or root / _DATA_DIRECTORY).resolve()

        def plan() -> Plan:
            settings = Settings(
                root=root,
                data=directory,
                ports=Ports() if port is None else Ports.from_base(port),
                reply_token_key=reply_token_key(directory),
                log_level=log_level or user.get("LOG_LEVEL", LogLevel.info).lower(),
            )
            return Plan(
                parts=chosen(loosely_parts(settings), names),
                directory=root,
                data=directory,
                url=settings.gateway_url,
                picture=_nearest(root / "examples" / "chelsea.jpg"),
                environment=base_environment(root, user),
            )

        exit_code = run(plan, directory, Console())
    except UpError as error:
        typer.echo(f"loosely up: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(exit_code)


def choose(only: str | None, without: str | None) -> frozenset[str]:
    """Return the names of the parts to start.

    Raises:
        UnknownPart: an option names a part that does not exist, or nothing is left.
    """
    named = {
        option: frozenset(name.strip() for name in (value or "").split(",") if name.strip())
        for option, value in (("--only", only), ("--without", without))
    }
    for option, names in named.items():
        for name in sorted(names - set(PART_NAMES)):
            raise UnknownPart(f"{option}: no part is called {name!r}; {', '.join(PART_NAMES)} are")
    left = (named["--only"] or frozenset(PART_NAMES)) - named["--without"]
    if not left:
        raise UnknownPart("--only and --without leave nothing to start")
    return left


def chosen(parts: tuple[Part, ...], names: frozenset[str]) -> tuple[Part, ...]:
    """Return the parts called ``names``, in their order."""
    return tuple(part for part in parts if part.name in names)


def _nearest(path: Path) -> Path:
    """Return ``path`` as one would type it here."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
