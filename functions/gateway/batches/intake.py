"""Read and check the lines of a batch, which are in JSONL: one JSON object a line, in UTF-8.

The whole file is checked before anything runs. It may have 1 GiB, so it passes in pieces, and what
is kept of it is a digest of each `custom_id`. The checked lines are stored in segments, because the
file itself may be deleted or expire while they run.

A byte order mark, CR before LF, blank lines, and a missing LF at the end are accepted.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from contract import media
from contract.errors import ForbiddenAddress
from contract.guard import AddressGuard
from contract.messages import Json
from gateway.batches.ids import MAX_LINES, line_id
from gateway.batches.model import (
    MAX_PROBLEMS,
    SEGMENT_BYTES,
    SEGMENT_LINES,
    BatchSpec,
    LineProblem,
)
from gateway.batches.store import segment_blob
from gateway.bodies import LargeBodies
from gateway.errors import MissingPayload, Unavailable
from gateway.jobs.model import Record
from gateway.json_text import parse_json
from gateway.problems import HttpProblem, invalid_input
from gateway.storage.blobs import BlobProperties, Blobs
from gateway.storage.payloads import PayloadStore
from gateway.submission.create import JobCreator, PreparedJob
from gateway.submission.parse import BatchTimes, NewJob, has_surrogate

JSONL: Final = "application/jsonl"

MAX_FILE_BYTES: Final = 1024**3
"""The largest size of a batch's file in bytes."""

FILE_TOO_LARGE: Final = (
    f"the file has more than {MAX_FILE_BYTES} bytes, the most that a batch may have; make several "
    "batches"
)

MAX_LINE_BYTES: Final = 8 * 1024 * 1024
"""The largest size of a line in bytes. A larger input must be an upload."""

MAX_CUSTOM_ID_CHARACTERS: Final = 512

PIECE_BYTES: Final = 512 * 1024
"""The size in bytes of the pieces in which a file is read."""

LARGE_FILE_BYTES: Final = 2 * PIECE_BYTES
MAX_LARGE_FILES: Final = 4
"""How many files with more bytes than this are checked at once; of a tenant only one."""

TURN_SECONDS: Final = 60.0
"""How long such a file waits for others. Then its batch tries again."""

_MAX_MESSAGE_CHARACTERS: Final = 500
# A piece of this size is checked on the event loop, in a few milliseconds.
_SMALL_BYTES: Final = 8 * 1024
_LOOK_UPS_AT_ONCE: Final = 16
_DIGEST_BYTES: Final = 12

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# `media.sniff` knows gzip and zip.
_COMPRESSED: Final = {
    b"BZh": "application/x-bzip2",
    b"\xfd7zXZ\x00": "application/x-xz",
    b"(\xb5/\xfd": "application/zstd",
}
_HEAD_BYTES: Final = 16


