"""The adapter of S3, and of other stores with its API: payloads, weights, and logs of streams.

`contract.s3` says how a log is stored. The store must refuse to create an object twice.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PreconditionError,
)
from obstore.store import S3Store

from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef
from contract.s3 import MARK, list_from, log_piece, object_name, piece_offset, store_options
from contract.settings import S3Endpoint
from contract.streams import parse_event, stream_blob
from contract.weights import WeightsScheme
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.objects.port import (
    BlobReader,
    BlobStore,
    ObjectChanged,
    ObjectMissing,
    ObjectsUnavailable,
)
from worker.streams.store import EMPTY, Append, Appended, LogEnd, LogsUnavailable
from worker.weights.cache import Download

# A large object may take as long as this.
_SECONDS: Final = 600.0
_STREAM_SECONDS: Final = 3.0
# An object is read in chunks of this size.
_CHUNK_BYTES: Final = 4 * 1024 * 1024


class S3BlobStore(BlobStore):
    """The payloads in a bucket."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._open = cache(lambda seconds: _open_store(endpoint, seconds))

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        """Return an iterator over the content of an object, in chunks."""
        options: Any = {"if_match": ref.etag} if ref.etag else {}
        with _translated():
            found = obstore.get(self._open(_SECONDS), object_name(ref.blob), options=options)
        size_bytes = found.meta["size"]
        if size_bytes != ref.size_bytes:
            raise PayloadCorrupt(
                f"the payload has {size_bytes} bytes, but its reference says {ref.size_bytes} bytes"
            )
        return _translated_chunks(found)

    def read_from(self, blob: str, offset: int, max_bytes: int, timeout_seconds: float) -> bytes:
        """Return what a log has from `offset` on, in at most one request more than it has objects.

        An offset within an object, which a read of `max_bytes` may leave, needs a list.
        """
        store, name = self._open(timeout_seconds), object_name(blob)
        with _translated():
            return read_log(store, name, offset, max_bytes)

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        """Write an object."""
        about: Any = {
            "Content-Type": media_type,
            # A link for reading cannot add these headers: see `gateway.storage.s3`.
            "Content-Disposition": "attachment",
            "Cache-Control": "private, no-store",
        }
        store = self._open(timeout_seconds or _SECONDS)
        try:
            with _translated():
                obstore.put(store, object_name(blob), data, attributes=about)
        except ObjectMissing:
            raise ObjectsUnavailable("the bucket does not exist") from None

    def delete(self, blob: str, timeout_seconds: float | None = None) -> None:
        """Delete an object if it exists."""
        with _translated(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._open(timeout_seconds or _SECONDS), object_name(blob))


