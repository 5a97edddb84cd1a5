"""The commands for jobs: ``submit``, ``status``, ``result``, ``cancel`` and ``list``."""

import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from loosely.cli.connection import (
    FOLLOWING_RETRY,
    KeyOption,
    UrlOption,
    connect,
    find_data_directory,
)
from loosely.cli.errors import ExitCode, exit_on_error
from loosely.cli.many import STDIN, check_readable, name_files, name_lines, submit_many
from loosely.cli.output import (
    JsonOption,
    SpinnerText,
    echo_json,
    job_details,
    job_summary,
    print_to,
    printable,
    printable_lines,
    result_view,
    result_views,
    spinner,
    timeline_view,
)
from loosely.cli.streams import StreamView
from loosely.client.clients import Client
from loosely.client.errors import GatewayUnreachable, JobEnded, LooselyError, UnexpectedAnswer
from loosely.client.mapping import DEFAULT_CONCURRENCY, Outcome
from loosely.client.media import file_extension
from loosely.client.requests import Priority, Source
from loosely.client.resources import Job, Result, Timeline
from loosely.client.retry import Retry
from loosely.client.transport import MAX_CONNECTIONS
from loosely.local.data_directory import RunningSystem

_DEFAULT_PAGES = 10
_RESULT_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+( *;[ -~]*)?", re.ASCII)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
LimitOption = Annotated[
    int, typer.Option("--limit", "-n", min=1, metavar="N", help="The maximum number to list.")
]


def _check_media_type(value: str | None) -> str | None:
    if value is not None and not _MEDIA_TYPE.fullmatch(value):
        raise typer.BadParameter(
            f"{value!r} is not a media type; expected, for example, image/jpeg"
        )
    return value


def parse_time(text: str) -> datetime:
    """Return the time in an option's value. Without a zone it is local time."""
    try:
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else time.astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not a time; expected, for example, 2026-03-01T12:00:00Z"
        ) from None


MediaTypeOption = Annotated[
    str | None,
    typer.Option(
        "--type",
        metavar="TYPE",
        callback=_check_media_type,
        help="Media type. Default: detected from the file's content.",
    ),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="A parameter of the model, such as top=3. The value is JSON, or else a text. May be "
        "repeated.",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=FILE",
        help="A named input of the model, such as mask=mask.png. May be repeated.",
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FOLDER",
        file_okay=False,
        help="Write the result and all named results to files in this folder.",
    ),
]


def parse_inputs(given: Sequence[str]) -> dict[str, Path]:
    """Return the files of the named inputs in the values NAME=FILE of the option ``--input``."""
    inputs = {name: Path(path) for name, path in _read_pairs("--input", "FILE", given)}
    for path in inputs.values():
        check_readable(path, "--input")
    return inputs


def parse_parameters(given: Sequence[str]) -> dict[str, Any]:
    """Return the parameters in the values NAME=VALUE of the option ``--param``."""
    parameters: dict[str, Any] = {}
    for name, value in _read_pairs("--param", "VALUE", given):
        try:
            parameters[name] = json.loads(value)
        except (ValueError, RecursionError):
            parameters[name] = value
    return parameters


