"""Test append blobs: their blocks, conditions, limits and durability."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from blobs_tests.service.blob_service import RecordedResponse, RunningBlobService, open_service

APPEND = {"x-ms-blob-type": "AppendBlob"}
BLOCK = {"x-ms-blob-type": "BlockBlob"}
MIB = 1024 * 1024
# A block of this size is in a content file, a smaller one perhaps in the index.
FILE_BYTES = 32 * 1024 + 1


async def create(service: RunningBlobService, **headers: str) -> RecordedResponse:
    return await service.request("PUT", "box/log", headers=APPEND | headers)


async def append(service: RunningBlobService, body: bytes, **headers: str) -> RecordedResponse:
    """Append a block with the content `body` to the blob `box/log`, and return the response."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.request("PUT", "box/log", body, query="comp=appendblock", headers=names)


async def test_content_is_the_blocks_in_order(
    service: RunningBlobService,
) -> None:
    assert (await create(service)).status == 201
    assert (await service.get("box/log")).body == b""
    blocks = [os.urandom(size) for size in (1, 100_000, 7)]
    offset = 0
    for number, block in enumerate(blocks, 1):
        answer = await append(service, block)
        assert answer.status == 201
        assert answer.headers["x-ms-blob-append-offset"] == str(offset)
        assert answer.headers["x-ms-blob-committed-block-count"] == str(number)
        offset += len(block)
    content = b"".join(blocks)
    found = await service.get("box/log")
    assert found.body == content
    assert found.headers["x-ms-blob-type"] == "AppendBlob"
    assert found.headers["x-ms-blob-committed-block-count"] == "3"
    for first, last in [(0, 0), (0, 3), (99_990, 100_004), (100_002, 100_004)]:
        part = await service.get("box/log", **{"x-ms-range": f"bytes={first}-{last}"})
        assert part.body == content[first : last + 1]
    listed = await service.request("GET", "box", query="restype=container&comp=list")
    assert b"<BlobType>AppendBlob</BlobType>" in listed.body


async def test_blocks_survive_a_restart(tmp_path: Path) -> None:
    async with open_service(tmp_path) as service:
        await create(service)
        await append(service, b"one")
    async with open_service(tmp_path) as service:
        answer = await append(service, b"two")
        assert answer.headers["x-ms-blob-committed-block-count"] == "2"
        assert (await service.get("box/log")).body == b"onetwo"


async def test_creation_again_empties_the_blob(
    service: RunningBlobService,
) -> None:
    await create(service)
    for block in (b"one", bytes(FILE_BYTES)):
        await append(service, block)
    assert (await create(service, **{"if-none-match": "*"})).code == "BlobAlreadyExists"
    assert (await create(service)).status == 201
    found = await service.get("box/log")
    assert (found.body, found.headers["x-ms-blob-committed-block-count"]) == (b"", "0")
    await service.store.streams.run(os.getpid)
    service.store.streams.close()
    assert service.content_files == []


async def test_append_needs_its_position_and_size_conditions(
    service: RunningBlobService,
) -> None:
    await create(service)
    at_start = {"x_ms_blob_condition_appendpos": "0"}
    assert (await append(service, b"one", **at_start)).status == 201
    repeated = await append(service, b"one", **at_start)
    assert (repeated.status, repeated.code) == (412, "AppendPositionConditionNotMet")
    large = await append(service, b"two", x_ms_blob_condition_maxsize="5")
    assert (large.status, large.code) == (412, "MaxBlobSizeConditionNotMet")
    assert (await append(service, b"two", x_ms_blob_condition_maxsize="6")).status == 201
    assert (await service.get("box/log")).body == b"onetwo"


async def test_small_block_after_4_mib_is_in_a_file(service: RunningBlobService) -> None:
    await create(service)
    blocks = [b"one", bytes(4 * MIB), b"two"]
    for block in blocks:
        await append(service, block)
    assert (await service.get("box/log")).body == b"".join(blocks)
    assert len(service.content_files) == 2


