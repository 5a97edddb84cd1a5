"""Test listings of blobs: order, prefixes, delimiters and pages."""

from __future__ import annotations

from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

NAMES = ["a", "a/1", "a/2", "a/b/3", "a/b/4", "b", "c/5", "d", "ä/6", "日本/7"]


@pytest.fixture
async def filled(container: Any) -> Any:
    for name in reversed(NAMES):
        await container.upload_blob(name, name.encode(), metadata={"length": str(len(name))})
    return container


async def test_blobs_are_in_the_order_of_names(filled: Any) -> None:
    assert [blob.name async for blob in filled.list_blobs()] == NAMES


async def test_entry_has_the_blobs_properties(filled: Any) -> None:
    listed = {blob.name: blob async for blob in filled.list_blobs(include=["metadata"])}
    found = await filled.get_blob_client("a/1").get_blob_properties()
    item = listed["a/1"]
    assert item.size == 3
    assert item.metadata == {"length": "3"}
    assert item.etag.strip('"') == found.etag.strip('"')
    assert item.last_modified == found.last_modified
    assert item.creation_time == found.creation_time
    assert item.content_settings.content_type == "application/octet-stream"
    assert bytes(item.content_settings.content_md5) == bytes(found.content_settings.content_md5)
    assert item.blob_type == "BlockBlob"
    assert item.lease.state == "available"


async def test_metadata_is_listed_only_on_request(
    filled: Any,
) -> None:
    assert [blob.metadata async for blob in filled.list_blobs("a/1")] == [{}]


@pytest.mark.parametrize("prefix", ["a", "a/", "a/b/", "b", "ä", "日", "zzz", "a/b/3"])
async def test_prefix_selects_blobs(filled: Any, prefix: str) -> None:
    found = [blob.name async for blob in filled.list_blobs(name_starts_with=prefix)]
    assert found == [name for name in NAMES if name.startswith(prefix)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_pages_contain_each_blob_once(filled: Any, size: int) -> None:
    pages = filled.list_blobs(results_per_page=size).by_page()
    found = [[blob.name async for blob in page] async for page in pages]
    assert [name for page in found for name in page] == NAMES
    assert all(len(page) == size for page in found[:-1])
    assert 0 < len(found[-1]) <= size


async def test_marker_continues_after_the_previous_page(filled: Any) -> None:
    pages = filled.list_blobs(results_per_page=4).by_page()
    async for page in pages:
        first = [blob.name async for blob in page]
        break
    rest = filled.list_blobs(results_per_page=100).by_page(pages.continuation_token)
    others = [blob.name async for page in rest async for blob in page]
    assert first + others == NAMES


@pytest.mark.parametrize("size", [1, 2, 3, 100])
async def test_delimiter_groups_by_common_prefix(filled: Any, size: int) -> None:
    top = [item async for item in filled.walk_blobs(results_per_page=size)]
    # Within a page the SDK returns the prefixes before the blobs.
    assert sorted(item.name for item in top) == ["a", "a/", "b", "c/", "d", "ä/", "日本/"]
    inner = [item.name async for item in filled.walk_blobs("a/", results_per_page=size)]
    assert sorted(inner) == ["a/1", "a/2", "a/b/"]


async def test_page_size_of_zero_is_refused(filled: Any) -> None:
    with pytest.raises(HttpResponseError) as refused:
        _ = [blob async for blob in filled.list_blobs(results_per_page=0)]
    assert refused.value.status_code == 400


async def test_blob_with_only_uncommitted_blocks_is_absent(container: Any) -> None:
    await container.get_blob_client("staged").stage_block("AAAA", b"content")
    assert [blob.name async for blob in container.list_blobs()] == []
