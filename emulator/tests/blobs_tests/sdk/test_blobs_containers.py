"""Test creating, listing and deleting containers, and their names and metadata."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

from blobs_tests.sdk.both_clients import code_of


async def test_container_has_metadata_until_its_deletion(
    service: Any,
) -> None:
    name = f"test-{uuid4().hex}"
    container = await service.create_container(name, metadata={"Purpose": "tests"})
    properties = await container.get_container_properties()
    assert properties.name == name
    assert properties.metadata == {"Purpose": "tests"}
    assert properties.etag
    assert properties.lease.state == "available"
    await container.delete_container()
    assert not await container.exists()


async def test_name_in_use_is_refused(container: Any) -> None:
    with pytest.raises(ResourceExistsError) as refused:
        await container.create_container()
    assert code_of(refused.value) == "ContainerAlreadyExists"
    assert refused.value.status_code == 409


async def test_missing_container_raises_container_not_found(
    service: Any,
) -> None:
    missing = service.get_container_client("nowhere")
    blob = missing.get_blob_client("blob")
    for attempt in (
        missing.get_container_properties(),
        missing.delete_container(),
        blob.upload_blob(b"x"),
        blob.stage_block("AAAA", b"x"),
        _names(missing),
    ):
        with pytest.raises(ResourceNotFoundError) as refused:
            await attempt
        assert code_of(refused.value) == "ContainerNotFound"


async def test_download_from_missing_container_raises_not_found(
    service: Any,
) -> None:
    with pytest.raises(ResourceNotFoundError):
        await service.get_blob_client("nowhere", "blob").download_blob()


@pytest.mark.parametrize("name", ["UPPER", "two--hyphens", "-first", "under_score", "last-"])
async def test_invalid_name_is_refused(service: Any, name: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        await service.create_container(name)
    assert refused.value.status_code == 400
    assert code_of(refused.value) == "InvalidResourceName"


@pytest.mark.parametrize("name", ["ab", "a" * 64])
async def test_name_of_invalid_length_is_refused(service: Any, name: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        await service.create_container(name)
    assert refused.value.status_code == 400
    assert code_of(refused.value) == "OutOfRangeInput"


async def test_setting_metadata_replaces_all(container: Any) -> None:
    await container.set_container_metadata({"a": "1", "b": "2"})
    before = await container.get_container_properties()
    await container.set_container_metadata({"c": "3"})
    after = await container.get_container_properties()
    assert after.metadata == {"c": "3"}
    assert after.etag != before.etag


async def test_listing_by_prefix_returns_pages(
    service: Any,
) -> None:
    prefix = f"list-{uuid4().hex[:8]}-"
    made = [
        await service.create_container(f"{prefix}{number}", metadata={"number": str(number)})
        for number in range(5)
    ]
    try:
        pages = service.list_containers(prefix, include_metadata=True, results_per_page=2).by_page()
        found = [[(item.name, item.metadata) async for item in page] async for page in pages]
        assert [len(page) for page in found] == [2, 2, 1]
        assert [item for page in found for item in page] == [
            (f"{prefix}{number}", {"number": str(number)}) for number in range(5)
        ]
        plain = [item async for item in service.list_containers(prefix)]
        assert all(item.metadata is None and item.etag for item in plain)
    finally:
        for container in made:
            await container.delete_container()


async def test_deletion_deletes_the_blobs(service: Any) -> None:
    name = f"test-{uuid4().hex}"
    container = await service.create_container(name)
    await container.upload_blob("blob", b"content")
    await container.upload_blob("large", b"content" * 200_000)
    await container.delete_container()
    again = await service.create_container(name)
    assert await _names(again) == []
    assert not await again.get_blob_client("blob").exists()
    await again.delete_container()


async def test_account_kind_is_storagev2(
    service: Any,
) -> None:
    account = await service.get_account_information()
    assert account["account_kind"] == "StorageV2"


async def _names(container: Any) -> list[str]:
    return [blob.name async for blob in container.list_blobs()]
