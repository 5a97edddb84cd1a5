"""A spinner that says how a job stands and for how long it has been waited for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from loosely.cli.text import printable


@dataclass(slots=True)
class Progress:
    """What the spinner shows; set ``status`` as it changes."""

    status: str
    started_at: float
    clock: Callable[[], float] = time.monotonic

    def __rich__(self) -> Text:
        """Drawn anew at each turn of the spinner, so that the seconds run."""
        return Text(f"{printable(self.status)}  {self.clock() - self.started_at:.0f} s")


@contextmanager
def spinning(status: str) -> Iterator[Progress]:
    """Spin on stderr while inside, if that is a terminal; stdout stays for results."""
    progress = Progress(status, time.monotonic())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress
        return
    with console.status(progress):
        yield progress
