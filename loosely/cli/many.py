"""Submit many inputs with one command, and write the results so that a repeat continues."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import typer

from loosely.cli.errors import ExitCode, exit_on_error, format_error
from loosely.cli.output import printable
from loosely.client.clients import Client
from loosely.client.errors import LooselyError, Problem
from loosely.client.mapping import Outcome
from loosely.client.media import file_extension
from loosely.client.requests import Source
from loosely.client.resources import Job, Result, decode_json

#: A file with this extension gets all results, one on each line. Other paths are folders.
LINES = ".jsonl"
STDIN = Path("-")
_LINE_START = b'{"custom_id"'


def name_files(files: Sequence[Path], out: Path | None = None) -> Collection[tuple[str, Path]]:
    """Return the files, and those in the given folders, with the names that their results get.

    The name is the path as given, or within the folder. Hidden files in folders are left out, and
    ``out``, to which the results are written. Raises BadParameter if a file cannot be read, or if
    two would have one name.
    """
    named: dict[str, Path] = {}
    for given in files:
        if not given.is_dir():
            check_readable(given, "FILE")
        for path in _files_in(given, out) if given.is_dir() else (given,):
            is_below = given.is_dir() or not (path.is_absolute() or ".." in path.parts)
            name = path.relative_to(given) if given.is_dir() else path if is_below else path.name
            if named.setdefault(str(name), path) != path:
                raise typer.BadParameter(
                    f"{named[str(name)]} and {path} would have one name: submit them separately",
                    param_hint="FILE",
                )
    return named.items()


def check_readable(file: Path, param_hint: str) -> None:
    """Raise BadParameter if the file cannot be read."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        reason = f"{file}: {error.strerror or error}"
        raise typer.BadParameter(reason, param_hint=param_hint) from None


def _files_in(folder: Path, out: Path | None = None) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (out is not None and path.absolute() == out.absolute()):
            continue
        if path.is_dir():
            yield from _files_in(path, out)
        else:
            yield path


