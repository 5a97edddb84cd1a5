"""The command ``loosely logs``, which shows the logs of the local system."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

from loosely.cli.connection import DataOption, find_data_directory
from loosely.cli.errors import ExitCode
from loosely.cli.output import printable_lines
from loosely.local.logs import LogReader, split_entries

_PAUSE_SECONDS = 0.3


def logs(
    part: Annotated[
        str | None,
        typer.Argument(metavar="[PART]", help="blobs, servicebus, functions or worker."),
    ] = None,
    job: Annotated[
        str | None, typer.Option("--job", metavar="ID", help="Only what concerns this job.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new lines until Ctrl-C.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, metavar="N", help="The last N entries.")
    ] = 50,
    data: DataOption = None,
) -> None:
    """Show the logs of the local system, with tracebacks: of one component or of all, by time."""
    view = LogView((data or find_data_directory()) / "logs", part, job)
    entries = view.read_rotated() if job is not None else []
    entries += view.read_new()
    if not view.has_logs:
        typer.echo(f"{view.folder} has no log of {part or 'a component'}", err=True)
        raise typer.Exit(ExitCode.FAILED)
    view.show(entries[-limit:] if limit else [])
    if follow:
        view.follow(time.sleep)


class LogView:
    """Shows the entries in the logs of one component or of all components."""

    def __init__(self, folder: Path, part: str | None, job: str | None) -> None:
        """Create a view of the logs in ``folder``. Only entries that contain ``job`` are shown."""
        self.folder = folder
        self._part = part
        self._job = job
        self._readers: dict[str, LogReader] = {}

    @property
    def has_logs(self) -> bool:
        """Whether a log has been found."""
        return bool(self._readers)

    def read_rotated(self) -> list[tuple[str, list[str]]]:
        """Return the entries in the logs before the current ones."""
        return self._sort(
            (path.name.partition(".")[0], LogReader(path).read_new())
            for path in self.folder.glob(f"{self._pattern}.log.1")
        )

    def read_new(self) -> list[tuple[str, list[str]]]:
        """Return the names of the components and the entries that were added, sorted by time."""
        for path in self.folder.glob(f"{self._pattern}.log"):
            self._readers.setdefault(path.stem, LogReader(path))
        return self._sort((name, each.read_new()) for name, each in self._readers.items())

    def show(self, entries: list[tuple[str, list[str]]]) -> None:
        """Print the lines of the entries, each with the name of its component."""
        width = max(map(len, self._readers))
        for name, lines in entries:
            for line in lines:
                head = "" if self._part in self._readers else f"{name.ljust(width)}  "
                typer.echo(head + printable_lines(line))

    def follow(self, sleep: Callable[[float], None]) -> None:
        """Print new entries until Ctrl-C. ``sleep`` waits for a number of seconds."""
        try:
            while True:
                sleep(_PAUSE_SECONDS)
                self.show(self.read_new())
        except KeyboardInterrupt:
            return

    @property
    def _pattern(self) -> str:
        # With `loosely up --scale`, the workers are worker-1, worker-2 and so on.
        return "*" if self._part is None else f"{self._part}*"

    def _sort(self, logs: Iterable[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
        found = [
            (name, entry)
            for name, lines in logs
            for entry in split_entries(lines)
            if self._job is None or any(self._job in line for line in entry)
        ]
        # All components write the time in the same form, which sorts as text.
        return sorted(found, key=lambda each: each[1][0][:23].replace("T", " "))
