"""Names: whatever Azure takes is kept apart, and none reaches the file system."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobs_tests.service.blob_service import World, open_world

ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0\\")
BLOB_NAMES = st.text(ANY, min_size=1, max_size=40) | st.text("./ab%", min_size=1, max_size=12)


@given(st.dictionaries(BLOB_NAMES, st.binary(max_size=20), min_size=1, max_size=6))
@settings(max_examples=25)
async def test_every_name_has_its_own_content(blobs: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        async with open_world(root) as world:
            for name, content in blobs.items():
                assert (await world.put(f"box/{name}", content)).status == 201
            for name, content in blobs.items():
                assert (await world.get(f"box/{name}")).body == content
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
async def test_no_name_leaves_the_data_directory(world: World, raw: str, tmp_path: Path) -> None:
    await world.put("box/victim", b"x" * 100_000)
    before = outside_content(tmp_path)
    headers = {"x-ms-blob-type": "BlockBlob"}
    answer = await world.send("PUT", f"/devstoreaccount1/{raw}", "", headers, [b"y" * 100_000])
    assert answer.status in {400, 401}
    signed = await world.ask("PUT", raw, b"y" * 100_000, headers=headers)
    assert signed.status in {201, 400}
    assert outside_content(tmp_path) == before
    assert (await world.get("box/victim")).body == b"x" * 100_000


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
async def test_what_is_no_name_is_refused(world: World, raw: str, code: str) -> None:
    answer = await world.send("GET", f"/devstoreaccount1/{raw}", "", {})
    assert (answer.status, answer.code) == (400, code)


async def test_another_account_is_not_here(world: World) -> None:
    answer = await world.send("GET", "/somebody/box/name", "", {})
    assert (answer.status, answer.code) == (404, "ResourceNotFound")
