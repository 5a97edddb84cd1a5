"""Write and parse the XML documents of the Blob REST API: listings, block lists and elements."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape, quoteattr

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.headers import PROPERTY_NAMES
from emulator.blobs.index.schema import CURRENT, Blob, BlobContainer
from emulator.blobs.lease import Lease
from emulator.blobs.times import format_http_date

BLOCKS_MAX = 50_000
_ENTRY_ELEMENTS = frozenset({"Committed", "Uncommitted", "Latest"})
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DECLARATION = '<?xml version="1.0" encoding="utf-8"?>'


def build_listing(
    attributes: Mapping[str, str],
    parameters: Mapping[str, str | None],
    kind: str,
    items: Iterable[str],
    next_marker: str,
) -> str:
    """Return a listing as an XML document with the root element `EnumerationResults`."""
    head = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    parameter_elements = "".join(
        f"<{name}>{_text(value)}</{name}>"
        for name, value in parameters.items()
        if value is not None
    )
    return (
        f"{_DECLARATION}<EnumerationResults{head}>{parameter_elements}<{kind}>{''.join(items)}</{kind}>"
        f"<NextMarker>{escape(next_marker)}</NextMarker></EnumerationResults>"
    )


def build_container_item(container: BlobContainer, now_us: int, *, with_metadata: bool) -> str:
    """Return the XML element for one container in a listing at the time `now_us`."""
    return (
        f"<Container><Name>{escape(container.name)}</Name><Properties>"
        f"<Last-Modified>{format_http_date(container.modified_us)}</Last-Modified>"
        f"<Etag>{escape(container.etag)}</Etag>{_lease(container.lease, now_us)}"
        "<HasImmutabilityPolicy>false</HasImmutabilityPolicy><HasLegalHold>false</HasLegalHold>"
        f"</Properties>{_metadata(container.metadata) if with_metadata else ''}</Container>"
    )


def build_blob_item(entry: Blob | str, now_us: int, include: Collection[str] = ()) -> str:
    """Return the XML element for one blob or common prefix in a listing at `now_us`."""
    if isinstance(entry, str):
        return f"<BlobPrefix>{_name(entry)}</BlobPrefix>"
    properties = "".join(
        f"<{name}>{_text(entry.properties.get(name, ''))}</{name}>" for name in PROPERTY_NAMES
    )
    is_current = entry.snapshot == CURRENT
    return (
        f"<Blob>{_name(entry.name)}"
        f"{'' if is_current else f'<Snapshot>{entry.snapshot}</Snapshot>'}<Properties>"
        f"<Creation-Time>{format_http_date(entry.created_us)}</Creation-Time>"
        f"<Last-Modified>{format_http_date(entry.modified_us)}</Last-Modified>"
        f"<Etag>{entry.etag.strip(chr(34))}</Etag><Content-Length>{entry.size}</Content-Length>"
        f"{properties}<BlobType>{entry.kind}</BlobType>"
        f"{_lease(entry.lease, now_us) if is_current else ''}"
        f"<ServerEncrypted>true</ServerEncrypted>"
        f"{f'<TagCount>{len(entry.tags)}</TagCount>' if entry.tags else ''}"
        f"</Properties>{_metadata(entry.metadata) if 'metadata' in include else ''}"
        f"{build_tags(entry.tags) if entry.tags and 'tags' in include else ''}</Blob>"
    )


def build_tags(tags: Mapping[str, str]) -> str:
    """Return the XML element `Tags` for the tags of a blob."""
    inner = "".join(
        f"<Tag><Key>{escape(key)}</Key><Value>{escape(value)}</Value></Tag>"
        for key, value in tags.items()
    )
    return f"<Tags><TagSet>{inner}</TagSet></Tags>"


def build_block_list(
    committed: Sequence[tuple[str, int]] | None, uncommitted: Sequence[tuple[str, int]] | None
) -> str:
    """Return the document of Get Block List, with (id, size in bytes) of each block."""
    lists = (("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted))
    inner = "".join(
        f"<{name}>{''.join(_block(*block) for block in blocks)}</{name}>"
        for name, blocks in lists
        if blocks is not None
    )
    return f"{_DECLARATION}<BlockList>{inner}</BlockList>"


def parse_block_list(document: bytes) -> list[tuple[str, str]]:
    """Return the entries (Committed, Uncommitted or Latest, block id) of Put Block List.

    Raises StorageError if the body is invalid.
    """
    parser = _BlockListParser()
    try:
        parser.feed(document)
    except (ExpatError, ValueError, LookupError):
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT) from None
    return parser.entries


class _BlockListParser:
    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []
        self._depth = 0
        self._text: list[str] = []
        self._parser = ParserCreate()
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters

    def feed(self, document: bytes) -> None:
        self._parser.Parse(document, True)

    def _start(self, name: str, _: object) -> None:
        expected = name == "BlockList" if self._depth == 0 else name in _ENTRY_ELEMENTS
        if not expected or self._depth > 1:
            raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
        self._depth += 1
        self._text.clear()

    def _characters(self, text: str) -> None:
        if self._depth == 2:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._depth -= 1
        if self._depth == 1:
            if len(self.entries) == BLOCKS_MAX:
                raise StorageError(ErrorCode.BLOCK_LIST_TOO_LONG)
            self.entries.append((name, "".join(self._text).strip()))


def _refuse_doctype(*_: object) -> None:
    # Refuse entities, because they could expand a small document without limit or read files.
    raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)


@dataclass(slots=True)
class XmlElement:
    """An element of an XML document, without its attributes. `text` is the element's own text."""

    name: str
    text: str = ""
    children: list[XmlElement] = field(default_factory=list)


