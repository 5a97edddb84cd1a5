"""Read large inputs from blob storage, and store large results there.

The message contains only a reference to the blob (claim check).
"""

import hashlib
import io
import mmap
import tempfile
from collections.abc import Callable, Iterator
from typing import TypeVar

from contract.catalogue import ModelEntry
from contract.errors import PayloadCorrupt
from contract.messages import PayloadRef, reference, verify_digest
from contract.names import result_blob
from worker.errors import InvalidInput, PayloadsUnavailable, PayloadUnusable
from worker.objects.port import BlobStore, ObjectChanged, ObjectMissing, ObjectsUnavailable
from worker.retries import Wait, backoff_seconds
from worker.telemetry.recording import ServiceStatus

T = TypeVar("T")

LARGE_FILE_BYTES = 1024 * 1024
"""An input with more bytes than this is downloaded to a file, which is mapped into memory."""


class BlobPayloads:
    """Reads inputs from blob storage, and stores results there. Any thread may call the methods.

    If blob storage does not answer, each method tries again. `wait` sleeps before each new try. If
    it returns False, the method raises PayloadsUnavailable.
    """

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._status = ServiceStatus("blob storage")

    def fetch_input(self, ref: PayloadRef, model: ModelEntry, wait: Wait) -> bytes | mmap.mmap:
        """Download an input, if it is large to a file that is mapped into memory."""
        _check_size(ref.size_bytes, model.max_upload_bytes)
        if ref.size_bytes <= LARGE_FILE_BYTES:
            return self._fetch(ref, b"".join, wait)
        with self._fetch(ref, _spool, wait) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def fetch_file(self, ref: PayloadRef, model: ModelEntry, wait: Wait) -> io.BufferedIOBase:
        """Download an input to a temporary file, never all of it in memory. Return the file."""
        _check_size(ref.size_bytes, model.max_upload_bytes)
        return self._fetch(ref, _spool, wait)

    def fetch_result(self, ref: PayloadRef, wait: Wait) -> bytes:
        """Download the result of a child job."""
        return self._fetch(ref, b"".join, wait)

    def store_result(self, job_id: str, data: bytes, media_type: str, wait: Wait) -> PayloadRef:
        """Store a result as a blob, and return a reference to the blob."""
        ref = reference(media_type, result_blob(job_id), data)
        self._retry(lambda: self._store.write(ref.blob, data, ref.media_type), wait)
        return ref

    def _fetch(self, ref: PayloadRef, keep: Callable[[Iterator[bytes]], T], wait: Wait) -> T:
        try:
            return self._retry(
                lambda: keep(_verify(ref, self._store.read(ref))), wait, is_pinned=bool(ref.etag)
            )
        except ObjectChanged:
            raise PayloadUnusable(
                "the upload was changed after the job was submitted; upload the input again and "
                "submit a new job"
            ) from None
        except ObjectMissing:
            # Blob storage is strongly consistent: a missing blob was never written, or was deleted.
            raise PayloadUnusable(
                "the blob of the input does not exist; submit the input again"
            ) from None
        except PayloadCorrupt as error:
            raise PayloadUnusable(f"{error}; submit the input again") from None

    def _retry(self, call: Callable[[], T], wait: Wait, *, is_pinned: bool = False) -> T:
        attempt = 0
        while True:
            try:
                result = call()
            except ObjectMissing:
                self._status.mark_up()
                raise
            # An OSError means a broken connection or a full disk.
            except (ObjectsUnavailable, OSError) as error:
                # The blob was replaced during the read. If the reference has an ETag, the old blob
                # is gone. If not, the new blob may have the right digest, so the read starts again.
                if is_pinned and isinstance(error, ObjectChanged):
                    self._status.mark_up()
                    raise
                self._status.mark_down(_text(error))
                if not wait(backoff_seconds(attempt)):
                    raise PayloadsUnavailable(_text(error)) from None
                attempt += 1
            else:
                self._status.mark_up()
                return result


def as_file(data: mmap.mmap) -> io.BufferedIOBase:
    """Write `data` to a temporary file, and return the open file."""
    return _spool(pieces(data))


def pieces(data: mmap.mmap) -> Iterator[bytes]:
    """Yield the content of a file in pieces of 1 MiB."""
    for start in range(0, len(data), LARGE_FILE_BYTES):
        yield data[start : start + LARGE_FILE_BYTES]


def _verify(ref: PayloadRef, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a blob unchanged. Raises PayloadCorrupt at the end if they are others."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    verify_digest(ref, digest.hexdigest())


def _spool(pieces: Iterator[bytes]) -> io.BufferedIOBase:
    # The file has no name, so that it disappears if the process is killed.
    file = tempfile.TemporaryFile()  # noqa: SIM115  the caller closes it
    try:
        for piece in pieces:
            file.write(piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise InvalidInput(
            f"the input has {size_bytes} bytes; at most {max_bytes} bytes are accepted"
        )


def _text(error: BaseException) -> str:
    if isinstance(error, OSError):
        # The text of some OSErrors contains an address.
        return ": ".join(filter(None, (type(error).__name__, error.strerror)))
    return str(error)
