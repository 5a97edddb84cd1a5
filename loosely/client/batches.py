"""The operations on batches: coroutines, which never suspend if the transport blocks."""

import json
import math
import tempfile
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from contextlib import aclosing
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeAlias

from loosely.client.errors import BatchRefused, WaitTimedOut
from loosely.client.mapping import DEFAULT_CONCURRENCY, Input, run_each
from loosely.client.progress import progress_bar
from loosely.client.requests import read_payload, to_member
from loosely.client.resources import BatchPage, JobBatch, Upload
from loosely.client.responses import HttpResponse, read_as
from loosely.client.sending import REDIRECTS, RequestSender

#: A line as an object or as JSON text, or an input for which the client makes the line.
BatchItem: TypeAlias = Mapping[str, Any] | str | Input
#: The path of a JSONL file, or the lines.
BatchLines: TypeAlias = PathLike[str] | Iterable[BatchItem] | AsyncIterable[BatchItem]
Output: TypeAlias = Literal["results", "errors"]

_JSON_LINES: Final = "application/jsonl"
#: A larger input is uploaded, because its line would make the file large.
_INLINE_BYTES: Final = 64 * 1024
#: Up to so many lines and bytes are in the request, which no host refuses. More are uploaded.
_MAX_ITEMS: Final = 1000
_MAX_ITEM_BYTES: Final = 200 * 1024
#: How much of an output is in memory at once.
_PART_BYTES: Final = 8 * 1024 * 1024
#: Whether a file continues an output is seen from its first bytes.
_COMPARED_BYTES: Final = 4096
_NOTHING_MORE: Final = 416
#: How often a progress bar or an output that grows is brought up to date.
_WATCH_SECONDS: Final = 2
_POLL_SECONDS: Final = 60
_SHORTEST_POLL_SECONDS: Final = 0.5


