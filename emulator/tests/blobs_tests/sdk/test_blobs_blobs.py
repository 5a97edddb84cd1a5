"""Test blobs that are uploaded in one request: content, ranges, properties and metadata."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.blob import ContentSettings

from blobs_tests.sdk.both_clients import code_of

SIZES = [0, 1, 1000, 32 * 1024, 32 * 1024 + 1, 500_000, 1024 * 1024]


@pytest.mark.parametrize("size", SIZES)
async def test_content_is_what_was_uploaded(container: Any, size: int) -> None:
    content = os.urandom(size)
    blob = container.get_blob_client("blob")
    await blob.upload_blob(content)
    download = await blob.download_blob()
    assert await download.readall() == content
    properties = await blob.get_blob_properties()
    assert properties.size == size
    assert properties.content_settings.content_md5 == hashlib.md5(content).digest()


async def test_upload_sets_content_settings_and_metadata(
    container: Any,
) -> None:
    settings = ContentSettings(
        content_type="image/png",
        content_encoding="identity",
        content_language="de",
        content_disposition="inline",
        cache_control="no-store",
    )
    blob = container.get_blob_client("folder/picture.png")
    metadata = {"Model": "efficientnet", "with_underscore": "1", "with1digit": "2"}
    answer = await blob.upload_blob(b"content", content_settings=settings, metadata=metadata)
    found = await blob.get_blob_properties()
    assert found.etag == answer["etag"]
    assert found.last_modified == answer["last_modified"]
    assert found.creation_time is not None
    assert found.metadata == metadata
    assert found.blob_type == "BlockBlob"
    assert found.lease.status == "unlocked"
    assert found.server_encrypted
    for name in (
        "content_type",
        "content_encoding",
        "content_language",
        "content_disposition",
        "cache_control",
    ):
        assert found.content_settings[name] == settings[name], name
    assert (await (await blob.download_blob()).readall()) == b"content"


async def test_default_content_type_is_octet_stream(container: Any) -> None:
    await container.upload_blob("blob", b"content")
    found = await container.get_blob_client("blob").get_blob_properties()
    assert found.content_settings.content_type == "application/octet-stream"


async def test_upload_without_overwrite_keeps_the_blob(
    container: Any,
) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"first")
    with pytest.raises(ResourceExistsError) as refused:
        await blob.upload_blob(b"second")
    assert code_of(refused.value) == "BlobAlreadyExists"
    assert await (await blob.download_blob()).readall() == b"first"
    await blob.upload_blob(b"third", overwrite=True)
    assert await (await blob.download_blob()).readall() == b"third"


@pytest.mark.parametrize("size", [1000, 500_000])
@pytest.mark.parametrize(("offset", "length"), [(0, 1), (10, 20), (999, 1), (900, 5000), (1, None)])
async def test_range_returns_its_bytes(
    container: Any, size: int, offset: int, length: int | None
) -> None:
    content = os.urandom(size)
    blob = container.get_blob_client("blob")
    await blob.upload_blob(content)
    download = await blob.download_blob(offset=offset, length=length)
    stop = size if length is None else min(size, offset + length)
    assert await download.readall() == content[offset:stop]


@pytest.mark.azurite_differs(
    "Azurite returns no bytes for a range that begins at the end of the blob"
)
async def test_range_beyond_the_end_is_refused(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"0123456789")
    with pytest.raises(HttpResponseError) as refused:
        await blob.download_blob(offset=10, length=1)
    assert refused.value.status_code == 416
    assert code_of(refused.value) == "InvalidRange"


@pytest.mark.parametrize("validate", [True, "md5"])
async def test_sdk_validates_md5(container: Any, validate: bool | str) -> None:
    content = os.urandom(700_000)
    blob = container.get_blob_client("blob")
    await blob.upload_blob(content, validate_content=validate)
    download = await blob.download_blob(offset=100, length=600_000, validate_content=validate)
    assert await download.readall() == content[100:600_100]


async def test_setting_properties_replaces_all(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"content", content_settings=ContentSettings(cache_control="no-store"))
    before = await blob.get_blob_properties()
    await blob.set_http_headers(ContentSettings(content_type="text/plain"))
    after = await blob.get_blob_properties()
    assert after.content_settings.content_type == "text/plain"
    assert after.content_settings.cache_control is None
    assert after.content_settings.content_md5 is None
    assert after.etag != before.etag
    assert await (await blob.download_blob()).readall() == b"content"


async def test_setting_metadata_replaces_all(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(b"content", metadata={"a": "1"})
    await blob.set_blob_metadata({"b": "2"})
    assert (await blob.get_blob_properties()).metadata == {"b": "2"}
    await blob.set_blob_metadata()
    assert (await blob.get_blob_properties()).metadata == {}


@pytest.mark.parametrize("name", ["with-hyphen", "1digit", "with space"])
async def test_metadata_name_must_be_an_identifier(container: Any, name: str) -> None:
    with pytest.raises(HttpResponseError) as refused:
        await container.upload_blob("blob", b"", metadata={name: "value"})
    assert refused.value.status_code == 400


@pytest.mark.azurite_differs("Azurite accepts metadata over 8 KiB")
async def test_metadata_over_8_kib_is_refused(container: Any) -> None:
    with pytest.raises(HttpResponseError) as refused:
        await container.upload_blob("blob", b"", metadata={"large": "x" * 9000})
    assert refused.value.status_code == 400


async def test_missing_blob_raises_blob_not_found(container: Any) -> None:
    blob = container.get_blob_client("missing")
    assert not await blob.exists()
    for attempt in (
        blob.download_blob(),
        blob.get_blob_properties(),
        blob.set_blob_metadata({"a": "1"}),
        blob.set_http_headers(ContentSettings()),
        blob.delete_blob(),
        blob.get_block_list(),
    ):
        with pytest.raises(ResourceNotFoundError) as refused:
            await attempt
        assert code_of(refused.value) == "BlobNotFound"


async def test_deleted_blob_no_longer_exists(container: Any) -> None:
    blob = container.get_blob_client("blob")
    await blob.upload_blob(os.urandom(100_000))
    await blob.delete_blob(delete_snapshots="include")
    assert not await blob.exists()
    await blob.upload_blob(b"again")
    await blob.delete_blob()
    assert not await blob.exists()


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "with space and + and & and = and %25",
        "deep/er/and/deeper.txt",
        "ünïcödé/日本語/🐈",
        "question?hash#quote'\"<>",
        "CaseMatters",
        "a:b@c!d$e,f;g(h)[i]{j}|k~l^m`n",
        "x" * 1024,
    ],
)
async def test_special_characters_in_names_are_kept(container: Any, name: str) -> None:
    await container.upload_blob(name, name.encode(), metadata={"a": "1"})
    download = await container.get_blob_client(name).download_blob()
    assert await download.readall() == name.encode()
    assert [blob.name async for blob in container.list_blobs()] == [name]
    await container.delete_blob(name)
    assert [blob.name async for blob in container.list_blobs()] == []


async def test_backslash_in_a_name_becomes_a_slash(container: Any) -> None:
    await container.upload_blob("back\\slash", b"content")
    assert [blob.name async for blob in container.list_blobs()] == ["back/slash"]
    assert await (await container.download_blob("back/slash")).readall() == b"content"


async def test_names_are_case_sensitive(
    container: Any,
) -> None:
    await container.upload_blob("name", b"lower")
    await container.upload_blob("NAME", b"upper")
    assert await (await container.download_blob("name")).readall() == b"lower"
    assert await (await container.download_blob("NAME")).readall() == b"upper"
