"""Test files of batches: what is harmless is accepted, and all else is refused by its line."""

import bz2
import gzip
import json
import lzma
import zipfile
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest

from gateway.batches import intake
from gateway.batches.ids import MAX_LINES, new_batch_id
from gateway.batches.intake import MAX_FILE_BYTES, MAX_LINE_BYTES, CheckedFile
from gateway.batches.model import MAX_PROBLEMS, BatchSpec, BatchState
from gateway.batches.store import segment_blob
from gateway.storage.blobs import BlobProperties
from gateway.storage.uploads import new_upload, upload_blob_of
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.uploaded import sent

FILE = "uploads/file"


def line(custom_id: object = "a", **members: Any) -> bytes:
    """Return a line, whose input is a text unless `members` has another one."""
    source = {} if members.keys() & {"input", "input_url", "upload"} else {"input": {"text": "x"}}
    return json.dumps({"custom_id": custom_id, **source, **members}).encode()


def spec_of(gateway: RunningGateway, model: str = "noop", **members: Any) -> BatchSpec:
    now = gateway.clock()
    return BatchSpec(
        new_batch_id(now), "", model, now.isoformat(), now.isoformat(), FILE, **members
    )


async def validate(gateway: RunningGateway, data: bytes, **members: Any) -> CheckedFile:
    """Check a file with this content; a state with the problems must be storable."""
    gateway.blobs.put(FILE, data)
    found = await gateway.services.intake.validate(spec_of(gateway, **members))
    BatchState.decode(BatchState(problems=found.problems).encode())
    return found


def zipped(data: bytes) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("lines.jsonl", data)
    return file.getvalue()


GOOD = line("a") + b"\n" + line("b") + b"\n"
WHOLE = [(0, "unreadable-file")]
NOT_JSON = "invalid-json-line"
DEEP = b'{"custom_id":"a","input":{"json":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
MANY_VALUES = b'{"custom_id":"a","input":{"json":[' + b"1," * 400_000 + b"1]}}"
HUGE_INTEGER = b'{"custom_id":"a","input":{"json":' + b"9" * 5_000 + b"}}"
MALFORMED, INVALID = "malformed-request", "invalid-input"
NO_UPLOAD = "018f0000-0000-7000-8000-000000000000"

