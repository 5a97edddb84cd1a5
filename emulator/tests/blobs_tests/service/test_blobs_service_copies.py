"""Test copies of blobs from a URL of the same account."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from azure.storage.blob import generate_account_sas
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobs_tests.service.blob_service import (
    START,
    RecordedResponse,
    RunningBlobService,
    open_service,
)
from emulator.blobs.__main__ import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY

HOST = "127.0.0.1:10000"
ACCOUNT_URL = f"http://{HOST}/devstoreaccount1"
SUFFIXES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


async def copy(
    service: RunningBlobService,
    path: str,
    source: str,
    *,
    query: str = "",
    **headers: str,
) -> RecordedResponse:
    """Request a copy of the blob at the URL `source` to `path`, and return the response."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    base = {"host": HOST, "x-ms-copy-source": source}
    return await service.request("PUT", path, query=query, headers=base | names)


def signed(service: RunningBlobService, path: str) -> str:
    return f"{ACCOUNT_URL}/{path}?{service.signature}"


@pytest.mark.parametrize("size", [0, 10, 100_000])
@pytest.mark.parametrize("is_sync", ["true", "false"])
async def test_copy_has_content_properties_and_metadata(
    tmp_path: Path, size: int, is_sync: str
) -> None:
    content = os.urandom(size)
    async with open_service(tmp_path) as service:
        headers = {"content-type": "image/png", "x-ms-meta-a": "1"}
        await service.put("box/source", content, **headers)
        answer = await copy(
            service, "box/copy", signed(service, "box/source"), x_ms_requires_sync=is_sync
        )
        assert (answer.status, answer.headers["x-ms-copy-status"]) == (202, "success")
        await service.put("box/source", b"changed")
    async with open_service(tmp_path) as service:
        found = await service.get("box/copy")
        assert found.body == content
        assert (found.headers["Content-Type"], found.headers["x-ms-meta-a"]) == ("image/png", "1")
        assert found.headers["x-ms-copy-id"] == answer.headers["x-ms-copy-id"]
        assert found.headers["x-ms-copy-source"] == f"{ACCOUNT_URL}/box/source"
        assert found.headers["x-ms-copy-progress"] == f"{size}/{size}"
        await service.request("PUT", "box/copy", query="comp=properties")
        assert "x-ms-copy-id" not in (await service.get("box/copy")).headers


async def test_shared_content_file_goes_with_the_last_blob(
    service: RunningBlobService,
) -> None:
    content = os.urandom(100_000)
    await service.put("box/source", content)
    for path in ("box/copy", "box/copy", "box/source"):
        answer = await copy(service, path, signed(service, "box/source"), x_ms_meta_a="1")
        assert answer.status == 202
    assert len(service.content_files) == 1
    await service.request("DELETE", "box/source")
    assert (await service.get("box/copy")).body == content
    await service.request("DELETE", "box/copy")
    service.store.streams.close()
    assert service.content_files == []


async def test_copied_snapshot_restores_the_old_content(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"old")
    taken = await service.request("PUT", "box/blob", query="comp=snapshot")
    time = taken.headers["x-ms-snapshot"]
    await service.put("box/blob", b"new")
    source = f"{signed(service, 'box/blob')}&snapshot={time}"
    assert (await copy(service, "box/blob", source)).status == 202
    assert (await service.get("box/blob")).body == b"old"


async def test_copy_of_append_blob_can_be_appended_to(
    service: RunningBlobService,
) -> None:
    await service.request("PUT", "box/log", headers={"x-ms-blob-type": "AppendBlob"})
    await service.request("PUT", "box/log", b"one", query="comp=appendblock")
    await copy(service, "box/copy", signed(service, "box/log"))
    answer = await service.request("PUT", "box/copy", b"two", query="comp=appendblock")
    assert answer.headers["x-ms-blob-committed-block-count"] == "2"
    assert (await service.get("box/copy")).body == b"onetwo"
    assert (await service.get("box/log")).body == b"one"


