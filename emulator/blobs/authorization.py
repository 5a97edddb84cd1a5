"""Authorize requests by Shared Key or by a shared access signature (SAS).

Anonymous requests are refused, as in an Azure account that does not allow public access. Bearer
tokens and user delegation signatures are refused too, because they need an identity provider and
HTTPS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.request import SAS_HEADERS, BlobRequest
from emulator.blobs.times import Clock, parse_http_date, parse_sas_date
from emulator.program import SettingError


@dataclass(frozen=True, slots=True)
class RequiredPermission:
    """The permission that a shared access signature (SAS) must grant for an operation.

    An account SAS must contain one of `account_letters` and the resource type `account_resource`
    (`s`, `c` or `o`). A service SAS must contain one of `service_letters`; if empty, none is
    enough.
    """

    account_letters: str
    account_resource: str
    service_letters: str


@dataclass(frozen=True, slots=True)
class AccessGrant:
    """The permissions that the credentials of a request grant.

    `response_headers`, which a service SAS sets, replace the headers of the same names.
    """

    may_overwrite: bool = True
    may_tag: bool = True
    response_headers: Mapping[str, str] = field(default_factory=dict)
    has_key: bool = False


FULL_ACCESS = AccessGrant(has_key=True)


class AccountKey:
    """The secret key of a storage account. `repr` does not show the key."""

    __slots__ = ("_key",)

    def __init__(self, encoded: str) -> None:
        try:
            self._key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise SettingError("the account key is not valid Base64") from None
        if not self._key:
            raise SettingError("the account key is empty")

    def __repr__(self) -> str:
        return "AccountKey(…)"

    def sign(self, text: str) -> str:
        """Return the HMAC-SHA256 signature of `text`, encoded in Base64."""
        digest = hmac.digest(self._key, text.encode(), hashlib.sha256)
        return base64.b64encode(digest).decode()

    def verifies(self, text: str, signature: str) -> bool:
        """Return in constant time whether `signature` is the signature of `text`."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))


_CHALLENGE = {"WWW-Authenticate": 'SharedKey realm="storage"'}


@dataclass(frozen=True, slots=True)
class Authenticator:
    """Checks the credentials of requests to one account: a Shared Key or a SAS."""

    account: str
    key: AccountKey
    clock: Clock

    def authenticate(self, request: BlobRequest, permission: RequiredPermission) -> AccessGrant:
        """Return the permissions that a request's credentials grant. Raises StorageError."""
        authorization = request.headers.get("authorization")
        if authorization is not None:
            scheme, _, credentials = authorization.partition(" ")
            if scheme.lower() != "sharedkey":
                raise StorageError(ErrorCode.INVALID_AUTHENTICATION_INFO)
            check_shared_key(request, credentials.strip(), self.account, self.key, self.clock())
            return FULL_ACCESS
        if request.parameter("sig") is not None:
            return check_sas(request, permission, self.account, self.key, self.clock())
        raise StorageError(ErrorCode.NO_AUTHENTICATION_INFORMATION, headers=_CHALLENGE)


_SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_CLOCK_SKEW = timedelta(minutes=15)


def check_shared_key(
    request: BlobRequest, credentials: str, account: str, key: AccountKey, now: datetime
) -> None:
    """Check Shared Key credentials. Raises StorageError.

    Source: "Authorize with Shared Key" in the REST reference, for API version 2015-02-21 and later.
    """
    name, separator, signature = credentials.partition(":")
    if not separator:
        raise StorageError(ErrorCode.INVALID_AUTHENTICATION_INFO)
    if name != account:
        raise StorageError(
            ErrorCode.AUTHENTICATION_FAILED,
            AuthenticationErrorDetail="The account in the Authorization header is not the account "
            "of this service.",
        )
    _check_date(request, now)
    # The documentation sorts header names by code point; Microsoft's clients sort by .NET's
    # collation. The orders differ only for metadata names with an underscore. Accept both orders.
    texts = dict.fromkeys(
        build_string_to_sign(request, account, order) for order in (_code_point, _collated)
    )
    if not any(key.verifies(text, signature) for text in texts):
        raise StorageError(
            ErrorCode.AUTHENTICATION_FAILED,
            AuthenticationErrorDetail="The MAC signature found in the HTTP request is not the "
            "same as any computed signature.",
        )


def _code_point(name: str) -> str:
    return name


def _collated(name: str) -> str:
    return name.replace("-", "").replace("_", "\x01")


def build_string_to_sign(request: BlobRequest, account: str, order: Callable[[str], str]) -> str:
    """Return the text to sign; `order` is the sort key of the `x-ms-` headers."""
    headers = dict(request.headers)
    if headers.get("content-length") == "0":
        del headers["content-length"]
    if "x-ms-date" in headers:
        headers.pop("date", None)
    lines = [request.method]
    lines += [headers.get(name, "") for name in _SIGNED_HEADERS]
    own = sorted((name for name in headers if name.startswith("x-ms-")), key=order)
    lines += [f"{name}:{headers[name]}" for name in own]
    lines.append(f"/{account}{request.raw_path}")
    parameters: dict[str, list[str]] = {}
    for name, value in request.query:
        parameters.setdefault(name.lower(), []).append(value)
    lines += [f"{name}:{','.join(sorted(parameters[name]))}" for name in sorted(parameters)]
    return "\n".join(lines)


def _check_date(request: BlobRequest, now: datetime) -> None:
    text = request.headers.get("x-ms-date") or request.headers.get("date") or ""
    date = parse_http_date(text)
    if date is None:
        detail = "The header x-ms-date or Date must contain an RFC 1123 date."
    elif abs(now - date) > _CLOCK_SKEW:
        detail = f"Request date header too old: '{text}'"
    else:
        return
    raise StorageError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)


