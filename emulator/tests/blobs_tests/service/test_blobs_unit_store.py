"""What is kept, what is cleared away, and what a reader sees meanwhile."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import DISCONNECT, HeldClock, Message, World, open_world
from emulator.blobs.headers import ByteRange
from emulator.blobs.index.queries import find_blob, find_segments
from emulator.blobs.store import BlobStore
from emulator.program import SettingError

MIB = 1024 * 1024
LARGE = 3 * MIB


def block_id(number: int) -> str:
    return base64.b64encode(f"{number:04}".encode()).decode()


async def stage(world: World, path: str, number: int, content: bytes) -> None:
    query = f"comp=block&blockid={block_id(number)}"
    assert (await world.ask("PUT", path, content, query=query)).status == 201


async def commit(world: World, path: str, *numbers: int) -> None:
    entries = "".join(f"<Latest>{block_id(number)}</Latest>" for number in numbers)
    document = f"<BlockList>{entries}</BlockList>".encode()
    assert (await world.ask("PUT", path, document, query="comp=blocklist")).status == 201


async def test_small_blobs_need_no_file(world: World) -> None:
    await world.put("box/small", b"x" * 32 * 1024)
    assert world.content_files == []
    await world.put("box/larger", b"x" * (32 * 1024 + 1))
    assert len(world.content_files) == 1


async def test_a_large_body_is_streamed_both_ways(world: World) -> None:
    content = os.urandom(LARGE)
    chunks = [content[at : at + 65536] for at in range(0, LARGE, 65536)]
    headers = {"x-ms-blob-type": "BlockBlob"}
    raw = "/devstoreaccount1/box/large"
    assert (await world.send("PUT", raw, world.signature, headers, chunks)).status == 201
    back = await world.get("box/large")
    assert back.body == content
    assert back.pieces > LARGE // (512 * 1024)


async def test_what_survives_is_what_was_acknowledged(tmp_path: Path) -> None:
    small, large = os.urandom(100), os.urandom(100_000)
    async with open_world(tmp_path) as world:
        await world.put("box/small", small, **{"x-ms-meta-Name": "value"})
        await world.put("box/large", large)
        await stage(world, "box/blocks", 1, b"one")
    async with open_world(tmp_path) as world:
        again = await world.get("box/small")
        assert (again.body, again.headers["x-ms-meta-Name"]) == (small, "value")
        assert (await world.get("box/large")).body == large
        await commit(world, "box/blocks", 1)
        assert (await world.get("box/blocks")).body == b"one"


async def test_what_was_never_committed_is_swept(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        await world.put("box/kept", b"x" * 100_000)
        (kept,) = world.content_files
        (tmp_path / "content" / "ab" / ("ab" + "0" * 30)).write_bytes(b"left over by a crash")
    async with open_world(tmp_path) as world:
        assert world.content_files == [kept]
        assert (await world.get("box/kept")).body == b"x" * 100_000


async def test_overwriting_and_deleting_leave_no_file(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        for _ in range(3):
            await world.put("box/blob", os.urandom(100_000))
        for number in range(3):
            await stage(world, "box/blob", number, os.urandom(10))
        await commit(world, "box/blob", 0, 1)
        await stage(world, "box/blob", 2, b"staged")
        await world.ask("DELETE", "box/blob")
        await world.put("box/other", os.urandom(100_000))
        await world.ask("DELETE", "box", query="restype=container")
        world.store.streams.close()
        assert world.content_files == []


async def test_a_body_that_breaks_off_leaves_nothing(world: World) -> None:
    for sent in (b"", b"x" * 100, b"x" * (2 * 1024 * 1024)):
        size = len(sent) + 1_000_000
        headers = {"x-ms-blob-type": "BlockBlob", "content-length": str(size)}
        signed = world.signature
        chunks: list[Message] = [
            {"type": "http.request", "body": sent, "more_body": True},
            dict(DISCONNECT),
        ]
        await world.send("PUT", "/devstoreaccount1/box/torn", signed, headers, chunks)
        assert (await world.get("box/torn")).status == 404
    assert world.content_files == []


async def test_a_refused_upload_leaves_no_file(world: World) -> None:
    wrong = base64.b64encode(bytes(16)).decode()
    answer = await world.put("box/blob", b"x" * 100_000, **{"content-md5": wrong})
    assert (answer.status, answer.code) == (400, "Md5Mismatch")
    world.store.streams.close()
    assert world.content_files == []


async def test_a_reader_sees_one_version(world: World) -> None:
    old, new = os.urandom(LARGE), os.urandom(LARGE)
    for number in range(3):
        await stage(world, "box/blob", number, old[number * MIB : (number + 1) * MIB])
    await commit(world, "box/blob", 0, 1, 2)
    blob = world.store.read(find_blob, "box", "blob")
    parts = world.store.read(find_segments, blob.id, 0, blob.size)
    stream = world.store.streams.open(parts, ByteRange(0, blob.size))
    pieces = aiter(stream)
    first = await anext(pieces)
    await world.put("box/blob", new)
    await asyncio.gather(*(world.store.streams.run(os.getpid) for _ in range(50)))
    rest = [piece async for piece in pieces]
    stream.close()
    assert first + b"".join(rest) == old
    assert (await world.get("box/blob")).body == new
    world.store.streams.close()
    assert len(world.content_files) == 1


async def test_a_reader_that_has_gone_is_not_read_for(world: World) -> None:
    await world.put("box/blob", os.urandom(LARGE))
    raw = "/devstoreaccount1/box/blob"
    answer = await world.send("GET", raw, world.signature, {}, [dict(DISCONNECT)])
    assert len(answer.body) < LARGE
    await world.ask("DELETE", "box/blob")
    world.store.streams.close()
    assert world.content_files == []


async def test_one_of_many_conditional_creates_wins(world: World) -> None:
    answers = await asyncio.gather(
        *(
            world.put("box/claim", str(number).encode(), **{"if-none-match": "*"})
            for number in range(50)
        )
    )
    winners = [number for number, answer in enumerate(answers) if answer.status == 201]
    assert len(winners) == 1
    assert {answer.code for answer in answers if answer.status != 201} == {"BlobAlreadyExists"}
    assert (await world.get("box/claim")).body == str(winners[0]).encode()


async def test_staged_blocks_expire_a_week_after_the_last(world: World) -> None:
    await stage(world, "box/blob", 1, b"one")
    world.clock.advance(days=6)
    await stage(world, "box/blob", 2, b"two")
    world.clock.advance(days=6)
    assert await world.store.expire() == 0
    world.clock.advance(days=1, seconds=1)
    assert await world.store.expire() == 2
    answer = await world.ask("GET", "box/blob", query="comp=blocklist&blocklisttype=all")
    assert answer.code == "BlobNotFound"


async def test_overwriting_keeps_the_time_of_creation(world: World) -> None:
    await world.put("box/blob", b"one")
    before = await world.get("box/blob")
    world.clock.advance(hours=1)
    await world.put("box/blob", b"two")
    after = await world.get("box/blob")
    assert after.headers["x-ms-creation-time"] == before.headers["x-ms-creation-time"]
    assert after.headers["Last-Modified"] != before.headers["Last-Modified"]
    assert after.headers["ETag"] != before.headers["ETag"]


async def test_a_directory_is_used_by_one_process(world: World) -> None:
    with pytest.raises(SettingError, match="another process"):
        BlobStore(world.root, HeldClock()).open()


async def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite3").write_bytes(b"something else" * 1000)
    with pytest.raises(SettingError, match="not our index"):
        BlobStore(tmp_path, HeldClock()).open()
