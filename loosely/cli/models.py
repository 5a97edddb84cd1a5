"""``loosely models``: list, show, describe and run models, and pin weights by digests."""

import json
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from loosely.cli.connection import KeyOption, UrlOption, connect
from loosely.cli.errors import ExitCode, exit_on_error, parameter_advice
from loosely.cli.jobs import InputOption, ParameterOption, parse_inputs, parse_parameters
from loosely.cli.output import JsonOption, model_table, print_to, printable, result_view
from loosely.cli.processes import exit_on_up_error, run_module
from loosely.local.data_directory import RunningSystem
from loosely.local.environment import (
    check_requirements,
    find_root,
    read_environment,
    shared_environment,
)
from loosely.local.model_folder import current_model_folder
from loosely.local.parts import python_command, storage_connection_string

_MEBIBYTE = 1024 * 1024
_EXIT_USAGE = 2
# The text of the last step of worker.tools.check.
_END_STEP = "end"
_STEP_SECONDS = 300.0
# How often a check that is still busy says so.
_NOTE_SECONDS = 10.0
_MAX_CALLERS = 4096
# The formats of the measurements' tables by the heads of their columns.
_LOAD_COLUMNS = {
    "batch": "{size}",
    "jobs per batch": "{mean_batch_size:.1f}",
    "items/s": "{items_per_second:.1f}",
    "p50": "{p50_ms:.0f} ms",
    "p95": "{p95_ms:.0f} ms",
    "run": "{batch_ms:.0f} ms",
    "memory": "{memory}",
}
_BATCH_COLUMNS = {
    "batch": "{size}",
    "time": "{ms:.1f} ms",
    "time per item": "{ms_per_item:.1f} ms",
    "additional memory": "{memory}",
}
# The assumption for the estimate of the cost: jobs of each caller in the busiest hour.
_JOBS_OF_A_CALLER = 60

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    help="List, show, describe and run models, and pin weights by digests.",
)


