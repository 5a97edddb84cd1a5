"""Logs in append blobs: append lines, and read the lines that other processes append.

A reader asks again and again for what follows the last line that it has read. Lines may be appended
twice if a response is lost, and a line that cannot be read must be skipped.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from gateway.storage.blobs import Blobs

MAX_READ_BYTES: Final = 4 * 1024 * 1024
"""How much of a log one request reads at most."""

MAX_APPEND_BYTES: Final = 3 * 1024 * 1024
"""How much one request appends at most, unless one line is longer. Azure allows 4 MiB."""

LONGEST_GATHER_SECONDS: Final = 0.1
"""How long after a slow request lines wait for others at most."""


@dataclass(slots=True)
class LogTail:
    """Reads one log from its beginning. The log may not exist yet."""

    blobs: Blobs
    blob: str
    offset: int = 0

    async def read(self, max_bytes: int = MAX_READ_BYTES) -> list[bytes]:
        """Return the lines that were appended since the last call, without their line ends.

        They have up to `max_bytes` together.

        Raises Unavailable if the storage fails; then the next call returns these lines.
        """
        data = await self.blobs.read_from(self.blob, self.offset, max_bytes)
        end = data.rfind(b"\n") + 1
        if end == 0 and len(data) == max_bytes:
            end = len(data)  # this is no log of ours
        self.offset += end
        return data[:end].splitlines()


class LogWriter:
    """Appends lines to logs.

    Lines that arrive during a request, or as long after it as it took, share the next request. So
    on a busy machine fewer requests have more lines each. Lines for different logs share none.
    """

    def __init__(self, blobs: Blobs, gather_seconds: float = 0.0) -> None:
        """Let each request wait at least `gather_seconds` for further lines."""
        self._blobs = blobs
        self._gather_seconds = gather_seconds
        self._next_at = 0.0
        self._next: _Batch | None = None
        self._is_sending = asyncio.Lock()

    async def append(self, blob: str, line: bytes) -> int:
        """Append a line to a log, which is created if it is missing; return its offset.

        Raises Unavailable if the line was possibly not appended.
        """
        batch = self._next
        if batch is None or not batch.takes(blob, len(line)):
            batch = self._next = _Batch(blob)
            batch.sending = asyncio.create_task(self._send(batch))
        start = batch.size_bytes
        batch.lines.append(line + b"\n")
        batch.size_bytes += len(line) + 1
        # If one caller is cancelled, the lines of the others are still appended.
        return start + await asyncio.shield(batch.sending)

    async def _send(self, batch: "_Batch") -> int:
        loop = asyncio.get_running_loop()
        async with self._is_sending:
            pause_seconds = max(self._next_at - loop.time(), self._gather_seconds)
            if pause_seconds > 0:
                await asyncio.sleep(pause_seconds)
            if self._next is batch:
                self._next = None
            begun_at = loop.time()
            try:
                return await self._blobs.append(batch.blob, b"".join(batch.lines))
            finally:
                ended_at = loop.time()
                self._next_at = ended_at + min(ended_at - begun_at, LONGEST_GATHER_SECONDS)


@dataclass(slots=True)
class _Batch:
    blob: str
    lines: list[bytes] = field(default_factory=list)
    size_bytes: int = 0
    sending: "asyncio.Task[int]" = field(init=False)

    def takes(self, blob: str, line_bytes: int) -> bool:
        return blob == self.blob and self.size_bytes + line_bytes < MAX_APPEND_BYTES
