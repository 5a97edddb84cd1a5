"""Shared access signatures: "Create an account SAS" and "Create a service SAS"."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address

from emulator.blobs.auth.grant import Grant, Permission
from emulator.blobs.auth.signature import AccountKey
from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.request import Request
from emulator.blobs.times import parse_sas_date

_OLDEST_VERSION = "2015-04-05"
_RESOURCE_SIGNED_SINCE = "2018-11-09"
_ENCRYPTION_SCOPE_SIGNED_SINCE = "2020-12-06"
_RESPONSE_HEADERS = {
    "rscc": "Cache-Control",
    "rscd": "Content-Disposition",
    "rsce": "Content-Encoding",
    "rscl": "Content-Language",
    "rsct": "Content-Type",
}


def check_sas(
    request: Request, permission: Permission, account: str, key: AccountKey, now: datetime
) -> Grant:
    """Refuse a request whose signature does not hold or does not permit the operation."""
    fields = {name.lower(): value for name, value in request.query}
    if "skoid" in fields:
        raise _failed("User delegation signatures are not supported.")
    if fields.get("sv", "") < _OLDEST_VERSION:
        raise _failed(f"sv is mandatory, and at least {_OLDEST_VERSION}.")
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


def _service_string(fields: Mapping[str, str], account: str, request: Request) -> str:
    resource = f"/blob/{account}/{request.container}"
    kind = fields.get("sr", "")
    if kind == "b":
        resource += f"/{request.blob}"
    elif kind != "c":
        raise _failed("sr is mandatory, and is b or c.")
    if "si" in fields:
        raise _failed("There is no stored access policy of that name.")
    version = fields["sv"]
    lines = [*(fields.get(name, "") for name in ("sp", "st", "se")), resource]
    lines += [fields.get(name, "") for name in ("si", "sip", "spr", "sv")]
    if version >= _RESOURCE_SIGNED_SINCE:
        lines += [kind, fields.get("snapshot", "")]
    if version >= _ENCRYPTION_SCOPE_SIGNED_SINCE:
        lines.append(fields.get("ses", ""))
    lines += [fields.get(name, "") for name in _RESPONSE_HEADERS]
    return "\n".join(lines)


def _check_times(fields: Mapping[str, str], now: datetime) -> None:
    expiry = parse_sas_date(fields.get("se", ""))
    if expiry is None:
        raise _failed("se is mandatory, and a UTC date.")
    start = None
    if "st" in fields:
        start = parse_sas_date(fields["st"])
        if start is None:
            raise _failed("st is not a UTC date.")
    if now >= expiry or (start is not None and now < start):
        raise _failed("Signature not valid in the specified time frame.")


def _check_origin(fields: Mapping[str, str], request: Request) -> None:
    protocols = fields.get("spr", "https,http")
    if protocols == "https":
        raise StorageError(ErrorCode.AUTHORIZATION_PROTOCOL_MISMATCH)
    if protocols != "https,http":
        raise _failed("spr is https, or https,http.")
    if "sip" in fields:
        first, _, last = fields["sip"].partition("-")
        try:
            low, high = ip_address(first), ip_address(last or first)
            here = ip_address(request.client_address)
        except ValueError:
            raise _failed("sip is not an address or a range of addresses.") from None
        if not (low.version == here.version == high.version and int(low) <= int(here) <= int(high)):
            raise StorageError(ErrorCode.AUTHORIZATION_SOURCE_IP_MISMATCH)


def _account_grant(fields: Mapping[str, str], permission: Permission) -> Grant:
    if "b" not in fields.get("ss", ""):
        raise StorageError(ErrorCode.AUTHORIZATION_SERVICE_MISMATCH)
    if permission.account_resource not in fields.get("srt", ""):
        raise StorageError(ErrorCode.AUTHORIZATION_RESOURCE_TYPE_MISMATCH)
    return Grant(_permits(fields, permission.account_letters))


def _service_grant(fields: Mapping[str, str], permission: Permission) -> Grant:
    if not permission.service_letters:
        raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
    if permission.account_resource == "c" and fields["sr"] != "c":
        raise StorageError(ErrorCode.AUTHORIZATION_RESOURCE_TYPE_MISMATCH)
    may_overwrite = _permits(fields, permission.service_letters)
    replaced = {
        header: fields[name] for name, header in _RESPONSE_HEADERS.items() if fields.get(name)
    }
    if not all(value.isascii() and value.isprintable() for value in replaced.values()):
        raise StorageError(ErrorCode.INVALID_QUERY_PARAMETER_VALUE)
    return Grant(may_overwrite, replaced)


def _permits(fields: Mapping[str, str], letters: str) -> bool:
    given = fields.get("sp", "")
    if not any(letter in given for letter in letters):
        raise StorageError(ErrorCode.AUTHORIZATION_PERMISSION_MISMATCH)
    return "w" in given


def _failed(detail: str) -> StorageError:
    return StorageError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)
