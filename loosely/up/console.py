"""What ``up`` shows: one line for each part, then how to use what runs."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from loosely.up import events
from loosely.up.parts import Part


@dataclass(slots=True)
class _Row:
    part: Part
    seconds: float | None = None


class Board:
    """The parts while they start: redrawn on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, parts: Sequence[Part]) -> None:
        """Show ``parts`` on ``console``."""
        self._console = console
        self._rows = {part.name: _Row(part) for part in parts}
        self._spinner = Spinner("dots")
        self._width = max((len(name) for name in self._rows), default=0)
        self._stop_announced = False
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=10)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.settle()

    def settle(self) -> None:
        """Leave the table as it is; what follows is said in lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def announce_stop(self) -> None:
        """Say that the stop was heard, and how to force it."""
        self.settle()
        if not self._stop_announced:
            # A line of its own: the terminal has just echoed ^C.
            self._console.print("\nStopping; Ctrl-C again kills.")
        self._stop_announced = True

    def tell(self, event: events.Event) -> None:
        """Show ``event``."""
        match event:
            case events.Started():
                pass
            case events.Ready(part, seconds, again=False):
                row = self._rows.get(part.name)
                if row is not None:
                    row.seconds = seconds
                if row is None or self._live is None:
                    self._line(part, f"ready in {seconds:.1f} s", part.summary, part.address)
            case events.Ready(part, seconds):
                self._line(part, f"is back after {seconds:.1f} s", style="green")
            case events.Slow(part, seconds, last_line):
                said = f"; it last said: {last_line}" if last_line else ""
                self._line(part, f"is not ready after {seconds:.0f} s{said}", style="yellow")
            case events.Died(part, exit_code, last_line, restart_in_seconds):
                said = f": {last_line}" if last_line else ""
                self._line(
                    part,
                    f"died ({events.describe_exit(exit_code)}{said}); "
                    f"again in {restart_in_seconds:.1f} s",
                    style="red",
                )
            case events.Scaled() | events.Blind() | events.Failed():
                self._tell_of_fleet(event)
            case events.Stopping(part):
                self._line(part, "is stopping")
            case events.Stopped(part, seconds, killed):
                self._line(part, f"{'killed' if killed else 'stopped'} after {seconds:.1f} s")

    def _tell_of_fleet(self, event: events.Scaled | events.Blind | events.Failed) -> None:
        match event:
            case events.Scaled(part, before, after, messages):
                counted = "1 message" if messages == 1 else f"{messages} messages"
                self._line(part, f"{before} → {after}", counted, style="cyan")
            case events.Blind(part, reason):
                self._line(part, f"stays as it is: {reason}", style="yellow")
            case events.Failed(part, reason):
                self._line(part, f"is given up: {reason}", style="red")

    def _line(self, part: Part, *texts: str, style: str = "") -> None:
        name = part.name.ljust(self._width)
        self._console.print(
            Text(f"  {name}  " + "  ".join(texts), style=style), soft_wrap=True, highlight=False
        )

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for row in self._rows.values():
            mark: RenderableType = self._spinner
            seconds = Text("starting", style="dim")
            if row.seconds is not None:
                mark, seconds = Text("✓", style="green"), Text(f"{row.seconds:.1f} s")
            table.add_row(
                mark,
                Text(row.part.name, style="bold"),
                Text(row.part.summary),
                Text(row.part.address, style="cyan"),
                seconds,
            )
        return table


def show_usage(
    console: Console, *, seconds: float, url: str | None, picture: Path, logs: Path
) -> None:
    """Say that everything is ready, and what to type next.

    ``url`` is the gateway's, ``None`` when it was left out.
    """
    lines = [f"\nReady in {seconds:.1f} s."]
    if url is not None:
        lines += [
            "Try:\n",
            f"  {_curl(url, picture)}\n",
            f"API docs   {url}/docs",
        ]
    lines += [f"Logs       {logs}", "Ctrl-C stops everything."]
    for line in lines:
        # Whole lines, so that they can be copied whatever the terminal's width.
        console.print(Text(line), soft_wrap=True)


def _curl(url: str, picture: Path) -> str:
    return (
        f"curl --data-binary @{shlex.quote(str(picture))} -H 'content-type: image/jpeg' "
        f"{url}/v1/models/classifier/jobs"
    )
