"""The signature of a webhook, by the Standard Webhooks specification 1.0.

It covers id, time and body. There is one signature for each secret, so a receiver that has any of
them can verify while secrets are rotated.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Final

SETTING_SECRETS: Final = "WEBHOOK_SECRETS"
SETTING_GUARD_ALLOW: Final = "GUARD_ALLOW"

_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 24
_MAX_SECRET_BYTES = 64


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Read secrets in the form `whsec_…,whsec_…`. The text of a ValueError has no secret."""
    secrets = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        if not entry.startswith(_PREFIX):
            raise ValueError(f"each secret starts with {_PREFIX}")
        try:
            secret = base64.b64decode(entry.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"expected base64 after {_PREFIX}") from None
        if not _MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
            raise ValueError(f"a secret has {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} bytes")
        secrets.append(secret)
    return tuple(secrets)


def event_id(job_id: str) -> str:
    """Return the id of the event that a job has ended; the same at each attempt."""
    # Dots separate the parts that are signed.
    return f"job_{job_id.replace('.', '_')}"


def signed_headers(
    secrets: Sequence[bytes], event: str, now: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of one delivery; without secrets it is not signed."""
    timestamp = str(int(now.timestamp()))
    headers = {
        "content-type": "application/json",
        "user-agent": "loosely-webhook",
        "webhook-id": event,
        "webhook-timestamp": timestamp,
    }
    if secrets:
        content = b".".join((event.encode(), timestamp.encode(), body))
        headers["webhook-signature"] = " ".join(_signature(secret, content) for secret in secrets)
    return headers


def _signature(secret: bytes, content: bytes) -> str:
    digest = hmac.new(secret, content, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
