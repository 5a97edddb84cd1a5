"""Which gateway a command speaks to."""

from pathlib import Path
from typing import Annotated

import typer

from loosely.client import DEFAULT_URL, Client
from loosely.up.data import RunningSystem

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LOOSELY_URL",
        metavar="URL",
        help=f"The gateway. Default: the one that `loosely up` runs here, else {DEFAULT_URL}.",
    ),
]


def connect(url: str | None) -> Client:
    """Return a client for ``url``, for the system that runs here, or for the usual address."""
    try:
        return Client(url or _url_of_running_system() or DEFAULT_URL)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def _url_of_running_system() -> str | None:
    current = Path.cwd()
    for directory in (current, *current.parents):
        system = RunningSystem.read(directory / ".loosely")
        if system is not None:
            return system.url
    return None
