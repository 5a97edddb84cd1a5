"""Test that a listing is well-formed XML, and that any block list is parsed or refused."""

from __future__ import annotations

import contextlib
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.blobs.errors import StorageError
from emulator.blobs.index.schema import Blob
from emulator.blobs.xml import build_blob_item, build_listing, parse_block_list

BOMB = b"""<!DOCTYPE b [<!ENTITY a "AAAA"><!ENTITY c "&a;&a;&a;&a;">]>
<BlockList><Latest>&c;</Latest></BlockList>"""
EXTERNAL = b"""<!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<BlockList><Latest>&a;</Latest></BlockList>"""


def test_block_list_keeps_its_order() -> None:
    document = b"""<?xml version='1.0' encoding='utf-8'?>
    <BlockList>
      <Latest>AAAA</Latest><Committed>BBBB</Committed>
      <Uncommitted> CCCC </Uncommitted><Latest>AAAA</Latest>
    </BlockList>"""
    assert parse_block_list(document) == [
        ("Latest", "AAAA"),
        ("Committed", "BBBB"),
        ("Uncommitted", "CCCC"),
        ("Latest", "AAAA"),
    ]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"BlockList",
        b"<BlockList>",
        b"<Other/>",
        b"<BlockList><Other>AAAA</Other></BlockList>",
        b"<BlockList><Latest><Latest>AAAA</Latest></Latest></BlockList>",
        b"<BlockList/><BlockList/>",
        b"<?xml version='1.0' encoding='nonsense'?><BlockList/>",
        b"\xff\xfe<BlockList/>",
        BOMB,
        EXTERNAL,
    ],
)
def test_malformed_block_list_is_refused(document: bytes) -> None:
    with pytest.raises(StorageError) as refused:
        parse_block_list(document)
    assert refused.value.code == "InvalidXmlDocument"


def test_more_than_50000_blocks_are_refused() -> None:
    document = b"<BlockList>" + b"<Latest>AAAA</Latest>" * 50_001 + b"</BlockList>"
    with pytest.raises(StorageError) as refused:
        parse_block_list(document)
    assert refused.value.code == "BlockListTooLong"


@given(st.binary() | st.text("<>/&;!?BlockListLatest '\"").map(str.encode))
def test_any_bytes_are_parsed_or_raise_storage_error(
    document: bytes,
) -> None:
    with contextlib.suppress(StorageError):
        entries = parse_block_list(document)
        assert all(place in {"Latest", "Committed", "Uncommitted"} for place, _ in entries)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_listing_keeps_every_name(name: str) -> None:
    blob = Blob(1, name, 0, '"0x8D"', 0, 0, {"Content-Type": name}, {"key": name})
    text = build_listing(
        {"ServiceEndpoint": name if name.isprintable() else ""},
        {"Prefix": name, "Marker": None},
        "Blobs",
        [
            build_blob_item(blob, 0, {"metadata"}),
            build_blob_item(name + "/", 0),
        ],
        "",
    )
    root = ElementTree.fromstring(text.encode())
    names = list(root.iter("Name"))
    said = [
        unquote(element.text or "") if element.get("Encoded") == "true" else element.text or ""
        for element in names
    ]
    assert said == [name, name + "/"]
