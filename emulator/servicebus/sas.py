"""Verify shared access signatures of Service Bus.

The signature in a token is the HMAC-SHA256 of a text. The text consists of the URL-encoded URL of
the resource, a line feed and the expiry time. See "Service Bus access control with Shared Access
Signatures" (learn.microsoft.com).
"""

import hmac
from base64 import b64encode
from datetime import datetime
from urllib.parse import parse_qs, quote_plus, urlsplit

from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.broker.authorization import AccessRight, AuthorizationRule

_SCHEME = "SharedAccessSignature "
_FIELDS = "sr", "sig", "se", "skn"


class SasError(Exception):
    """The token does not permit access.

    The error's message contains the reason, but no part of the token. `code` is Azure's name
    for the reason, for example `ExpiredToken`.
    """

    def __init__(self, reason: str, code: str = "MalformedToken") -> None:
        super().__init__(reason)
        self.code = code


def verify_sas(
    token: str, policies: AccessPolicies, path: str, now: datetime
) -> frozenset[AccessRight]:
    """Return the rights that a token gives for the resource at `path`.

    Raises SasError unless the token is well-formed, valid after `now` and for the path or a parent,
    and signed with a key of a policy of the namespace or of the path's queue.
    """
    if not token.startswith(_SCHEME):
        raise SasError("the token must start with SharedAccessSignature")
    try:
        fields = parse_qs(
            token.removeprefix(_SCHEME), strict_parsing=True, max_num_fields=len(_FIELDS)
        )
        resource, signature, expiry, name = (fields[field][0] for field in _FIELDS)
        expires_at_seconds = int(expiry)
        granted = urlsplit(resource).path.strip("/").casefold()
    except (ValueError, KeyError):
        raise SasError(
            "the token is malformed: expected valid fields sr, sig, se and skn"
        ) from None
    signed = f"{quote_plus(resource)}\n{expiry}".encode()
    rule = _find_signer(policies.find(name, granted), signed, signature.encode())
    if rule is None:
        raise SasError("The token has an invalid signature.", "InvalidSignature")
    if expires_at_seconds <= now.timestamp():
        raise SasError("The token is expired.", "ExpiredToken")
    wanted = path.strip("/").casefold()
    is_below = not granted or wanted == granted or wanted.startswith(f"{granted}/")
    if not is_below or not policies.allows(rule, granted, wanted):
        raise SasError("The token has an invalid audience.", "InvalidAudience")
    return rule.rights


def _find_signer(
    rules: list[AuthorizationRule], signed: bytes, signature: bytes
) -> AuthorizationRule | None:
    """Return the policy whose key made the signature, or None if no key in `rules` made it."""
    signer = None
    for rule in rules:
        for key in rule.keys:
            digest = hmac.digest(key.encode(), signed, "sha256")
            if hmac.compare_digest(b64encode(digest), signature):
                signer = rule
    if not rules:
        # Compute a digest even if the name is unknown, so that timing does not reveal known names.
        hmac.digest(b"", signed, "sha256")
    return signer