@app.callback()
def models(
    context: typer.Context,
    url: UrlOption = None,
    api_key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models that accept jobs."""
    if context.invoked_subcommand is not None:
        return
    with exit_on_error(as_json=as_json), connect(url, api_key) as client:
        found = client.models()
    if as_json:
        for model in found:
            typer.echo(json.dumps(model.document, ensure_ascii=False))
    else:
        print_to(Console(), model_table(found))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
) -> None:
    """Print a model's entry in the catalogue with all its defaults.

    The catalogue is `models.toml` of the model folder, or the file that MODEL_CATALOGUE names.
    """
    _run("contract", "entry", name, str(current_model_folder().catalogue))


@app.command()
def describe(
    name: Annotated[
        str, typer.Argument(help="The model's name, or the name of its module with a dot.")
    ],
    write: Annotated[
        bool, typer.Option("--write", help="Append the entry to the catalogue.")
    ] = False,
) -> None:
    """Print what a model's class declares, as TOML for the catalogue.

    If the model has an entry, these are its parameters, named inputs and named results: copy the
    lines into the entry. If not, this is a whole entry for the module `models.NAME`.

    The command imports the model's module.
    """
    _run("worker.tools.describe", name, *(["--write"] if write else []))


@app.command()
def lock(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME…]",
            help="Models whose digests are computed again. Default: all without a digest.",
        ),
    ] = None,
) -> None:
    """Write the SHA-256 digests of weights into the catalogue.

    Weights on the Hugging Face Hub or in blob storage are downloaded into the cache. Each digest is
    written below the key `weights` of the model's entry. Comments in the catalogue are kept.
    """
    _run("worker.tools.lock_weights", *(names or ()))


def _run(module: str, *arguments: str) -> None:
    directory, environment = _find_place()
    run_module(module, *arguments, cwd=directory, env=environment)


@app.command()
def check(  # noqa: PLR0913, PLR0917 - each option of the command is a parameter
    name: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="The input file, in a format that callers submit."
        ),
    ],
    media_type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="The file's media type.")
    ] = None,
    named_input: InputOption = None,
    param: ParameterOption = None,
    load: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MAX_CALLERS,
            metavar="N",
            help="Measure the model as in a worker while N callers each wait for one job. Suggest "
            "the batch size and the wait, or max_concurrent_jobs.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="The longest time of one step. Default: max_run_seconds of the entry for a run, "
            "and 300 s for each other step.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Load a model without a worker, run it on a file, and measure batches of several sizes.

    The model runs in a separate process. Its entry is in `models.toml` of the model folder, or in
    the file that MODEL_CATALOGUE names. Weights in blob storage are read from PAYLOAD_STORAGE or,
    if that is unset, from the storage of the running `loosely up`.
    """
    directory, environment = _find_place()
    kind = ["--type", media_type] if media_type else []
    for input_name, path in parse_inputs(named_input or []).items():
        kind += ["--input", f"{input_name}={path.resolve()}"]
    if parameters := parse_parameters(param or []):
        kind += ["--parameters", json.dumps(parameters)]
    under_load = ("--load", str(load)) if load else ()
    found = dict[str, Mapping[str, Any]]()
    output = CheckOutput(Console())
    arguments = (name, str(file.resolve()), *kind, *under_load)
    with _CheckProcess(directory, environment, arguments, timeout) as process:
        for event in process.events():
            found[event["event"]] = event
            if as_json:
                typer.echo(json.dumps(event, ensure_ascii=False))
            else:
                output.add(event)
    output.finish()
    process.exit_on_failure()
    if load and not as_json and found["suggestion"]["uses_gpu"]:
        typer.echo(_cost_command(load, found["loaded"], found["suggestion"]))


def _cost_command(callers: int, loaded: Mapping[str, Any], suggestion: Mapping[str, Any]) -> str:
    """Return the command that estimates the cost of a measured model."""
    job_seconds = suggestion["job_ms"] / 1000
    size = suggestion["max_batch_size"]
    # A full batch is never faster than one job, except by chance.
    batch_seconds = job_seconds if size == 1 else max(suggestion["batch_ms"] / 1000, job_seconds)
    return (
        "\nTo estimate the cost with the times of this machine, run in a clone of Loosely:\n\n"
        f"./dev cost --load office:{callers * _JOBS_OF_A_CALLER} "
        f"--model-load {loaded['seconds']:.1f} --job-seconds {job_seconds:.4f} "
        f"--batch {size} --batch-seconds {batch_seconds:.4f}"
    )


class _CheckProcess:
    """Runs `worker.tools.check`, reports its steps on standard error, and kills it if one hangs."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        arguments: tuple[str, ...],
        limit_seconds: float | None,
    ) -> None:
        self._limit_seconds = limit_seconds
        self._has_died = False
        self._process = subprocess.Popen(  # noqa: S603  our own module, without a shell
            python_command("worker.tools.check", "--steps", *arguments),
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines = SimpleQueue[str]()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "_CheckProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def events(self) -> Iterator[Mapping[str, Any]]:
        """Yield the JSON objects that the process prints, without the steps."""
        step, begun, has_ended = "starting", time.monotonic(), False
        limit_seconds = self._limit_seconds or _STEP_SECONDS
        while True:
            seconds = time.monotonic() - begun
            if seconds >= limit_seconds:
                self._process.kill()
                detail = f"{step} took longer than {limit_seconds:g} s; --timeout allows more"
                yield {"event": "failed", "code": "timed-out", "detail": detail}
                has_ended = True
                break
            try:
                line = self._lines.get(timeout=min(_NOTE_SECONDS, limit_seconds - seconds))
            except Empty:
                seconds = time.monotonic() - begun
                if seconds < limit_seconds:
                    typer.echo(f"still {step} after {seconds:.0f} s", err=True)
                continue
            if not line:
                break
            event = json.loads(line)
            begun = time.monotonic()
            has_ended = event["event"] == "failed" or event.get("text") == _END_STEP
            if event["event"] == "step" and has_ended:
                continue
            if event["event"] == "step":
                step = printable(event["text"])
                limit_seconds = self._limit_seconds or event["limit_seconds"] or _STEP_SECONDS
                typer.echo(step, err=True)
            else:
                yield event
        code = self._process.wait()
        # The process writes the reason on standard error if an argument is wrong.
        if not has_ended and code != _EXIT_USAGE:
            self._has_died = True
            detail = (
                f"the process ended with the exit code {code} while {step}; the model's code may "
                "have called os._exit, or a library has crashed"
            )
            yield {"event": "failed", "code": "model-kills-worker", "detail": detail}

    def exit_on_failure(self) -> None:
        """Raise typer.Exit if the process has failed."""
        if self._process.returncode == _EXIT_USAGE:
            raise typer.Exit(_EXIT_USAGE)
        if self._process.returncode or self._has_died:
            raise typer.Exit(ExitCode.FAILED)


def _find_place() -> tuple[Path, dict[str, str]]:
    """Return the directory and the environment variables for the models of the current folder."""
    with exit_on_up_error():
        check_requirements()
    root, user = find_root(), read_environment()
    folder = current_model_folder()
    environment = shared_environment(root, user, folder.path)
    environment["MODEL_CATALOGUE"] = str(folder.catalogue)
    running = RunningSystem.find(folder.data)
    blobs = running.parts.get("blobs") if running is not None else None
    if blobs is not None and not any(name.startswith("PAYLOAD_STORAGE") for name in user):
        environment["PAYLOAD_STORAGE"] = storage_connection_string(blobs.ports["blobs"])
    return folder.path, environment


class CheckOutput:
    """Prints the results of a model's check as they arrive, and finally tables of measurements."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._batches: list[Mapping[str, Any]] = []
        self._loads: list[Mapping[str, Any]] = []
        self._is_concurrent = False

    def add(self, line: Mapping[str, Any]) -> None:
        """Print one JSON line of the check as text, or keep a measurement for `finish`."""
        match line["event"]:
            case "loaded":
                self._is_concurrent = line["kind"] == "concurrent"
                print_to(
                    self._console,
                    f"{printable(line['model'])} loaded in {line['seconds']:.1f} s: "
                    f"{_mebibytes(line['resident_bytes'])} for the model, "
                    f"{_mebibytes(line['process_bytes'])} for the whole process",
                )
            case "result":
                self._print_result("the result", line)
                for name, named in line.get("results", {}).items():
                    self._print_result(f"the result {printable(name)}", named)
            case "batch":
                self._batches.append(line)
            case "load":
                self._loads.append(line)
            case "suggestion":
                self.finish()
                self._print_suggestion(line)
            case "failed":
                self.finish()
                advice = f"; {parameter_advice(line['detail'])}" if "pointer" in line else ""
                typer.echo(printable(f"{line['code']}: {line['detail']}{advice}"), err=True)

    def _print_result(self, title: str, found: Mapping[str, Any]) -> None:
        """Print a result's JSON value, or its media type and size if it is not JSON."""
        if "json" not in found:
            what = f"{printable(found['media_type'])}, {found['size_bytes']} bytes"
            print_to(self._console, f"{title} is {what}")
            return
        if title != "the result":
            print_to(self._console, f"{title}:")
        print_to(self._console, result_view(found["json"]))

    def finish(self) -> None:
        """Print one table of the measurements with several callers, and one of single batches."""
        if self._loads:
            typer.echo(f"{self._loads[0]['callers']} callers, each with one job at a time:")
            self._print_table(_LOAD_COLUMNS, self._loads)
        if self._batches:
            self._print_table(_BATCH_COLUMNS, self._batches)
        self._loads, self._batches = [], []

    def _print_table(self, columns: Mapping[str, str], lines: Iterable[Mapping[str, Any]]) -> None:
        if self._is_concurrent:
            # These jobs run at the same time, each in a call of its own.
            columns = {name: form for name, form in columns.items() if name != "jobs per batch"}
        names = (
            "jobs at once" if self._is_concurrent and each == "batch" else each for each in columns
        )
        heads = (Column(name, justify="right") for name in names)
        table = Table(*heads, box=None, pad_edge=False)
        for line in lines:
            values = {**line, "memory": _mebibytes(line["peak_bytes"])}
            table.add_row(*(form.format_map(values) for form in columns.values()))
        print_to(self._console, table)

    @staticmethod
    def _print_suggestion(line: Mapping[str, Any]) -> None:
        typer.echo("\nFor the model's entry in the catalogue:\n")
        reasons: Mapping[str, str] = line["reasons"]
        for text in line["toml"].splitlines():
            reason = reasons.get(text.partition(" ")[0])
            typer.echo(f"{text}  # {reason}" if reason else text)


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / _MEBIBYTE:.1f} MiB"