_DEPTH_MAX = 8


def parse_element(document: bytes, *, strips: bool = True) -> XmlElement:
    """Return a document's root element, `strips` without outer whitespace in texts.

    Raises StorageError if the document is not well-formed XML.
    """
    parser = ParserCreate()
    outer = XmlElement("")
    path = [outer]

    def start(name: str, _: object) -> None:
        if len(path) > _DEPTH_MAX:
            raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
        element = XmlElement(name)
        path[-1].children.append(element)
        path.append(element)

    def end(_: str) -> None:
        element = path.pop()
        if strips:
            element.text = element.text.strip()

    def characters(text: str) -> None:
        path[-1].text += text

    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    # Give the handler long texts in one call.
    parser.buffer_text = True
    try:
        parser.Parse(document, True)
    except (ExpatError, ValueError, LookupError):
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT) from None
    return outer.children[0]


def build_element(element: XmlElement) -> str:
    """Return an element as XML text."""
    inner = "".join(map(build_element, element.children)) or _text(element.text)
    return f"<{element.name}>{inner}</{element.name}>"


def _block(block_id: str, size: int) -> str:
    return f"<Block><Name>{escape(block_id)}</Name><Size>{size}</Size></Block>"


def _lease(lease: Lease, now_us: int) -> str:
    kind = lease.duration_kind(now_us)
    return (
        f"<LeaseStatus>{'locked' if lease.is_locked(now_us) else 'unlocked'}</LeaseStatus>"
        f"<LeaseState>{lease.state(now_us).value}</LeaseState>"
        f"{f'<LeaseDuration>{kind}</LeaseDuration>' if kind else ''}"
    )


def _metadata(metadata: Mapping[str, str]) -> str:
    inner = "".join(f"<{name}>{_text(value)}</{name}>" for name, value in metadata.items())
    return f"<Metadata>{inner}</Metadata>"


def _name(name: str) -> str:
    if not _NOT_XML.search(name):
        return f"<Name>{escape(name, _LINE_ENDS)}</Name>"
    return f'<Name Encoded="true">{quote(name)}</Name>'


# Escape carriage returns, because an XML parser turns an unescaped one into a line feed.
_LINE_ENDS = {"\r": "&#13;"}


def _text(value: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", value), _LINE_ENDS)