class AsyncBatches(RequestSender):
    """The operations on batches. Each raises LooselyError if network or gateway fails."""

    async def submit(  # noqa: PLR0913 - the options of a batch
        self,
        model: str,
        lines: BatchLines,
        *,
        media_type: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        label: str | None = None,
        metadata: Mapping[str, str] | None = None,
        webhook_url: str | None = None,
    ) -> JobBatch:
        """Submit many inputs as one batch of ``model``, and return the batch.

        Args:
            lines: The path of a JSONL file. Or the lines, as objects or JSON texts, whose ``input``
                and ``inputs`` may also be bytes, paths of files, or uploads. Or only such inputs:
                their ``custom_id`` is the path or the number of the input, from 0.
            media_type: Of each ``input``. Default: detected.
            parameters: For lines that have no parameters of the same name.
            deadline_seconds: The batch expires after this time. Default: a day; at most 7 days.
            label: A short text by which `list` finds the batch.
            metadata: Texts that stay with the batch.
            webhook_url: The URL to which the gateway sends the batch when it has ended.

        Large inputs, and a large number of lines, are uploaded. Raises RequestRefused if the
        gateway made no batch. It checks the lines of a file later: see `wait`.
        """
        options = {
            "model": model,
            "parameters": None if parameters is None else dict(parameters),
            "deadline_seconds": deadline_seconds,
            "label": label,
            "metadata": None if metadata is None else dict(metadata),
            "webhook": None if webhook_url is None else {"url": webhook_url},
        }
        document = {name: value for name, value in options.items() if value is not None}
        if isinstance(lines, bytes | str):
            raise TypeError("lines: expected a pathlib.Path or several lines, found one text")
        if isinstance(lines, PathLike):
            document["file"] = await self._upload_file(Path(lines))
        else:
            with tempfile.TemporaryDirectory(prefix="loosely-") as folder:
                path = Path(folder) / "lines.jsonl"
                document |= await self._collect(path, lines, model, media_type)
        # All attempts have the same key, so they make only one batch.
        headers = {"idempotency-key": str(uuid.uuid4())}
        request = self._requests.build("POST", "batches", headers=headers, document=document)
        return _read_batch(await self._send(request, (200, 202)))

    async def get(self, batch_id: str, *, wait_seconds: int = 0) -> JobBatch:
        """Return a batch when it has ended, or after ``wait_seconds`` if that is earlier."""
        headers = {"prefer": f"wait={wait_seconds}"} if wait_seconds > 0 else {}
        request = self._requests.build(
            "GET", "batches", batch_id, headers=headers, wait_seconds=wait_seconds
        )
        return _read_batch(await self._send(request, (200,)))

    async def cancel(self, batch_id: str) -> JobBatch:
        """Cancel a batch, and return it. The results that it has are kept."""
        request = self._requests.build("DELETE", "batches", batch_id)
        return _read_batch(await self._send(request, (200, 202)))

    async def list(
        self, *, model: str | None = None, status: str | None = None, label: str | None = None
    ) -> AsyncGenerator[JobBatch, None]:
        """Yield the batches that match all filters, newest first.

        A ``*`` at the end of ``label`` stands for any further text.
        """
        cursor: str | None = None
        while True:
            filters = {"model": model, "status": status, "label": label, "cursor": cursor}
            response = await self._send(
                self._requests.build("GET", "batches", params=filters), (200,)
            )
            page = read_as(response, BatchPage.from_document, "a list of batches")
            for batch in page.batches:
                yield batch
            if page.next_cursor is None or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    async def wait(
        self,
        batch: JobBatch | str,
        *,
        wait_seconds: float | None = None,
        progress: bool | None = None,
    ) -> JobBatch:
        """Wait until a batch has ended, by default without a limit, and return it.

        Lines may have failed, and the batch may be cancelled or expired: see ``counts`` and
        ``status``. The wait continues after a restart of the gateway. ``progress`` draws a bar, by
        default if standard error is a terminal.

        Raises BatchRefused if the gateway refused the lines. After WaitTimedOut, it continues.
        """
        batch_id = _id_of(batch)
        give_up_at = self._give_up_at(wait_seconds)
        with progress_bar(batch_id, is_shown=progress) as bar:
            poll_seconds = _WATCH_SECONDS if bar.is_drawn else _POLL_SECONDS
            async for latest in self._watch(batch_id, poll_seconds, give_up_at):
                counts = latest.counts
                bar.show(counts.ended, counts.ended - counts.succeeded, counts.total or None)
        if not latest.is_final:
            raise WaitTimedOut(batch_id, wait_seconds or 0, "batch")
        if latest.status == "failed":
            raise BatchRefused(latest)
        return latest

    async def results(
        self, batch: JobBatch | str, *, follow: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the results until now, in the order of the lines.

        Each is an object with ``custom_id``, ``job``, and ``result`` or ``result_link``. With
        ``follow``, the iteration continues until the batch has ended. Raises BatchRefused if the
        gateway refused the lines.
        """
        async for line in self._read_lines(_id_of(batch), "results", follow=follow):
            yield line

    async def errors(
        self, batch: JobBatch | str, *, follow: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the lines that ended without a result until now, each with its ``error``."""
        async for line in self._read_lines(_id_of(batch), "errors", follow=follow):
            yield line

    async def save(
        self,
        batch: JobBatch | str,
        path: PathLike[str],
        output: Output = "results",
        *,
        follow: bool = True,
        progress: bool | None = None,
    ) -> JobBatch:
        """Write the results or the errors to a JSONL file, and return the batch.

        A file that has a part of them is continued, so that a call that was interrupted can be
        repeated. With ``follow``, the call ends when the batch has ended. Raises ValueError if the
        file has other content.
        """
        batch_id, file = _id_of(batch), Path(path)
        with _open_at_end(file) as opened, progress_bar(batch_id, is_shown=progress) as bar:
            await self._check_start(batch_id, output, opened.tell(), file)
            async for latest in self._watch(batch_id, _WATCH_SECONDS if follow else 0):
                async with aclosing(self._read_parts(batch_id, output, opened.tell())) as parts:
                    async for part in parts:
                        opened.write(part)
                opened.flush()
                counts = latest.counts
                bar.show(counts.ended, counts.ended - counts.succeeded, counts.total or None)
        return latest

    async def _watch(
        self, batch_id: str, poll_seconds: int, give_up_at: float = math.inf
    ) -> AsyncGenerator[JobBatch, None]:
        """Yield the batch now and after each poll, until it has ended. Once if there is no poll."""
        latest = await self.get(batch_id)
        yield latest
        while not latest.is_final and poll_seconds and self._clock() < give_up_at:
            asked_at = self._clock()
            left_seconds = max(1, min(poll_seconds, give_up_at - asked_at))
            latest = await self.get(batch_id, wait_seconds=int(left_seconds))
            yield latest
            if not latest.is_final and self._clock() - asked_at < _SHORTEST_POLL_SECONDS:
                await self._transport.sleep(1.0)

    async def _read_lines(
        self, batch_id: str, output: Output, *, follow: bool
    ) -> AsyncGenerator[dict[str, Any], None]:
        start, rest = 0, b""
        # The output of a batch that has ended is whole: so its state is read first.
        async for latest in self._watch(batch_id, _WATCH_SECONDS if follow else 0):
            if latest.status == "failed":
                raise BatchRefused(latest)
            async for part in self._read_parts(batch_id, output, start):
                start += len(part)
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    yield json.loads(line)

    async def _read_parts(
        self, batch_id: str, output: Output, start: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of an output from ``start`` to its end until now."""
        while part := await self._read_part(batch_id, output, start, _PART_BYTES):
            start += len(part)
            yield part

    async def _read_part(self, batch_id: str, output: Output, start: int, size_bytes: int) -> bytes:
        """Return up to ``size_bytes`` of an output; nothing if it is not longer than ``start``."""
        wanted = {"accept": "*/*", "range": f"bytes={start}-{start + size_bytes - 1}"}
        request = self._requests.build("GET", "batches", batch_id, output, headers=wanted)
        expected = (206, _NOTHING_MORE)
        response = await self._send(request, (*expected, *REDIRECTS))
        if response.status in REDIRECTS:
            response = await self._fetch_stored(response, wanted, expected)
        return response.body if response.status == 206 else b""

    async def _check_start(
        self, batch_id: str, output: Output, size_bytes: int, path: Path
    ) -> None:
        """Raise ValueError if the file has content that is not the start of the output."""
        if size_bytes == 0:
            return
        with path.open("rb") as file:
            start = file.read(_COMPARED_BYTES)
        if await self._read_part(batch_id, output, 0, len(start)) != start:
            raise ValueError(f"{path} has content that is not of the batch {batch_id}")

    async def _upload_file(self, path: Path) -> dict[str, str]:
        document = {"purpose": "batch", "media_type": _JSON_LINES}
        upload = await self._store(read_payload(path, _JSON_LINES), document)
        return {"upload": upload.reference}

    async def _collect(
        self,
        path: Path,
        items: Iterable[BatchItem] | AsyncIterable[BatchItem],
        model: str,
        media_type: str | None,
    ) -> dict[str, Any]:
        """Return the lines as a member of the request: as a list if small, or else as an upload.

        Large inputs are uploaded, many at once. The lines are written to the file ``path``.
        """

        async def encode(index: int, item: BatchItem) -> bytes:
            line = await self._make_line(index, item, model, media_type)
            return (line if isinstance(line, str) else json.dumps(line)).strip().encode() + b"\n"

        count = 0
        encoded = run_each(encode, items, DEFAULT_CONCURRENCY, in_order=True)
        with path.open("w+b") as file:
            async with aclosing(encoded):
                async for line in encoded:
                    file.write(line)
                    count += 1
            if count <= _MAX_ITEMS and file.tell() <= _MAX_ITEM_BYTES:
                file.seek(0)
                return {"items": [json.loads(line) for line in file]}
        return {"file": await self._upload_file(path)}

    async def _make_line(
        self, index: int, item: BatchItem, model: str, media_type: str | None
    ) -> Mapping[str, Any] | str:
        if isinstance(item, str):
            try:
                json.loads(item)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {index + 1} is not JSON: {error}") from None
            return item
        if not isinstance(item, Mapping):
            name = str(item) if isinstance(item, PathLike) else str(index)
            item = {"custom_id": name, "input": item}
        line = dict(item)
        if (given := line.get("input")) is not None:
            line["input"] = await self._make_input(given, {"model": model}, media_type)
        if isinstance(named := line.get("inputs"), Mapping):
            line["inputs"] = {
                name: await self._make_input(each, {"model": model, "input": name})
                for name, each in named.items()
            }
        return line

    async def _make_input(
        self, given: Any, document: Mapping[str, str], media_type: str | None = None
    ) -> Any:
        """Return an input as JSON. ``document`` says for what it is uploaded if it is large."""
        if isinstance(given, Upload):
            return to_member(given)
        if not isinstance(given, bytes | PathLike):
            return given
        payload = read_payload(given, media_type)
        if payload.size_bytes <= _INLINE_BYTES:
            return to_member(payload)
        return to_member(await self._store(payload, {**document, "media_type": payload.media_type}))


def _open_at_end(path: Path) -> BinaryIO:
    return path.open("ab")


def _id_of(batch: JobBatch | str) -> str:
    return batch if isinstance(batch, str) else batch.id


def _read_batch(response: HttpResponse) -> JobBatch:
    return read_as(response, lambda found: JobBatch.from_document(found, response.body), "a batch")