@pytest.mark.parametrize("size", [100, 100_000, 3_000_000])
async def test_blobs_and_blocks_are_copied_from_urls(
    service: RunningBlobService, size: int
) -> None:
    content = os.urandom(size)
    await service.put("box/source", content, **{"content-type": "image/png"})
    source = signed(service, "box/source")
    assert (await copy(service, "box/blob", source, x_ms_blob_type="BlockBlob")).status == 201
    found = await service.get("box/blob")
    assert (found.body, found.headers["Content-Type"]) == (content, "image/png")
    part = {"x_ms_source_range": "bytes=10-59"}
    block = await copy(service, "box/blocks", source, query="comp=block&blockid=AAAA", **part)
    assert block.status == 201
    block_list = b"<BlockList><Latest>AAAA</Latest></BlockList>"
    await service.request("PUT", "box/blocks", block_list, query="comp=blocklist")
    assert (await service.get("box/blocks")).body == content[10:60]
    await service.request("PUT", "box/log", headers={"x-ms-blob-type": "AppendBlob"})
    appended = await copy(service, "box/log", source, query="comp=appendblock", **part)
    assert appended.headers["x-ms-blob-committed-block-count"] == "1"
    assert (await service.get("box/log")).body == content[10:60]
    digest = {"x_ms_source_content_md5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    wrong = await copy(service, "box/wrong", source, x_ms_blob_type="BlockBlob", **digest)
    assert wrong.code == "Md5Mismatch"


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("http://other:10000/devstoreaccount1/box/source", 501, "NotImplemented"),
        (f"https://{HOST}/devstoreaccount1/box/source", 501, "NotImplemented"),
        ("http://127.0.0.1:10001/devstoreaccount1/box/source", 501, "NotImplemented"),
        (f"http://{HOST}/otheraccount/box/source", 501, "NotImplemented"),
        ("file:///etc/passwd", 501, "NotImplemented"),
        ("http://127.0.0.1:port/x", 400, "InvalidHeaderValue"),
        (f"{ACCOUNT_URL}/box", 400, "InvalidHeaderValue"),
        (f"{ACCOUNT_URL}/box/source", 401, "CannotVerifyCopySource"),
        (f"{ACCOUNT_URL}/box/source?sig=wrong", 403, "CannotVerifyCopySource"),
    ],
)
async def test_unreadable_url_is_refused(
    service: RunningBlobService, source: str, status: int, code: str
) -> None:
    await service.put("box/source", b"content")
    for headers in ({}, {"x_ms_blob_type": "BlockBlob"}):
        answer = await copy(service, "box/copy", source, **headers)
        assert (answer.status, answer.code) == (status, code)
    assert (await service.get("box/copy")).status == 404


async def test_url_with_localhost_is_copied(
    service: RunningBlobService,
) -> None:
    await service.put("box/source", b"content")
    source = signed(service, "box/source").replace("127.0.0.1", "localhost")
    assert (await copy(service, "box/copy", source)).status == 202


async def test_sas_without_read_permission_is_refused(
    service: RunningBlobService,
) -> None:
    await service.put("box/source", b"content")
    expiry = START.replace(year=2027)
    sas = generate_account_sas(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, "sco", "wl", expiry)
    answer = await copy(service, "box/copy", f"{ACCOUNT_URL}/box/source?{sas}")
    assert (answer.status, answer.code) == (403, "CannotVerifyCopySource")


async def test_unmet_condition_is_refused(
    service: RunningBlobService,
) -> None:
    await service.put("box/source", b"content")
    await service.put("box/copy", b"kept")
    source = signed(service, "box/source")
    for headers, code in (
        ({"x_ms_source_if_match": '"old"'}, "SourceConditionNotMet"),
        ({"if_match": '"old"'}, "ConditionNotMet"),
        ({"x_ms_lease_id": "0" * 32}, "LeaseNotPresentWithBlobOperation"),
    ):
        for kind in ({}, {"x_ms_blob_type": "BlockBlob"}):
            answer = await copy(service, "box/copy", source, **headers, **kind)
            assert (answer.status, answer.code) == (412, code)
    missing = await copy(service, "box/copy", signed(service, "box/none"))
    assert (missing.status, missing.code) == (404, "CannotVerifyCopySource")
    headers = {"host": HOST, "x-ms-copy-source": source, "x-ms-blob-type": "BlockBlob"}
    with_body = await service.request("PUT", "box/copy", b"body", headers=headers)
    assert (with_body.status, with_body.code) == (400, "InvalidHeaderValue")
    assert (await service.get("box/copy")).body == b"kept"


@given(st.sampled_from(["", "http://", f"http://{HOST}", ACCOUNT_URL, f"{ACCOUNT_URL}/"]), SUFFIXES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_random_characters_after_the_url_are_refused(
    service: RunningBlobService, start: str, suffix: str
) -> None:
    for headers in ({}, {"x_ms_blob_type": "BlockBlob"}):
        answer = await copy(service, "box/copy", start + suffix, **headers)
        assert answer.status in {400, 401, 403, 404, 501}


async def test_copy_source_of_a_block_list_is_refused(
    service: RunningBlobService,
) -> None:
    source = signed(service, "box/source")
    answer = await copy(service, "box/copy", source, query="comp=blocklist")
    assert (answer.status, answer.code) == (501, "NotImplemented")
