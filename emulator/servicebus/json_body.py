"""Read the JSON bodies of requests to the emulator's own routes."""

import json
from typing import Any

from starlette.requests import Request

from emulator.servicebus.broker.errors import ArgumentError

_MAX_BODY_BYTES = 4096


async def read_json(request: Request, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON object in a request's body; an empty body is an empty object.

    Raises ArgumentError if it is none, exceeds 4 KiB, or has a name that is not in `names`.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ArgumentError(f"the request body exceeds {_MAX_BODY_BYTES} bytes")
    try:
        wanted = json.loads(bytes(body) or b"{}")
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"the request body is not valid JSON: {error}") from error
    if not isinstance(wanted, dict):
        raise ArgumentError(f"the request body must be a JSON object, found {wanted!r:.100}")
    for unknown in sorted(wanted.keys() - set(names)):
        raise ArgumentError(
            f"the request body has an unknown member {unknown[:100]!r}; known members are "
            f"{', '.join(names)}"
        )
    return wanted
