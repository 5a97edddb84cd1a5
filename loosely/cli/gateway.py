"""Which gateway a command speaks to."""

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from loosely.client import Client
from loosely.credentials import KEY_VARIABLE
from loosely.operators import OperatorClient
from loosely.retry import Retry
from loosely.surface import DEFAULT_URL
from loosely.up.data import RunningSystem

C = TypeVar("C", bound=Client)

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LOOSELY_URL",
        metavar="URL",
        help=f"The gateway. Default: the one that `loosely up` runs here, else {DEFAULT_URL}.",
    ),
]


KeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=KEY_VARIABLE,
        metavar="KEY",
        help="Your key; in the environment other users of this machine do not see it.",
        show_default=False,
    ),
]
#: Whoever sits at a terminal would rather know at once.
_RETRY = Retry(total_seconds=2.0)
#: A job that was accepted outlives a gateway that is away for a moment.
FOLLOWING_RETRY = Retry()


def connect(url: str | None, api_key: str | None, retry: Retry = _RETRY) -> Client:
    """Return a client for ``url``, for the system that runs here, or for the usual address."""
    return _connected(Client, url, api_key, retry)


def connect_operator(url: str | None, api_key: str | None) -> OperatorClient:
    """The same for operators."""
    return _connected(OperatorClient, url, api_key, _RETRY)


def _connected(kind: type[C], url: str | None, api_key: str | None, retry: Retry) -> C:
    try:
        return kind(url or _url_of_running_system() or DEFAULT_URL, api_key=api_key, retry=retry)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url or --api-key") from None


def _url_of_running_system() -> str | None:
    current = Path.cwd()
    for directory in (current, *current.parents):
        system = RunningSystem.read(directory / ".loosely")
        if system is not None:
            return system.url
    return None