BAD_FILES: dict[str, tuple[bytes, list[tuple[int, str]]]] = {
    "empty": (b"", [(0, "empty-file")]),
    "only blank lines": (b"\n\r\n \t\n" * 3, [(0, "empty-file")]),
    "only a byte order mark": (b"\xef\xbb\xbf", [(0, "empty-file")]),
    "UTF-16": (GOOD.decode().encode("utf-16"), WHOLE),
    "UTF-16 without a mark": (GOOD.decode().encode("utf-16-le"), WHOLE),
    "UTF-32": (GOOD.decode().encode("utf-32"), WHOLE),
    "UTF-32 without a mark": (GOOD.decode().encode("utf-32-be"), WHOLE),
    "Latin-1": (line("a") + b'\n{"custom_id": "\xe9"}', [(2, NOT_JSON)]),
    "gzip": (gzip.compress(GOOD), WHOLE),
    "truncated gzip": (gzip.compress(GOOD)[:20], WHOLE),
    "bzip2": (bz2.compress(GOOD), WHOLE),
    "xz": (lzma.compress(GOOD), WHOLE),
    "zstd": (b"(\xb5/\xfd" + bytes(20), WHOLE),
    "zip": (zipped(GOOD), WHOLE),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), WHOLE),
    "a JSON array": (b"[" + line() + b"]", WHOLE),
    "a pretty-printed object": (b'{\n"custom_id": "a"\n}', [(n, NOT_JSON) for n in (1, 2, 3)]),
    "CSV": (b"custom_id,text\na,x\n", [(1, NOT_JSON), (2, NOT_JSON)]),
    "two objects on a line": (line("a") + line("b"), [(1, NOT_JSON)]),
    "a comma at the end": (line("a") + b",\n" + line("b"), [(1, NOT_JSON)]),
    "CR alone": (line("a") + b"\r" + line("b"), [(1, NOT_JSON)]),
    "a cut line": (GOOD + line("c")[:-5], [(3, NOT_JSON)]),
    "NUL bytes": (line("a") + b"\n" + bytes(20), [(2, NOT_JSON)]),
    "NUL in a text": (line("a").replace(b"x", b"\0"), [(1, NOT_JSON)]),
    "an array on a line": (GOOD + b"[1]", [(3, NOT_JSON)]),
    "a number on a line": (b"7", [(1, NOT_JSON)]),
    "deep JSON": (DEEP, [(1, NOT_JSON)]),
    "too many values": (MANY_VALUES, [(1, NOT_JSON)]),
    "a huge integer": (HUGE_INTEGER, [(1, NOT_JSON)]),
    "a huge float": (line(input={"json": "N"}).replace(b'"N"', b"1e999"), [(1, NOT_JSON)]),
    "NaN": (line(input={"json": float("nan")}), [(1, NOT_JSON)]),
    "half a surrogate pair": (line(input={"text": "\ud800"}), [(1, MALFORMED)]),
    "half a pair in a name": (line(**{"\ud800": 1}), [(1, MALFORMED)]),
    "no custom_id": (b'{"input": {"text": "x"}}', [(1, "missing-custom-id")]),
    "a number as custom_id": (line(7), [(1, "invalid-custom-id")]),
    "an empty custom_id": (line(""), [(1, "invalid-custom-id")]),
    "a long custom_id": (line("x" * 513), [(1, "invalid-custom-id")]),
    "a line break in custom_id": (line("a\nb"), [(1, "invalid-custom-id")]),
    "half a pair in custom_id": (line("\udc00"), [(1, "invalid-custom-id")]),
    "the same custom_id": (GOOD + line("b") + b"\n" + line("a"), [
        (3, "duplicate-custom-id"),
        (4, "duplicate-custom-id"),
    ]),
    "an unknown member": (line(modle="noop"), [(1, MALFORMED)]),
    "another model": (line(model="classifier"), [(1, MALFORMED)]),
    "an unknown member of input": (line(input={"text": "x", "x": 1}), [(1, MALFORMED)]),
    "no input": (b'{"custom_id": "a"}', [(1, MALFORMED)]),
    "two inputs": (line(input={"text": "x"}, upload=NO_UPLOAD), [(1, MALFORMED)]),
    "a text as input": (line(input="x"), [(1, MALFORMED)]),
    "an empty input": (line(input={"text": ""}), [(1, INVALID)]),
    "wrong base64": (line(input={"base64": "a"}), [(1, MALFORMED)]),
    "parameters that are a list": (line(parameters=[1]), [(1, MALFORMED)]),
    "an unknown named input": (line(inputs={"mask": {"text": "x"}}), [(1, INVALID)]),
    "another media type": (line(input={"base64": "aGk=", "media_type": "audio/wav"}), [
        (1, "unsupported-media-type")
    ]),
    "a private URL": (line(input_url="https://127.0.0.1/x"), [(1, INVALID)]),
    "a file URL": (line(input_url="file:///etc/passwd"), [(1, INVALID)]),
    "an upload that does not exist": (line(upload=NO_UPLOAD), [(1, INVALID)]),
    "no upload id": (line(upload="../specs"), [(1, INVALID)]),
    "an input that is too large": (line(input={"text": "x" * 5_000_000}), [
        (1, "payload-too-large")
    ]),
    "a line that is too long": (GOOD + line("c", input={"text": "x" * MAX_LINE_BYTES}), [
        (3, "line-too-long")
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), BAD_FILES.values(), ids=BAD_FILES)
async def test_bad_file_is_refused_by_line(
    gateway: RunningGateway, data: bytes, expected: list[tuple[int, str]]
) -> None:
    found = await validate(gateway, data)
    assert [(each.line, each.code) for each in found.problems] == expected
    assert found.segments == []
    assert all(each.message and len(each.message) <= 500 for each in found.problems)
    assert not [name for name in gateway.payloads.blobs if name.startswith("batches/")]


GOOD_FILES: dict[str, Callable[[bytes], bytes]] = {
    "LF": lambda data: data,
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "no line end at the end": lambda data: data.rstrip(b"\n"),
    "blank lines": lambda data: b"\n\n" + data.replace(b"\n", b"\n \t\r\n\n"),
    "spaces around": lambda data: data.replace(b"{", b"  {", 1).replace(b"\n", b" \n"),
    "joined files": lambda data: data.replace(b"\n", b"\n\xef\xbb\xbf", 1),
}


@pytest.mark.parametrize("change", GOOD_FILES.values(), ids=GOOD_FILES)
async def test_harmless_file_is_accepted(
    gateway: RunningGateway, change: Callable[[bytes], bytes]
) -> None:
    gateway.blobs.put(FILE, change(GOOD))
    spec = spec_of(gateway)
    found = await gateway.services.intake.validate(spec)
    assert (found.segments, found.problems) == ([2], [])
    rows = gateway.payloads.blobs[segment_blob(spec.id, 0)][1].splitlines()
    assert [json.loads(row)["custom_id"] for row in rows] == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (gzip.compress(GOOD), "application/gzip"),
        (GOOD.decode().encode("utf-16"), "UTF-16"),
        (b"[" + line() + b"]", "JSON array"),
        (b"{}\r{}", "CR alone"),
        (b"\xe9", "not UTF-8"),
    ],
)
async def test_reason_says_what_it_is(gateway: RunningGateway, data: bytes, what: str) -> None:
    (problem,) = (await validate(gateway, data)).problems
    assert what in problem.message


