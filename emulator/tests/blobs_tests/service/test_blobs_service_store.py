"""Test the blob store: durability, removal of content, and concurrent readers."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import (
    DISCONNECT,
    ManualClock,
    Message,
    RunningBlobService,
    open_service,
)
from emulator.blobs.headers import ByteRange
from emulator.blobs.index.queries import find_blob, find_segments
from emulator.blobs.store import AccountStore
from emulator.program import SettingError

MIB = 1024 * 1024
LARGE = 3 * MIB


def block_id(number: int) -> str:
    return base64.b64encode(f"{number:04}".encode()).decode()


async def stage(service: RunningBlobService, path: str, number: int, content: bytes) -> None:
    query = f"comp=block&blockid={block_id(number)}"
    assert (await service.request("PUT", path, content, query=query)).status == 201


async def commit(service: RunningBlobService, path: str, *numbers: int) -> None:
    entries = "".join(f"<Latest>{block_id(number)}</Latest>" for number in numbers)
    document = f"<BlockList>{entries}</BlockList>".encode()
    assert (await service.request("PUT", path, document, query="comp=blocklist")).status == 201


async def test_small_blob_needs_no_content_file(service: RunningBlobService) -> None:
    await service.put("box/small", b"x" * 32 * 1024)
    assert service.content_files == []
    await service.put("box/larger", b"x" * (32 * 1024 + 1))
    assert len(service.content_files) == 1


async def test_large_blob_is_downloaded_in_pieces(
    service: RunningBlobService,
) -> None:
    content = os.urandom(LARGE)
    chunks = [content[at : at + 65536] for at in range(0, LARGE, 65536)]
    headers = {"x-ms-blob-type": "BlockBlob"}
    raw = "/devstoreaccount1/box/large"
    assert (await service.send("PUT", raw, service.signature, headers, chunks)).status == 201
    back = await service.get("box/large")
    assert back.body == content
    assert back.pieces > LARGE // (512 * 1024)


async def test_acknowledged_writes_survive_a_restart(tmp_path: Path) -> None:
    small, large = os.urandom(100), os.urandom(100_000)
    async with open_service(tmp_path) as service:
        await service.put("box/small", small, **{"x-ms-meta-Name": "value"})
        await service.put("box/large", large)
        await stage(service, "box/blocks", 1, b"one")
    async with open_service(tmp_path) as service:
        again = await service.get("box/small")
        assert (again.body, again.headers["x-ms-meta-Name"]) == (small, "value")
        assert (await service.get("box/large")).body == large
        await commit(service, "box/blocks", 1)
        assert (await service.get("box/blocks")).body == b"one"


async def test_start_removes_content_files_without_a_blob(
    tmp_path: Path,
) -> None:
    async with open_service(tmp_path) as service:
        await service.put("box/kept", b"x" * 100_000)
        (kept,) = service.content_files
        (tmp_path / "content" / "ab" / ("ab" + "0" * 30)).write_bytes(b"left over by a crash")
    async with open_service(tmp_path) as service:
        assert service.content_files == [kept]
        assert (await service.get("box/kept")).body == b"x" * 100_000


async def test_replaced_content_file_is_removed(
    tmp_path: Path,
) -> None:
    async with open_service(tmp_path) as service:
        for _ in range(3):
            await service.put("box/blob", os.urandom(100_000))
        for number in range(3):
            await stage(service, "box/blob", number, os.urandom(10))
        await commit(service, "box/blob", 0, 1)
        await stage(service, "box/blob", 2, b"staged")
        await service.request("DELETE", "box/blob")
        await service.put("box/other", os.urandom(100_000))
        await service.request("DELETE", "box", query="restype=container")
        service.store.streams.close()
        assert service.content_files == []


async def test_interrupted_upload_leaves_no_content_file(service: RunningBlobService) -> None:
    for sent in (b"", b"x" * 100, b"x" * (2 * 1024 * 1024)):
        size = len(sent) + 1_000_000
        headers = {"x-ms-blob-type": "BlockBlob", "content-length": str(size)}
        signed = service.signature
        chunks: list[Message] = [
            {"type": "http.request", "body": sent, "more_body": True},
            dict(DISCONNECT),
        ]
        await service.send("PUT", "/devstoreaccount1/box/torn", signed, headers, chunks)
        assert (await service.get("box/torn")).status == 404
    assert service.content_files == []


async def test_refused_upload_leaves_no_content_file(service: RunningBlobService) -> None:
    wrong = base64.b64encode(bytes(16)).decode()
    answer = await service.put("box/blob", b"x" * 100_000, **{"content-md5": wrong})
    assert (answer.status, answer.code) == (400, "Md5Mismatch")
    service.store.streams.close()
    assert service.content_files == []


async def test_download_returns_the_content_from_its_begin(
    service: RunningBlobService,
) -> None:
    old, new = os.urandom(LARGE), os.urandom(LARGE)
    for number in range(3):
        await stage(service, "box/blob", number, old[number * MIB : (number + 1) * MIB])
    await commit(service, "box/blob", 0, 1, 2)
    blob = service.store.read(find_blob, "box", "blob")
    parts = service.store.read(find_segments, blob.id, 0, blob.size)
    stream = service.store.streams.open(parts, ByteRange(0, blob.size))
    pieces = aiter(stream)
    first = await anext(pieces)
    await service.put("box/blob", new)
    await asyncio.gather(*(service.store.streams.run(os.getpid) for _ in range(50)))
    rest = [piece async for piece in pieces]
    stream.close()
    assert first + b"".join(rest) == old
    assert (await service.get("box/blob")).body == new
    service.store.streams.close()
    assert len(service.content_files) == 1


async def test_download_stops_when_the_client_disconnects(service: RunningBlobService) -> None:
    await service.put("box/blob", os.urandom(LARGE))
    raw = "/devstoreaccount1/box/blob"
    answer = await service.send("GET", raw, service.signature, {}, [dict(DISCONNECT)])
    assert len(answer.body) < LARGE
    await service.request("DELETE", "box/blob")
    service.store.streams.close()
    assert service.content_files == []


async def test_one_of_many_concurrent_creations_succeeds(
    service: RunningBlobService,
) -> None:
    answers = await asyncio.gather(
        *(
            service.put("box/claim", str(number).encode(), **{"if-none-match": "*"})
            for number in range(50)
        )
    )
    winners = [number for number, answer in enumerate(answers) if answer.status == 201]
    assert len(winners) == 1
    assert {answer.code for answer in answers if answer.status != 201} == {"BlobAlreadyExists"}
    assert (await service.get("box/claim")).body == str(winners[0]).encode()


async def test_uncommitted_blocks_expire_after_a_week(
    service: RunningBlobService,
) -> None:
    await stage(service, "box/blob", 1, b"one")
    service.clock.advance(days=6)
    await stage(service, "box/blob", 2, b"two")
    service.clock.advance(days=6)
    assert await service.store.expire() == 0
    service.clock.advance(days=1, seconds=1)
    assert await service.store.expire() == 2
    answer = await service.request("GET", "box/blob", query="comp=blocklist&blocklisttype=all")
    assert answer.code == "BlobNotFound"


async def test_overwriting_keeps_the_creation_time(service: RunningBlobService) -> None:
    await service.put("box/blob", b"one")
    before = await service.get("box/blob")
    service.clock.advance(hours=1)
    await service.put("box/blob", b"two")
    after = await service.get("box/blob")
    assert after.headers["x-ms-creation-time"] == before.headers["x-ms-creation-time"]
    assert after.headers["Last-Modified"] != before.headers["Last-Modified"]
    assert after.headers["ETag"] != before.headers["ETag"]


async def test_directory_in_use_is_refused(
    service: RunningBlobService,
) -> None:
    with pytest.raises(SettingError, match="another process"):
        AccountStore(service.root, ManualClock()).open()


async def test_index_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite3").write_bytes(b"something else" * 1000)
    with pytest.raises(SettingError, match="is not the index of a blob store"):
        AccountStore(tmp_path, ManualClock()).open()
