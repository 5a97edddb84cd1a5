"""Show jobs, models and results on a terminal.

All text from the gateway is shown through `printable` or `printable_lines`, so that it cannot
control the terminal.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.client.resources import Job, Model

_REPLACEMENT = "\ufffd"
_BAR_CELLS = 24
_MAX_DRAWN_SCORE = 1e15
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STATUS_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
}
_TIMINGS = (("queued_ms", "queued"), ("inference_ms", "inference"), ("total_ms", "total"))
_TIME_MEMBERS = ("created_at", "started_at", "finished_at", "deadline")


def job_summary(job: Job) -> Text:
    """Return one line that shows the job's model, status, durations, id, tenant and label."""
    style = _STATUS_STYLES.get(job.status, "")
    line = Text.assemble(
        (printable(job.model), "bold"), "  ", (printable(job.status), style), f"  {_times(job)}"
    )
    line.append(f"  {printable(job.id)}", "dim")
    if job.tenant is not None:
        line.append(f"  {printable(job.tenant)}", "blue")
    if job.label is not None:
        line.append(f"  {printable(job.label)}")
    return line


def job_details(job: Job) -> RenderableType:
    """Return a table of the job's details, and below it the result if the job has one."""
    table = Table.grid(padding=(0, 2))
    table.add_row("job", Text(printable(job.id)))
    table.add_row("model", Text(printable(job.model)))
    for name, text in (("label", job.label), ("tenant", job.tenant)):
        if text is not None:
            table.add_row(name, Text(printable(text)))
    table.add_row("status", Text(printable(job.status), style=_STATUS_STYLES.get(job.status, "")))
    for name in _TIME_MEMBERS:
        if job.document.get(name):
            table.add_row(name.removesuffix("_at"), Text(printable(job.document[name])))
    if times := _times(job):
        table.add_row("time", Text(times))
    if attempt := job.document.get("attempt"):
        table.add_row("attempt", Text(printable(attempt)))
    if job.error is not None:
        table.add_row("error", Text(_error(job.error), style="red"))
    if job.result is None:
        return table
    return Group(table, Text(), result_view(job.result))


def result_view(result: Any) -> RenderableType:
    """Return a view of a job's result.

    The view is a table if the result consists of labels with scores. Otherwise it is the result's
    JSON.
    """
    labels = result.get("labels") if isinstance(result, dict) else None
    if isinstance(labels, list) and labels and all(_is_label(label) for label in labels):
        return _label_table(labels)
    return Text(printable_lines(json.dumps(result, indent=2, ensure_ascii=False)))


def model_table(models: Iterable[Model]) -> RenderableType:
    """Return a table of the models' names, tasks and media types."""
    table = Table.grid(padding=(0, 2))
    for model in models:
        table.add_row(
            Text(printable(model.name), "bold"),
            Text(printable(model.task)),
            Text(printable(", ".join(model.media_types)), "dim"),
        )
    return table


def bar(score: float) -> str:
    """Return a bar of block characters, whose length shows ``score``.

    If ``score`` is 0, the bar is empty. If it is 1, the bar has its full length.
    """
    eighths = round(min(max(score, 0.0), 1.0) * _BAR_CELLS * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).rstrip()


def print_to(console: Console, view: RenderableType) -> None:
    """Print ``view``. Long lines are wrapped only if the output is a terminal."""
    console.print(view, soft_wrap=not console.is_terminal, highlight=False)


def _is_label(label: object) -> bool:
    return (
        isinstance(label, dict)
        and isinstance(label.get("label"), str)
        and _is_number(label.get("score"))
    )


def _is_number(value: object) -> bool:
    """Return whether ``value`` is a number that is small enough to be shown."""
    return isinstance(value, int | float) and abs(value) < _MAX_DRAWN_SCORE


def _label_table(labels: list[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="green", no_wrap=True)
    for label in labels:
        score = float(label["score"])
        table.add_row(Text(printable(label["label"])), f"{score:.1%}", bar(score))
    return table


def _times(job: Job) -> str:
    return ", ".join(
        f"{name} {job.timing[key]:.0f} ms"
        for key, name in _TIMINGS
        if _is_number(job.timing.get(key))
    )


def _error(error: Mapping[str, Any]) -> str:
    code = error.get("code") or "failed"
    what = error.get("detail") or error.get("message") or error.get("title") or ""
    return printable(f"{code}: {what}" if what else code)


def printable(text: object) -> str:
    """Return ``text`` on one line. Each control character is replaced by ``U+FFFD``."""
    return _replace_control_characters(" ".join(str(text).split()))


def printable_lines(text: str) -> str:
    """Return ``text`` without control characters, except its line ends.

    Tabs become spaces. Each other control character becomes ``U+FFFD``.
    """
    return "\n".join(_replace_control_characters(line.expandtabs()) for line in text.splitlines())


def _replace_control_characters(line: str) -> str:
    return "".join(c if c.isprintable() else _REPLACEMENT for c in line)


@dataclass(slots=True)
class SpinnerText:
    """The text next to the spinner: a job's status, and the seconds since the spinner started."""

    status: str
    started_at: float
    clock: Callable[[], float] = time.monotonic

    def __rich__(self) -> Text:
        """Return the text with the current number of seconds. Rich calls this when it draws."""
        return Text(f"{printable(self.status)}  {self.clock() - self.started_at:.0f} s")


@contextmanager
def spinner(status: str) -> Iterator[SpinnerText]:
    """Show a spinner on stderr during the ``with`` block, but only if stderr is a terminal.

    To change the shown status, set ``status`` of the yielded object.
    """
    progress = SpinnerText(status, time.monotonic())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress
        return
    with console.status(progress):
        yield progress
