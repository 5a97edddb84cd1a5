"""Show jobs, timelines, models and results on a terminal, which their text cannot control."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from loosely.client.resources import Job, Model, Timeline, TimelineDelivery, TimelineStep

#: The option of every command whose output programs may read.
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: the gateway's own, or one object per line of a list."),
]
_REPLACEMENT = "\ufffd"
_BAR_CELLS = 24
_MAX_DRAWN_SCORE = 1e15
_EIGHTHS = " ▏▎▍▌▋▊▉"
STATUS_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "running": "cyan",
    "validating": "cyan",
}
TIME_MEMBERS = ("created_at", "started_at", "finished_at", "deadline")


def job_summary(job: Job) -> Text:
    """Return one line that shows the job's model, status, durations, id, tenant and label."""
    line = Text.assemble(
        (printable(_model_of(job)), "bold"),
        *("  ", (printable(job.status), STATUS_STYLES.get(job.status, ""))),
        f"  {_times(job)}",
    )
    if job.error is not None:
        line.append(f"  {printable(job.error.get('code'))}", "red")
    line.append(f"  {printable(job.id)}", "dim")
    if job.tenant is not None:
        line.append(f"  {printable(job.tenant)}", "blue")
    if (name := job.label or job.custom_id) is not None:
        line.append(f"  {printable(name)}")
    return line


def _model_of(job: Job) -> str:
    """Return the name of the job's model, followed by the model's version unless this is 1."""
    return job.model if job.version in {None, "1"} else f"{job.model}:{job.version}"


def job_details(job: Job) -> RenderableType:
    """Return a table of the job's details, and below it the result if the job has one."""
    table = Table.grid(padding=(0, 2))
    table.add_row("job", Text(printable(job.id)))
    table.add_row("model", Text(printable(_model_of(job))))
    about = (("label", job.label), ("batch", job.batch), ("line", job.custom_id))
    for name, text in (*about, ("tenant", job.tenant)):
        if text is not None:
            table.add_row(name, Text(printable(text)))
    table.add_row("status", Text(printable(job.status), style=STATUS_STYLES.get(job.status, "")))
    if not job.is_final:
        for name, text in (("progress", _progress(job)), ("queue", _place(job))):
            if text:
                table.add_row(name, Text(text))
    for name in TIME_MEMBERS:
        if job.document.get(name):
            table.add_row(name.removesuffix("_at"), Text(printable(job.document[name])))
    if times := _times(job):
        table.add_row("time", Text(times))
    if attempt := job.document.get("attempt"):
        table.add_row("attempt", Text(printable(attempt)))
    if job.error is not None:
        table.add_row("error", Text(_error(job.error), style="red"))
    if job.result is None and not job.results:
        return table
    return Group(table, Text(), *result_views(job))


def result_views(job: Job) -> list[RenderableType]:
    """Return the views of a job's results: of large or binary ones only name and type."""
    views = [] if job.result is None else [result_view(job.result)]
    media_types = job.result_media_types
    for name, value in job.results.items():
        title = Text(f"{printable(name)}: ", style="bold")
        if value is None:
            views.append(Text.assemble(title, printable(media_types[name])))
        else:
            views += [title, result_view(value)]
    return views


def result_view(result: Any) -> RenderableType:
    """Return a view of a result: labels with scores as a table, a text as it is, others as JSON."""
    if isinstance(result, str):
        return Text(printable_lines(result))
    labels = result.get("labels") if isinstance(result, dict) else None
    if isinstance(labels, list) and labels and all(_is_label(label) for label in labels):
        return _label_table(labels)
    return Text(printable_lines(json.dumps(result, indent=2, ensure_ascii=False)))


# With the other columns, these texts fit into 80 characters.
_STEP_TEXTS = {
    "accepted": "by the gateway",
    "started": "the orchestration",
    "enqueued": "in Service Bus",
    "received": "by a worker",
    "fetched": "input read",
    "decoded": "input decoded",
    "batched": "on the device",
    "first_chunk": "first chunk emitted",
    "run": "model returned",
    "stored": "result stored",
    "replied": "reply sent",
    "returned": "to the queue",
    "final": "job ended",
    "now": "not ended",
}
_DELIVERY_STYLES = {
    "answered": "green",
    "running": "cyan",
    "returned": "yellow",
    "lost": "red",
    "abandoned": "red",
    "dead-lettered": "red",
}


