"""The readiness probe of a component: an HTTP GET, sent without an HTTP library.

While all components start and use every core, each probe is sent dozens of times, so it must use
little processor time.
"""

import asyncio
import json
from dataclasses import dataclass

_HOST = "127.0.0.1"
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.05
_ANSWER_TIMEOUT_SECONDS = 5.0
_MAX_RESPONSE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP GET request to a loopback port, to find out whether a component is ready.

    For a component without HTTP, only a connection is opened.
    """

    port: int
    path: str = "/"
    #: The HTTP status of a ready component's response. ``None`` accepts every HTTP response.
    status: int | None = 200
    is_http: bool = True


async def wait_until_ready(probe: Probe) -> None:
    """Send the probe repeatedly until the component is ready. The caller must limit the time."""
    pause_seconds = _FIRST_PAUSE_SECONDS
    while not await is_ready(probe):
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, _LONGEST_PAUSE_SECONDS)


async def is_ready(probe: Probe) -> bool:
    """Send the probe once, and return whether the component is ready."""
    if not probe.is_http:
        return await _connects(probe.port)
    status, _ = await _send(probe)
    return status is not None and probe.status in {None, status}


async def _connects(port: int) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(_HOST, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def get_json(probe: Probe) -> object:
    """Send the probe once, and return the JSON document of the response, or ``None``."""
    _, body = await _send(probe)
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document


async def _send(probe: Probe) -> tuple[int | None, bytes]:
    """Send the probe, and return the status and the body; ``None`` without an HTTP response."""
    request = (
        f"GET {probe.path} HTTP/1.1\r\n"
        f"Host: {_HOST}:{probe.port}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    response = b""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(_HOST, probe.port)
            try:
                writer.write(request.encode("ascii"))
                while more := await reader.read(_MAX_RESPONSE_BYTES - len(response)):
                    response += more
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None, b""
    head, _, body = response.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    is_http = version.startswith(b"HTTP/") and rest[:3].isdigit()
    return int(rest[:3]) if is_http else None, body
