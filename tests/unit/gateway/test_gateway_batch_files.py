"""Test files of batches: what is harmless is accepted, and all else is refused by its line."""

import asyncio
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from contract.messages import PayloadRef
from gateway.batches import intake
from gateway.batches.ids import MAX_LINES, new_batch_id
from gateway.batches.intake import MAX_FILE_BYTES, MAX_LINE_BYTES, CheckedFile
from gateway.batches.model import MAX_PROBLEMS, BatchSpec, BatchState
from gateway.batches.store import segment_blob
from gateway.storage.blobs import BlobProperties
from gateway.storage.uploads import new_upload, upload_blob_of
from tests.bad_batch_files import BAD_FILES, GOOD, INVALID, NO_UPLOAD, line
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.uploaded import sent

FILE = "uploads/file"


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
    ids=["gzip", "UTF-16", "array", "CR", "Latin-1"],
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


class TestTurns:
    LINES: ClassVar = b"\n".join(line(f"{n}", input={"text": "x" * 500}) for n in range(3000))

    async def check(self, gateway: RunningGateway, tenant: str = "") -> CheckedFile:
        spec = replace(spec_of(gateway), tenant=tenant)
        return await gateway.services.intake.validate(spec)

    async def test_large_file_waits_for_its_turn(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "TURN_SECONDS", 0.0)
        gateway.blobs.put(FILE, self.LINES)
        same = await asyncio.gather(
            *(self.check(gateway) for _ in range(2)), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in same) == ["CheckedFile", "Unavailable"]
        others = await asyncio.gather(*(self.check(gateway, name) for name in "abcd"))
        assert [sum(each.segments) for each in others] == [3000] * 4

    async def test_small_file_does_not_wait(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "TURN_SECONDS", 0.0)
        gateway.blobs.put(FILE, GOOD)
        found = await asyncio.gather(*(self.check(gateway) for _ in range(8)))
        assert [each.segments for each in found] == [[2]] * 8


class TestMemory:
    async def test_stored_input_is_not_kept(self, gateway: RunningGateway) -> None:
        row = line(input={"text": "x" * 100_000})
        job = await gateway.services.intake.prepare(spec_of(gateway), 1, row)
        assert isinstance(job.request.input, PayloadRef)
        assert not job.new_job.inputs[None].data

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
