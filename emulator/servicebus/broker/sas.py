"""Shared access signatures: who holds a key of the namespace may manage it.

The signature is the HMAC-SHA256, under the key, of the URL-encoded resource and the expiry on
lines of their own (learn.microsoft.com, "Shared Access Signatures", Service Bus).
"""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qs, quote_plus, urlsplit

_SCHEME = "SharedAccessSignature "
_FIELDS = "sr", "sig", "se", "skn"


class SasError(Exception):
    """The token does not give access; the message says why and holds nothing of the token."""


def verify_sas(token: str, keys: Mapping[str, str], path: str, now: datetime) -> None:
    """See that a token was made with one of the keys, for this path or a folder above it.

    Raises SasError.
    """
    if not token.startswith(_SCHEME):
        raise SasError("a SharedAccessSignature token is missing")
    try:
        fields = parse_qs(
            token.removeprefix(_SCHEME), strict_parsing=True, max_num_fields=len(_FIELDS)
        )
        resource, signature, expiry, name = (fields[field][0] for field in _FIELDS)
        expires_at_seconds = int(expiry)
        granted = urlsplit(resource).path.strip("/").casefold()
    except (ValueError, KeyError):
        raise SasError("the token is malformed") from None
    signed = f"{quote_plus(resource)}\n{expiry}".encode()
    # An unknown name costs as much as a known one, and tells as little.
    digest = hmac.digest(keys.get(name, "").encode(), signed, "sha256")
    matches = hmac.compare_digest(b64encode(digest), signature.encode())
    if not matches or name not in keys:
        raise SasError("the token is not signed with a key of this namespace")
    if expires_at_seconds <= now.timestamp():
        raise SasError("the token is expired")
    wanted = path.strip("/").casefold()
    if granted and wanted != granted and not wanted.startswith(f"{granted}/"):
        raise SasError("the token is for another resource")
