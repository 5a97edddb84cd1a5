"""Test leases of blobs and containers with Microsoft's clients."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobLeaseClient
from azure.storage.blob.aio import BlobLeaseClient as AsyncBlobLeaseClient

from blobs_tests.sdk.both_clients import code_of
from blocking_client import Blocking


def lease_client(client: Any) -> Any:
    """Return a lease client with asynchronous methods for the blob or container of `client`."""
    if isinstance(client, Blocking):
        return Blocking(BlobLeaseClient(client.inner, str(uuid4())))
    return AsyncBlobLeaseClient(client, str(uuid4()))


async def refused_code(attempt: Any) -> tuple[int | None, str]:
    with pytest.raises(HttpResponseError) as refused:
        await attempt
    return refused.value.status_code, code_of(refused.value)


async def test_sdk_performs_every_lease_action(
    container: Any,
) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"content")
    for leased in (blob, container):
        lease = lease_client(leased)
        await lease.acquire(lease_duration=15)
        assert await refused_code(lease_client(leased).acquire()) == (409, "LeaseAlreadyPresent")
        await lease.change(str(uuid4()))
        await lease.renew()
        await lease.release()
        await lease.acquire(lease_duration=-1)
        assert await lease.break_lease(lease_break_period=10) == 10
        breaking = (409, "LeaseIsBreakingAndCannotBeAcquired")
        assert await refused_code(lease.acquire()) == breaking
        assert await lease.break_lease(lease_break_period=0) == 0
        assert await refused_code(lease.renew()) == (409, "LeaseIsBrokenAndCannotBeRenewed")


async def test_leased_blob_needs_the_lease_id(
    container: Any,
) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"content")
    lease = lease_client(blob)
    await lease.acquire()
    found = (await blob.get_blob_properties()).lease
    assert (found.status, found.state, found.duration) == ("locked", "leased", "infinite")
    assert await refused_code(blob.upload_blob(b"new", overwrite=True)) == (412, "LeaseIdMissing")
    assert await refused_code(blob.delete_blob()) == (412, "LeaseIdMissing")
    await blob.upload_blob(b"new", overwrite=True, lease=lease.id)
    wrong = blob.download_blob(lease=str(uuid4()))
    assert await refused_code(wrong) == (412, "LeaseIdMismatchWithBlobOperation")
    assert await (await blob.download_blob(lease=lease.id)).readall() == b"new"
    await blob.delete_blob(lease=lease.id)


async def test_leased_container_is_deleted_only_with_lease_id(service: Any) -> None:
    container = await service.create_container(f"test-{uuid4().hex}")
    lease = lease_client(container)
    await lease.acquire()
    assert await refused_code(container.delete_container()) == (412, "LeaseIdMissing")
    await container.delete_container(lease=lease.id)