def timeline_view(timeline: Timeline) -> RenderableType:
    """Return a drawing of a job's timeline: a bar for each step, a row for each delivery, notes."""
    head = Text.assemble(
        (printable(timeline.model), "bold"),
        *("  ", (printable(timeline.status), STATUS_STYLES.get(timeline.status, ""))),
        f"  {duration_text(timeline.total_ms)}",
        (f"  {printable(timeline.job_id)}", "dim"),
    )
    parts: list[RenderableType] = [head, Text(), _step_table(timeline)]
    if timeline.deliveries:
        parts += [Text(), _delivery_table(timeline.deliveries)]
    for each in timeline.deliveries:
        if each.traceback:
            parts += [Text(), Text(printable_lines(each.traceback), "red")]
    notes = [*_skew_lines(timeline), *_webhook_lines(timeline)]
    if timeline.trace_id is not None:
        notes.append(Text(f"trace {printable(timeline.trace_id)}", "dim"))
    return Group(*parts, *([Text()] if notes else []), *notes)


def duration_text(milliseconds: float) -> str:
    """Return a duration in the unit that fits: `4.0 ms`, `2.35 s` or `3 min 5 s`."""
    if milliseconds < 999.95:
        return f"{milliseconds:.1f} ms"
    seconds = milliseconds / 1000
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _step_table(timeline: Timeline) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(style="green", no_wrap=True)
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    begin_ms = 0.0
    for step in timeline.steps:
        mark = "*" if step.is_adjusted else ""
        table.add_row(
            Text(printable(step.name) + mark),
            bar_between(begin_ms, step.duration_ms, timeline.total_ms),
            Text("" if step.is_beside else duration_text(step.duration_ms)),
            Text("" if step.is_beside else f"{step.share:.0%}"),
            Text(_step_text(step, timeline.deliveries)),
        )
        begin_ms += step.duration_ms
    return table


def bar_between(begin_ms: float, duration_ms: float, total_ms: float) -> str:
    """Return the bar of a step, indented in proportion to the time when it began."""
    if total_ms <= 0 or duration_ms <= 0:
        return ""
    first = min(int(begin_ms / total_ms * _BAR_CELLS), _BAR_CELLS - 1)
    cells = duration_ms / total_ms * _BAR_CELLS
    length = min(max(1, round(cells)), _BAR_CELLS - first)
    return " " * first + ("█" * length if cells >= 0.5 else "▏")


def _step_text(step: TimelineStep, deliveries: Iterable[TimelineDelivery]) -> str:
    text = _STEP_TEXTS.get(step.name, "")
    if step.is_beside:
        return f"{text}, beside"
    sizes = [each.batch_size for each in deliveries if each.number == step.delivery]
    if step.name == "batched" and sizes and sizes[-1]:
        text = f"in a batch of {sizes[-1]}"
    is_again = step.delivery is not None and step.delivery > 1
    return f"{text} (#{step.delivery})" if is_again else text


def _delivery_table(deliveries: Iterable[TimelineDelivery]) -> Table:
    table = Table.grid(padding=(0, 2))
    heads = ("delivery", "state", "worker", "device", "batch", "time", "reached", "code")
    table.add_row(*(Text(name, "dim") for name in heads))
    for each in deliveries:
        known = (each.worker, each.device, each.batch_size)
        table.add_row(
            Text(str(each.number)),
            Text(printable(each.state), _DELIVERY_STYLES.get(each.state, "")),
            *(Text("-" if value is None else printable(value)) for value in known),
            Text("-" if each.duration_ms is None else duration_text(each.duration_ms)),
            *(Text("-" if text is None else printable(text)) for text in (each.reached, each.code)),
        )
    return table


def _skew_lines(timeline: Timeline) -> Iterator[Text]:
    for skew in timeline.clock_skew:
        ahead_ms = skew.get("ahead_ms")
        if not isinstance(ahead_ms, int | float):
            continue
        whose = printable(skew.get("worker") or skew.get("clock"))
        where = "ahead of" if ahead_ms > 0 else "behind"
        yield Text(
            f"* the clock of {whose} is at least {duration_text(abs(ahead_ms))} {where} the "
            "gateway's; these times were moved",
            "yellow",
        )


