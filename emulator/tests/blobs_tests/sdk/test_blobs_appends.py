"""Test append blobs with Microsoft's clients."""

from __future__ import annotations

import os
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobType

from blobs_tests.sdk.both_clients import code_of


async def test_sdk_creates_and_appends_blocks(container: Any) -> None:
    blob = container.get_blob_client("log")
    await blob.create_append_blob(metadata={"a": "1"})
    await blob.append_block(b"one ")
    answer = await blob.append_block(b"two ", appendpos_condition=4, validate_content=True)
    assert (answer["blob_append_offset"], answer["blob_committed_block_count"]) == ("4", 2)
    with pytest.raises(HttpResponseError) as refused:
        await blob.append_block(b"two ", appendpos_condition=4)
    assert code_of(refused.value) == "AppendPositionConditionNotMet"
    assert await (await blob.download_blob()).readall() == b"one two "
    found = await blob.get_blob_properties()
    assert (found.blob_type, found.append_blob_committed_block_count) == (BlobType.APPENDBLOB, 2)
    assert found.metadata == {"a": "1"}
    assert [item.blob_type async for item in container.list_blobs()] == [BlobType.APPENDBLOB]


async def test_sdk_uploads_in_blocks_and_appends(container: Any) -> None:
    content = os.urandom(1_300_000)
    blob = container.get_blob_client("log")
    await blob.upload_blob(content, blob_type=BlobType.APPENDBLOB)
    await blob.upload_blob(b"more", blob_type=BlobType.APPENDBLOB)
    assert await (await blob.download_blob()).readall() == content + b"more"
    await blob.upload_blob(b"new", blob_type=BlobType.APPENDBLOB, overwrite=True)
    assert await (await blob.download_blob()).readall() == b"new"


@pytest.mark.azurite_differs("Azurite replaces an append blob by a block blob")
async def test_type_of_blob_cannot_be_changed(container: Any) -> None:
    blob = container.get_blob_client("log")
    await blob.create_append_blob()
    with pytest.raises(HttpResponseError) as refused:
        await blob.upload_blob(b"content", overwrite=True)
    assert (refused.value.status_code, code_of(refused.value)) == (409, "InvalidBlobType")