def name_lines(lines: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the lines that are not blank, each with its number as its name."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{number:06}", line.rstrip(b"\r\n")


class ResultWriter(Protocol):
    """Where the results of the inputs are written. ``names`` has those that are there already."""

    names: set[str]

    def write(self, client: Client, name: str, outcome: Outcome) -> None:
        """Write how an input ended."""


class ResultLines:
    """Writes JSON lines, as the results and errors of a batch have them."""

    def __init__(self, write_line: Callable[[str], object], names: Iterable[str] = ()) -> None:
        self.names = set(names)
        self._write_line = write_line

    def write(self, client: Client, name: str, outcome: Outcome) -> None:
        """Write a result or an error as a line."""
        job = outcome.job
        line: dict[str, Any] = {"custom_id": name, "job": None if job is None else job.id}
        line["status"] = "failed" if job is None else job.status
        if outcome.error is not None:
            line["error"] = _error_members(outcome.error)
        elif job is not None:
            if job.result is None:
                line["result_link"] = f"{client.url}/v1/jobs/{job.id}/result"
            else:
                line["result"] = job.result
            if job.results:
                line["results"] = job.document["results"]
        self._write_line(json.dumps(line, ensure_ascii=False) + "\n")


class ResultFolder:
    """Writes each result to a file of its own. An input that failed gets none."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.names = {str(path.relative_to(folder).with_suffix("")) for path in _files_in(folder)}

    def write(self, client: Client, name: str, outcome: Outcome) -> None:
        """Write the results of a job that succeeded, the main result as the last one."""
        if outcome.error is not None or outcome.job is None:
            return
        job = outcome.job
        for each in job.results:
            self._write_result(f"{name}.{Path(each).name}", client.result(job.id, each))
        if job.result is None:
            self._write_result(name, client.result(job.id))
        elif isinstance(job.result, str):
            self._write_file(f"{name}.txt", job.result.encode())
        else:
            self._write_file(f"{name}.json", json.dumps(job.result, ensure_ascii=False).encode())

    def _write_result(self, name: str, found: Result | Job) -> None:
        if isinstance(found, Result):
            self._write_file(name + file_extension(found.media_type), found.body)

    def _write_file(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever kills the command, a file with the final name is complete.
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(content)
        part.replace(path)


@contextmanager
def open_results(out: Path | None) -> Iterator[ResultWriter]:
    """Open the folder, the file of JSON lines or, without ``out``, the standard output."""
    if out is None:
        yield ResultLines(lambda line: typer.echo(line, nl=False))
    elif out.suffix == LINES:
        names = _keep_succeeded(out)
        # A killed command has written all lines but the last one completely.
        with out.open("a", encoding="utf-8", buffering=1) as file:
            yield ResultLines(file.write, names)
    else:
        yield ResultFolder(out)


def _keep_succeeded(path: Path) -> set[str]:
    """Remove all but the complete lines of inputs that succeeded, and return their names.

    Raises BadParameter if a line is no result: the file may be another one by mistake.
    """
    names: set[str] = set()
    if not path.exists():
        return names
    part = path.with_name(f".{path.name}.part")
    with path.open("rb") as old, part.open("wb") as new:
        for line in old:
            match decode_json(line):
                case {"custom_id": str(name), "status": "succeeded"}:
                    names.add(name)
                    new.write(line)
                case {"custom_id": str(), "status": str()}:
                    pass
                case None if line.startswith(_LINE_START) and not line.endswith(b"\n"):
                    pass  # a killed command wrote a part of it
                case _:
                    part.unlink()
                    raise typer.BadParameter(
                        f"{path} has lines that are no results: choose another file",
                        param_hint="--out",
                    )
    part.replace(path)
    return names


class RunInputs(Protocol):
    """Run inputs, of which there are ``total``, and yield the outcomes in any order."""

    def __call__(
        self, client: Client, *, inputs: Iterator[Source], total: int | None
    ) -> Iterator[Outcome]:
        """Run the inputs with this client."""


def submit_many(
    run: RunInputs,
    connect: Callable[[], AbstractContextManager[Client]],
    inputs: Iterable[tuple[str, Source]],
    out: Path | None,
) -> None:
    """Run the inputs whose results are not there yet, write the results, and exit if some failed.

    ``inputs`` have the names of the results, and ``connect`` returns the client.
    """
    counts = {"succeeded": 0, "failed": 0, "skipped": 0}
    try:
        with exit_on_error(as_json=False), connect() as client, open_results(out) as results:
            _run_inputs(partial(run, client), client, inputs, results, counts)
    except (KeyboardInterrupt, typer.Exit, OSError) as error:
        if isinstance(error, OSError):
            typer.echo(f"cannot write the results: {error}", err=True)
        if out is not None and any(counts.values()):
            typer.echo("the same command continues where this one stopped", err=True)
        if isinstance(error, typer.Exit):
            raise
        is_stopped = isinstance(error, KeyboardInterrupt)
        raise typer.Exit(ExitCode.INTERRUPTED if is_stopped else ExitCode.FAILED) from None
    finally:
        typer.echo(", ".join(f"{count} {name}" for name, count in counts.items()), err=True)
    if counts["failed"]:
        raise typer.Exit(ExitCode.FAILED)


def _run_inputs(
    run: Callable[..., Iterator[Outcome]],
    client: Client,
    inputs: Iterable[tuple[str, Source]],
    results: ResultWriter,
    counts: dict[str, int],
) -> None:
    names: dict[int, str] = {}
    index = count()

    def take() -> Iterator[Source]:
        for name, source in inputs:
            if name in results.names:
                counts["skipped"] += 1
            else:
                names[next(index)] = name
                yield source

    total = None
    if isinstance(inputs, Collection):
        total = sum(name not in results.names for name, _ in inputs)
    with closing(run(inputs=take(), total=total)) as outcomes:  # type: ignore[type-var]
        for outcome in outcomes:
            name = names.pop(outcome.index)
            results.write(client, name, outcome)
            counts["succeeded" if outcome.error is None else "failed"] += 1
            if outcome.error is not None:
                typer.echo(f"{printable(name)}: {_error_text(outcome.error)}", err=True)


def _error_members(error: LooselyError | ValueError | OSError) -> dict[str, Any]:
    if isinstance(error, Problem):
        return {
            "code": error.code,
            "message": error.detail,
            "stage": error.stage,
            "retryable": error.retryable,
        }
    return {"code": "invalid-input", "message": str(error), "stage": "accept", "retryable": False}


def _error_text(error: LooselyError | ValueError | OSError) -> str:
    return format_error(error) if isinstance(error, LooselyError) else printable(error)
