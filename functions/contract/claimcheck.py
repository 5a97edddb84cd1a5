"""The claim check: a large payload travels as a blob, the message holds a reference to it."""

import hashlib

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef

# Durable history holds a job's request; the Azure Storage backend moves what is over 45 KB to a
# blob and fetches it again on each replay, and base64 makes three bytes four.
INLINE_LIMIT_BYTES = 24 * 1024


def fits_inline(size_bytes: int, limit_bytes: int = INLINE_LIMIT_BYTES) -> bool:
    """Whether a payload of this size travels in the message itself."""
    return size_bytes <= limit_bytes


def reference(media_type: str, blob: str, data: bytes) -> PayloadRef:
    """The reference that goes into the message once `data` is stored under `blob`."""
    return PayloadRef(media_type, blob, len(data), hashlib.sha256(data).hexdigest())


def verify(ref: PayloadRef, data: bytes) -> bytes:
    """Return `data` if it is what the reference describes, else raise PayloadCorrupt."""
    if len(data) != ref.size_bytes:
        raise PayloadCorrupt(f"the payload has {len(data)} bytes, {ref.size_bytes} were announced")
    verify_digest(ref, hashlib.sha256(data).hexdigest())
    return data


def verify_digest(ref: PayloadRef, sha256: str) -> None:
    """PayloadCorrupt where the reference names another digest than this of what was read."""
    if ref.sha256 is not None and sha256 != ref.sha256:
        raise PayloadCorrupt("the payload's SHA-256 digest is not the announced one")
