"""Uploads: the ids, blob names and lifetimes of slots for large inputs.

An id contains the time at which it was made, so nothing is stored for a slot. The name of the blob
contains a digest of its tenant: with another tenant's id a caller names a blob that does not exist.
"""

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from contract.names import UPLOADS, upload_blob
from gateway.storage.blobs import Blobs

UPLOAD_LIFETIME: Final = timedelta(hours=6)
"""How long a slot takes data, and jobs can use the upload."""

_ID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_upload(now: datetime) -> str:
    """Return the id of a new upload, a UUIDv7."""
    # RFC 9562 section 5.7: 48 bits of milliseconds since 1970, version, variant, random bits.
    made_at_ms = int(now.timestamp() * 1000)
    random_bits = secrets.randbits(12) << 64 | secrets.randbits(62)
    return str(UUID(int=made_at_ms << 80 | 0x7 << 76 | 0b10 << 62 | random_bits))


def upload_expiry(upload_id: str) -> datetime | None:
    """Return when the upload expires; None if the text is not the id of an upload."""
    if not _ID.fullmatch(upload_id):
        return None
    made_at_ms = int(upload_id.replace("-", "")[:12], 16)
    try:
        return datetime.fromtimestamp(made_at_ms / 1000, UTC) + UPLOAD_LIFETIME
    except (ValueError, OverflowError, OSError):
        return None


def upload_blob_of(upload_id: str, tenant: str) -> str:
    """Return the name of the blob of a tenant's upload."""
    return upload_blob(
        upload_id, hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:16]
    )


async def delete_expired_uploads(blobs: Blobs, expired_before: datetime) -> int:
    """Delete the uploads that expired before this; return how many. Raises Unavailable.

    A job may read its upload until its own deadline, so `expired_before` has to be earlier than
    now by the longest deadline.
    """
    deleted = 0
    async for found in blobs.list(UPLOADS):
        expires_at = upload_expiry(found.name.removeprefix(UPLOADS).partition(".")[0])
        if expires_at is not None and expires_at > expired_before:
            break  # the names are in the order of their times
        await blobs.delete(found.name)
        deleted += 1
    return deleted
