"""The command ``loosely trace``, which draws a trace that ``loosely up --traces`` has stored."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loosely.cli.connection import DataOption, KeyOption, UrlOption, connect, find_data_directory
from loosely.cli.errors import ExitCode, exit_on_error
from loosely.cli.output import JsonOption, bar_between, duration_text, print_to, printable
from loosely.local.trace_files import Span, read_trace

_TRACE_ID = re.compile("[0-9a-f]{32}")


def trace(
    identifier: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a job, or a trace id of 32 digits.")
    ],
    data: DataOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the spans of a job's trace. The system must run with `loosely up --traces`."""
    trace_id = identifier
    if not _TRACE_ID.fullmatch(identifier):
        with exit_on_error(as_json=as_json), connect(url, api_key) as client:
            trace_id = str(client.get(identifier).document.get("trace_id"))
    folder = (data or find_data_directory()) / "traces"
    roots = read_trace(folder, trace_id)
    if not roots:
        typer.echo(
            f"{folder} has no span of the trace {printable(trace_id)}: start the system with "
            "`loosely up --traces`, and try again some seconds after the job's end",
            err=True,
        )
        raise typer.Exit(ExitCode.FAILED)
    if as_json:
        for root in roots:
            typer.echo(json.dumps(asdict(root)))
    else:
        print_to(Console(), _tree(roots, trace_id))


def _tree(roots: list[Span], trace_id: str) -> Table:
    spans = list(_flatten(roots, 0))
    total_ms = max(span.begin_ms + span.duration_ms for _, span in spans)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="green", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    for depth, span in spans:
        style = "red" if span.is_error else ""
        table.add_row(
            Text("  " * depth + printable(span.name), style),
            bar_between(span.begin_ms, span.duration_ms, total_ms),
            duration_text(span.duration_ms),
            printable(span.service),
        )
    table.add_row(Text(f"trace {printable(trace_id)}", "dim"))
    return table


def _flatten(spans: list[Span], depth: int) -> Iterator[tuple[int, Span]]:
    for span in spans:
        yield depth, span
        yield from _flatten(span.children, depth + 1)
