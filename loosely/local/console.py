"""The output of `loosely up`: the state of each component, then an example of a request."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from loosely.local import events
from loosely.local.example import ExampleRequest
from loosely.local.pages import PAGES, page_address
from loosely.local.parts import Part


class StatusDisplay:
    """Shows the components on a terminal as a table, and on any other output as lines."""

    def __init__(self, console: Console, parts: Sequence[Part]) -> None:
        self._console = console
        self._parts = {part.name: part for part in parts}
        #: How long the start of each component took that became ready.
        self._seconds: dict[str, float] = {}
        self._spinner = Spinner("dots")
        self._width = max((len(name) for name in self._parts), default=0)
        self._is_stop_announced = self._has_disk_problem = False
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._table, console=console, refresh_per_second=10)

    @classmethod
    def start(cls, parts: Sequence[Part]) -> Self:
        """Return a display on standard output. The caller must end it with `freeze`."""
        return cls(Console(), parts).__enter__()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.freeze()

    def freeze(self) -> None:
        """Stop updating the table. Later events are printed as lines below the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show_usage(
        self,
        *,
        seconds: float,
        url: str | None,
        example: ExampleRequest | None,
        files: Mapping[str, Path],
    ) -> None:
        """Print that the system is ready, the example request if there is one, and these files."""
        self.freeze()
        lines = [f"\nReady in {seconds:.1f} s."]
        if url is not None:
            if example is not None:
                lines += ["Try:\n", f"  {example.curl_command(url)}\n"]
            lines += [f"{title:<10} {page_address(url, name)}" for name, title in PAGES.items()]
        lines += [f"{title:<10} {path}" for title, path in files.items()]
        lines.append("Ctrl-C stops all components.")
        for line in lines:
            # Do not wrap the lines, because users copy them.
            with suppress(OSError):
                self._console.print(Text(line), soft_wrap=True)

    def announce_stop(self) -> None:
        """Print that all components are being stopped, and how the user can kill them."""
        self.freeze()
        if not self._is_stop_announced:
            # Print on a new line, because the terminal has just echoed ^C.
            self._print_line("\nStopping all components. Press Ctrl-C again to kill them.", "")
        self._is_stop_announced = True

    def show(self, event: events.PartEvent) -> None:
        """Show an event of a component: in the table if it became ready, otherwise as a line."""
        match event:
            case events.PartReport(part, text, style):
                self._print(part, text, style=style)
            case events.PartHalted(part, reason):
                self._print(part, f"restarts: {reason}", style="cyan")
            case events.PartStopping(part):
                self._print(part, "is stopping")
            case events.PartReady(part, seconds, is_restart=False):
                self._seconds[part.name] = seconds
                if part.name not in self._parts or self._live is None:
                    self._print(part, f"ready in {seconds:.1f} s", part.summary, part.address)
            case events.PartReady(part, seconds):
                self._print(part, f"ready again in {seconds:.1f} s", style="green")
            case events.PartDied(part, exit_code, last_line, seconds):
                log = f": {last_line}" if last_line else ""
                died = f"died ({events.describe_exit(exit_code)}{log})"
                self._print(part, f"{died}; restarts in {seconds:.1f} s", style="red")
            case events.PartStopped(part, seconds, is_killed):
                self._print(part, f"{'killed' if is_killed else 'stopped'} after {seconds:.1f} s")
            case events.PoolScaled(part, before, after, messages):
                counted = "1 message" if messages == 1 else f"{messages} messages"
                self._print(part, f"{before} → {after}", counted, style="cyan")
            case events.PartFailing(part, death_count, lines):
                died = f"died {death_count} times before it was ready; the other components keep"
                self._print(part, f"{died} running; the last lines of its log:", style="red")
                self._print_log(part, (f"  {line}" for line in lines))
            case events.ErrorLogged(part, lines):
                self._print_log(part, lines)

    def _print_log(self, part: Part, lines: Iterable[str]) -> None:
        for line in lines:
            self._print(part, "".join(c if c.isprintable() else "·" for c in line))

    def show_disk_problem(self, problem: str) -> None:
        """Print a new problem with the disk, or with an empty text that it has ended."""
        if bool(problem) == self._has_disk_problem:
            return
        self._has_disk_problem = bool(problem)
        if problem:
            text = f"{problem}; all components keep running, but no job is accepted for now"
            self._print_line(f"  {text}", "red")
        else:
            self._print_line("  the data directory can be written again", "green")

    def _print(self, part: Part, *texts: str, style: str = "") -> None:
        self._print_line(f"  {part.name.ljust(self._width)}  " + "  ".join(texts), style)

    def _print_line(self, line: str, style: str) -> None:
        # The output may be a file on a full disk, or a pipe whose reader has ended. Such an error
        # must not end the supervision.
        with suppress(OSError):
            self._console.print(Text(line, style=style), soft_wrap=True, highlight=False)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, part in self._parts.items():
            mark: RenderableType = self._spinner
            seconds = Text("starting", style="dim")
            if name in self._seconds:
                mark, seconds = Text("✓", style="green"), Text(f"{self._seconds[name]:.1f} s")
            address = Text(part.address, style="cyan")
            table.add_row(mark, Text(name, style="bold"), Text(part.summary), address, seconds)
        return table
