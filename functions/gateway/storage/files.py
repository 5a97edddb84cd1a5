"""Files that callers store with the OpenAI API, each visible only to its tenant.

One blob contains a file's content, another one its description as JSON. The description is written
last and deleted first, so a file that is listed always has its content. A process that dies between
the two leaves content that nobody can see, which the housekeeping deletes with the other old files.

A large file may arrive in parts. Then a third blob describes this upload, and each part is a block
of the content, which exists when the upload is completed. Completing it again changes nothing.

An id contains the file's creation time (UUIDv7), so names are listed in the order of creation.
"""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

from contract.media import OCTET_STREAM
from contract.messages import PayloadRef
from contract.names import FILES
from gateway import problems
from gateway.clock import Clock
from gateway.keys import owner_of
from gateway.problems import HttpProblem, invalid_input
from gateway.storage.blobs import Blobs
from gateway.storage.payloads import PayloadStore
from gateway.storage.uploads import new_upload

MAX_FILES: Final = 1000
"""How many files a tenant may have."""

UPLOAD_SECONDS: Final = 3600
"""How long after its creation an upload accepts parts, as in the OpenAI API."""

_PREFIX: Final = "file-"
_HEX: Final = "[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}"
_ID: Final = re.compile(f"{_PREFIX}{_HEX}")
_UPLOAD_PREFIX: Final = "upload_"
_UPLOAD_ID: Final = re.compile(f"{_UPLOAD_PREFIX}({_HEX})")
_PART_PREFIX: Final = "part_"
_PART_ID: Final = re.compile(f"{_PART_PREFIX}([0-9a-f]{{16}})")
_ABOUT: Final = ".json"
_UPLOAD: Final = ".upload"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What is known of a file. The times are in seconds since 1970."""

    id: str
    name: str
    purpose: str
    size_bytes: int
    sha256: str | None
    """The digest of the content in hexadecimal; None if nobody has computed it."""
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A file that arrives in parts. `file` has the size that the caller has announced."""

    id: str
    file: StoredFile

    @property
    def expires_at(self) -> int:
        """Until when the upload accepts parts, in seconds since 1970."""
        return self.file.created_at + UPLOAD_SECONDS


