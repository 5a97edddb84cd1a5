"""``loosely batch``: submit, list, show and cancel batches, and get their results."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.cli.connection import FOLLOWING_RETRY, KeyOption, UrlOption, connect
from loosely.cli.errors import ExitCode, exit_on_error
from loosely.cli.jobs import LimitOption, MediaTypeOption, ParameterOption, parse_parameters
from loosely.cli.many import LINES, STDIN, name_files
from loosely.cli.output import (
    STATUS_STYLES,
    TIME_MEMBERS,
    JsonOption,
    duration_text,
    echo_json,
    print_to,
    printable,
)
from loosely.client.batches import BatchLines, Output
from loosely.client.clients import Client
from loosely.client.errors import BatchRefused, InvalidRequest, LooselyError, refused_line
from loosely.client.resources import JobBatch
from loosely.client.retry import Retry

app = typer.Typer(
    help="Submit many inputs as one batch, list, show and cancel batches, and get their results.",
    add_completion=False,
    no_args_is_help=True,
)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The batch's id.")]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until the batch has ended, and show its progress.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        dir_okay=False,
        metavar="FILE",
        help="Write the results to this JSONL file until the batch has ended. A file that has a "
        "part of them is continued.",
    ),
]


@app.command("submit")
def submit(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A file NAME.jsonl with a line for each input, or - for standard input; or the "
            "input files themselves, or folders of them.",
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The model to run.")],
    deadline: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="The batch expires after this time. Default: a day; at most 7 days.",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A short text by which `loosely batch ls` finds it."),
    ] = None,
    media_type: MediaTypeOption = None,
    param: ParameterOption = None,
    wait: WaitOption = False,
    out: OutOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit many inputs as one batch, which runs when no other job of the model waits.

    Each line of NAME.jsonl is {"custom_id": …, "input": …}. Ctrl-C ends a wait, not the batch.
    """
    lines = _lines_of(files, out)
    with exit_on_error(as_json=as_json), _naming_file(), connect(url, api_key, Retry()) as client:
        batch = client.batches.submit(
            model,
            lines,
            media_type=media_type,
            parameters=parse_parameters(param or []) or None,
            deadline_seconds=deadline,
            label=label,
        )
    if wait or out is not None:
        typer.echo(f"batch {printable(batch.id)}", err=True)
        _finish(batch.id, out, url, api_key, as_json=as_json)
    elif as_json:
        echo_json(batch.body)
    else:
        typer.echo(printable(batch.id))


@app.command("ls")
def list_batches(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only batches of this model.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only batches with this status.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Only with this label; * at the end for any more text."),
    ] = None,
    limit: LimitOption = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List batches, newest first."""
    console = Console()
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        for batch in islice(client.batches.list(model=model, status=status, label=label), limit):
            if as_json:
                echo_json(batch.body)
            else:
                print_to(console, batch_summary(batch))


@app.command("show")
def show(
    batch_id: IdArgument,
    wait: WaitOption = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a batch's status, counts and errors."""
    if wait:
        _finish(batch_id, None, url, api_key, as_json=as_json)
        return
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        _show(client.batches.get(batch_id), as_json=as_json)


