"""Check the names of containers, blobs and blocks by Azure's rules.

These names are stored in the index and are never used as file names. Content files have random
names.
"""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from emulator.blobs.errors import ErrorCode, StorageError

_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9])+", re.ASCII)
_SPECIAL_CONTAINERS = frozenset({"$root", "$web", "$logs"})
_BLOB_CHARACTERS_MAX = 1024
_BLOB_SEGMENTS_MAX = 254
_BLOCK_ID_BYTES_MAX = 64


def decode_path(raw: str) -> str:
    """Decode one percent-encoded path segment. Raises StorageError if it is not UTF-8."""
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise StorageError(ErrorCode.INVALID_URI) from None


def check_container_name(name: str) -> None:
    """Raise StorageError if a container name is invalid."""
    if name in _SPECIAL_CONTAINERS:
        return
    if not 3 <= len(name) <= 63:
        raise StorageError(ErrorCode.OUT_OF_RANGE_INPUT)
    if not _CONTAINER.fullmatch(name):
        raise StorageError(ErrorCode.INVALID_RESOURCE_NAME)


def check_blob_name(name: str) -> None:
    """Raise StorageError if a blob name is invalid."""
    if len(name) > _BLOB_CHARACTERS_MAX or name.count("/") >= _BLOB_SEGMENTS_MAX:
        raise StorageError(ErrorCode.INVALID_URI)
    if "\0" in name:
        raise StorageError(ErrorCode.INVALID_URI)


def read_block_id_length(block_id: str) -> int:
    """Return the length of a Base64 block id in bytes. Raises StorageError if it is invalid."""
    try:
        length = len(base64.b64decode(block_id, validate=True))
    except (binascii.Error, ValueError):
        raise StorageError(ErrorCode.INVALID_BLOCK_ID) from None
    if not 0 < length <= _BLOCK_ID_BYTES_MAX:
        raise StorageError(ErrorCode.INVALID_BLOCK_ID)
    return length
