"""Inputs and results: inline in the message, or in a blob by claim check."""

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobServiceClient, ContentSettings

from contract.catalogue import Model
from contract.errors import PayloadCorrupt
from contract.messages import (
    InlineBytes,
    InlineJson,
    Json,
    Payload,
    PayloadRef,
    fits_inline,
    reference,
    verify_digest,
)
from contract.names import PAYLOAD_CONTAINER, result_blob
from worker.errors import (
    InferenceFailed,
    InvalidInput,
    PayloadsAway,
    PayloadUnusable,
    ResultTooLarge,
)
from worker.remote.backoff import Backoff
from worker.remote.reach import Reach

MAX_RESULT_BYTES = 64 * 1024 * 1024

T = TypeVar("T")

Wait = Callable[[float], bool]
"""Sleeps so many seconds; returns False where there is no sense in trying on."""


class BlobStore(Protocol):
    """The payload container. Both methods raise AzureError where it cannot be reached."""

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        """The blob in pieces; ResourceNotFoundError, or PayloadCorrupt before the first."""
        ...

    def write(self, blob: str, data: bytes, media_type: str) -> None:
        """Create or replace a blob."""
        ...


class Payloads:
    """Fetches inputs and stores results, on whatever thread asks."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._reach = Reach("blob storage")

    def fetch(self, payload: Payload, model: Model, wait: Wait) -> bytes:
        """The bytes of a job's input; tries on while `wait` allows, then raises PayloadsAway."""
        if isinstance(payload, PayloadRef):
            _check_size(payload.size_bytes, model.max_upload_bytes)
            return self._fetched(payload, b"".join, wait)
        return _inline(payload, model)

    def open(self, payload: Payload, model: Model, wait: Wait) -> io.BufferedIOBase:
        """The same as a file to read from; what comes from a blob is never in memory as a whole."""
        if isinstance(payload, PayloadRef):
            _check_size(payload.size_bytes, model.max_upload_bytes)
            return self._fetched(payload, _spooled, wait)
        return io.BytesIO(_inline(payload, model))

    def pack(self, job_id: str, result: InlineJson | InlineBytes, wait: Wait) -> Payload:
        """A result as it goes into the reply: inline where it fits, else stored first."""
        data = serialized(result)
        if fits_inline(len(data)):
            return result
        ref = reference(result.media_type, result_blob(job_id), data)
        self._patiently(lambda: self._store.write(ref.blob, data, ref.media_type), wait)
        return ref

    def _fetched(self, ref: PayloadRef, keep: Callable[[Iterator[bytes]], T], wait: Wait) -> T:
        try:
            return self._patiently(
                lambda: keep(_verified(ref, self._store.read(ref))), wait, is_pinned=bool(ref.etag)
            )
        except ResourceModifiedError:
            raise PayloadUnusable(
                "the upload was changed after a job named it; upload and submit it again"
            ) from None
        except ResourceNotFoundError:
            # Blob storage is strongly consistent: what is not there now was never written, or
            # has been deleted.
            raise PayloadUnusable("the input's blob does not exist; submit it again") from None
        except PayloadCorrupt as error:
            raise PayloadUnusable(f"{error}; submit the input again") from None

    def _patiently(self, call: Callable[[], T], wait: Wait, *, is_pinned: bool = False) -> T:
        backoff = Backoff()
        while True:
            try:
                result = call()
            except ResourceNotFoundError:
                self._reach.found()
                raise
            # The latter of a connection that breaks, or of a disk that is full.
            except (AzureError, OSError) as error:
                # Written over in mid-read: with what was referred to, unless that was the ETag.
                if is_pinned and isinstance(error, ResourceModifiedError):
                    self._reach.found()
                    raise
                self._reach.lost(_text(error))
                if not wait(backoff.next()):
                    raise PayloadsAway(_text(error)) from None
            else:
                self._reach.found()
                return result


class AzureBlobStore:
    """The payload container in Azure Blob Storage, or in what speaks its protocol."""

    def __init__(self, account: BlobServiceClient) -> None:
        self._container = account.get_container_client(PAYLOAD_CONTAINER)

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        """See BlobStore."""
        pinned: dict[str, Any] = {}
        if ref.etag:
            pinned = {"etag": ref.etag, "match_condition": MatchConditions.IfNotModified}
        # As they were stored: what a blob calls itself must not have us unpack it.
        download = self._container.download_blob(
            ref.blob, max_concurrency=1, decompress=False, **pinned
        )
        if download.size != ref.size_bytes:
            raise PayloadCorrupt(
                f"the payload has {download.size} bytes, {ref.size_bytes} were announced"
            )
        return download.chunks()

    def write(self, blob: str, data: bytes, media_type: str) -> None:
        """See BlobStore."""
        try:
            self._upload(blob, data, media_type)
        except ResourceNotFoundError:
            # Only the container can be missing: it is made by whoever needs it first.
            with contextlib.suppress(ResourceExistsError):
                self._container.create_container()
            self._upload(blob, data, media_type)

    def _upload(self, blob: str, data: bytes, media_type: str) -> None:
        self._container.upload_blob(
            blob, data, overwrite=True, content_settings=ContentSettings(content_type=media_type)
        )


def _inline(payload: InlineBytes | InlineJson, model: Model) -> bytes:
    data = _dumped(payload.value) if isinstance(payload, InlineJson) else payload.data
    _check_size(len(data), model.max_input_bytes)
    return data


def _verified(ref: PayloadRef, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; PayloadCorrupt at their end where they are not what is referred to."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    verify_digest(ref, digest.hexdigest())


def _spooled(pieces: Iterator[bytes]) -> io.BufferedIOBase:
    # It has no name, so that nothing is left behind by whatever death.
    file = tempfile.TemporaryFile()  # noqa: SIM115  whoever asked closes it
    try:
        for piece in pieces:
            file.write(piece)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


def serialized(result: InlineJson | InlineBytes) -> bytes:
    """A result as bytes; InferenceFailed where it has no JSON, ResultTooLarge."""
    try:
        data = result.data if isinstance(result, InlineBytes) else _dumped(result.value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InferenceFailed(f"the model's result cannot be written as JSON: {error}") from None
    if len(data) > MAX_RESULT_BYTES:
        raise ResultTooLarge(
            f"the result has {len(data)} bytes; at most {MAX_RESULT_BYTES} can be returned"
        )
    return data


def _dumped(value: Json) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise InvalidInput(f"the input has {size_bytes} bytes; at most {max_bytes} are taken")


def _text(error: BaseException) -> str:
    if isinstance(error, OSError):
        # The text of some holds an address.
        return ": ".join(filter(None, (type(error).__name__, error.strerror)))
    # The first line alone: the rest of an Azure error may hold a signed address.
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
