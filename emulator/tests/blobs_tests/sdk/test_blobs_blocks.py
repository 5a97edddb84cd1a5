"""Test blobs that are uploaded in blocks."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import BlobBlock, ContentSettings

from blobs_tests.sdk.both_clients import code_of

MIB = 1024 * 1024


def block_id(number: int) -> str:
    return base64.b64encode(f"{number:06}".encode()).decode()


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_content_uploaded_in_blocks_is_complete(container: Any, concurrency: int) -> None:
    content = os.urandom(5 * MIB + 12345)
    blob = container.get_blob_client("large")
    answer = await blob.upload_blob(
        io.BytesIO(content), max_concurrency=concurrency, metadata={"a": "1"}
    )
    found = await blob.get_blob_properties()
    assert (found.size, found.etag, found.metadata) == (len(content), answer["etag"], {"a": "1"})
    assert await (await blob.download_blob(max_concurrency=concurrency)).readall() == content
    for offset, length in [(0, 10), (MIB - 5, 10), (512 * 1024, 2 * MIB), (len(content) - 3, 3)]:
        part = await blob.download_blob(offset=offset, length=length)
        assert await part.readall() == content[offset : offset + length]


async def test_large_upload_without_overwrite_keeps_the_blob(
    container: Any,
) -> None:
    blob = container.get_blob_client("large")
    await blob.upload_blob(b"small")
    with pytest.raises(ResourceExistsError) as refused:
        await blob.upload_blob(os.urandom(2 * MIB))
    assert code_of(refused.value) == "BlobAlreadyExists"
    assert await (await blob.download_blob()).readall() == b"small"


async def test_block_list_sets_the_order(
    container: Any,
) -> None:
    blob = container.get_blob_client("blocks")
    for number in range(4):
        await blob.stage_block(block_id(number), str(number).encode() * 3)
    with pytest.raises(ResourceNotFoundError):
        await blob.download_blob()
    order = [2, 0, 2, 3]
    settings = ContentSettings(content_type="text/plain")
    await blob.commit_block_list(
        [BlobBlock(block_id(number)) for number in order],
        content_settings=settings,
        metadata={"a": "1"},
    )
    assert await (await blob.download_blob()).readall() == b"222000222333"
    found = await blob.get_blob_properties()
    assert (found.content_settings.content_type, found.metadata) == ("text/plain", {"a": "1"})
    committed, uncommitted = await blob.get_block_list("all")
    assert [(block.id, block.size) for block in committed] == [
        (block_id(number), 3) for number in order
    ]
    assert uncommitted == []


async def test_block_list_may_mix_committed_and_new_blocks(container: Any) -> None:
    blob = container.get_blob_client("blocks")
    for number in range(3):
        await blob.stage_block(block_id(number), b"old" + str(number).encode())
    await blob.commit_block_list([BlobBlock(block_id(number)) for number in range(3)])
    await blob.stage_block(block_id(1), b"new1")
    committed, uncommitted = await blob.get_block_list("all")
    assert [block.id for block in committed] == [block_id(number) for number in range(3)]
    assert [(block.id, block.size) for block in uncommitted] == [(block_id(1), 4)]
    await blob.commit_block_list([BlobBlock(block_id(number)) for number in (2, 1)])
    assert await (await blob.download_blob()).readall() == b"old2new1"


async def test_block_staged_twice_has_the_second_content(
    container: Any,
) -> None:
    blob = container.get_blob_client("blocks")
    await blob.stage_block(block_id(0), b"first")
    await blob.stage_block(block_id(0), b"later")
    await blob.commit_block_list([BlobBlock(block_id(0))])
    assert await (await blob.download_blob()).readall() == b"later"


async def test_unknown_block_is_refused(container: Any) -> None:
    blob = container.get_blob_client("blocks")
    await blob.stage_block(block_id(0), b"known")
    with pytest.raises(HttpResponseError) as refused:
        await blob.commit_block_list([BlobBlock(block_id(0)), BlobBlock(block_id(1))])
    assert refused.value.status_code == 400
    assert code_of(refused.value) == "InvalidBlockList"
    _, uncommitted = await blob.get_block_list("all")
    assert [block.id for block in uncommitted] == [block_id(0)]


async def test_block_id_of_another_length_is_refused(
    container: Any,
) -> None:
    blob = container.get_blob_client("blocks")
    await blob.stage_block(block_id(0), b"content")
    with pytest.raises(HttpResponseError) as refused:
        await blob.stage_block(base64.b64encode(b"longer than the other").decode(), b"content")
    assert refused.value.status_code == 400
    assert code_of(refused.value) == "InvalidBlobOrBlock"


@pytest.mark.azurite_differs("Azurite keeps uncommitted blocks when Put Blob replaces the blob")
async def test_whole_upload_discards_uncommitted_blocks(
    container: Any,
) -> None:
    blob = container.get_blob_client("blocks")
    await blob.stage_block(block_id(0), b"content")
    await blob.upload_blob(b"whole")
    with pytest.raises(HttpResponseError) as refused:
        await blob.commit_block_list([BlobBlock(block_id(0))])
    assert code_of(refused.value) == "InvalidBlockList"


async def test_empty_block_list_makes_an_empty_blob(container: Any) -> None:
    blob = container.get_blob_client("empty")
    await blob.commit_block_list([])
    assert await (await blob.download_blob()).readall() == b""
    assert (await blob.get_blob_properties()).size == 0


@pytest.mark.azurite_differs("Azurite responds with InvalidOperation")
async def test_wrong_checksum_is_refused(container: Any) -> None:
    blob = container.get_blob_client("blocks")
    wrong = base64.b64encode(bytes(16)).decode()
    with pytest.raises(HttpResponseError) as refused:
        await blob.stage_block(block_id(0), b"content", headers={"Content-MD5": wrong})
    assert refused.value.status_code == 400
    assert code_of(refused.value) == "Md5Mismatch"
