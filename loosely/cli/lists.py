"""``loosely list``."""

from itertools import islice
from typing import Annotated

import typer
from rich.console import Console

from loosely.cli.failures import reported
from loosely.cli.gateway import KeyOption, UrlOption, connect
from loosely.cli.tables import job_summary, print_to

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a line, as the gateway has it.")
]


def jobs(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only jobs of this model.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only jobs in this status.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")
    ] = 20,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, newest first."""
    console = Console()
    with reported(as_json=as_json), connect(url, api_key) as client:
        for job in islice(client.jobs(model=model, status=status), limit):
            if as_json:
                typer.echo(job.body)
            else:
                print_to(console, job_summary(job))
