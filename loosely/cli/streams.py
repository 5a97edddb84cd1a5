"""Show the stream of a job on a terminal, as it comes."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import typer

from loosely.cli.output import SpinnerText, duration_text, printable, printable_part
from loosely.client.resources import JobEvent


class StreamView:
    """Prints chunks to standard output, and notes to standard error. Counts the chunks."""

    def __init__(
        self,
        progress: SpinnerText,
        *,
        as_json: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.progress = progress
        self.chunks = 0
        self._as_json = as_json
        self._clock = clock
        self._started_at = self._first_at = self._last_at = clock()
        self._is_at_line_start = True

    def show(self, event: JobEvent) -> None:
        """Print an event: as a line of JSON, or the text of a chunk."""
        if event.kind == "chunk":
            self.progress.stop()
            self._count()
        if self._as_json:
            line = {"id": event.id, "event": event.kind, "data": event.data}
            typer.echo(json.dumps(line, ensure_ascii=False))
        elif event.kind == "chunk":
            self._print(chunk_text(event.data))
        elif event.kind == "attempt":
            if self.chunks:
                self.finish()
                typer.echo("the job runs again: the text above does not count", err=True)
            self.chunks = 0
        elif event.kind == "stream_lost":
            self.finish()
            typer.echo("some chunks are missing, because they could not be stored", err=True)
        elif isinstance(event.data, dict):
            self._show_progress(event.data)

    def finish(self) -> None:
        """End the last line of the text."""
        if not self._is_at_line_start:
            self._print("\n")

    def summary(self) -> str:
        """Return the number of chunks, the time to the first one, and their rate."""
        text = f" {self.chunks} chunks, first after "
        text += duration_text((self._first_at - self._started_at) * 1000)
        seconds = self._last_at - self._first_at
        return f"{text}, {(self.chunks - 1) / seconds:.1f} a second" if seconds > 0 else text

    def _count(self) -> None:
        self.chunks += 1
        self._last_at = self._clock()
        if self.chunks == 1:
            self._first_at = self._last_at

    def _print(self, text: str) -> None:
        if text:
            self._is_at_line_start = text.endswith("\n")
            shown = printable_part(text) if sys.stdout.isatty() else text
            typer.echo(shown, nl=False)

    def _show_progress(self, data: dict[str, Any]) -> None:
        fraction, message = data.get("fraction"), data.get("message")
        texts = [f"{fraction:.0%}"] if isinstance(fraction, int | float) else []
        texts += [printable(message)] if message else []
        self.progress.status = "  ".join(texts)


def chunk_text(chunk: Any) -> str:
    """Return the text of a chunk: of one of OpenAI's, what it adds; of other JSON, a line of it."""
    if isinstance(chunk, str):
        return f"{chunk.partition(',')[0]}, …\n" if chunk.startswith("data:") else chunk
    match chunk:
        case {"choices": [{"delta": {"content": str(text)}}, *_]} | {
            "choices": [{"text": str(text)}, *_]
        }:
            return text
        case {"object": str(kind)} if kind.endswith((".chunk", "text_completion")):
            return ""
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
    return json.dumps(chunk, ensure_ascii=False) + "\n"
