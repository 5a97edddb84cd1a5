"""Uploads: an id that says by itself when it was made, so that nothing need be kept of a slot.

The name of the blob holds the owner's mark. A caller who guesses another's id names a blob that is
not there, and the id of a slot that was never given out has no blob either.
"""

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from contract.names import UPLOADS, upload_blob
from gateway.services import Services

LIFETIME: Final = timedelta(hours=6)
"""How long a slot takes data, and an upload can be named by jobs."""

_ID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_upload(now: datetime) -> str:
    """The id of a new upload."""
    # RFC 9562 section 5.7: 48 bits of milliseconds since 1970, the version, the variant, chance.
    made_at_ms = int(now.timestamp() * 1000)
    chance = secrets.randbits(12) << 64 | secrets.randbits(62)
    return str(UUID(int=made_at_ms << 80 | 0x7 << 76 | 0b10 << 62 | chance))


def expiry(upload_id: str) -> datetime | None:
    """When the upload is over; None for what is no id of an upload."""
    if not _ID.fullmatch(upload_id):
        return None
    made_at_ms = int(upload_id.replace("-", "")[:12], 16)
    try:
        return datetime.fromtimestamp(made_at_ms / 1000, UTC) + LIFETIME
    except (ValueError, OverflowError, OSError):
        return None


def blob_of(upload_id: str, tenant: str) -> str:
    """Name of the blob of a tenant's upload."""
    return upload_blob(
        upload_id, hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:16]
    )


async def delete_expired(services: Services) -> int:
    """Delete the uploads that no job can name or read any more; returns how many.

    A job that named one in its last moment may read it until its own deadline.
    """
    longest = timedelta(
        seconds=max(model.max_deadline_seconds for model in services.catalogue.values())
    )
    over_before = services.clock() - longest
    deleted = 0
    async for found in services.blobs.list(UPLOADS):
        expires_at = expiry(found.name.removeprefix(UPLOADS).partition(".")[0])
        if expires_at is not None and expires_at > over_before:
            break  # the names are in the order of their times
        await services.blobs.delete(found.name)
        deleted += 1
    return deleted