class TestLimits:
    async def test_line_separators_in_texts_end_no_line(self, gateway: RunningGateway) -> None:
        data = '{"custom_id": "a", "input": {"text": "x\u2028\u0085\u000b"}}'.replace("\u000b", "")
        assert (await validate(gateway, data.encode())).segments == [1]

    async def test_segments_have_limits(self, gateway: RunningGateway) -> None:
        found = await validate(gateway, b"\n".join(line(f"{n}") for n in range(600)))
        assert found.segments == [250, 250, 100]
        large = {"text": "x" * 1_000_000}
        found = await validate(gateway, b"\n".join(line(f"{n}", input=large) for n in range(5)))
        assert found.segments == [2, 2, 1]

    @pytest.mark.parametrize(("count", "is_accepted"), [(MAX_LINES, True), (MAX_LINES + 1, False)])
    async def test_lines_are_counted(
        self, gateway: RunningGateway, count: int, is_accepted: bool
    ) -> None:
        found = await validate(gateway, b"\n".join(line(f"{n}") for n in range(count)) + b"\n\n")
        if is_accepted:
            assert sum(found.segments) == count
        else:
            (problem,) = found.problems
            assert (problem.line, problem.code) == (count, "too-many-lines")

    async def test_first_hundred_lines_are_named(self, gateway: RunningGateway) -> None:
        found = await validate(gateway, b"x\n" * 1000)
        assert [each.line for each in found.problems] == list(range(1, MAX_PROBLEMS + 1))

    async def test_file_over_a_gibibyte_is_not_read(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def look(blob: str, head_bytes: int = 0) -> BlobProperties:
            return BlobProperties("", MAX_FILE_BYTES + 1, '"1"', b"")

        monkeypatch.setattr(gateway.blobs, "look", look)
        found = await gateway.services.intake.validate(spec_of(gateway))
        assert [each.code for each in found.problems] == ["file-too-large"]


class TestSource:
    async def test_deleted_file_is_named(self, gateway: RunningGateway) -> None:
        found = await gateway.services.intake.validate(spec_of(gateway))
        assert [each.code for each in found.problems] == ["file-missing"]

    async def test_changed_file_is_refused(self, gateway: RunningGateway) -> None:
        found = await validate(gateway, GOOD, etag='"before"')
        assert [each.code for each in found.problems] == ["file-missing"]

    async def test_file_that_changes_while_read_is_refused(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "PIECE_BYTES", 20)
        read = gateway.blobs.read_version

        async def change(blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
            data = await read(blob, offset, max_bytes, etag)
            gateway.blobs.put(FILE, GOOD)
            return data

        monkeypatch.setattr(gateway.blobs, "read_version", change)
        found = await validate(gateway, GOOD)
        assert [each.code for each in found.problems] == ["file-missing"]

    async def test_same_segments_are_stored_twice(self, gateway: RunningGateway) -> None:
        gateway.blobs.put(FILE, GOOD)
        spec = spec_of(gateway)
        first = await gateway.services.intake.validate(spec)
        stored = dict(gateway.payloads.blobs)
        assert await gateway.services.intake.validate(spec) == first
        assert gateway.payloads.blobs == stored


class TestUploads:
    async def test_uploads_of_lines_are_looked_up(self, gateway: RunningGateway) -> None:
        upload = await sent(gateway, b"data")
        found = await validate(gateway, line(upload=upload) + b"\n" + line("b", upload=NO_UPLOAD))
        assert [(each.line, each.custom_id) for each in found.problems] == [(2, "b")]

    async def test_upload_of_another_tenant_is_refused(self, gateway: RunningGateway) -> None:
        upload = new_upload(gateway.clock())
        gateway.blobs.put(upload_blob_of(upload, "another"), b"data", "application/octet-stream")
        found = await validate(gateway, line(upload=upload))
        assert [(each.line, each.code) for each in found.problems] == [(1, INVALID)]

    async def test_upload_is_used_after_its_expiry(self, gateway: RunningGateway) -> None:
        upload = await sent(gateway, b"data")
        spec = spec_of(gateway)
        gateway.clock.now = gateway.clock.now.replace(day=5)
        job = await gateway.services.intake.prepare(spec, 1, line(upload=upload))
        assert job.request.input.media_type == "application/octet-stream"


class TestMemory:
    async def test_endless_line_is_not_kept(self, gateway: RunningGateway) -> None:
        read = 0

        async def look(blob: str, head_bytes: int = 0) -> BlobProperties:
            return BlobProperties("", MAX_FILE_BYTES, '"1"', b"")

        async def read_version(blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
            nonlocal read
            read = max(read, offset + max_bytes)
            return b"x" * max_bytes

        gateway.blobs.look = look  # type: ignore[method-assign]  # a file of 1 GiB
        gateway.blobs.read_version = read_version  # type: ignore[method-assign]
        found = await gateway.services.intake.validate(spec_of(gateway))
        assert [(each.line, each.code) for each in found.problems] == [(1, "line-too-long")]
        assert read <= MAX_LINE_BYTES + 3 * intake.PIECE_BYTES