def _webhook_lines(timeline: Timeline) -> Iterator[Text]:
    if timeline.webhook is None:
        return
    yield Text(f"webhook {printable(timeline.webhook.get('state'))}")
    attempts = timeline.webhook.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else ():
        if isinstance(attempt, dict):
            outcome = attempt.get("status") or attempt.get("error")
            yield Text(f"  {printable(attempt.get('at'))}  {printable(outcome)}")


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
    """Return a bar of block characters, whose length shows a ``score`` from 0 to 1."""
    eighths = round(min(max(score, 0.0), 1.0) * _BAR_CELLS * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).rstrip()


def print_to(console: Console, view: RenderableType) -> None:
    """Print ``view``. Long lines are wrapped only if the output is a terminal."""
    console.print(view, soft_wrap=not console.is_terminal, highlight=False)


def echo_json(body: bytes) -> None:
    """Print the gateway's JSON as received, but to a terminal without control characters."""
    if sys.stdout.isatty():
        typer.echo(printable_lines(body.decode("utf-8", "replace")))
    else:
        typer.echo(body)


def _is_label(label: object) -> bool:
    match label:
        case {"label": str(), "score": int(score) | float(score)}:
            return abs(score) < _MAX_DRAWN_SCORE
        case _:
            return False


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
    timing = job.timing
    times = (timing.queued_ms, timing.inference_ms, timing.total_ms)
    named = zip(("queued", "inference", "total"), times, strict=True)
    return ", ".join(f"{name} {ms:.0f} ms" for name, ms in named if ms is not None)


def _progress(job: Job) -> str:
    """Return the job's progress as a percentage and a message, or an empty text if unknown."""
    if job.progress is None:
        return ""
    fraction, message = job.progress.fraction, job.progress.message
    texts = [] if fraction is None else [f"{fraction:.0%}"]
    return "  ".join([*texts, *([printable(message)] if message else [])])


def _place(job: Job) -> str:
    """Return the job's position in the queue and estimated wait, or an empty text if unknown."""
    place = job.place
    texts = [f"position {place.position}"] if place.position is not None else []
    if place.position is not None and place.phase == "share":
        texts = [f"position {place.position} among the tenant's jobs"]
    if place.eta_seconds is not None:
        texts.append(f"about {place.eta_seconds:.0f} s")
    if place.phase == "share":
        texts.append("waits for the tenant's share")
    if place.phase == "cold_starting":
        texts.append("a worker is starting")
    if place.phase == "model_broken":
        texts.append("no worker can load the model: tell the operator")
    return ", ".join(texts)


def _error(error: Mapping[str, Any]) -> str:
    code = error.get("code") or "failed"
    what = error.get("detail") or error.get("message") or error.get("title") or ""
    return printable(f"{code}: {what}" if what else code)


def printable(text: object) -> str:
    """Return ``text`` on one line. Each control character is replaced by ``U+FFFD``."""
    return _replace_control_characters(" ".join(str(text).split()))


def printable_lines(text: str) -> str:
    """Return ``text`` with its lines, spaces for tabs, ``U+FFFD`` for control characters."""
    return "\n".join(_replace_control_characters(line.expandtabs()) for line in text.splitlines())


def printable_part(text: str) -> str:
    """Return a part of a text with its line ends and tabs, ``U+FFFD`` for control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else _REPLACEMENT for c in text)


def _replace_control_characters(line: str) -> str:
    return "".join(c if c.isprintable() else _REPLACEMENT for c in line)


@dataclass(slots=True)
class SpinnerText:
    """A job's status, and the seconds since the spinner started. ``stop`` ends the spinner."""

    status: str
    started_at: float
    clock: Callable[[], float] = time.monotonic
    stop: Callable[[], object] = lambda: None

    def __rich__(self) -> Text:
        """Return the text with the current number of seconds. Rich calls this when it draws."""
        return Text(f"{printable(self.status)}  {self.clock() - self.started_at:.0f} s")


@contextmanager
def spinner(status: str) -> Iterator[SpinnerText]:
    """Show a spinner with a text on standard error while the block runs, if it is a terminal."""
    progress = SpinnerText(status, time.monotonic())
    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress
        return
    with console.status(progress) as shown:
        progress.stop = shown.stop
        yield progress