@app.command("results")
def results(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    batch_id: IdArgument,
    errors: Annotated[
        bool, typer.Option("--errors", help="Instead, the lines that ended without a result.")
    ] = False,
    out: OutOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the results until now as JSONL, or write them to a file until the batch has ended."""
    output: Output = "errors" if errors else "results"
    if out is not None:
        _finish(batch_id, out, url, api_key, output=output, as_json=as_json)
        return
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        found = client.batches.errors(batch_id) if errors else client.batches.results(batch_id)
        for line in found:
            echo_json(json.dumps(line, ensure_ascii=False).encode())


@app.command("cancel")
def cancel(
    batch_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a batch. The results that it has are kept."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        _show(client.batches.cancel(batch_id), as_json=as_json)


def _lines_of(files: list[Path], out: Path | None) -> BatchLines:
    if files == [STDIN]:
        return (line for line in sys.stdin if not line.isspace())
    named = name_files(files, out)
    if len(files) == 1 and files[0].suffix == LINES:
        return files[0]
    return [{"custom_id": name, "input": path} for name, path in named]


@contextmanager
def _naming_file() -> Iterator[None]:
    """Exit with wrong usage if an input cannot be read. Print the lines that are refused."""
    try:
        yield
    except InvalidRequest as error:
        for each in error.document.get("errors") or ():
            typer.echo(printable(refused_line(each)), err=True)
        raise
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None


def _finish(  # noqa: PLR0913 - the options of a command
    batch_id: str,
    out: Path | None,
    url: str | None,
    api_key: str | None,
    output: Output = "results",
    *,
    as_json: bool,
) -> None:
    """Wait until a batch has ended, show it, and exit with 1 unless all lines have succeeded."""
    go_on = f"show {batch_id} --wait"
    if out is not None:
        go_on = f"results {batch_id} {'--errors ' if output == 'errors' else ''}--out {out}"
    with (
        exit_on_error(as_json=as_json),
        _telling_batch_continues(go_on),
        connect(url, api_key, FOLLOWING_RETRY) as client,
    ):
        if out is None:
            batch = _wait(client, batch_id)
        else:
            with _naming_file():
                batch = client.batches.save(batch_id, out, output)
    _show(batch, as_json=as_json)
    counts = batch.counts
    if counts.ended > counts.succeeded and output == "results":
        typer.echo(
            f"see what failed with: loosely batch results {printable(batch.id)} --errors", err=True
        )
    if batch.status != "succeeded" or counts.succeeded < counts.total:
        raise typer.Exit(ExitCode.FAILED)


def _wait(client: Client, batch_id: str) -> JobBatch:
    try:
        return client.batches.wait(batch_id)
    except BatchRefused as refused:
        return refused.batch


@contextmanager
def _telling_batch_continues(go_on: str) -> Iterator[None]:
    """Tell how to go on if the wait for a batch's end fails or is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, LooselyError) as error:
        typer.echo(f"the batch continues; go on with: loosely batch {printable(go_on)}", err=True)
        if isinstance(error, LooselyError):
            raise
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _show(batch: JobBatch, *, as_json: bool) -> None:
    if as_json:
        echo_json(batch.body)
    else:
        print_to(Console(), batch_details(batch))


def batch_summary(batch: JobBatch) -> Text:
    """Return one line that shows the batch's model, status, counts, id and label."""
    line = Text.assemble(
        (printable(batch.model), "bold"),
        *("  ", (printable(batch.status), STATUS_STYLES.get(batch.status, ""))),
        f"  {_counts(batch)}",
        (f"  {printable(batch.id)}", "dim"),
    )
    if batch.label is not None:
        line.append(f"  {printable(batch.label)}")
    return line


def batch_details(batch: JobBatch) -> RenderableType:
    """Return a table of the batch's details, and of the lines that were refused."""
    table = Table.grid(padding=(0, 2))
    table.add_row("batch", Text(printable(batch.id)))
    table.add_row("model", Text(printable(batch.model)))
    if batch.label is not None:
        table.add_row("label", Text(printable(batch.label)))
    table.add_row("status", Text(printable(batch.status), STATUS_STYLES.get(batch.status, "")))
    table.add_row("lines", Text(_counts(batch)))
    if batch.rate_per_second is not None:
        rate = f"{batch.rate_per_second:.1f} a second"
        if batch.eta_seconds is not None:
            rate += f", about {duration_text(batch.eta_seconds * 1000)} left"
        table.add_row("rate", Text(rate))
    for name in TIME_MEMBERS:
        if batch.document.get(name):
            table.add_row(name.removesuffix("_at"), Text(printable(batch.document[name])))
    for code, count in batch.error_codes.items():
        table.add_row("error", Text(f"{count} with {printable(code)}", "red"))
    for each in batch.errors:
        table.add_row("refused", Text(printable(refused_line(each)), "red"))
    return table


def _counts(batch: JobBatch) -> str:
    """Return how many lines there are and how they ended, without those that are none."""
    counts = batch.counts
    named = ((each.name, getattr(counts, each.name)) for each in fields(counts))
    shown = [f"{count} {name}" for name, count in named if count and name != "total"]
    return ", ".join([f"{counts.total} in all", *shown])
