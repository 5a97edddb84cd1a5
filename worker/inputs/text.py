"""Decode untrusted text and JSON."""

import json
from typing import NoReturn

from contract.messages import Json
from worker.errors import InvalidInput


def decode(data: bytes) -> str:
    """Decode text, and remove its byte order mark. Raises InvalidInput if it is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"the text is not UTF-8: the first invalid byte is at offset {error.start}"
        ) from None


def parse_json(data: bytes) -> Json:
    """Decode a JSON value.

    Raises:
        InvalidInput: The bytes are not valid JSON, or the value contains NaN or an infinity.
    """
    try:
        return json.loads(decode(data), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise InvalidInput("the input is not valid JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
