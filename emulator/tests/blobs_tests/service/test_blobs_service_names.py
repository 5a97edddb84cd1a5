"""Test that different blob names address different blobs, and never files outside the store."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobs_tests.service.blob_service import RunningBlobService, open_service

ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0\\")
BLOB_NAMES = st.text(ANY, min_size=1, max_size=40) | st.text("./ab%", min_size=1, max_size=12)


@given(st.dictionaries(BLOB_NAMES, st.binary(max_size=20), min_size=1, max_size=6))
@settings(max_examples=25)
async def test_different_names_have_separate_contents(
    blobs: dict[str, bytes],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        async with open_service(root) as service:
            for name, content in blobs.items():
                assert (await service.put(f"box/{name}", content)).status == 201
            for name, content in blobs.items():
                assert (await service.get(f"box/{name}")).body == content
            assert {entry.name for entry in os.scandir(folder)} == {"data"}


def outside_content(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "content" not in path.parts}


@pytest.mark.parametrize(
    "raw",
    [
        "box/../../../../tmp/escaped",
        "box/..%2f..%2f..%2fescaped",
        "box/%2e%2e/%2e%2e/escaped",
        "box/..%5c..%5cescaped",
        "box//etc/passwd",
        "box/.",
        "box/..",
        "..%2f..%2fbox/name",
        "../box/name",
        "%2e%2e/name",
    ],
)
async def test_name_cannot_address_a_file_outside(
    service: RunningBlobService, raw: str, tmp_path: Path
) -> None:
    await service.put("box/victim", b"x" * 100_000)
    before = outside_content(tmp_path)
    headers = {"x-ms-blob-type": "BlockBlob"}
    answer = await service.send("PUT", f"/devstoreaccount1/{raw}", "", headers, [b"y" * 100_000])
    assert answer.status in {400, 401}
    signed = await service.request("PUT", raw, b"y" * 100_000, headers=headers)
    assert signed.status in {201, 400}
    assert outside_content(tmp_path) == before
    assert (await service.get("box/victim")).body == b"x" * 100_000


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("box/%ff%fe", "InvalidUri"),
        ("box/%00", "InvalidUri"),
        ("box/" + "x" * 1025, "InvalidUri"),
        ("box/" + "a/" * 254 + "b", "InvalidUri"),
        ("UPPER/name", "InvalidResourceName"),
        ("ab/name", "OutOfRangeInput"),
        ("/name", "InvalidUri"),
    ],
)
async def test_invalid_name_is_refused(service: RunningBlobService, raw: str, code: str) -> None:
    answer = await service.send("GET", f"/devstoreaccount1/{raw}", "", {})
    assert (answer.status, answer.code) == (400, code)


async def test_unknown_account_gets_404(
    service: RunningBlobService,
) -> None:
    answer = await service.send("GET", "/somebody/box/name", "", {})
    assert (answer.status, answer.code) == (404, "ResourceNotFound")
