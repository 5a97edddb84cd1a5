"""Sign webhooks according to the Standard Webhooks specification 1.0.

A signature covers the id, the time and the body of a webhook request. A request has one signature
for each configured secret. While an operator replaces a secret, the old and the new secret are both
configured. The server that receives the webhook can then verify the request with either secret.
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
    """Decode webhook secrets that are separated by commas, for example `whsec_…,whsec_…`.

    Raises ValueError if a secret is not valid. The error's text contains no secret.
    """
    secrets = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        if not entry.startswith(_PREFIX):
            raise ValueError(f"each secret must start with {_PREFIX}")
        try:
            secret = base64.b64decode(entry.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"each secret must contain base64 after {_PREFIX}") from None
        if not _MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
            raise ValueError(
                f"each secret must have {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} bytes"
            )
        secrets.append(secret)
    return tuple(secrets)


def event_id(job_id: str) -> str:
    """Return the event id of a job's webhook. All attempts to deliver the webhook have this id."""
    # A dot separates the signed parts, so the id must not contain a dot.
    return f"job_{job_id.replace('.', '_')}"


def signed_headers(
    secrets: Sequence[bytes], event: str, now: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of a webhook request. They contain one signature for each secret."""
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