class FileSource(Protocol):
    """Files that are made of something else, and that only the owner of this can delete."""

    async def ids(self, tenant: str) -> list[str]:
        """Return the ids of all files that the tenant may have, of which some do not exist."""

    async def find(self, tenant: str, file_id: str) -> StoredFile | None:
        """Return a file of the tenant; None if it does not exist or has another source."""

    def content(self, stored: StoredFile) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces."""


class FileStore:
    """The files of all tenants. Each method raises Unavailable if the storage fails."""

    def __init__(
        self,
        blobs: Blobs,
        payloads: PayloadStore,
        clock: Clock,
        lifetime: timedelta,
        others: FileSource,
    ) -> None:
        """Keep each file for `lifetime` after its creation. List and return the others too."""
        self._blobs = blobs
        self._payloads = payloads
        self._clock = clock
        self._lifetime = lifetime
        self._others = others

    async def create(
        self, tenant: str, name: str, purpose: str, data: bytes, lifetime_seconds: int | None
    ) -> StoredFile:
        """Store a file. Raises the problem `invalid-input` if the tenant has too many files."""
        stored = await self._new(tenant, name, purpose, len(data), lifetime_seconds)
        ref = await self._payloads.put(_blob(tenant, stored.id), data, OCTET_STREAM)
        stored = replace(stored, sha256=ref.sha256)
        await self._describe(tenant, stored)
        return stored

    async def _new(
        self, tenant: str, name: str, purpose: str, size_bytes: int, lifetime_seconds: int | None
    ) -> StoredFile:
        if len(await self._ids(tenant)) >= MAX_FILES:
            raise invalid_input(
                f"you have {MAX_FILES} files, the most that is allowed; delete some"
            )
        now = self._clock()
        seconds = int(self._lifetime.total_seconds())
        file_id = _PREFIX + UUID(new_upload(now)).hex
        created_at = int(now.timestamp())
        expires_at = created_at + min(seconds, lifetime_seconds or seconds)
        return StoredFile(file_id, name, purpose, size_bytes, None, created_at, expires_at)

    async def _describe(self, tenant: str, stored: StoredFile) -> None:
        name = _blob(tenant, stored.id) + _ABOUT
        await self._blobs.create(name, json.dumps(asdict(stored)).encode())

    async def create_upload(
        self, tenant: str, name: str, purpose: str, size_bytes: int, lifetime_seconds: int | None
    ) -> FileUpload:
        """Let a file arrive in parts. Raises the problem `invalid-input` as `create` does."""
        stored = await self._new(tenant, name, purpose, size_bytes, lifetime_seconds)
        blob = _blob(tenant, stored.id) + _UPLOAD
        await self._blobs.create(blob, json.dumps(asdict(stored)).encode())
        return FileUpload(_UPLOAD_PREFIX + stored.id.removeprefix(_PREFIX), stored)

    async def find_upload(self, tenant: str, upload_id: str) -> FileUpload:
        """Return an upload of the tenant. Raises the problem `not-found`."""
        found = _UPLOAD_ID.fullmatch(upload_id)
        blob = _blob(tenant, _PREFIX + found[1]) + _UPLOAD if found else ""
        about = await self._blobs.read(blob) if blob else None
        if about is None:
            raise HttpProblem(
                problems.NOT_FOUND, f"there is no upload {upload_id[:100]!r}, or it was cancelled"
            )
        return FileUpload(upload_id, StoredFile(**json.loads(about.data)))

    async def add_part(self, tenant: str, upload: FileUpload, data: bytes) -> str:
        """Store a part of an upload, and return its id."""
        block = secrets.token_hex(8)
        await self._payloads.put_block(_blob(tenant, upload.file.id), block, data)
        return _PART_PREFIX + block

    async def complete(self, tenant: str, upload: FileUpload, parts: Sequence[str]) -> StoredFile:
        """Make the file of its parts, unless it exists. Raises the problem `invalid-input`."""
        if (known := await self._read(tenant, upload.file.id)) is not None:
            return known
        blob = _blob(tenant, upload.file.id)
        found = [_PART_ID.fullmatch(each) for each in parts]
        blocks = [each[1] for each in found if each]
        is_whole = len(blocks) == len(parts) and len(set(blocks)) == len(blocks)
        if not is_whole or not await self._payloads.commit_blocks(blob, blocks, OCTET_STREAM):
            raise invalid_input(
                "part_ids: one of them is no part of this upload, or is there twice",
                param="part_ids",
            )
        about = await self._blobs.look(blob)
        size_bytes = about.size_bytes if about else 0
        if size_bytes != upload.file.size_bytes:
            await self._blobs.delete(blob)
            raise invalid_input(
                f"part_ids: the parts have {size_bytes} bytes, and the upload was created for "
                f"{upload.file.size_bytes}; create a new upload",
                param="part_ids",
            )
        await self._describe(tenant, upload.file)
        return upload.file

    async def cancel(self, tenant: str, upload: FileUpload) -> None:
        """Forget an upload and its parts. Raises `invalid-input` if it is completed."""
        if await self._read(tenant, upload.file.id) is not None:
            raise invalid_input(f"the upload {upload.id} is completed; delete its file instead")
        blob = _blob(tenant, upload.file.id)
        await self._blobs.delete(blob + _UPLOAD)
        await self._payloads.discard_blocks(blob)

    async def find(self, tenant: str, file_id: str) -> StoredFile:
        """Return a file of the tenant. Raises the problem `not-found`."""
        if (found := await self._look(tenant, file_id)) is None:
            raise HttpProblem(
                problems.NOT_FOUND, f"there is no file {file_id[:100]!r}, or it has been deleted"
            )
        return found

    async def find_blob(self, tenant: str, file_id: str, used_at: datetime) -> str | None:
        """Return the blob of a file that had not expired at a time; None if there is none."""
        stored = await self._read(tenant, file_id, used_at)
        return None if stored is None else _blob(tenant, stored.id)

    def content(self, tenant: str, stored: StoredFile) -> AsyncIterator[bytes]:
        """Yield the content of a file in pieces. Raises MissingPayload and PayloadCorrupt."""
        if not _ID.fullmatch(stored.id):
            return self._others.content(stored)
        blob = _blob(tenant, stored.id)
        return self._payloads.get_pieces(
            PayloadRef(OCTET_STREAM, blob, stored.size_bytes, stored.sha256)
        )

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file. Raises the problems `not-found` and, for one of another source, 422."""
        stored = await self.find(tenant, file_id)
        if not _ID.fullmatch(stored.id):
            raise invalid_input(f"the file {file_id} is deleted with the batch that wrote it")
        blob = _blob(tenant, stored.id)
        await self._blobs.delete(blob + _ABOUT)
        await self._blobs.delete(blob)

    async def list_page(
        self, tenant: str, purpose: str | None, after: str | None, limit: int, *, newest_first: bool
    ) -> tuple[list[StoredFile], bool]:
        """Return up to `limit` files that follow the file `after`, and whether there are more."""
        ids = [*await self._ids(tenant), *await self._others.ids(tenant)]
        ids.sort(reverse=newest_first)
        if after is not None:
            ids = [each for each in ids if (each < after if newest_first else each > after)]
        found: list[StoredFile] = []
        while ids and len(found) <= limit:
            some, ids = ids[: limit + 1], ids[limit + 1 :]
            read = await asyncio.gather(*(self._look(tenant, each) for each in some))
            found += [each for each in read if each and purpose in {None, each.purpose}]
        return found[:limit], len(found) > limit

    async def _ids(self, tenant: str) -> list[str]:
        prefix = _blob(tenant, "")
        names = [blob.name async for blob in self._blobs.list(prefix) if blob.name.endswith(_ABOUT)]
        return [name.removeprefix(prefix).removesuffix(_ABOUT) for name in names]

    async def _look(self, tenant: str, file_id: str) -> StoredFile | None:
        return await self._read(tenant, file_id) or await self._others.find(tenant, file_id)

    async def _read(
        self, tenant: str, file_id: str, used_at: datetime | None = None
    ) -> StoredFile | None:
        if not _ID.fullmatch(file_id):
            return None
        found = await self._blobs.read(_blob(tenant, file_id) + _ABOUT)
        stored = StoredFile(**json.loads(found.data)) if found else None
        now = used_at or self._clock()
        return stored if stored is not None and stored.expires_at > now.timestamp() else None


def _blob(tenant: str, file_id: str) -> str:
    return f"{FILES}{owner_of(tenant)}/{file_id}"