class UnreadableFile(Exception):
    """The rest of a file is not read, because of this problem."""

    def __init__(self, line: int, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = LineProblem(line, code, message)


class LineReader:
    """Splits a file into its lines, which are numbered from 1."""

    def __init__(self) -> None:
        self.rest = b""
        """The beginning of a line whose end was not read yet."""
        self._number = 0
        self._line_count = 0
        self._is_recognised = False

    def read(self, data: bytes, *, is_end: bool) -> Iterator[tuple[int, bytes]]:
        """Yield the next lines that are not blank, without line ends. Raises UnreadableFile.

        `data` is `rest` with the next piece of the file, which is the last one if `is_end`.
        """
        self.rest = b""
        if not self._is_recognised:
            if len(data) < _HEAD_BYTES and not is_end:
                self.rest = data
                return
            refuse_other_formats(data)
            self._is_recognised = True
            data = data.removeprefix(_BYTE_ORDER_MARK)
        lines = data.split(b"\n")
        if not is_end:
            self.rest = lines.pop()
        for line in lines:
            self._number += 1
            self._check_length(self._number, line)
            if stripped := line.strip(_BLANK):
                self._line_count += 1
                self._check_count(self._line_count)
                yield self._number, stripped
            else:
                self._check_count(self._number - self._line_count)
        self._check_length(self._number + 1, self.rest)
        if is_end and not self._line_count:
            raise UnreadableFile(0, "empty-file", "the file has no lines: write at least one")

    def _check_length(self, number: int, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise UnreadableFile(
                number,
                "line-too-long",
                f"the line has more than {MAX_LINE_BYTES} bytes, the most that a line may have; "
                "send a large input as an upload (POST /v1/uploads), and name the upload here",
            )

    def _check_count(self, count: int) -> None:
        if count > MAX_LINES:
            raise UnreadableFile(
                self._number,
                "too-many-lines",
                f"the file has more than {MAX_LINES} lines, the most that a batch may have; make "
                "several batches",
            )


def refuse_other_formats(head: bytes) -> None:
    """Raise UnreadableFile if a file begins as no JSONL in UTF-8 does."""
    start = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n")
    compressed = next((kind for sign, kind in _COMPRESSED.items() if head.startswith(sign)), None)
    if found := compressed or media.sniff(head):
        what = f"the file is {found}: send the JSONL itself, neither compressed nor in an archive"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start[:4]:
        what = "the file is in UTF-16 or UTF-32: save it in UTF-8"
    elif start.startswith(b"["):
        what = "the file is a JSON array: write each item on a line of its own, without commas"
    else:
        return
    raise UnreadableFile(0, "unreadable-file", what)


class LineForm(Protocol):
    """How the lines of a batch, and those of its output, are written: as in our API or OpenAI's.

    `value` and `line` are the whole JSON object of an input line, with a valid `custom_id`.
    """

    def parse(self, spec: BatchSpec, value: dict[str, Json]) -> NewJob:
        """Return the job of a line. Raises HttpProblem."""

    async def result_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return the output of a line whose job succeeded. Raises Unavailable."""

    def error_line(
        self, spec: BatchSpec, line: dict[str, Json], job_id: str, record: Record
    ) -> dict[str, Json]:
        """Return the output of a line whose job ended without a result."""


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """A valid line as it was given. `job` is None unless it names uploads, to be looked up."""

    number: int
    data: bytes = field(repr=False)
    custom_id: str
    job: NewJob | None = None


class LineChecker:
    """Checks the lines of one batch, one after another."""

    def __init__(self, spec: BatchSpec, form: LineForm, guard: AddressGuard) -> None:
        self._spec = spec
        self._form = form
        self._guard = guard
        self._numbers: dict[bytes, int] = {}

    def check(self, number: int, data: bytes) -> CheckedLine | LineProblem:
        """Check a line. What must be looked up elsewhere, such as an upload, is not checked."""
        try:
            value = parse_line(data)
            custom_id = self._read_custom_id(number, value)
        except InvalidLine as error:
            return _problem(number, error.code, str(error))
        try:
            job = self._form.parse(self._spec, value)
            self._check_urls(job)
        except HttpProblem as problem:
            return _problem(number, problem.kind.code, problem.detail, custom_id)
        has_stored = any(each.is_stored for each in job.inputs.values())
        return CheckedLine(number, data, custom_id, job if has_stored else None)

    def _read_custom_id(self, number: int, value: dict[str, Json]) -> str:
        custom_id = value.get("custom_id")
        if custom_id is None:
            raise InvalidLine("missing-custom-id", "custom_id: each line needs one")
        is_text = isinstance(custom_id, str) and 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS
        if not is_text or has_surrogate(custom_id) or _CONTROL.search(custom_id):
            raise InvalidLine(
                "invalid-custom-id",
                f"custom_id: expected a text of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters, "
                "without control characters",
            )
        digest = hashlib.blake2b(custom_id.encode(), digest_size=_DIGEST_BYTES).digest()
        first = self._numbers.setdefault(digest, number)
        if first != number:
            raise InvalidLine(
                "duplicate-custom-id",
                f"custom_id: line {first} has the same, {custom_id[:100]!r}; give each line its "
                "own",
            )
        return str(custom_id)

    def _check_urls(self, job: NewJob) -> None:
        """Refuse URLs that are forbidden whatever their hosts' addresses are."""
        for each in job.inputs.values():
            if each.url is not None:
                try:
                    self._guard.check_form(each.url.url)
                except ForbiddenAddress as error:
                    raise invalid_input(f"url: {error}") from None


class InvalidLine(ValueError):
    """A line cannot be read. `code` is that of its LineProblem."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse_line(data: bytes) -> dict[str, Json]:
    """Return the JSON object of a line. Raises InvalidLine."""
    try:
        value = parse_json(data)
    except json.JSONDecodeError as error:
        reason = f"{error.msg}, column {error.colno}"
        if b"\r" in data and error.msg == "Extra data":
            reason = "the lines end with CR alone: end them with LF"
        raise InvalidLine(
            "invalid-json-line", f"not JSON: {reason}; each line must be one JSON object"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidLine(
            "invalid-json-line", f"byte {error.start + 1} is not UTF-8: save the file in UTF-8"
        ) from None
    except ValueError as error:
        raise InvalidLine("invalid-json-line", f"not JSON that can be used: {error}") from None
    if not isinstance(value, dict):
        raise InvalidLine("invalid-json-line", "expected a JSON object")
    return value


def _problem(number: int, code: str, message: str, custom_id: str | None = None) -> LineProblem:
    # Names in a line may contain half of a surrogate pair, which UTF-8 cannot encode.
    text = message.encode("utf-8", "replace").decode()
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        text = text[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
    return LineProblem(number, code, text, custom_id)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The number of lines of each segment, or why the file is refused, sorted by line."""

    segments: list[int]
    problems: list[LineProblem]


class LineIntake:
    """Checks the lines of batches, and makes jobs of them. Raises Unavailable."""

    def __init__(  # noqa: PLR0913, PLR0917 - the components that it needs
        self,
        blobs: Blobs,
        payloads: PayloadStore,
        bodies: LargeBodies,
        creator: JobCreator,
        native: LineForm,
        openai: LineForm,
    ) -> None:
        self._blobs = blobs
        self._payloads = payloads
        self._bodies = bodies
        self._creator = creator
        self._native = native
        self._openai = openai
        self._turns = _LargeFiles()

    def form_of(self, spec: BatchSpec) -> LineForm:
        """Return the form of a batch's lines."""
        return self._native if spec.operation is None else self._openai

    async def prepare(self, spec: BatchSpec, number: int, line: bytes) -> PreparedJob:
        """Return the job of a checked line, to be sent.

        Raises HttpProblem if the line is not valid any more, for example because a model or an
        upload is gone; if the problem is retryable, it may be later.
        """
        job = self.form_of(spec).parse(spec, json.loads(line))
        prepared = await self._creator.prepare(_in_batch(spec, job), line_id(spec.id, number))
        prepared.new_job.drop_data()
        return prepared

    async def validate(self, spec: BatchSpec) -> CheckedFile:
        """Check the file of a batch, and store its lines in segments.

        May run twice, also at once: both times it stores the same. Raises Unavailable also if too
        many other large files are being checked.
        """
        segments, problems = _Segments(self._payloads, spec.id), list[LineProblem]()
        try:
            file = await self._find_file(spec)
            async with self._turns.take(spec.tenant, file.size_bytes):
                await self._check_file(spec, file, segments, problems)
        except UnreadableFile as error:
            problems.append(error.problem)
        if problems:
            return CheckedFile([], sorted(problems, key=lambda each: each.line)[:MAX_PROBLEMS])
        await segments.flush()
        return CheckedFile(segments.counts, [])

    async def _check_file(
        self,
        spec: BatchSpec,
        file: BlobProperties,
        segments: "_Segments",
        problems: list[LineProblem],
    ) -> None:
        """Add the lines of a file to the segments, or what is wrong with them to `problems`."""
        reader = LineReader()
        checker = LineChecker(spec, self.form_of(spec), self._creator.settings.guard)
        async with aclosing(self._read_pieces(spec.blob, file)) as pieces:
            async for piece, is_end in pieces:
                # The thread of large bodies checks, so that other requests are served.
                data = reader.rest + piece
                check = partial(_check_lines, reader, checker, is_end)
                found = await self._bodies.parse(spec.tenant, data, check, _SMALL_BYTES)
                problems += await self._find_stored(spec, found.lines)
                problems += found.problems
                if found.fatal is not None:
                    raise found.fatal
                if len(problems) >= MAX_PROBLEMS:
                    return
                if not problems:
                    await segments.add(found.lines)

    async def check_items(self, spec: BatchSpec, items: list[bytes]) -> list[LineProblem]:
        """Return what is wrong with the items of a request, numbered from 1."""
        checker = LineChecker(spec, self.form_of(spec), self._creator.settings.guard)

        def check(_: bytes) -> list[CheckedLine | LineProblem]:
            return [checker.check(number, item) for number, item in enumerate(items, 1)]

        found = await self._bodies.parse(spec.tenant, b"".join(items), check, _SMALL_BYTES)
        problems = [each for each in found if isinstance(each, LineProblem)]
        lines = [each for each in found if isinstance(each, CheckedLine)]
        problems += await self._find_stored(spec, lines)
        return sorted(problems, key=lambda each: each.line)[:MAX_PROBLEMS]

    async def _find_file(self, spec: BatchSpec) -> BlobProperties:
        """Return the properties of a batch's file. Raises UnreadableFile if it is of no use."""
        found = await self._blobs.look(spec.blob)
        if found is None or spec.etag not in {None, found.etag}:
            raise UnreadableFile(
                0, "file-missing", "the file has been deleted or changed: upload it again"
            )
        if found.size_bytes > MAX_FILE_BYTES:
            raise UnreadableFile(0, "file-too-large", FILE_TOO_LARGE)
        return found

    async def _read_pieces(
        self, blob: str, file: BlobProperties
    ) -> AsyncGenerator[tuple[bytes, bool]]:
        """Yield the pieces of a file, and whether the piece is the last one.

        The next piece is read while the caller uses one. Raises UnreadableFile.
        """
        read = partial(self._blobs.read_version, blob, max_bytes=PIECE_BYTES, etag=file.etag)
        offset = 0
        reading = asyncio.create_task(read(offset))
        try:
            while True:
                piece = await reading
                offset += len(piece)
                is_end = offset >= file.size_bytes or not piece
                if not is_end:
                    reading = asyncio.create_task(read(offset))
                yield piece, is_end
                if is_end:
                    return
        except MissingPayload:
            raise UnreadableFile(
                0, "file-missing", "the file was deleted or changed while it was read"
            ) from None
        finally:
            reading.cancel()

    async def _find_stored(self, spec: BatchSpec, lines: list[CheckedLine]) -> list[LineProblem]:
        """Look up the uploads of lines, and return what is wrong with them."""
        waiting = iter([(line, line.job) for line in lines if line.job is not None])
        found: list[LineProblem] = []

        async def look_up() -> None:
            for line, job in waiting:
                try:
                    for name, each in job.inputs.items():
                        if each.is_stored:
                            await self._creator.find_stored(_in_batch(spec, job), name, each)
                except HttpProblem as error:
                    found.append(
                        _problem(line.number, error.kind.code, error.detail, line.custom_id)
                    )

        await asyncio.gather(*(look_up() for _ in range(_LOOK_UPS_AT_ONCE)))
        return found


def _in_batch(spec: BatchSpec, job: NewJob) -> NewJob:
    times = BatchTimes(spec.id, datetime.fromisoformat(spec.created_at), spec.deadline_at)
    return replace(job, batch=times)


@dataclass(slots=True)
class _CheckedPiece:
    """What was found in a piece. `fatal` is set if the rest of the file cannot be read."""

    lines: list[CheckedLine] = field(default_factory=list)
    problems: list[LineProblem] = field(default_factory=list)
    fatal: UnreadableFile | None = None


def _check_lines(
    reader: LineReader, checker: LineChecker, is_end: bool, data: bytes
) -> _CheckedPiece:
    found = _CheckedPiece()
    try:
        for number, line in reader.read(data, is_end=is_end):
            checked = checker.check(number, line)
            if isinstance(checked, CheckedLine):
                found.lines.append(checked)
                continue
            found.problems.append(checked)
            if len(found.problems) == MAX_PROBLEMS:
                break
    except UnreadableFile as error:
        found.fatal = error
    return found


class _LargeFiles:
    """Limits how many large files are checked at once: their lines need memory."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(MAX_LARGE_FILES)
        # A lock is deleted when nobody uses it.
        self._tenants: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, tenant: str, size_bytes: int) -> AsyncIterator[None]:
        """Wait until a file of this size may be checked. Raises Unavailable if it takes long."""
        async with AsyncExitStack() as turn:
            if size_bytes > LARGE_FILE_BYTES:
                # The tenant's own files wait for each other, and not the files of others for them.
                lock = self._tenants.setdefault(tenant, asyncio.Lock())
                try:
                    async with asyncio.timeout(TURN_SECONDS):
                        await turn.enter_async_context(lock)
                        await turn.enter_async_context(self._all)
                except TimeoutError:
                    raise Unavailable("files", "other files are being checked") from None
            yield


class _Segments:
    """Stores lines in segments, each of which is a blob."""

    def __init__(self, payloads: PayloadStore, batch_id: str) -> None:
        self.counts: list[int] = []
        self._payloads = payloads
        self._batch_id = batch_id
        self._lines: list[bytes] = []
        self._size_bytes = 0

    async def add(self, lines: list[CheckedLine]) -> None:
        """Add lines, and store each segment that is full."""
        for line in lines:
            if self._lines and self._size_bytes + len(line.data) > SEGMENT_BYTES:
                await self.flush()
            self._lines.append(line.data + b"\n")
            self._size_bytes += len(line.data) + 1
            if len(self._lines) == SEGMENT_LINES:
                await self.flush()

    async def flush(self) -> None:
        """Store the last segment, which need not be full."""
        if self._lines:
            blob = segment_blob(self._batch_id, len(self.counts))
            await self._payloads.put(blob, b"".join(self._lines), JSONL)
            self.counts.append(len(self._lines))
            self._lines, self._size_bytes = [], 0
