"""Shared Key: the request itself is signed ("Authorize with Shared Key", since 2015-02-21)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from emulator.blobs.auth.signature import AccountKey
from emulator.blobs.errors import ErrorCode, StorageError
from emulator.blobs.request import Request
from emulator.blobs.times import parse_http_date

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
    request: Request, credentials: str, account: str, key: AccountKey, now: datetime
) -> None:
    """Refuse a request whose ``Authorization: SharedKey`` credentials do not hold."""
    name, separator, signature = credentials.partition(":")
    if not separator:
        raise StorageError(ErrorCode.INVALID_AUTHENTICATION_INFO)
    if name != account:
        raise StorageError(
            ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail="The account is not known."
        )
    _check_date(request, now)
    # The documentation sorts header names by code point, Microsoft's clients as .NET collates.
    # The two differ only where a metadata name has an underscore: take either.
    texts = dict.fromkeys(
        string_to_sign(request, account, order) for order in (_code_point, _collated)
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


def string_to_sign(request: Request, account: str, order: Callable[[str], str]) -> str:
    """The text that the signature of ``request`` is over, with header names in ``order``."""
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


def _check_date(request: Request, now: datetime) -> None:
    text = request.headers.get("x-ms-date") or request.headers.get("date") or ""
    date = parse_http_date(text)
    if date is None:
        detail = "The x-ms-date or Date header must be given, as an RFC 1123 date."
    elif abs(now - date) > _CLOCK_SKEW:
        detail = f"Request date header too old: '{text}'"
    else:
        return
    raise StorageError(ErrorCode.AUTHENTICATION_FAILED, AuthenticationErrorDetail=detail)
