"""The command ``loosely open``, which shows a page of the gateway in the browser."""

import webbrowser
from typing import Annotated

import typer

from loosely.cli.connection import UrlOption, find_url
from loosely.cli.errors import ExitCode
from loosely.client.requests import parse_url
from loosely.local.pages import PAGES, page_address


def open_page(
    page: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(PAGES)}. Default: the front page, which links to all."),
    ] = None,
    url: UrlOption = None,
) -> None:
    """Print the address of a page of the gateway, and open it in the browser."""
    try:
        base = str(parse_url(find_url(url))).rstrip("/")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None
    try:
        address = page_address(base, page)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PAGE") from None
    typer.echo(address)
    if not webbrowser.open(address):
        typer.echo("no browser could be started; open this address yourself", err=True)
        raise typer.Exit(ExitCode.FAILED)
