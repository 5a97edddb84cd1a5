"""Test conditional requests: exclusive creation, lost updates and unchanged content."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)

from blobs_tests.sdk.both_clients import code_of

OTHER = '"0x8D0000000000000"'
HOUR = timedelta(hours=1)


@pytest.fixture
async def blob(container: Any) -> Any:
    client = container.get_blob_client("blob")
    await client.upload_blob(b"content")
    return client


async def test_one_of_many_simultaneous_creations_succeeds(
    container: Any,
) -> None:
    async def create(number: int) -> int | None:
        try:
            await container.upload_blob("claim", str(number).encode())
        except ResourceExistsError:
            return None
        return number

    winners = [
        number
        for number in await asyncio.gather(*(create(number) for number in range(16)))
        if number is not None
    ]
    assert len(winners) == 1
    download = await container.download_blob("claim")
    assert await download.readall() == str(winners[0]).encode()


async def test_only_the_current_etag_permits_a_write(
    blob: Any,
) -> None:
    etag = (await blob.get_blob_properties()).etag
    unchanged = {"etag": etag, "match_condition": MatchConditions.IfNotModified}
    await blob.upload_blob(b"second", overwrite=True, **unchanged)
    for attempt in (
        blob.upload_blob(b"third", overwrite=True, **unchanged),
        blob.set_blob_metadata({"a": "1"}, **unchanged),
        blob.delete_blob(**unchanged),
    ):
        with pytest.raises(ResourceModifiedError) as refused:
            await attempt
        assert refused.value.status_code == 412
        assert code_of(refused.value) == "ConditionNotMet"
    assert await (await blob.download_blob()).readall() == b"second"


async def test_if_none_match_with_the_current_etag_fails(
    blob: Any,
) -> None:
    etag = (await blob.get_blob_properties()).etag
    with pytest.raises(ResourceModifiedError):
        await blob.delete_blob(etag=etag, match_condition=MatchConditions.IfModified)
    await blob.delete_blob(etag=OTHER, match_condition=MatchConditions.IfModified)


async def test_if_match_on_a_missing_blob_fails(
    container: Any,
) -> None:
    blob = container.get_blob_client("missing")
    with pytest.raises(HttpResponseError) as refused:
        await blob.upload_blob(
            b"x", overwrite=True, etag=OTHER, match_condition=MatchConditions.IfNotModified
        )
    assert refused.value.status_code == 412
    # Azurite checks the condition first; by RFC 9110 status 404 takes precedence over 412.
    with pytest.raises((ResourceNotFoundError, ResourceModifiedError)):
        await blob.delete_blob(etag=OTHER, match_condition=MatchConditions.IfNotModified)


async def test_write_fails_if_modified_condition_is_not_met(
    blob: Any,
) -> None:
    modified = (await blob.get_blob_properties()).last_modified
    await blob.set_blob_metadata({"a": "1"}, if_unmodified_since=modified + HOUR)
    with pytest.raises(ResourceModifiedError):
        await blob.set_blob_metadata({"a": "2"}, if_unmodified_since=modified - HOUR)
    await blob.set_blob_metadata({"a": "3"}, if_modified_since=modified - HOUR)
    with pytest.raises(ResourceModifiedError):
        await blob.set_blob_metadata({"a": "4"}, if_modified_since=modified + HOUR)
    assert (await blob.get_blob_properties()).metadata == {"a": "3"}


@pytest.mark.parametrize("read", ["download_blob", "get_blob_properties"])
async def test_read_fails_if_etag_condition_is_not_met(blob: Any, read: str) -> None:
    ask = getattr(blob, read)
    etag = (await blob.get_blob_properties()).etag
    await ask(etag=etag, match_condition=MatchConditions.IfNotModified)
    await ask(etag=OTHER, match_condition=MatchConditions.IfModified)
    with pytest.raises(ResourceModifiedError) as refused:
        await ask(etag=OTHER, match_condition=MatchConditions.IfNotModified)
    assert refused.value.status_code == 412
    with pytest.raises(HttpResponseError) as unchanged:
        await ask(etag=etag, match_condition=MatchConditions.IfModified)
    assert unchanged.value.status_code == 304


@pytest.mark.parametrize("read", ["download_blob", "get_blob_properties"])
async def test_read_fails_if_modified_condition_is_not_met(blob: Any, read: str) -> None:
    ask = getattr(blob, read)
    modified = (await blob.get_blob_properties()).last_modified
    await ask(if_modified_since=modified - HOUR)
    await ask(if_unmodified_since=modified)
    with pytest.raises(HttpResponseError) as unchanged:
        await ask(if_modified_since=modified)
    assert unchanged.value.status_code == 304
    with pytest.raises(ResourceModifiedError):
        await ask(if_unmodified_since=modified - HOUR)


async def test_container_deletion_needs_its_condition(container: Any) -> None:
    modified = (await container.get_container_properties()).last_modified
    with pytest.raises(ResourceModifiedError):
        await container.delete_container(if_unmodified_since=modified - HOUR)
    assert await container.exists()
