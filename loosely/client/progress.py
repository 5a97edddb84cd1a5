"""A progress bar on standard error, if that is a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


class ProgressBar:
    """Counts what has ended and, if there is a terminal, draws it."""

    def __init__(
        self,
        progress: "Progress | None",
        text: str,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._started_at = clock()
        self._first: int | None = None
        self._done = self._failed = 0
        if progress is not None:
            self._task = progress.add_task(text, total=total, note="")

    @property
    def is_drawn(self) -> bool:
        """Whether there is a terminal."""
        return self._progress is not None

    def add(self, *, is_failed: bool) -> None:
        """Count one more that has ended."""
        self._first = 0
        self.show(self._done + 1, self._failed + is_failed)

    def show(self, done: int, failed: int, total: int | None = None) -> None:
        """Show how many have ended, how many of these have failed, and how many there are."""
        self._done, self._failed = done, failed
        # What ended before, for example of a batch, does not count for the rate.
        self._first = done if self._first is None else self._first
        if self._progress is not None:
            rate = (done - self._first) / max(self._clock() - self._started_at, 0.001)
            note = f"{rate:.1f}/s"
            note += f", {failed} failed" if failed else ""
            self._progress.update(self._task, total=total, completed=done, note=note)


@contextmanager
def progress_bar(
    text: str, total: int | None = None, *, is_shown: bool | None = None
) -> Iterator[ProgressBar]:
    """Show a progress bar while the block runs, by default if standard error is a terminal."""
    if not (sys.stderr.isatty() if is_shown is None else is_shown):
        yield ProgressBar(None, text, total)
        return
    # Costs 35 ms, which a program without a terminal need not spend.
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[note]}", markup=False),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    # What the caller prints goes above the bar, but never from a file to the terminal.
    with bars.Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as shown:
        yield ProgressBar(shown, text, total)