def _read_pairs(option: str, what: str, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    names = set[str]()
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise typer.BadParameter(f"expected NAME={what}, found {text!r}", param_hint=option)
        if name in names:
            raise typer.BadParameter(f"{name} is given twice: give it once", param_hint=option)
        names.add(name)
        yield name, value


def submit(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="The input files, or folders of them. - is standard input: one input or, with "
            "--out, an input on each line.",
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The model to run.")],
    deadline: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SECONDS", help="The job expires if it has not ended after this time."
        ),
    ] = None,
    priority: Annotated[
        Priority | None, typer.Option(help="low: start after all other jobs of the model.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="A short text by which `loosely list` finds the job."),
    ] = None,
    media_type: MediaTypeOption = None,
    named_input: InputOption = None,
    param: ParameterOption = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="TEXT",
            help="Commands with the same text and input make only one job. Default: a new text.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for the result; print the job's id.")
    ] = False,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Show what the model emits while it runs, as it comes."),
    ] = False,
    save: SaveOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="PATH",
            help="Write the results of many inputs: to a folder with a file for each input, or "
            "to a file NAME.jsonl. What is there already is not run again.",
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_CONNECTIONS, metavar="N", help="How many of many inputs run at once."
        ),
    ] = DEFAULT_CONCURRENCY,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a file to a model and show the result, or many files and write their results.

    Waits until the job ends, also during a restart of the gateway. Ctrl-C ends the wait, not the
    job. Several files, a folder, or --out make one job for each input.
    """
    if len(files) > 1 or out is not None or files[0].is_dir():
        alone = {
            "--detach": detach,
            "--stream": stream,
            "--save": save,
            "--input": named_input,
            "--idempotency-key": idempotency_key,
        }
        _refuse_options(alone)
        is_lines = files == [STDIN]
        run = partial(
            _map,
            model,
            media_type=media_type or ("text/plain" if is_lines else None),
            parameters=parse_parameters(param or []) or None,
            deadline_seconds=deadline,
            priority=priority,
            label=label,
            concurrency=concurrency,
        )
        named = name_lines(sys.stdin.buffer) if is_lines else name_files(files, out)
        submit_many(run, partial(connect, url, api_key, Retry()), named, out)
        return
    if detach and (stream or save is not None):
        hint = "--stream" if stream else "--save"
        raise typer.BadParameter("cannot be used with --detach", param_hint=hint)
    send = partial(
        Client.submit,
        source=_read_source(files[0]),
        model=model,
        media_type=media_type,
        inputs=parse_inputs(named_input or []),
        parameters=parse_parameters(param or []) or None,
        deadline_seconds=deadline,
        priority=priority,
        label=label,
        idempotency_key=idempotency_key or str(uuid.uuid4()),
        stream=stream,
    )
    with exit_on_error(as_json=as_json), spinner("sending") as progress:
        view = StreamView(progress, as_json=as_json)
        job = _send(send, url, api_key)
        if stream or not (job.is_final or detach):
            with connect(url, api_key, FOLLOWING_RETRY) as client, _telling_job_continues(job):
                job = _stream(client, job, view) if stream else _follow(client, job, progress)
    if as_json:
        echo_json(job.body)
    elif detach and not job.is_final:
        typer.echo(printable(job.id))
    elif view.chunks and job.error is None:
        Console(stderr=True).print(job_summary(job), view.summary(), soft_wrap=True)
    else:
        _show(job, is_saved=save is not None)
    if job.is_final and job.status != "succeeded":
        has_traceback = (job.error or {}).get("code") in {"inference-failed", "dead-lettered"}
        if has_traceback and RunningSystem.read(find_data_directory()) is not None:
            typer.echo(f"see why with: loosely logs --job {printable(job.id)}", err=True)
        raise typer.Exit(ExitCode.FAILED)
    if save is not None:
        with exit_on_error(as_json=as_json), connect(url, api_key) as client:
            _save_results(client, job, save)


def _send(send: Callable[[Client], Job], url: str | None, api_key: str | None) -> Job:
    try:
        # The gateway responds with the job's id at once, so that it is known if a wait fails.
        with connect(url, api_key) as client:
            return send(client)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FILE") from None
    except (GatewayUnreachable, UnexpectedAnswer) as error:
        if error.idempotency_key is None:
            raise
        with connect(url, api_key, FOLLOWING_RETRY) as client:
            return send(client)


def status(
    job_id: IdArgument,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show where the job's time went.")
    ] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job's status and details, or its timeline."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        found = client.timeline(job_id) if timeline else client.get(job_id)
    _show_details(found, as_json=as_json)


def cancel(
    job_id: IdArgument,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job. A job that has already ended does not change."""
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        job = client.cancel(job_id)
    _show_details(job, as_json=as_json)


def _show_details(found: Job | Timeline, *, as_json: bool) -> None:
    if as_json:
        echo_json(found.body)
    else:
        view = job_details(found) if isinstance(found, Job) else timeline_view(found)
        print_to(Console(), view)


def result(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    job_id: IdArgument,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The name of a named result, such as mask."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write the result to this file."),
    ] = None,
    save: SaveOption = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a job's result or one of its named results, or write them to files."""
    if save is not None and not (name is None and output is None):
        raise typer.BadParameter("cannot be used with --name or --output", param_hint="--save")
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        answer = client.result(job_id, name)
        if save is not None and not isinstance(answer, Job):
            _save_results(client, client.get(job_id), save, answer)
            return
    if isinstance(answer, Job):
        if as_json:
            echo_json(answer.body)
        typer.echo(f"not-yet: the job is {printable(answer.status)}; ask again later", err=True)
        raise typer.Exit(ExitCode.NOT_YET)
    if output is not None:
        output.write_bytes(answer.body)
    elif as_json:
        echo_json(answer.body)
    else:
        _show_result(answer)


