"""Test the index tags of blobs: setting, reading, limits and permissions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from azure.storage.blob import generate_account_sas
from hypothesis import given
from hypothesis import strategies as st

from blobs_tests.service.blob_service import START, RunningBlobService, open_service
from emulator.blobs.__main__ import DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY
from emulator.blobs.errors import StorageError
from emulator.blobs.tags import parse_tags, read_tags
from emulator.blobs.xml import build_tags

LETTERS = st.characters(codec="ascii", categories=["L", "Nd"]) | st.sampled_from(" +-./:=_")
TAGS = st.dictionaries(
    st.text(LETTERS, min_size=1, max_size=128), st.text(LETTERS, max_size=256), max_size=10
)


def document(*pairs: tuple[str, str]) -> bytes:
    tags = "".join(f"<Tag><Key>{key}</Key><Value>{value}</Value></Tag>" for key, value in pairs)
    return f"<Tags><TagSet>{tags}</TagSet></Tags>".encode()


def status_of(parse: Callable[[Any], object], text: Any) -> int:
    try:
        parse(text)
    except StorageError as refused:
        return refused.status
    return 200


@given(TAGS)
def test_written_tags_are_parsed_unchanged(tags: dict[str, str]) -> None:
    assert parse_tags(build_tags(tags).encode()) == tags
    assert read_tags({"x-ms-tags": urlencode(tags)}) == tags


@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda text: document((text, text))))
def test_any_body_is_parsed_or_gets_400(body: bytes) -> None:
    assert status_of(parse_tags, body) in {200, 400}


@given(st.text(st.characters(max_codepoint=255)))
def test_any_header_is_parsed_or_gets_400(value: str) -> None:
    assert status_of(read_tags, {"x-ms-tags": value}) in {200, 400}


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        ([(f"key{number}", "") for number in range(11)], "TagsTooLarge"),
        ([("k" * 129, "")], "TagsTooLarge"),
        ([("key", "v" * 257)], "TagsTooLarge"),
        ([("", "value")], "EmptyTagName"),
        ([("key", "1"), ("key", "2")], "DuplicateTagNames"),
        ([("key", "a!")], "InvalidTag"),
        ([("schlüssel", "")], "InvalidTag"),
    ],
)
def test_rule_violations_get_azures_error_codes(pairs: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(StorageError) as refused:
        parse_tags(document(*pairs))
    assert refused.value.code == code
    with pytest.raises(StorageError) as refused:
        read_tags({"x-ms-tags": urlencode(pairs)})
    assert refused.value.code == code


async def test_tags_survive_a_restart(
    tmp_path: Path,
) -> None:
    async with open_service(tmp_path) as service:
        uploaded = await service.put("box/blob", b"content", **{"x-ms-tags": "a=1&b=two+words"})
        answer = await service.request("PUT", "box/blob", document(("c", " 3 ")), query="comp=tags")
        assert (answer.status, answer.body) == (204, b"")
        await service.put("box/other", b"content", **{"x-ms-tags": "a=1&b=two+words"})
    async with open_service(tmp_path) as service:
        first = await service.request("GET", "box/blob", query="comp=tags")
        assert document(("c", " 3 ")) in first.body
        second = await service.request("GET", "box/other", query="comp=tags")
        assert document(("a", "1"), ("b", "two words")) in second.body
        found = await service.get("box/blob")
        assert found.headers["x-ms-tag-count"] == "1"
        assert found.headers["ETag"] == uploaded.headers["ETag"]
        query = "restype=container&comp=list&include=tags"
        listed = (await service.request("GET", "box", query=query)).body
        assert listed.count(b"<TagSet>") == 2
        assert b"<TagCount>2</TagCount>" in listed


async def test_upload_removes_tags_but_new_metadata_does_not(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content", **{"x-ms-tags": "a=1"})
    await service.request("PUT", "box/blob", query="comp=metadata")
    assert (await service.get("box/blob")).headers["x-ms-tag-count"] == "1"
    await service.put("box/blob", b"content")
    assert "x-ms-tag-count" not in (await service.get("box/blob")).headers


async def test_header_sets_tags_of_appends_and_block_lists(
    service: RunningBlobService,
) -> None:
    tags = {"x-ms-tags": "a=1"}
    append = {"x-ms-blob-type": "AppendBlob", **tags}
    await service.request("PUT", "box/log", headers=append)
    await service.request(
        "PUT", "box/blocks", b"<BlockList/>", query="comp=blocklist", headers=tags
    )
    for path in ("box/log", "box/blocks"):
        assert (await service.get(path)).headers["x-ms-tag-count"] == "1"


async def test_tags_need_their_own_permission(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    expiry = START.replace(year=2027)
    sas = generate_account_sas(DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY, "sco", "rwdlac", expiry)
    raw = "/devstoreaccount1/box/blob"
    tagged = {"x-ms-blob-type": "BlockBlob", "x-ms-tags": "a=1"}
    for method, query, headers in (
        ("GET", "comp=tags&", {}),
        ("PUT", "comp=tags&", {}),
        ("PUT", "", tagged),
    ):
        answer = await service.send(method, raw, query + sas, headers, [b""])
        assert (answer.status, answer.code) == (403, "AuthorizationPermissionMismatch"), query


async def test_tags_of_a_leased_blob_need_the_lease_id(
    service: RunningBlobService,
) -> None:
    await service.put("box/blob", b"content")
    acquire = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
    answer = await service.request("PUT", "box/blob", query="comp=lease", headers=acquire)
    held = {"x-ms-lease-id": answer.headers["x-ms-lease-id"]}
    refused = await service.request("PUT", "box/blob", document(), query="comp=tags")
    assert refused.code == "LeaseIdMissing"
    done = await service.request("PUT", "box/blob", document(), query="comp=tags", headers=held)
    assert done.status == 204
