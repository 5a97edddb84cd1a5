"""The caller whom the platform's own authentication names in `x-ms-client-principal`.

Base64 of {"claims": [{"typ", "val"}, …], "role_typ": …}. App Service sets the header after it has
checked a Microsoft Entra token and removes it from what comes from outside; nothing else does.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.access.callers import Caller, Scope

HEADER: Final = b"x-ms-client-principal"

# Each claim has a short name, and a long one that the platform may put in its place.
_TENANT: Final = ("tid", "http://schemas.microsoft.com/identity/claims/tenantid")
_OBJECT: Final = ("oid", "http://schemas.microsoft.com/identity/claims/objectidentifier")
_ROLES: Final = ("roles", "http://schemas.microsoft.com/ws/2008/06/identity/claims/role")
_SCOPES: Final = ("scp", "http://schemas.microsoft.com/identity/claims/scope")


def caller(header: bytes) -> Caller | None:
    """The caller, or None where the header cannot be read or names no tenant.

    Its scopes are the app roles and delegated scopes of the same names.
    """
    try:
        principal = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if not isinstance(principal, Mapping):
        return None
    claims = list(_claims(principal))
    tenant = next(_values(claims, _TENANT), "")
    name = next(_values(claims, _OBJECT), "")
    if not tenant or not name:
        return None
    granted = {*_values(claims, (*_ROLES, str(principal.get("role_typ"))))}
    for several in _values(claims, _SCOPES):
        granted |= set(several.split())
    return Caller(name, tenant, frozenset(scope for scope in Scope if scope in granted))


def _claims(principal: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    claims = principal.get("claims")
    for claim in claims if isinstance(claims, list) else ():
        if isinstance(claim, Mapping):
            name, value = claim.get("typ"), claim.get("val")
            if isinstance(name, str) and isinstance(value, str):
                yield name, value


def _values(claims: list[tuple[str, str]], names: tuple[str, ...]) -> Iterator[str]:
    return (value for name, value in claims if name in names)
