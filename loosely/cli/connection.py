"""Create the gateway client that a command uses, from its options ``--url`` and ``--api-key``."""

from pathlib import Path
from typing import Annotated

import typer

from loosely.client.operators import OperatorClient
from loosely.client.retry import Retry
from loosely.client.settings import API_KEY_VARIABLE, DEFAULT_URL
from loosely.local.data_directory import RunningSystem, find_used_directory

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="LOOSELY_URL",
        metavar="URL",
        help=f"The gateway's URL. Default: the URL of the running `loosely up`, or {DEFAULT_URL}.",
    ),
]


KeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=API_KEY_VARIABLE,
        metavar="KEY",
        help="Your API key. Other users can see it on a command line, but not in the environment.",
        show_default=False,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The data directory of `loosely up`. Default: the one of the system of this folder.",
    ),
]
#: The default settings. The time limit is short, so that a user at a terminal sees a failure soon.
RETRY = Retry(total_seconds=2.0)
#: The settings for a job that the gateway may have accepted. It survives a restart of the gateway.
FOLLOWING_RETRY = Retry(connect_seconds=60.0)


def connect(url: str | None, api_key: str | None, retry: Retry | None = None) -> OperatorClient:
    """Return a client for the gateway at ``url``, by default the one that `find_url` finds."""
    try:
        return OperatorClient(find_url(url), api_key=api_key, retry=retry or RETRY)
    except ValueError as error:
        raise typer.BadParameter(f"--url or --api-key cannot be used: {error}") from None


def find_url(url: str | None) -> str:
    """Return ``url``, or else the URL of the running `loosely up`, or else the default URL."""
    system = None if url else RunningSystem.read(find_data_directory())
    return url or (DEFAULT_URL if system is None else system.url)


def find_data_directory() -> Path:
    """Return the data directory of the system of this folder or of the nearest folder above it.

    A system that runs is preferred. If there is no data directory, return ``.loosely``.
    """
    current = Path.cwd()
    found = [
        find_used_directory(folder / ".loosely")
        for folder in (current, *current.parents)
        if (folder / ".loosely").is_dir()
    ]
    running = (each for each in found if RunningSystem.read(each) is not None)
    return next(running, None) or next(iter(found), current / ".loosely")
