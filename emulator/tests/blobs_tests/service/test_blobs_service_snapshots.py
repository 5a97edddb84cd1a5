"""Test snapshots of blobs: creation, reading, listing, deletion and their content files."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blobs_tests.service.blob_service import RecordedResponse, RunningBlobService, open_service
from emulator.blobs.headers import Conditions, WritePrecondition
from emulator.blobs.index import queries, writes
from emulator.blobs.index.schema import NewBlob, Segment, create_index, open_writer

NEXT = re.compile(rb"<NextMarker>([^<]+)</NextMarker>")
ENTRY = re.compile(rb"<Blob><Name>([^<]+)</Name>(?:<Snapshot>([^<]+)</Snapshot>)?")


async def take(service: RunningBlobService, path: str, **headers: str) -> str:
    """Create a snapshot of a blob, and return the time that identifies the snapshot."""
    answer = await service.request("PUT", path, query="comp=snapshot", headers=headers)
    assert answer.status == 201, answer.code
    return answer.headers["x-ms-snapshot"]


async def get(service: RunningBlobService, path: str, snapshot: str) -> RecordedResponse:
    return await service.request("GET", path, query=f"snapshot={snapshot}")


async def delete(
    service: RunningBlobService, path: str, snapshots: str = "", query: str = ""
) -> RecordedResponse:
    headers = {"x-ms-delete-snapshots": snapshots} if snapshots else {}
    return await service.request("DELETE", path, query=query, headers=headers)


async def names(service: RunningBlobService, query: str) -> list[tuple[str, str]]:
    """List blobs page after page, and return a (name, snapshot time) pair for each blob.

    The snapshot time is empty if the blob is not a snapshot.
    """
    found: list[tuple[str, str]] = []
    marker = ""
    while True:
        answer = await service.request(
            "GET", "box", query=f"restype=container&comp=list&{query}&marker={marker}"
        )
        assert answer.status == 200
        found += [(name.decode(), time.decode()) for name, time in ENTRY.findall(answer.body)]
        following = NEXT.search(answer.body)
        if following is None:
            return found
        marker = following[1].decode()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_snapshot_keeps_content_metadata_and_tags(tmp_path: Path, size: int) -> None:
    old, new = os.urandom(size), os.urandom(size)
    headers = {"x-ms-meta-a": "1", "x-ms-tags": "t=1"}
    async with open_service(tmp_path) as service:
        before = await service.put("box/blob", old, **headers)
        first = await take(service, "box/blob")
        assert first == "2026-03-01T12:00:00.0000000Z"
        second = await take(service, "box/blob", **{"x-ms-meta-b": "2"})
        assert second == "2026-03-01T12:00:00.0000010Z"
        await service.put("box/blob", new)
    async with open_service(tmp_path) as service:
        assert (await service.get("box/blob")).body == new
        kept = await get(service, "box/blob", first)
        assert (kept.body, kept.headers["x-ms-meta-a"]) == (old, "1")
        assert (kept.headers["ETag"], kept.headers["x-ms-tag-count"]) == (
            before.headers["ETag"],
            "1",
        )
        assert "x-ms-lease-state" not in kept.headers
        changed = await get(service, "box/blob", second)
        assert (changed.body, changed.headers["x-ms-meta-b"]) == (old, "2")
        assert changed.headers["ETag"] != before.headers["ETag"]


async def test_snapshots_are_listed_before_the_blob(
    service: RunningBlobService,
) -> None:
    expected = []
    for name in ("a", "b", "c"):
        await service.put(f"box/{name}", b"content")
        expected += [(name, await take(service, f"box/{name}")) for _ in range(3)]
        expected.append((name, ""))
    for limit in (1, 2, 3, 4, 100):
        query = f"include=snapshots&maxresults={limit}"
        assert await names(service, query) == expected
    assert await names(service, "maxresults=2") == [("a", ""), ("b", ""), ("c", "")]


async def test_hundreds_of_snapshots_are_listed(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")

    def take_many(db: sqlite3.Connection) -> list[tuple[str, str]]:
        return [
            (
                "blob",
                writes.create_snapshot(db, "box", "blob", Conditions(now_us=time), {}).snapshot,
            )
            for time in range(600)
        ]

    expected = await service.store.change(take_many)
    assert await names(service, "include=snapshots") == [*expected, ("blob", "")]


async def test_blob_is_deleted_only_with_its_snapshots(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", os.urandom(100_000))
    first, second = await take(service, "box/blob"), await take(service, "box/blob")
    refused = await delete(service, "box/blob")
    assert (refused.status, refused.code) == (409, "SnapshotsPresent")
    assert (await delete(service, "box/blob", query=f"snapshot={first}")).status == 202
    assert (await get(service, "box/blob", first)).code == "BlobNotFound"
    assert (await get(service, "box/blob", second)).status == 200
    assert (await delete(service, "box/blob", "only")).status == 202
    assert (await get(service, "box/blob", second)).code == "BlobNotFound"
    assert (await service.get("box/blob")).status == 200
    await take(service, "box/blob")
    assert (await delete(service, "box/blob", "include")).status == 202
    assert await names(service, "include=snapshots") == []
    service.store.streams.close()
    assert service.content_files == []


async def test_container_deletion_removes_snapshot_contents(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", os.urandom(100_000))
    await take(service, "box/blob")
    await service.put("box/blob", os.urandom(100_000))
    await service.request("DELETE", "box", query="restype=container")
    service.store.streams.close()
    assert service.content_files == []


async def test_snapshot_needs_a_blob_and_its_conditions(
    service: RunningBlobService,
) -> None:
    missing = await service.request("PUT", "box/none", query="comp=snapshot")
    assert missing.code == "BlobNotFound"
    await service.put("box/blob", b"content")
    for headers, code in (
        ({"if-match": '"old"'}, "ConditionNotMet"),
        ({"x-ms-lease-id": "0" * 32}, "LeaseNotPresentWithBlobOperation"),
    ):
        answer = await service.request("PUT", "box/blob", query="comp=snapshot", headers=headers)
        assert (answer.status, answer.code) == (412, code)


async def test_snapshot_of_a_leased_blob_needs_no_lease_id(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    acquire = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
    await service.request("PUT", "box/blob", query="comp=lease", headers=acquire)
    snapshot = await take(service, "box/blob")
    assert (await delete(service, "box/blob", query=f"snapshot={snapshot}")).status == 202
    assert (await delete(service, "box/blob", "only")).code == "LeaseIdMissing"


async def test_later_appends_do_not_change_the_snapshot(
    service: RunningBlobService,
) -> None:
    await service.request("PUT", "box/log", headers={"x-ms-blob-type": "AppendBlob"})
    await service.request("PUT", "box/log", b"one", query="comp=appendblock")
    snapshot = await take(service, "box/log")
    await service.request("PUT", "box/log", b"two", query="comp=appendblock")
    kept = await get(service, "box/log", snapshot)
    assert (kept.body, kept.headers["x-ms-blob-committed-block-count"]) == (b"one", "1")
    assert (await service.get("box/log")).body == b"onetwo"


class SnapshotMachine(RuleBasedStateMachine):
    """Change one blob and its snapshots at random, and compare the store's index with a dictionary.

    `files` contains the names of all content files that were written, except those that the index
    has reported as unused. The blob and its snapshots must use all files in `files` and no others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        create_index(Path(self.folder.name) / "index")
        self.db = open_writer(Path(self.folder.name) / "index")
        writes.create_container(self.db, "box", {}, 0)
        self.current: str | None = None
        self.snapshots: dict[str, str] = {}
        self.written = 0
        self.files: set[str] = set()

    def teardown(self) -> None:
        self.db.close()
        self.folder.cleanup()

    @rule()
    def put(self) -> None:
        self.written += 1
        key = str(self.written)
        new = NewBlob("box", "blob", {}, {}, 0)
        result = writes.put_blob(self.db, new, Segment(0, 1, key), WritePrecondition(Conditions()))
        self.current = key
        self.files |= {key}
        self.files -= set(result.unreferenced)

    @rule()
    def take(self) -> None:
        if self.current is None:
            return
        taken = writes.create_snapshot(self.db, "box", "blob", Conditions(), {})
        assert taken.snapshot not in self.snapshots
        self.snapshots[taken.snapshot] = self.current

    @rule(at=st.integers(0, 5))
    def delete_one(self, at: int) -> None:
        if at < len(self.snapshots):
            snapshot = sorted(self.snapshots)[at]
            unused = writes.delete_snapshot(self.db, "box", "blob", snapshot, Conditions())
            del self.snapshots[snapshot]
            self.files -= set(unused)

    @rule(kind=st.sampled_from(list(writes.DeletedSnapshots)))
    def delete(self, kind: writes.DeletedSnapshots) -> None:
        if self.current is None or (self.snapshots and kind is writes.DeletedSnapshots.NONE):
            return
        self.files -= set(writes.delete_blob(self.db, "box", "blob", Conditions(), kind))
        self.snapshots.clear()
        if kind is not writes.DeletedSnapshots.ONLY:
            self.current = None

    @invariant()
    def refers_to_exactly_the_files_in_use(self) -> None:
        in_use = set(self.snapshots.values()) | ({self.current} if self.current else set())
        assert self.files == in_use
        assert queries.find_live_content(self.db) == in_use
        page = queries.list_blobs(
            self.db, "box", queries.BlobQuery("", "", ("", ""), 1000, with_snapshots=True)
        )
        expected = sorted(self.snapshots) + (["current"] if self.current else [])
        assert [getattr(entry, "snapshot", "") for entry in page.entries] == expected


TestSnapshotMachine = SnapshotMachine.TestCase
TestSnapshotMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
