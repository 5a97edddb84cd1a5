"""The index tags of a blob: their rules, the header `x-ms-tags`, and the body of Set Blob Tags.

Source: "Set Blob Tags" in the REST reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_plus

from emulator.blobs.errors import ErrorCode, StorageError, invalid_header
from emulator.blobs.xml import XmlElement, parse_element

_TAGS_MAX = 10
_KEY_LENGTH_MAX, _VALUE_LENGTH_MAX = 128, 256
_ALLOWED = re.compile(r"[A-Za-z0-9 +\-./:=_]*", re.ASCII)


def read_tags(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the tags in `x-ms-tags`, which is like a query string. Raises StorageError."""
    value = headers.get("x-ms-tags", "")
    pairs = []
    for part in value.split("&") if value else ():
        key, separator, text = part.partition("=")
        if not separator:
            raise invalid_header("x-ms-tags", value)
        pairs.append((unquote_plus(key), unquote_plus(text)))
    return _check_tags(pairs)


def parse_tags(document: bytes) -> dict[str, str]:
    """Return the tags in the body of Set Blob Tags. Raises StorageError if it is invalid."""
    root = parse_element(document, strips=False)
    if root.name != "Tags" or [child.name for child in root.children] != ["TagSet"]:
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
    return _check_tags(_parse_tag(element) for element in root.children[0].children)


def _parse_tag(element: XmlElement) -> tuple[str, str]:
    fields = {child.name: child.text for child in element.children}
    if element.name != "Tag" or fields.keys() != {"Key", "Value"} or len(element.children) != 2:
        raise StorageError(ErrorCode.INVALID_XML_DOCUMENT)
    return fields["Key"], fields["Value"]


def _check_tags(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in pairs:
        if not key:
            raise StorageError(ErrorCode.EMPTY_TAG_NAME)
        if len(key) > _KEY_LENGTH_MAX or len(value) > _VALUE_LENGTH_MAX:
            raise StorageError(ErrorCode.TAGS_TOO_LARGE)
        if not (_ALLOWED.fullmatch(key) and _ALLOWED.fullmatch(value)):
            raise StorageError(ErrorCode.INVALID_TAGS)
        if key in found:
            raise StorageError(ErrorCode.DUPLICATE_TAG_NAMES)
        found[key] = value
    if len(found) > _TAGS_MAX:
        raise StorageError(ErrorCode.TAGS_TOO_LARGE)
    return found
