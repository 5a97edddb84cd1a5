"""The adapter of S3, and of other stores with its API: blobs, logs, payloads and signed links.

`contract.s3` says how a log is stored. The store must refuse to create an object twice, and its
lists must show what was written before, as S3 does since 2024 and 2020.
"""

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference, verify, verify_digest
from contract.s3 import (
    MARK,
    list_from,
    log_piece,
    object_name,
    piece_offset,
    store_options,
    upload_part,
)
from contract.settings import S3Endpoint
from gateway.clock import Clock, utc_now
from gateway.errors import MissingPayload, Unavailable
from gateway.storage.blobs import BlobProperties, Blobs, ListedBlob, SmallBlob
from gateway.storage.payloads import PIECE_BYTES, PayloadLinks, PayloadStore

ANSWER_SECONDS: Final = 5.0
"""How long an operation on small objects may take: two attempts of 2 s."""

SLOWEST_BYTES_PER_SECOND: Final = 2_000_000
_SMALL_SECONDS: Final = 2.0
_LARGE_SECONDS: Final = 600.0
_RETRIES: Final = 2
_PAGE: Final = 1000
# How many logs a process remembers.
_MAX_LOGS: Final = 10_000


class Bucket:
    """The connections to one bucket, which must exist: one for small and one for large objects."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self.small = S3Store(endpoint.bucket, **store_options(endpoint, _SMALL_SECONDS, _RETRIES))
        self.large = S3Store(endpoint.bucket, **store_options(endpoint, _LARGE_SECONDS, _RETRIES))

    async def list(self, prefix: str) -> AsyncIterator[Any]:
        """Yield what the store knows of each object with this prefix, in the order of names."""
        wanted = object_name(prefix)
        folder, before = list_from(wanted)
        pages = obstore.list(self.small, folder, offset=before, chunk_size=_PAGE).__aiter__()
        while True:
            async with _answering("listing objects"):
                page = await anext(pages, None)
            if page is None:
                return
            for found in page:
                if found["path"].startswith(wanted):
                    yield found
                elif found["path"] > wanted:
                    return

    async def group(self, blob: str) -> Sequence[Any]:
        """Return the object with this name, and the objects of a log or of an upload's parts."""
        name = object_name(blob)
        found: list[Any] = []
        async for each in self.list(blob):
            if each["path"].startswith(f"{name}{MARK}") or each["path"] == name:
                found.append(each)
            elif each["path"] > f"{name}{MARK}~":
                break
        return found


@contextlib.asynccontextmanager
async def _answering(
    what: str, size_bytes: int = 0, *, may_be_missing: bool = True
) -> AsyncIterator[None]:
    """Raise Unavailable if the store fails in the `with` block, or if the block takes too long.

    FileNotFoundError passes, unless `may_be_missing` is false: then only the bucket can be missing.
    """
    seconds = ANSWER_SECONDS + size_bytes / SLOWEST_BYTES_PER_SECOND
    try:
        async with asyncio.timeout(seconds):
            yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (BaseError, OSError) as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            raise
        raise Unavailable("blobs", f"{what} failed: {_reason(error)}") from error


