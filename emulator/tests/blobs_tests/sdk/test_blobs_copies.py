"""Test copies of blobs with Microsoft's clients."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobBlock, generate_blob_sas

from blobs_tests.sdk.blob_servers import ACCOUNT, KEY


def signed_url(blob: Any) -> str:
    sas = generate_blob_sas(
        ACCOUNT,
        blob.container_name,
        blob.blob_name,
        account_key=KEY,
        permission="r",
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )
    return f"{blob.url}?{sas}"


@pytest.mark.parametrize("size", [100, 100_000])
async def test_sdk_copies_with_account_key_or_signed_url(container: Any, size: int) -> None:
    content = os.urandom(size)
    source, copy = container.get_blob_client("source"), container.get_blob_client("copy")
    await source.upload_blob(content, metadata={"a": "1"})
    answer = await copy.start_copy_from_url(source.url)
    assert answer["copy_status"] == "success"
    found = await copy.get_blob_properties()
    assert (found.metadata, found.copy.status, found.copy.id) == (
        {"a": "1"},
        "success",
        answer["copy_id"],
    )
    await copy.start_copy_from_url(signed_url(source), requires_sync=True)
    assert await (await copy.download_blob()).readall() == content


@pytest.mark.azurite_differs("Azurite has no Put Blob From URL")
async def test_sdk_uploads_blob_from_signed_url(container: Any) -> None:
    content = os.urandom(100_000)
    source, copy = container.get_blob_client("source"), container.get_blob_client("copy")
    await source.upload_blob(content)
    await copy.upload_blob_from_url(signed_url(source), overwrite=True)
    assert await (await copy.download_blob()).readall() == content


@pytest.mark.azurite_differs("Azurite has no Put Block From URL")
async def test_sdk_uploads_block_from_signed_url(container: Any) -> None:
    content = os.urandom(100_000)
    source, copy = container.get_blob_client("source"), container.get_blob_client("copy")
    await source.upload_blob(content)
    await copy.stage_block_from_url("AAAA", signed_url(source), 5, 10)
    await copy.commit_block_list([BlobBlock("AAAA")])
    assert await (await copy.download_blob()).readall() == content[5:15]


@pytest.mark.azurite_differs("Azurite reads a blob of the same account without a SAS")
async def test_synchronous_copy_without_sas_is_refused(container: Any) -> None:
    source, copy = container.get_blob_client("source"), container.get_blob_client("copy")
    await source.upload_blob(b"content")
    with pytest.raises(HttpResponseError):
        await copy.start_copy_from_url(source.url, requires_sync=True)
