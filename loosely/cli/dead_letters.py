"""``loosely dead-letters``: list, count, show, redrive and delete dead letters."""

import json
from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Literal

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.cli.connection import KeyOption, UrlOption, connect
from loosely.cli.errors import ExitCode, exit_on_error
from loosely.cli.jobs import LimitOption, parse_time
from loosely.cli.output import JsonOption, echo_json, print_to, printable
from loosely.client.operators import DeadLetterFilter

app = typer.Typer(
    help="List, count, show, redrive or delete dead letters.",
    add_completion=False,
    no_args_is_help=True,
)

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="The dead letter's model.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.")]
_SHOWN_MEMBERS = (
    *("model", "queue", "job_id", "reason", "description", "delivery_count"),
    *("created_at", "deadline", "dead_lettered_at", "redriven_at", "redriven_as"),
)
ModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="Only dead letters of this model.")
]
ReasonOption = Annotated[
    str | None,
    typer.Option(
        "--reason", metavar="REASON", help="Only this reason, e.g. MaxDeliveryCountExceeded."
    ),
]
AfterOption = Annotated[
    datetime | None,
    typer.Option(
        "--after", metavar="TIME", parser=parse_time, help="Only dead-lettered at TIME or later."
    ),
]
BeforeOption = Annotated[
    datetime | None,
    typer.Option(
        "--before", metavar="TIME", parser=parse_time, help="Only dead-lettered before TIME."
    ),
]


@app.command("list")
def list_letters(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: ModelOption = None,
    reason: ReasonOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    limit: LimitOption = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, oldest first."""
    wanted = DeadLetterFilter(model, reason, after, before)
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        letters = list(islice(client.list_dead_letters(wanted), limit))
    for letter in letters:
        _show(letter, _summary(letter), as_json=as_json)


@app.command("count")
def count(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: ModelOption = None,
    reason: ReasonOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count the dead letters that match the options, and how many of them were not redriven."""
    wanted = DeadLetterFilter(model, reason, after, before)
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        seen = client.count_dead_letters(wanted)
    text = f"dead letters: {seen.count}, not redriven: {seen.not_redriven}"
    _show({"count": seen.count, "not_redriven": seen.not_redriven}, Text(text), as_json=as_json)


@app.command("purge-all", help="Delete all dead letters that match the options.")
@app.command(
    "redrive-all",
    help="Redrive the dead letters that match the options and were not redriven before.",
)
def change_all(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    context: typer.Context,
    model: ModelOption = None,
    reason: ReasonOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    expected: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=0,
            metavar="N",
            help="Do not ask for a confirmation. Change nothing unless exactly N letters match.",
        ),
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Redrive or purge all matching dead letters, after the user has confirmed their number."""
    wanted = DeadLetterFilter(model, reason, after, before)
    action: Literal["redrive", "purge"] = (
        "redrive" if context.info_name == "redrive-all" else "purge"
    )
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        seen = client.count_dead_letters(wanted)
        number = seen.not_redriven if action == "redrive" else seen.count
        if expected is None:
            if number:
                typer.confirm(f"{action} {number} dead letters?", abort=True, err=True)
        elif expected != number:
            typer.echo(f"count-changed: {number} dead letters match now, not {expected}", err=True)
            raise typer.Exit(ExitCode.FAILED)
        done, refused = 0, 0
        for response in client.change_dead_letters(action, wanted, seen) if number else ():
            done += len(response.get("done") or ())
            refused += len(response.get("refused") or ())
            if as_json:
                _show(response, "", as_json=True)
            else:
                _show_changes(response)
    if not as_json:
        typer.echo(f"{'redriven' if action == 'redrive' else 'deleted'}: {done}")
    if refused:
        typer.echo(f"refused: {refused}", err=True)
        raise typer.Exit(ExitCode.FAILED)


def _show_changes(response: Mapping[str, Any]) -> None:
    for letter in response.get("done") or ():
        if letter.get("job_id"):
            shown = (letter.get("model"), letter.get("id"), "as", letter["job_id"])
            typer.echo("  ".join(printable(part) for part in shown))
    for letter in response.get("refused") or ():
        refusal = (letter.get("model"), letter.get("id"), letter.get("detail"))
        typer.echo("  ".join(printable(part) for part in refusal), err=True)


@app.command("show")
def show(
    model: ModelArgument,
    letter_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dead letter, without its payload."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        letter = client.get_dead_letter(model, letter_id)
    _show(letter, _details(letter), as_json=as_json)


@app.command("redrive")
def redrive(
    model: ModelArgument,
    letter_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a dead letter's work again as a new job. Repeated commands make only one new job."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        sent = client.redrive_dead_letter(model, letter_id)
    how = "was already sent again" if sent.get("is_repeat") else "sent again"
    kind = "new job" if sent.get("is_new_job") else "job"
    text = f"{how} as the {kind} {printable(sent.get('job_id'))}"
    _show(sent, Text(text), as_json=as_json)


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
    as_json: JsonOption = False,
) -> None:
    """Delete one dead letter, or all dead letters of a model."""
    if every == (letter_id is not None):
        raise typer.BadParameter(
            "expected either the id of one dead letter or --all", param_hint="ID"
        )
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        if letter_id is None:
            deleted = client.purge_dead_letters(model)
        else:
            client.purge_dead_letter(model, letter_id)
            deleted = 1
    _show({"deleted": deleted}, Text(f"deleted: {deleted}"), as_json=as_json)


def _show(document: Mapping[str, Any], view: RenderableType, *, as_json: bool) -> None:
    if as_json:
        echo_json(json.dumps(document, ensure_ascii=False).encode())
    else:
        print_to(Console(), view)


def _summary(letter: Mapping[str, Any]) -> Text:
    """Return one line that describes the dead letter, including the id that other commands need."""
    line = Text.assemble(
        (printable(letter.get("model")), "bold"),
        f"  {printable(letter.get('id'))}  {printable(letter.get('dead_lettered_at') or '')}  ",
        (printable(letter.get("reason") or ""), "red"),
    )
    if redriven := letter.get("redriven_as"):
        line.append(f"  redriven as {printable(redriven)}", "green")
    return line


def _details(letter: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("dead letter", Text(printable(letter.get("id"))))
    for name in _SHOWN_MEMBERS:
        if letter.get(name) is not None:
            value = Text(printable(letter[name]))
            table.add_row(name.replace("_", " ").removesuffix(" at"), value)
    named = letter.get("inputs")
    inputs = {"input": letter.get("input")}
    if isinstance(named, dict):
        inputs |= {f"input {printable(name)}": each for name, each in named.items()}
    for name, each in inputs.items():
        match each:
            case {"kind": kind, "media_type": media_type, "size_bytes": size_bytes}:
                size = "" if size_bytes is None else f", {size_bytes} bytes"
                table.add_row(Text(name), Text(printable(f"{kind}, {media_type}{size}")))
    return table