class S3Blobs(Blobs):
    """The blobs in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        # For each log, an offset at which an object has begun or will begin.
        self._ends: OrderedDict[str, int] = OrderedDict()

    async def create(self, blob: str, data: bytes) -> str | None:
        """Create an object; return its ETag, or None if it already existed."""
        with contextlib.suppress(AlreadyExistsError):
            return await self._put(blob, data, "create")
        return None

    async def replace(self, blob: str, data: bytes, etag: str) -> str | None:
        """Overwrite an object; return its new ETag, or None if its ETag is not `etag`."""
        with contextlib.suppress(PreconditionError, FileNotFoundError):
            return await self._put(blob, data, {"e_tag": etag})
        return None

    async def _put(self, blob: str, data: bytes, mode: Any) -> str:
        about: Any = {"Content-Type": "application/json"}
        is_new = mode == "create"
        async with _answering(f"writing {blob}", len(data), may_be_missing=not is_new):
            made = await obstore.put_async(
                self._bucket.small, object_name(blob), data, mode=mode, attributes=about
            )
        return str(made["e_tag"])

    async def read(self, blob: str) -> SmallBlob | None:
        """Return a small object and its ETag; None if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            async with _answering(f"reading {blob}"):
                found = await obstore.get_async(self._bucket.small, object_name(blob))
                return SmallBlob(bytes(await found.bytes_async()), str(found.meta["e_tag"]))
        return None

    async def append(self, blob: str, data: bytes) -> int:
        """Create the object of a log that follows its last one; return its offset.

        One request, unless another process has appended since this one did.
        """
        async with _answering(f"appending to {blob}", len(data)):
            position = self._ends.get(blob, 0)
            while not await self._create_piece(blob, position, data):
                position = await self._find_end(blob)
        return position

    async def append_at(self, blob: str, position: int, data: bytes) -> bool:
        """Create the object of a log at an offset if the log ends there; return whether it did."""
        async with _answering(f"appending to {blob}", len(data)):
            # An offset within an object is free, but it is not the end.
            is_end = not position or self._ends.get(blob) == position
            if not is_end and await self._find_end(blob) != position:
                return False
            return await self._create_piece(blob, position, data)

    async def _create_piece(self, blob: str, position: int, data: bytes) -> bool:
        try:
            await self._put(log_piece(blob, position), data, "create")
        except AlreadyExistsError:
            return False
        self._note_end(blob, position + len(data))
        return True

    async def _find_end(self, blob: str) -> int:
        offset, size_bytes, _ = await self._find_piece(blob)
        self._note_end(blob, offset + size_bytes)
        return offset + size_bytes

    async def _find_piece(self, blob: str, before: int | None = None) -> tuple[int, int, str]:
        """Return the offset, size and name of a log's last object that begins before an offset."""
        last = (0, 0, "")
        async for found in self._bucket.list(f"{blob}{MARK}"):
            offset = piece_offset(found["path"])
            if offset is None or (before is not None and offset >= before):
                break
            last = offset, found["size"], found["path"]
        return last

    def _note_end(self, blob: str, end: int) -> None:
        self._ends[blob] = end
        self._ends.move_to_end(blob)
        if len(self._ends) > _MAX_LOGS:
            self._ends.popitem(last=False)

    async def read_from(self, blob: str, offset: int, max_bytes: int) -> bytes:
        """Return up to `max_bytes` bytes from an offset on, of an object or of a log."""
        async with _answering(f"reading {blob}", max_bytes):
            # What this process knows to be a log is not an object.
            if blob not in self._ends:
                data = await self._read_range(object_name(blob), offset, max_bytes)
                if data is not None:
                    return data
            return await self._read_log(blob, offset, max_bytes)

    async def _read_log(self, blob: str, offset: int, max_bytes: int) -> bytes:
        data, name, start = b"", object_name(log_piece(blob, offset)), 0
        while len(data) < max_bytes:
            piece = await self._read_range(name, start, max_bytes - len(data))
            if piece is None:
                if data or not offset or start or self._ends.get(blob) == offset:
                    break
                # Either the log ends here, or the offset is within an object.
                begin, size_bytes, name = await self._find_piece(blob, offset)
                start = offset - begin
                if not name or start >= size_bytes:
                    break
                continue
            data += piece
            name, start = object_name(log_piece(blob, offset + len(data))), 0
        if data and len(data) < max_bytes:
            self._note_end(blob, offset + len(data))
        return data

    async def read_version(self, blob: str, offset: int, max_bytes: int, etag: str) -> bytes:
        """Read a part of the object with this ETag. Raises MissingPayload if it is gone."""
        try:
            async with _answering(f"reading {blob}", max_bytes):
                data = await self._read_range(object_name(blob), offset, max_bytes, etag)
        except PreconditionError:
            data = None
        if data is None:
            raise MissingPayload(blob)
        return data

    async def _read_range(
        self, name: str, start: int, max_bytes: int, etag: str = ""
    ) -> bytes | None:
        options: Any = {"range": (start, start + max_bytes)}
        if etag:
            options["if_match"] = etag
        try:
            found = await obstore.get_async(self._bucket.large, name, options=options)
            return bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        except BaseError as error:
            if _is_past_the_end(error):
                return b""
            raise

    async def look(self, blob: str, head_bytes: int = 0) -> BlobProperties | None:
        """Return an object's properties and first bytes; None if there is neither it nor a log."""
        name = object_name(blob)
        options: Any = {"range": (0, head_bytes)} if head_bytes else {"head": True}
        async with _answering(f"reading {blob}", head_bytes):
            try:
                found = await obstore.get_async(self._bucket.large, name, options=options)
                head = bytes(await found.bytes_async()) if head_bytes else b""
            except FileNotFoundError:
                return await self._look_at_log(blob, head_bytes)
            except BaseError as error:
                if not _is_past_the_end(error):
                    raise
                return await self.look(blob)  # an empty object has no range
        about: Any = found.attributes
        return BlobProperties(
            about.get("Content-Type", ""),
            found.meta["size"],
            str(found.meta["e_tag"]),
            head,
            about.get("Content-Encoding", ""),
        )

    async def _look_at_log(self, blob: str, head_bytes: int) -> BlobProperties | None:
        offset, size_bytes, name = await self._find_piece(blob)
        if not name:
            return None
        head = await self._read_log(blob, 0, head_bytes) if head_bytes else b""
        return BlobProperties("", offset + size_bytes, name, head)

    async def delete(self, blob: str, etag: str | None = None) -> None:
        """Delete an object, or all objects of a log or of an upload.

        The ETag is compared before the deletion, so an object that is written between the two is
        deleted, too.
        """
        found = await self._bucket.group(blob)
        if found and (etag is None or found[-1]["e_tag"] == etag):
            async with _answering("deleting an object"):
                await obstore.delete_async(self._bucket.small, [each["path"] for each in found])
        self._ends.pop(blob, None)

    async def list_names(self, prefix: str) -> list[str]:
        """Return the names of the blobs with this prefix, in their order."""
        return [found.name async for found in self.list(prefix)]

    async def list(self, prefix: str) -> AsyncIterator[ListedBlob]:
        """List the blobs and logs with this prefix. A log has the ETag of its last object."""
        last: ListedBlob | None = None
        async for each in self._bucket.list(prefix):
            name = each["path"].partition("/")[2].partition(MARK)[0]
            if last is not None and last.name != name:
                yield last
            last = ListedBlob(name, str(each["e_tag"]), each["last_modified"])
        if last is not None:
            yield last


