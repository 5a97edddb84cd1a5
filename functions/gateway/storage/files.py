"""Files that callers store with the OpenAI API, each visible only to its tenant.

One blob contains a file's content, another one its description as JSON. The description is written
last and deleted first, so a file that is listed always has its content. A process that dies between
the two leaves content that nobody can see, which the housekeeping deletes with the other old files.

An id contains the file's creation time (UUIDv7), so names are listed in the order of creation.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from contract.media import OCTET_STREAM
from contract.messages import PayloadRef
from contract.names import FILES
from gateway import problems
from gateway.clock import Clock
from gateway.problems import HttpProblem, invalid_input
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadStore
from gateway.storage.uploads import new_upload

MAX_FILES: Final = 1000
"""How many files a tenant may have."""

_PREFIX: Final = "file-"
_ID: Final = re.compile(f"{_PREFIX}([0-9a-f]{{12}}7[0-9a-f]{{3}}[89ab][0-9a-f]{{15}})")
_ABOUT: Final = ".json"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file. The times are in seconds since 1970."""

    id: str
    name: str
    purpose: str
    size_bytes: int
    sha256: str
    created_at: int
    expires_at: int


class FileStore:
    """The files of all tenants. Each method raises Unavailable if the storage fails."""

    def __init__(self, blobs: Blobs, payloads: PayloadStore, clock: Clock, lifetime: timedelta):
        """Keep each file for `lifetime` after its creation."""
        self._blobs = blobs
        self._payloads = payloads
        self._clock = clock
        self._lifetime = lifetime

    async def create(
        self, tenant: str, name: str, purpose: str, data: bytes, lifetime_seconds: int | None
    ) -> StoredFile:
        """Store a file. Raises the problem `invalid-input` if the tenant has too many files."""
        if len(await self._ids(tenant)) >= MAX_FILES:
            raise invalid_input(
                f"you have {MAX_FILES} files, the most that is allowed; delete some"
            )
        now = self._clock()
        seconds = int(self._lifetime.total_seconds())
        file_id = _PREFIX + UUID(new_upload(now)).hex
        created_at = int(now.timestamp())
        blob = _blob(tenant, file_id)
        ref = await self._payloads.put(blob, data, OCTET_STREAM)
        assert ref.sha256 is not None, "`put` has computed it"
        expires_at = created_at + min(seconds, lifetime_seconds or seconds)
        stored = StoredFile(file_id, name, purpose, len(data), ref.sha256, created_at, expires_at)
        await self._blobs.create(blob + _ABOUT, json.dumps(asdict(stored)).encode())
        return stored

    async def find(self, tenant: str, file_id: str) -> StoredFile:
        """Return a file of the tenant. Raises the problem `not-found`."""
        if (found := await self._read(tenant, file_id)) is None:
            raise HttpProblem(
                problems.NOT_FOUND, f"there is no file {file_id[:100]!r}, or it has been deleted"
            )
        return found

    async def find_blob(self, tenant: str, file_id: str) -> str | None:
        """Return the name of the blob of a file of the tenant; None if there is no such file."""
        stored = await self._read(tenant, file_id)
        return None if stored is None else _blob(tenant, stored.id)

    def content(self, tenant: str, stored: StoredFile) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces. Raises MissingPayload and PayloadCorrupt."""
        blob = _blob(tenant, stored.id)
        return self._payloads.get_pieces(
            PayloadRef(OCTET_STREAM, blob, stored.size_bytes, stored.sha256)
        )

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file. Raises the problem `not-found`."""
        blob = _blob(tenant, (await self.find(tenant, file_id)).id)
        await self._blobs.delete(blob + _ABOUT)
        await self._blobs.delete(blob)

    async def list_page(
        self, tenant: str, purpose: str | None, after: str | None, limit: int, *, newest_first: bool
    ) -> tuple[list[StoredFile], bool]:
        """Return up to `limit` files that follow the file `after`, and whether there are more."""
        ids = sorted(await self._ids(tenant), reverse=newest_first)
        if after is not None:
            ids = [each for each in ids if (each < after if newest_first else each > after)]
        found: list[StoredFile] = []
        while ids and len(found) <= limit:
            some, ids = ids[: limit + 1], ids[limit + 1 :]
            read = await asyncio.gather(*(self._read(tenant, each) for each in some))
            found += [each for each in read if each and purpose in {None, each.purpose}]
        return found[:limit], len(found) > limit

    async def _ids(self, tenant: str) -> list[str]:
        prefix = _blob(tenant, "")
        names = [blob.name async for blob in self._blobs.list(prefix) if blob.name.endswith(_ABOUT)]
        return [name.removeprefix(prefix).removesuffix(_ABOUT) for name in names]

    async def _read(self, tenant: str, file_id: str) -> StoredFile | None:
        if not _ID.fullmatch(file_id):
            return None
        found = await self._blobs.read(_blob(tenant, file_id) + _ABOUT)
        stored = StoredFile(**json.loads(found.data)) if found else None
        is_valid = stored is not None and stored.expires_at > self._clock().timestamp()
        return stored if is_valid else None


def _blob(tenant: str, file_id: str) -> str:
    owner = hashlib.sha256(tenant.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{FILES}{owner}/{file_id}"