class S3BlobReader(BlobReader):
    """Reads weights from the bucket that also contains the payloads, in a folder `container`."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._open = cache(lambda: _open_store(endpoint, _SECONDS))

    def read(self, container: str, blob: str) -> Download:
        """Start to read an object."""
        where = f"{WeightsScheme.BLOB}:{container}/{blob}"
        try:
            with _translated():
                found = obstore.get(self._open(), object_name(blob, container))
        except ObjectMissing:
            raise WeightsMissing(f"{where}: this object does not exist") from None
        except ObjectsUnavailable as error:
            raise WeightsUnavailable(f"{where}: the object cannot be read: {error}") from None
        return Download(_weights_chunks(where, found), found.meta["size"])


class S3StreamLogs:
    """The logs of streams, each a row of objects."""

    max_appends = 16
    jobs_per_append = 1

    def __init__(self, endpoint: S3Endpoint) -> None:
        self._store = _open_store(endpoint, _STREAM_SECONDS)

    def append(self, appends: Sequence[Append]) -> Sequence[Appended]:
        """Append to each log, as `WritableLogs` says."""
        return [self._append(each) for each in appends]

    def read_end(self, job_id: str) -> LogEnd:
        """Return where the log of a job ends. Raises LogsUnavailable."""
        try:
            pieces = list_pieces(self._store, object_name(stream_blob(job_id)))
            if not pieces:
                return EMPTY
            name, offset, size_bytes = pieces[-1]
            data = bytes(obstore.get(self._store, name).bytes())
        except (BaseError, OSError) as error:
            raise LogsUnavailable(_text(error)) from None
        for line in reversed(data.splitlines()):
            if (event := parse_event(line)) is not None:
                return LogEnd(event.key, offset + size_bytes)
        raise LogsUnavailable("the log does not end with an event")

    def close(self) -> None:
        """Do nothing: the client closes idle connections itself."""

    def _append(self, append: Append) -> Appended:
        name = log_piece(object_name(stream_blob(append.job_id)), append.end.size_bytes)
        try:
            try:
                obstore.put(self._store, name, append.data, mode="create")
            except AlreadyExistsError:
                # Perhaps the response to an earlier request with these bytes was lost.
                is_ours = bytes(obstore.get(self._store, name).bytes()) == append.data
                return Appended.WRITTEN if is_ours else Appended.REFUSED
        except (BaseError, OSError):
            return Appended.UNKNOWN
        return Appended.WRITTEN


def list_pieces(store: S3Store, log: str) -> list[tuple[str, int, int]]:
    """Return the objects of a log in their order: names, offsets and sizes in bytes."""
    prefix = log + MARK
    folder, before = list_from(prefix)
    found: list[tuple[str, int, int]] = []
    for page in obstore.list(store, folder, offset=before, chunk_size=1000):
        for each in page:
            name = each["path"]
            if not name.startswith(prefix):
                if name > prefix:
                    return found
                continue
            if (offset := piece_offset(name)) is not None:
                found.append((name, offset, each["size"]))
    return found


def read_log(store: S3Store, log: str, offset: int, max_bytes: int) -> bytes:
    """Return up to `max_bytes` bytes of a log from an offset on; nothing at its end."""
    data, start, is_first = b"", 0, True
    name = log_piece(log, offset)
    while len(data) < max_bytes:
        piece = _read_piece(store, name, start, max_bytes - len(data))
        if piece is None:
            if not is_first or offset == 0:
                return data
            # Either the log ends here, or the offset is within an object.
            around = [each for each in list_pieces(store, log) if each[1] < offset]
            if not around or around[-1][1] + around[-1][2] <= offset:
                return data
            name, start = around[-1][0], offset - around[-1][1]
        else:
            data += piece
            name, start = log_piece(log, offset + len(data)), 0
        is_first = False
    return data


def _read_piece(store: S3Store, name: str, start: int, max_bytes: int) -> bytes | None:
    options: Any = {"range": (start, start + max_bytes)}
    try:
        return bytes(obstore.get(store, name, options=options).bytes())
    except FileNotFoundError:
        return None
    except BaseError as error:
        if "status code: 416" in str(error).partition("\n")[0]:
            return None  # the object was deleted and created again
        raise


def _open_store(endpoint: S3Endpoint, seconds: float) -> S3Store:
    # No retries by the client, because they would continue after a message's lock is lost.
    return S3Store(endpoint.bucket, **store_options(endpoint, seconds, 0))


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of the port for those of the library."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(_text(error)) from None
    except PreconditionError as error:
        raise ObjectChanged(_text(error)) from None
    except BaseError as error:
        raise ObjectsUnavailable(_text(error)) from None


def _translated_chunks(found: Any) -> Iterator[bytes]:
    with _translated():
        for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
            yield bytes(chunk)


def _weights_chunks(where: str, found: Any) -> Iterator[bytes]:
    try:
        yield from _translated_chunks(found)
    except (ObjectsUnavailable, OSError) as error:
        raise WeightsUnavailable(f"{where}: the object cannot be read: {error}") from None


def _text(error: Exception) -> str:
    # Only the class: the text has many lines, with addresses.
    return "RequestFailed" if isinstance(error, GenericError) else type(error).__name__