class S3Payloads(PayloadStore):
    """The payloads in a bucket."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def put(self, blob: str, data: bytes, media_type: str) -> PayloadRef:
        """Store a payload; return the payload reference."""
        async with _answering("uploading a payload", len(data), may_be_missing=False):
            await self._put(blob, data, media_type)
        return reference(media_type, blob, data)

    async def _put(self, blob: str, data: Any, media_type: str) -> None:
        # A link for reading cannot add these headers, because obstore signs no query.
        about: Any = {
            "Content-Type": media_type,
            "Content-Disposition": "attachment",
            "Cache-Control": "private, no-store",
        }
        await obstore.put_async(self._bucket.large, object_name(blob), data, attributes=about)

    async def put_pieces(
        self, blob: str, pieces: AsyncIterator[bytes], media_type: str
    ) -> PayloadRef:
        """Store a payload that arrives in pieces as a multipart upload; an error leaves no object.

        The parts of an upload that fails stay until a rule of the bucket deletes them.
        """
        digest, size_bytes = hashlib.sha256(), 0
        failure: BaseException | None = None

        async def measured() -> AsyncIterator[bytes]:
            nonlocal size_bytes, failure
            try:
                async for piece in pieces:
                    digest.update(piece)
                    size_bytes += len(piece)
                    yield piece
            except BaseException as error:
                failure = error
                raise

        try:
            await self._put(blob, measured(), media_type)
        except (BaseError, OSError) as error:
            raise Unavailable("blobs", f"uploading a payload failed: {_reason(error)}") from error
        except BaseException:
            if failure is not None:
                raise failure from None
            raise
        return PayloadRef(media_type, blob, size_bytes, digest.hexdigest())

    async def put_block(self, blob: str, block: str, data: bytes) -> None:
        """Store a part of a payload as an object, because a part of S3 has at least 5 MiB."""
        await self._put_part(upload_part(blob, block), data)

    async def _put_part(self, name: str, data: bytes) -> None:
        what = "uploading a part of a payload"
        async with _answering(what, len(data), may_be_missing=False):
            await obstore.put_async(self._bucket.large, object_name(name), data)

    async def commit_blocks(self, blob: str, blocks: Sequence[str], media_type: str) -> bool:
        """Make an object of its parts, which pass through this process; then delete them."""
        parts = [object_name(upload_part(blob, block)) for block in blocks]
        there = {each["path"]: each["size"] for each in await self._bucket.group(blob)}
        if not there.keys() >= set(parts):
            return False

        async def content() -> AsyncIterator[bytes]:
            for part in parts:
                found = await obstore.get_async(self._bucket.large, part)
                async for chunk in found.stream():
                    yield bytes(chunk)

        size_bytes = 2 * sum(there[part] for part in parts)
        async with _answering("uploading a payload", size_bytes, may_be_missing=False):
            await self._put(blob, content() if parts else b"", media_type)
        await self.discard_blocks(blob)
        return True

    async def discard_blocks(self, blob: str) -> None:
        """Delete the parts of an upload."""
        with contextlib.suppress(Unavailable):
            name = object_name(blob)
            found = [each["path"] for each in await self._bucket.group(blob)]
            if parts := [each for each in found if each != name]:
                async with _answering("deleting a part of a payload"):
                    await obstore.delete_async(self._bucket.small, parts)

    async def get(self, ref: PayloadRef) -> bytes:
        """Return the payload to which `ref` refers."""
        async with _answering("downloading a payload", ref.size_bytes):
            try:
                found = await obstore.get_async(self._bucket.large, object_name(ref.blob))
                if found.meta["size"] != ref.size_bytes:
                    raise PayloadCorrupt(
                        f"the blob {ref.blob} has {found.meta['size']} bytes, "
                        f"but its reference says {ref.size_bytes}"
                    )
                data = bytes(await found.bytes_async())
            except FileNotFoundError:
                raise MissingPayload(ref.blob) from None
        return verify(ref, data)

    async def get_pieces(self, ref: PayloadRef) -> AsyncIterator[bytes]:
        """Yield the payload to which `ref` refers in pieces."""
        digest = hashlib.sha256()
        for start in range(0, ref.size_bytes, PIECE_BYTES):
            size_bytes = min(PIECE_BYTES, ref.size_bytes - start)
            options: Any = {"range": (start, start + size_bytes)}
            async with _answering("downloading a part of a payload", size_bytes):
                try:
                    found = await obstore.get_async(
                        self._bucket.large, object_name(ref.blob), options=options
                    )
                    piece = bytes(await found.bytes_async())
                except FileNotFoundError:
                    raise MissingPayload(ref.blob) from None
            digest.update(piece)
            if start + size_bytes == ref.size_bytes:
                verify_digest(ref, digest.hexdigest())
            yield piece

    async def check(self) -> None:
        """Check that the store responds, and has the bucket."""
        async for _ in self._bucket.list("check"):
            return

    async def close(self) -> None:
        """Do nothing: the client closes idle connections itself."""


class S3Links(PayloadLinks):
    """Signed links to objects in a bucket. Each method raises Unavailable if signing fails.

    `public_url` is the URL at which callers reach the store, if it differs from the gateway's.
    """

    # The store refuses a second upload. An upload without this header replaces the first one, which
    # the ETag in the job's message shows.
    upload_headers = {"if-none-match": "*"}  # noqa: RUF012  never changed

    def __init__(
        self, endpoint: S3Endpoint, public_url: str | None = None, clock: Clock = utc_now
    ) -> None:
        options = store_options(endpoint, _SMALL_SECONDS, _RETRIES, public_url)
        self._store = S3Store(endpoint.bucket, **options)
        self._clock = clock
        address = public_url or endpoint.url
        region = str(self._store.config.get("region", "us-east-1"))
        parts = urlsplit(address or f"https://s3.{region}.amazonaws.com")
        self._origin = f"{parts.scheme}://{parts.netloc}"

    @property
    def origin(self) -> str:
        """The origin of the links."""
        return self._origin

    async def to_write(self, blob: str, expires_at: datetime) -> str:
        """Return a URL that permits writing this object, until `expires_at`."""
        return await self._sign("PUT", blob, expires_at)

    async def to_read(
        self, blob: str, media_type: str, file_name: str, expires_at: datetime
    ) -> str:
        """Return a URL of this object. The media type is the one with which it was written."""
        return await self._sign("GET", blob, expires_at)

    async def _sign(self, method: Any, blob: str, expires_at: datetime) -> str:
        async with _answering("signing a link"):
            seconds = expires_at - self._clock()
            return await obstore.sign_async(self._store, method, object_name(blob), seconds)


def _is_past_the_end(error: BaseError) -> bool:
    return "status code: 416" in str(error).partition("\n")[0]


def _reason(error: Exception) -> str:
    # Only the first line: the others repeat it, with the whole request.
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
