"""Test the index tags of blobs with Microsoft's clients."""

from __future__ import annotations

from typing import Any

TAGS = {"model": "efficientnet", "with space": "a/b:c=d"}


async def test_sdk_sets_and_reads_tags(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"content", tags=TAGS)
    assert await blob.get_blob_tags() == TAGS
    assert (await blob.get_blob_properties()).tag_count == 2
    await blob.set_blob_tags({"new": "1"})
    assert await blob.get_blob_tags() == {"new": "1"}
    assert [item.tags async for item in container.list_blobs(include=["tags"])] == [{"new": "1"}]
    await blob.set_blob_tags()
    assert await blob.get_blob_tags() == {}


async def test_sdk_sets_tags_of_an_upload_in_blocks(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(bytes(1_200_000), tags=TAGS)
    assert await blob.get_blob_tags() == TAGS
