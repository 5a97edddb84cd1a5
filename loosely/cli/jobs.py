"""``loosely submit``, ``status``, ``result`` and ``cancel``."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from loosely.cli.failures import ExitCode, reported
from loosely.cli.gateway import FOLLOWING_RETRY, KeyOption, UrlOption, connect
from loosely.cli.progress import Progress, spinning
from loosely.cli.tables import job_details, job_summary, print_to, result_view
from loosely.cli.text import printable, printable_lines
from loosely.client import Client
from loosely.endpoint import Priority
from loosely.job import Job, Result
from loosely.payload import Source
from loosely.surface import LONGEST_WAIT_SECONDS

_DEFAULT_WAIT_SECONDS = 30

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print what the gateway answered, exactly as received.")
]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


def _media_type(value: str | None) -> str | None:
    if (
        value is not None
        and re.fullmatch(r"[\w.+-]+/[\w.+-]+( *;[ -~]*)?", value, re.ASCII) is None
    ):
        raise typer.BadParameter(f"{value!r} is not a media type such as image/jpeg")
    return value


WaitOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=LONGEST_WAIT_SECONDS,
        metavar="SECONDS",
        help="How long the first answer may take; then the job is followed.",
    ),
]
DeadlineOption = Annotated[
    int | None,
    typer.Option(min=1, metavar="SECONDS", help="After how long nobody wants the result."),
]
PriorityOption = Annotated[
    Priority | None, typer.Option(help="low waits until no other job of the model does.")
]
MediaTypeOption = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        callback=_media_type,
        help="Media type. Default: by the file's content.",
    ),
]


def submit(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What to send; - for standard input."),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The model to run.")],
    wait: WaitOption = _DEFAULT_WAIT_SECONDS,
    deadline: DeadlineOption = None,
    priority: PriorityOption = None,
    media_type: MediaTypeOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait: print the job's id.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send a file to a model and show the result.

    Follows the job until it ends, however long that takes; Ctrl-C leaves it running.
    """
    source = _source(file)
    with reported(as_json=as_json), spinning("sending") as progress:
        with connect(url, api_key) as client:
            job = client.submit(
                source,
                model,
                media_type=media_type,
                wait_seconds=0 if detach else wait,
                deadline_seconds=deadline,
                priority=priority,
            )
        if not (job.is_final or detach):
            with connect(url, api_key, FOLLOWING_RETRY) as client:
                job = _follow(client, job, progress)
    if as_json:
        typer.echo(job.body)
    elif detach and not job.is_final:
        typer.echo(printable(job.id))
    else:
        _show(job)
    if job.is_final and job.status != "succeeded":
        raise typer.Exit(ExitCode.FAILED)


def status(
    job_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how a job stands."""
    with reported(as_json=as_json), connect(url, api_key) as client:
        job = client.get(job_id)
    _show_details(job, as_json=as_json)


def cancel(
    job_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job; one that has ended stays as it is."""
    with reported(as_json=as_json), connect(url, api_key) as client:
        job = client.cancel(job_id)
    _show_details(job, as_json=as_json)


def _show_details(job: Job, *, as_json: bool) -> None:
    if as_json:
        typer.echo(job.body)
    else:
        print_to(Console(), job_details(job))


def result(
    job_id: IdArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write the result to this file."),
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a job's result."""
    with reported(as_json=as_json), connect(url, api_key) as client:
        answer = client.result(job_id)
    if isinstance(answer, Job):
        if as_json:
            typer.echo(answer.body)
        typer.echo(f"not-yet: the job is {printable(answer.status)}; ask again later", err=True)
        raise typer.Exit(ExitCode.NOT_YET)
    if output is not None:
        output.write_bytes(answer.body)
    elif as_json:
        typer.echo(answer.body)
    else:
        _show_result(answer)


def _source(file: Path) -> Source:
    if str(file) == "-":
        return sys.stdin.buffer.read()
    try:
        with file.open("rb"):
            return file
    except OSError as error:
        reason = f"{file}: {error.strerror or error}"
        raise typer.BadParameter(reason, param_hint="FILE") from None


def _follow(client: Client, submitted: Job, progress: Progress) -> Job:
    """Show the job's changes until it is final."""
    job = submitted
    progress.status = job.status
    try:
        for event in client.iter_events(submitted.id):
            job = event.job
            progress.status = job.status
    except KeyboardInterrupt:
        typer.echo(f"the job goes on; see it with: loosely status {printable(job.id)}", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    return job


def _show(job: Job) -> None:
    console = Console()
    if job.error is not None or job.result is None:
        print_to(console, job_details(job))
        if job.status == "succeeded":
            # Only small JSON stands in the job itself.
            typer.echo(f"fetch the result with: loosely result {printable(job.id)}", err=True)
        return
    print_to(console, job_summary(job))
    print_to(console, result_view(job.result))


def _show_result(answer: Result) -> None:
    kind = answer.media_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            print_to(Console(), result_view(json.loads(answer.body)))
        except (ValueError, RecursionError):
            typer.echo(printable_lines(answer.body.decode("utf-8", "replace")))
    elif not sys.stdout.isatty():
        typer.echo(answer.body, nl=False)
    elif kind.startswith("text/"):
        typer.echo(printable_lines(answer.body.decode("utf-8", "replace")))
    else:
        typer.echo(f"the result is {kind or 'binary'}: name a file with --output", err=True)
        raise typer.Exit(2)