_OLDEST_VERSION = "2015-04-05"
_RESOURCE_SIGNED_SINCE = "2018-11-09"
_ENCRYPTION_SCOPE_SIGNED_SINCE = "2020-12-06"


def check_sas(
    request: BlobRequest,
    permission: RequiredPermission,
    account: str,
    key: AccountKey,
    now: datetime,
) -> AccessGrant:
    """Verify a shared access signature (SAS), and return the permissions that it grants.

    Raises StorageError if the signature is invalid or does not permit the operation. Source:
    "Create an account SAS" and "Create a service SAS" in the REST reference.
    """
    # If a parameter is repeated, its first value counts, as in `BlobRequest.parameter`. Otherwise
    # the SAS of one snapshot would give access to the other snapshots of the blob.
    fields = {name.lower(): value for name, value in reversed(request.query)}
    if "skoid" in fields:
        raise _failed("User delegation signatures are not supported.")
    if fields.get("sv", "") < _OLDEST_VERSION:
        raise _failed(f"The parameter sv must be the version {_OLDEST_VERSION} or a later version.")
    of_account = "ss" in fields or "srt" in fields
    signed = (
        _account_string(fields, account)
        if of_account
        else _service_string(fields, account, request)
    )
    if not key.verifies(signed, fields["sig"]):
        raise _failed("Signature did not match.")
    _check_times(fields, now)
    _check_origin(fields, request)
    if of_account:
        return _account_grant(fields, permission)
    return _service_grant(fields, permission)


def _account_string(fields: Mapping[str, str], account: str) -> str:
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if fields["sv"] >= _ENCRYPTION_SCOPE_SIGNED_SINCE:
        names.append("ses")
    return "\n".join([account, *(fields.get(name, "") for name in names), ""])


def _service_string(fields: Mapping[str, str], account: str, request: BlobRequest) -> str:
    resource = f"/blob/{account}/{request.container}"
    kind = fields.get("sr", "")
    if kind == "bs" and "snapshot" not in fields:
        raise _failed("The parameter sr is bs, so the request must have the parameter snapshot.")
    if kind in {"b", "bs"}:
        resource += f"/{request.blob}"
    elif kind != "c":
        raise _failed("The parameter sr must be b, bs or c.")
    if "si" in fields:
        raise _failed("Stored access policies are not supported.")
    version = fields["sv"]
    lines = [*(fields.get(name, "") for name in ("sp", "st", "se")), resource]
    lines += [fields.get(name, "") for name in ("si", "sip", "spr", "sv")]
    if version >= _RESOURCE_SIGNED_SINCE:
        lines += [kind, fields["snapshot"] if kind == "bs" else ""]
    if version >= _ENCRYPTION_SCOPE_SIGNED_SINCE:
        lines.append(fields.get("ses", ""))
    lines += [fields.get(name, "") for name in SAS_HEADERS]
    return "\n".join(lines)


def _check_times(fields: Mapping[str, str], now: datetime) -> None:
    expiry = parse_sas_date(fields.get("se", ""))
    if expiry is None:
        raise _failed("The parameter se must be a UTC time.")
    start = None
    if "st" in fields:
        start = parse_sas_date(fields["st"])
        if start is None:
            raise _failed("The parameter st must be a UTC time.")
    if now >= expiry or (start is not None and now < start):
        raise _failed("Signature not valid in the specified time frame.")


def _check_origin(fields: Mapping[str, str], request: BlobRequest) -> None:
    protocols = fields.get("spr", "https,http")
    if protocols == "https":
        raise StorageError(ErrorCode.AUTHORIZATION_PROTOCOL_MISMATCH)
    if protocols != "https,http":
        raise _failed("The parameter spr must be https or https,http.")
    if "sip" in fields:
        first, _, last = fields["sip"].partition("-")
        try:
            low, high = ip_address(first), ip_address(last or first)
            here = ip_address(request.client_address)
        except ValueError:
            raise _failed(
                "The parameter sip must be an IP address or a range of IP addresses."
            ) from None
        if not (low.version == here.version == high.version and int(low) <= int(here) <= int(high)):
            raise StorageError(ErrorCode.AUTHORIZATION_SOURCE_IP_MISMATCH)


def _account_grant(fields: Mapping[str, str], permission: RequiredPermission) -> AccessGrant:
    if "b" not in fields.get("ss", ""):
        raise StorageError(ErrorCode.AUTHORIZATION_SERVICE_MISMATCH)
    if permission.account_resource not in fields.get("srt", ""):
        raise StorageError(ErrorCode.AUTHORIZATION_RESOURCE_TYPE_MISMATCH)
    return _grant(fields, permission.account_letters, {})


def _service_grant(fields: Mapping[str, str], permission: RequiredPermission) -> AccessGrant:
    if not permission.service_letters:
        raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
    if permission.account_resource == "c" and fields["sr"] != "c":
        raise StorageError(ErrorCode.AUTHORIZATION_RESOURCE_TYPE_MISMATCH)
    replaced = {header: fields[name] for name, header in SAS_HEADERS.items() if fields.get(name)}
    if not all(value.isascii() and value.isprintable() for value in replaced.values()):
        raise StorageError(ErrorCode.INVALID_QUERY_PARAMETER_VALUE)
    return _grant(fields, permission.service_letters, replaced)


def _grant(fields: Mapping[str, str], letters: str, replaced: Mapping[str, str]) -> AccessGrant:
    given = fields.get("sp", "")
    if not any(letter in given for letter in letters):
        raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
    return AccessGrant("w" in given, "t" in given, replaced)


def _failed(detail: str) -> StorageError:
    return StorageError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)
