"""``loosely dead-letters``: list, show, redrive and delete dead letters."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.cli.connection import KeyOption, UrlOption, connect_operator
from loosely.cli.errors import exit_on_error
from loosely.cli.jobs import JsonLinesOption
from loosely.cli.output import print_to, printable

app = typer.Typer(
    help="List, show, redrive or delete dead letters.",
    add_completion=False,
    no_args_is_help=True,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The dead letter's model.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.")]
_SHOWN_MEMBERS = (
    *("model", "queue", "job_id", "reason", "description", "delivery_count"),
    *("created_at", "deadline", "dead_lettered_at", "redriven_at", "redriven_as"),
)


@app.command("list")
def list_letters(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only dead letters of this model.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="The maximum number to list.")
    ] = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """List dead letters, oldest first."""
    with exit_on_error(as_json=as_json), connect_operator(url, api_key) as client:
        letters = list(islice(client.list_dead_letters(model), limit))
    if as_json:
        for letter in letters:
            _print_json(letter)
    else:
        console = Console()
        for letter in letters:
            print_to(console, _summary(letter))


@app.command("show")
def show(
    model: ModelArgument,
    letter_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Show a dead letter, without its payload."""
    with exit_on_error(as_json=as_json), connect_operator(url, api_key) as client:
        letter = client.get_dead_letter(model, letter_id)
    if as_json:
        _print_json(letter)
    else:
        print_to(Console(), _details(letter))


@app.command("redrive")
def redrive(
    model: ModelArgument,
    letter_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Submit a dead letter's work again as a new job. Repeated commands submit it only once."""
    with exit_on_error(as_json=as_json), connect_operator(url, api_key) as client:
        sent = client.redrive_dead_letter(model, letter_id)
    if as_json:
        _print_json(sent)
        return
    how = "was already sent again" if sent.get("is_repeat") else "sent again"
    job = printable(sent.get("job_id"))
    kind = "new job" if sent.get("is_new_job") else "job"
    typer.echo(f"{how} as the {kind} {job}")


@app.command("purge")
def purge(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: ModelArgument,
    letter_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The dead letter's id.", show_default=False)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Delete all dead letters of the model.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Delete one dead letter, or all dead letters of a model."""
    if every == (letter_id is not None):
        raise typer.BadParameter("expected the id of one dead letter, or --all", param_hint="ID")
    with exit_on_error(as_json=as_json), connect_operator(url, api_key) as client:
        if letter_id is None:
            deleted = client.purge_dead_letters(model)
        else:
            client.purge_dead_letter(model, letter_id)
            deleted = 1
    if as_json:
        _print_json({"deleted": deleted})
    else:
        typer.echo(f"deleted: {deleted}")


def _print_json(document: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(document, ensure_ascii=False))


def _summary(letter: Mapping[str, Any]) -> Text:
    """Return one line that describes the dead letter, including the id that other commands need."""
    redriven = letter.get("redriven_as")
    line = Text.assemble(
        (printable(letter.get("model")), "bold"),
        f"  {printable(letter.get('id'))}  {printable(letter.get('dead_lettered_at') or '')}  ",
        (printable(letter.get("reason") or ""), "red"),
    )
    if redriven:
        line.append(f"  redriven as {printable(redriven)}", "green")
    return line


def _details(letter: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("dead letter", Text(printable(letter.get("id"))))
    for name in _SHOWN_MEMBERS:
        if letter.get(name) is not None:
            value = Text(printable(letter[name]))
            table.add_row(name.replace("_", " ").removesuffix(" at"), value)
    match letter.get("input"):
        case {"kind": kind, "media_type": media_type, "size_bytes": size_bytes}:
            size = "" if size_bytes is None else f", {size_bytes} bytes"
            table.add_row("input", Text(printable(f"{kind}, {media_type}{size}")))
    return table
