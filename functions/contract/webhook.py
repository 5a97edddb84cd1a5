"""Sign webhooks according to the Standard Webhooks specification 1.0.

A signature covers the id, the time and the body of a webhook request. A request has one signature
for each configured secret. While an operator replaces a secret, both are configured.

Each tenant has secrets of its own, which are derived from WEBHOOK_SECRETS and the tenant's name.
If all tenants had the same secrets, a tenant could give a job the webhook URL of another tenant,
and the receiver would accept the event as an event of its own tenant. This command prints the
secrets of a tenant for its receivers. It reads the value of WEBHOOK_SECRETS from standard input:

    python -m contract.webhook TENANT

A gateway without API keys has no tenants. It uses the secrets in WEBHOOK_SECRETS directly, without
deriving others from them.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Final

SETTING_SECRETS: Final = "WEBHOOK_SECRETS"

_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 24
_MAX_SECRET_BYTES = 64


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Decode secrets such as `whsec_…,whsec_…`. Raises ValueError, which contains no secret."""
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
                f"each secret must have {_MIN_SECRET_BYTES} to {_MAX_SECRET_BYTES} bytes after "
                "base64 decoding"
            )
        secrets.append(secret)
    return tuple(secrets)


def tenant_secrets(secrets: Sequence[bytes], tenant: str) -> tuple[bytes, ...]:
    """Return a tenant's secrets, one for each of `secrets`; without a tenant, these themselves."""
    if not tenant:
        return tuple(secrets)
    # The signed text of a webhook starts with "job_" or "batch_", so none has this text.
    text = f"loosely webhooks of the tenant {tenant}".encode()
    return tuple(hmac.digest(secret, text, "sha256") for secret in secrets)


def format_secrets(secrets: Sequence[bytes]) -> str:
    """Return secrets as receivers use them, as `whsec_…,whsec_…`."""
    return ",".join(f"{_PREFIX}{base64.b64encode(secret).decode()}" for secret in secrets)


def event_id(ended_id: str, kind: str = "job") -> str:
    """Return the event id of all attempts to deliver the webhook of a job or a `batch`."""
    # A dot separates the signed parts, so the id must not contain a dot.
    return f"{kind}_{ended_id.replace('.', '_')}"


def signed_headers(
    secrets: Sequence[bytes], event: str, now: datetime, body: bytes
) -> dict[str, str]:
    """Return the headers of a webhook request, with one signature for each secret.

    The receiver compares `now` with its clock.
    """
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the webhook secrets of a tenant, each on its own line. Exit with 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m contract.webhook",
        description="Print the secrets with which a tenant's receivers verify webhooks. Standard "
        f"input must contain the value of {SETTING_SECRETS}.",
    )
    parser.add_argument("tenant", help="the tenant in the entries of API_KEYS")
    tenant = parser.parse_args(arguments).tenant
    try:
        secrets = parse_secrets(sys.stdin.read())
    except ValueError as error:
        parser.error(f"{SETTING_SECRETS}: {error}")
    if not secrets:
        parser.error(f"standard input is empty; expected the value of {SETTING_SECRETS}")
    if not tenant:
        parser.error("the name of the tenant must not be empty")
    for secret in tenant_secrets(secrets, tenant):
        sys.stdout.write(f"{format_secrets((secret,))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
