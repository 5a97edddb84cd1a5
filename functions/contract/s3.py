"""How objects are named in S3, and how a store is opened: the same for gateways and workers.

S3 cannot append. So a log is a row of objects, each created once (`If-None-Match: *`) with a name
that contains its offset: the first line of the log `ends/a` is in `ends/a!000000000000000`. Two
appends at the same offset are two creations of one object, and one of them fails. A part of an
upload is an object `NAME!part-ID` until the upload is completed. No other name contains `!`, which
precedes all other characters of names, so all objects of one name follow each other in a list.
"""

from datetime import timedelta
from typing import Any, Final

from contract.names import PAYLOAD_CONTAINER
from contract.settings import S3Endpoint

MARK: Final = "!"
"""Separates the name of a log or of an upload from the rest of the name of one of its objects."""

_DIGITS: Final = 15


def object_name(blob: str, container: str = PAYLOAD_CONTAINER) -> str:
    """Return the name in the bucket, in which a container is a folder."""
    return f"{container}/{blob}"


def log_piece(log: str, offset: int) -> str:
    """Return the name of the object of a log that begins at an offset."""
    return f"{log}{MARK}{offset:0{_DIGITS}}"


def piece_offset(name: str) -> int | None:
    """Return where the object of a log begins; None for another object."""
    digits = name.rpartition(MARK)[2]
    return int(digits) if MARK in name and len(digits) == _DIGITS and digits.isdigit() else None


def upload_part(blob: str, part: str) -> str:
    """Return the name of the object of a part of an upload."""
    return f"{blob}{MARK}part-{part}"


def list_from(prefix: str) -> tuple[str, str | None]:
    """Return the folder of a prefix, and a name after which to list to find all with this prefix.

    The prefix of a list of `obstore` is always a folder.
    """
    folder, _, rest = prefix.rpartition("/")
    before = f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}~" if rest else None
    return folder, before


def store_options(
    endpoint: S3Endpoint, timeout_seconds: float, retries: int, url: str | None = None
) -> dict[str, Any]:
    """Return the arguments of `obstore.store.S3Store`, which reads AWS_* itself.

    `url` replaces the endpoint's own address, for links that callers use.
    """
    address = url or endpoint.url
    seconds = timedelta(seconds=timeout_seconds)
    options: dict[str, Any] = {
        "client_options": {
            "timeout": seconds,
            "connect_timeout": min(seconds, timedelta(seconds=5)),
            "allow_http": (address or "").startswith("http:"),
        },
        "retry_config": {
            "max_retries": retries,
            "retry_timeout": seconds * (retries + 1),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(seconds=1),
                "base": 2,
            },
        },
    }
    if address:
        options |= {"endpoint": address, "virtual_hosted_style_request": False}
    return options
