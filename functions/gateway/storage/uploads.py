"""The ids, blob names and lifetimes of uploads, which are large inputs in blob storage.

An upload id contains its creation time, so the gateway stores nothing when it creates an id. The
blob's name contains a digest of the tenant. Therefore a caller who uses the upload id of another
tenant refers to a blob that does not exist.
"""

import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from contract.names import UPLOADS, upload_blob
from gateway.keys import owner_of

UPLOAD_LIFETIME: Final = timedelta(hours=6)
"""How long the upload's URL accepts data, and new jobs can use the upload."""

_ID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_upload(now: datetime) -> str:
    """Return the id of a new upload, a UUIDv7."""
    # RFC 9562 section 5.7: 48 bits of milliseconds since 1970, version, variant, random bits.
    made_at_ms = int(now.timestamp() * 1000)
    random_bits = secrets.randbits(12) << 64 | secrets.randbits(62)
    return str(UUID(int=made_at_ms << 80 | 0x7 << 76 | 0b10 << 62 | random_bits))


def upload_expiry(upload_id: str) -> datetime | None:
    """Return the time at which an upload expires; None if `upload_id` is not an upload id."""
    if not _ID.fullmatch(upload_id):
        return None
    made_at_ms = int(upload_id.replace("-", "")[:12], 16)
    try:
        return datetime.fromtimestamp(made_at_ms / 1000, UTC) + UPLOAD_LIFETIME
    except (ValueError, OverflowError, OSError):
        return None


def upload_blob_of(upload_id: str, tenant: str) -> str:
    """Return the name of the blob that contains a tenant's upload."""
    return upload_blob(upload_id, owner_of(tenant))


def has_expired(blob: str, before: datetime) -> bool:
    """Return whether the upload in this blob expired before this time, or has no valid name."""
    expires_at = upload_expiry(blob.removeprefix(UPLOADS).partition(".")[0])
    return expires_at is None or expires_at <= before
