"""Test snapshots of blobs with Microsoft's clients."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.blob import generate_blob_sas, generate_container_sas

from blobs_tests.sdk.blob_servers import ACCOUNT, KEY, Server
from blobs_tests.sdk.both_clients import code_of, connect


async def test_sdk_takes_reads_lists_and_deletes_snapshots(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"old", metadata={"a": "1"})
    time = (await blob.create_snapshot())["snapshot"]
    await blob.upload_blob(b"new", overwrite=True)
    snapshot = container.get_blob_client("blob", snapshot=time)
    assert await (await snapshot.download_blob()).readall() == b"old"
    found = await snapshot.get_blob_properties()
    assert (found.size, found.metadata) == (3, {"a": "1"})
    listed = [item.snapshot async for item in container.list_blobs(include=["snapshots"])]
    assert listed == [time, None]
    with pytest.raises(HttpResponseError) as refused:
        await blob.delete_blob()
    assert code_of(refused.value) == "SnapshotsPresent"
    await snapshot.delete_blob()
    with pytest.raises(ResourceNotFoundError):
        await snapshot.get_blob_properties()
    await blob.create_snapshot()
    await blob.delete_blob(delete_snapshots="only")
    assert [item.name async for item in container.list_blobs(include=["snapshots"])] == ["blob"]
    await blob.create_snapshot()
    await blob.delete_blob(delete_snapshots="include")
    assert [item.name async for item in container.list_blobs(include=["snapshots"])] == []


@pytest.mark.parametrize(
    "resource",
    [
        "snapshot",
        pytest.param(
            "container",
            marks=pytest.mark.azurite_differs(
                "Azurite refuses a SAS of the container for a snapshot"
            ),
        ),
    ],
)
async def test_sas_of_snapshot_or_container_permits_reading(
    container: Any, server: Server, sdk: str, resource: str
) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"old")
    time = (await blob.create_snapshot())["snapshot"]
    await blob.upload_blob(b"new", overwrite=True)
    name = container.container_name
    expiry = datetime.now(UTC) + timedelta(hours=1)
    read: dict[str, Any] = {"account_key": KEY, "permission": "r", "expiry": expiry}
    if resource == "snapshot":
        sas = generate_blob_sas(ACCOUNT, name, "blob", snapshot=time, **read)
    else:
        sas = generate_container_sas(ACCOUNT, name, **read)
    async with connect(sdk, server.url, sas) as service:
        snapshot = service.get_blob_client(name, "blob", snapshot=time)
        assert await (await snapshot.download_blob()).readall() == b"old"
    await blob.delete_blob(delete_snapshots="include")
