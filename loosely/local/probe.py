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
_MAX_STATUS_LINE_BYTES = 1024
_MAX_DOCUMENT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Probe:
    """An HTTP GET request to a loopback port, to find out whether a component is ready."""

    port: int
    path: str = "/"
    #: The HTTP status of a ready component's response. ``None`` accepts every HTTP response.
    status: int | None = 200


async def wait_until_ready(probe: Probe) -> None:
    """Send the probe repeatedly until the component is ready. The caller must limit the time."""
    pause_seconds = _FIRST_PAUSE_SECONDS
    while not await is_ready(probe):
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, _LONGEST_PAUSE_SECONDS)


async def is_ready(probe: Probe) -> bool:
    """Send the probe once, and return whether the component is ready."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            status = await _get_status(probe)
    except (OSError, TimeoutError):
        return False
    if status is None:
        return False
    return probe.status is None or status == probe.status


async def get_json(probe: Probe) -> object:
    """Send the probe once, and return the JSON document of the response, or ``None``."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(_HOST, probe.port)
            try:
                writer.write(_request(probe))
                response = await reader.read(_MAX_DOCUMENT_BYTES)
                while more := await reader.read(_MAX_DOCUMENT_BYTES - len(response)):
                    response += more
            finally:
                writer.close()
        document: object = json.loads(response.partition(b"\r\n\r\n")[2])
    except (OSError, TimeoutError, ValueError, RecursionError):
        return None
    return document


def _request(probe: Probe) -> bytes:
    return (
        f"GET {probe.path} HTTP/1.1\r\n"
        f"Host: {_HOST}:{probe.port}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode("ascii")


async def _get_status(probe: Probe) -> int | None:
    """Send the probe, and return the HTTP status or ``None`` if the response is not HTTP."""
    reader, writer = await asyncio.open_connection(_HOST, probe.port, limit=_MAX_STATUS_LINE_BYTES)
    try:
        writer.write(_request(probe))
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
    finally:
        writer.close()
    version, _, rest = line.partition(b" ")
    code = rest[:3]
    return int(code) if version.startswith(b"HTTP/") and code.isdigit() else None
