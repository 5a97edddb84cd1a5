"""Implement the interfaces `Blobs` and `PayloadLinks` in memory, for tests.

`MemoryBlobs` stores its blobs in the gateway's payload store, a `MemoryPayloads`. As in Azure, the
payloads and all other blobs are in the same blob storage.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.errors import Unavailable
from gateway.storage.blobs import BlobProperties, ListedBlob, SmallBlob
from tests.unit.gateway.memory import ManualClock, MemoryPayloads


@dataclass
class MemoryBlobs:
    """Implements `Blobs` in memory.

    All writes, to any blob, are numbered from 1. The ETag of a blob is the number of its last
    write.
    """

    payloads: MemoryPayloads
    clock: ManualClock
    etags: dict[str, str] = field(default_factory=dict)
    modified_at: dict[str, datetime] = field(default_factory=dict)
    write_count: int = 0
    content_encoding: str = ""
    is_unlistable: bool = False
    undeletable: set[str] = field(default_factory=set)

    def put(self, blob: str, data: bytes, media_type: str = "application/json") -> str:
        """Write a blob unconditionally, as a caller with a signed link does. Return the ETag."""
        self.write_count += 1
        self.payloads.blobs[blob] = (media_type, data)
        self.etags[blob] = f'"{self.write_count}"'
        self.modified_at[blob] = self.clock()
        return self.etags[blob]

    async def create(self, blob: str, data: bytes) -> str | None:
        await asyncio.sleep(0)  # other tasks run in the meantime, as during a network request
        await self.payloads.check()
        return None if blob in self.payloads.blobs else self.put(blob, data)

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        await self.payloads.check()
        return self.put(blob, data) if self.etags.get(blob) == etag else None

    async def read(self, blob: str) -> SmallBlob | None:
        await asyncio.sleep(0)
        await self.payloads.check()
        found = self.payloads.blobs.get(blob)
        return SmallBlob(found[1], self.etags[blob]) if found else None

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        await self.payloads.check()
        found = self.payloads.blobs.get(blob)
        if found is None:
            return None
        media_type, data = found
        etag = self.etags.get(blob, '"0"')
        return BlobProperties(media_type, len(data), etag, data[:head_bytes], self.content_encoding)

    async def delete(self, blob: str, etag: str | None = None) -> None:
        await self.payloads.check()
        if blob in self.undeletable:
            raise Unavailable("blobs", f"the blob {blob} has a legal hold")
        if etag is None or self.etags.get(blob, '"0"') == etag:
            self.payloads.blobs.pop(blob, None)
            self.etags.pop(blob, None)

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        await self.payloads.check()
        if self.is_unlistable:
            raise Unavailable("blobs", "switched off")
        for name in sorted(self.payloads.blobs):
            if name.startswith(prefix):
                modified_at = self.modified_at.get(name, self.clock())
                yield ListedBlob(name, self.etags.get(name, '"0"'), modified_at)


class MemoryLinks:
    """Implements `PayloadLinks` with unsigned URLs, whose query shows what the link permits."""

    origin = "http://blobs.test"

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        return f"http://blobs.test/{blob}?sp=c&se={expires_at.isoformat()}"

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        shown: dict[str, Any] = {"rsct": media_type, "rscd": file_name}
        query = "&".join(f"{name}={value}" for name, value in shown.items())
        return f"http://blobs.test/{blob}?sp=r&se={expires_at.isoformat()}&{query}"