@pytest.mark.parametrize(("size", "files"), [(1, 0), (FILE_BYTES, 1)])
async def test_one_of_many_appends_at_one_position_succeeds(
    service: RunningBlobService, size: int, files: int
) -> None:
    await create(service)
    block = bytes(size)
    answers = await asyncio.gather(
        *(append(service, block, x_ms_blob_condition_appendpos="0") for _ in range(20))
    )
    assert sorted(answer.status for answer in answers) == [201] + [412] * 19
    assert (await service.get("box/log")).body == block
    service.store.streams.close()
    assert len(service.content_files) == files


@pytest.mark.parametrize(
    ("version", "size", "status"),
    [
        ("2022-11-02", 100 * MIB, 404),
        ("2022-11-02", 100 * MIB + 1, 413),
        ("2021-12-02", 4 * MIB, 404),
        ("2021-12-02", 4 * MIB + 1, 413),
    ],
)
async def test_block_over_the_versions_limit_is_refused(
    service: RunningBlobService, version: str, size: int, status: int
) -> None:
    headers = {"x_ms_version": version, "content_length": str(size)}
    assert (await append(service, b"", **headers)).status == status


async def test_more_than_50000_blocks_are_refused(
    service: RunningBlobService,
) -> None:
    await create(service)
    statement = "UPDATE blob SET append_blocks = 49999"
    await service.store.change(lambda db: db.execute(statement).rowcount)
    assert (await append(service, b"last")).headers["x-ms-blob-committed-block-count"] == "50000"
    answer = await append(service, b"more")
    assert (answer.status, answer.code) == (409, "BlockCountExceedsLimit")


async def test_operation_of_another_blob_type_is_refused(
    service: RunningBlobService,
) -> None:
    await service.put("box/log", b"content")
    answers = [await append(service, b"x"), await create(service)]
    await service.request("DELETE", "box/log")
    await create(service)
    block_list = b"<BlockList><Latest>AAAA</Latest></BlockList>"
    for method, query, body, headers in (
        ("PUT", "", b"content", BLOCK),
        ("PUT", "comp=block&blockid=AAAA", b"x", {}),
        ("PUT", "comp=blocklist", block_list, {}),
        ("GET", "comp=blocklist", b"", {}),
    ):
        answers.append(await service.request(method, "box/log", body, query=query, headers=headers))
    assert {(answer.status, answer.code) for answer in answers} == {(409, "InvalidBlobType")}


async def test_invalid_append_stores_nothing(
    service: RunningBlobService,
) -> None:
    assert (await append(service, b"x")).code == "BlobNotFound"
    refused = await service.request("PUT", "box/log", b"content", headers=APPEND)
    assert (refused.status, refused.code) == (400, "InvalidHeaderValue")
    await create(service)
    assert (await append(service, b"")).code == "InvalidHeaderValue"
    for name in ("x_ms_blob_condition_appendpos", "x_ms_blob_condition_maxsize"):
        for value in ("-1", "soon", "9" * 19):
            assert (await append(service, b"x", **{name: value})).code == "InvalidHeaderValue"
    for block in (b"x", bytes(FILE_BYTES)):
        wrong = await append(service, block, content_md5="AAAAAAAAAAAAAAAAAAAAAA==")
        assert wrong.code == "Md5Mismatch"
        assert (await append(service, block, if_match='"old"')).code == "ConditionNotMet"
    assert (await service.get("box/log")).body == b""
    service.store.streams.close()
    assert service.content_files == []


async def test_append_to_leased_blob_needs_the_lease_id(
    service: RunningBlobService,
) -> None:
    await create(service)
    acquire = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
    answer = await service.request("PUT", "box/log", query="comp=lease", headers=acquire)
    lease_id = answer.headers["x-ms-lease-id"]
    assert (await append(service, b"x")).code == "LeaseIdMissing"
    assert (await append(service, b"x", x_ms_lease_id=lease_id)).status == 201