def list_jobs(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only jobs of this model.")
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", help="Only jobs with this status.")
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", help="Only jobs that ended with this code.")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", help="Only jobs with this label; * at the end for any more text."),
    ] = None,
    after: Annotated[
        datetime | None,
        typer.Option(
            "--after", metavar="TIME", parser=parse_time, help="Only created at TIME or later."
        ),
    ] = None,
    before: Annotated[
        datetime | None,
        typer.Option(
            "--before", metavar="TIME", parser=parse_time, help="Only created before TIME."
        ),
    ] = None,
    job_id: Annotated[
        str | None,
        typer.Option("--id", help="Only this job, or the first characters of its id and *."),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="ID", help="The jobs of this batch's lines.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", help="For operators: only this tenant, or * for all tenants."),
    ] = None,
    limit: LimitOption = 20,
    pages: Annotated[
        int,
        typer.Option("--pages", min=1, metavar="N", help="Stop the search after N requests."),
    ] = _DEFAULT_PAGES,
    cursor: Annotated[
        str | None,
        typer.Option("--cursor", help="Continue an earlier search, which printed this cursor."),
    ] = None,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List or search jobs, newest first.

    TIME is for example 2026-03-01T12:00:00Z; without a zone it is local time. If the search
    stops early, it prints on standard error how far back it has looked.
    """
    console, left = Console(), limit
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        for _ in range(pages):
            page = client.find_jobs(
                model=model,
                status=status,
                code=code,
                label=label,
                created_after=after,
                created_before=before,
                job_id=job_id,
                batch=batch,
                tenant=tenant,
                cursor=cursor,
            )
            for job in page.jobs[:left]:
                if as_json:
                    echo_json(job.body)
                else:
                    print_to(console, job_summary(job))
            left -= len(page.jobs)
            if left <= 0 or page.next_cursor is None:
                return
            cursor = page.next_cursor
    searched = page.searched_back_to
    since = f"searched back to {searched.isoformat()}; " if searched else ""
    typer.echo(f"{since}continue with: --cursor {printable(cursor)}", err=True)


def _refuse_options(given: Mapping[str, object]) -> None:
    """Raise BadParameter if one of these options is given."""
    for hint, value in given.items():
        if value:
            raise typer.BadParameter("cannot be used with several inputs", param_hint=hint)


def _map(
    model: str, client: Client, *, inputs: Iterator[Source], **options: Any
) -> Iterator[Outcome]:
    return client.map(model, inputs, **options)


def _read_source(file: Path) -> Source:
    if file == STDIN:
        return sys.stdin.buffer.read()
    check_readable(file, "FILE")
    return file


def _follow(client: Client, submitted: Job, progress: SpinnerText) -> Job:
    """Show the job's status until the job has ended, and return the ended job."""
    job, is_warned = submitted, False
    progress.status = f"{job.id}  {job.status}"
    for event in client.iter_events(job.id):
        job = event.job
        progress.status = f"{job.id}  {job.status}"
        if job.place.phase == "model_broken" and not is_warned:
            is_warned = True
            text = f"no worker can load the model {job.model}: tell the operator"
            typer.echo(f"{printable(text)}; the job waits until its deadline", err=True)
    return job


def _stream(client: Client, submitted: Job, view: StreamView) -> Job:
    """Show the events of a job until it has ended, and return the ended job."""
    view.progress.status = f"{submitted.id}  {submitted.status}"
    with client.follow(submitted) as events, suppress(JobEnded):
        for event in events:
            view.show(event)
    view.finish()
    return events.job or submitted


@contextmanager
def _telling_job_continues(job: Job) -> Iterator[None]:
    """Tell how to find the job if the wait for its end fails or is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, LooselyError) as error:
        typer.echo(
            f"the job continues; show its status with: loosely status {printable(job.id)}", err=True
        )
        if isinstance(error, LooselyError):
            raise
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _save_results(client: Client, job: Job, folder: Path, first: Result | None = None) -> None:
    """Write all results of a succeeded job to files, of which ``first`` is fetched already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A name becomes a part of a path, and the gateway may be another program.
        names = [name for name in job.results if _RESULT_NAME.fullmatch(name)]
        for name in (None, *names):
            found = first if name is None and first is not None else client.result(job.id, name)
            if isinstance(found, Result):
                path = folder / f"{name or 'result'}{file_extension(found.media_type)}"
                path.write_bytes(found.body)
                typer.echo(printable(path), err=True)
    except OSError as error:
        typer.echo(f"cannot write to {folder}: {error.strerror or error}", err=True)
        raise typer.Exit(ExitCode.FAILED) from None


def _show(job: Job, *, is_saved: bool = False) -> None:
    console = Console()
    if job.error is not None or job.result is None:
        print_to(console, job_details(job))
        if job.status == "succeeded" and not is_saved:
            # The job itself contains only small JSON results.
            typer.echo(f"get the result with: loosely result {printable(job.id)}", err=True)
    else:
        print_to(console, job_summary(job))
        for view in result_views(job):
            print_to(console, view)
    if not is_saved and any(value is None for value in job.results.values()):
        typer.echo(
            f"write all results to files with: loosely result {printable(job.id)} --save FOLDER",
            err=True,
        )


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
        typer.echo(
            f"the result is {kind or 'binary'} and cannot be shown: use --output FILE",
            err=True,
        )
        raise typer.Exit(2)
