"""Whether a part is ready: one plain GET, without an HTTP library.

A probe runs dozens of times in the first seconds, when every core is busy importing; it is
to cost next to nothing while nobody listens yet.
"""

import asyncio

from loosely.up.parts import Probe

_HOST = "127.0.0.1"
_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.2
_ANSWER_TIMEOUT_SECONDS = 5.0
_LONGEST_STATUS_LINE_BYTES = 1024


async def wait_until_ready(probe: Probe) -> None:
    """Return once ``probe`` succeeds; the caller sets the limit."""
    pause_seconds = _FIRST_PAUSE_SECONDS
    while not await is_ready(probe):
        await asyncio.sleep(pause_seconds)
        pause_seconds = min(pause_seconds * 1.5, _LONGEST_PAUSE_SECONDS)


async def is_ready(probe: Probe) -> bool:
    """Ask once; no connection, silence and the wrong status all mean not yet."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            status = await _status_of(probe)
    except (OSError, TimeoutError):
        return False
    if status is None:
        return False
    return probe.status is None or status == probe.status


async def _status_of(probe: Probe) -> int | None:
    """Return the status of the answer, or ``None`` when it is not HTTP."""
    reader, writer = await asyncio.open_connection(
        _HOST, probe.port, limit=_LONGEST_STATUS_LINE_BYTES
    )
    try:
        writer.write(
            f"GET {probe.path} HTTP/1.1\r\n"
            f"Host: {_HOST}:{probe.port}\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        try:
            line = await reader.readuntil(b"\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return None
    finally:
        writer.close()
    version, _, rest = line.partition(b" ")
    code = rest[:3]
    return int(code) if version.startswith(b"HTTP/") and code.isdigit() else None
