"""Which names a container, a blob and a block may have.

Names never become file names: content lies under random keys, and a name is only ever a bound
value in the index. What is checked here is what Azure checks.
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
    """Undo percent-encoding; what is no UTF-8 is no name."""
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise StorageError(ErrorCode.INVALID_URI) from None


def check_container_name(name: str) -> None:
    """Refuse what is no container name."""
    if name in _SPECIAL_CONTAINERS:
        return
    if not 3 <= len(name) <= 63:
        raise StorageError(ErrorCode.OUT_OF_RANGE_INPUT)
    if not _CONTAINER.fullmatch(name):
        raise StorageError(ErrorCode.INVALID_RESOURCE_NAME)


def check_blob_name(name: str) -> None:
    """Refuse what is no blob name."""
    if len(name) > _BLOB_CHARACTERS_MAX or name.count("/") >= _BLOB_SEGMENTS_MAX:
        raise StorageError(ErrorCode.INVALID_URI)
    if "\0" in name:
        raise StorageError(ErrorCode.INVALID_URI)


def read_block_id_length(block_id: str) -> int:
    """The length in bytes of a block id; refuses one that is not Base64 or too long."""
    try:
        length = len(base64.b64decode(block_id, validate=True))
    except (binascii.Error, ValueError):
        raise StorageError(ErrorCode.INVALID_BLOCK_ID) from None
    if not 0 < length <= _BLOCK_ID_BYTES_MAX:
        raise StorageError(ErrorCode.INVALID_BLOCK_ID)
    return length
