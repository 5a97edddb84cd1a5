"""The adapter of Azure Blob Storage: the storage account that holds payloads and weights."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.storage.blob import BlobServiceClient, ContentSettings

from contract.errors import InvalidSetting, PayloadCorrupt
from contract.messages import PayloadRef
from contract.names import PAYLOAD_CONTAINER
from contract.settings import AzureEndpoint
from contract.weights import WeightsScheme
from worker.errors import WeightsMissing, WeightsUnavailable
from worker.objects.port import (
    BlobReader,
    BlobStore,
    ObjectChanged,
    ObjectMissing,
    ObjectsUnavailable,
)
from worker.weights.cache import Download

_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 30
# A blob is read in chunks of this size.
_PIECE_BYTES: Final = 4 * 1024 * 1024

_OPTIONS: Final[dict[str, Any]] = {
    # No retries by the SDK, because they would continue after a message's lock is lost.
    "retry_total": 0,
    "connection_timeout": _CONNECT_SECONDS,
    "read_timeout": _READ_SECONDS,
    "max_single_get_size": _PIECE_BYTES,
    "max_chunk_get_size": _PIECE_BYTES,
}


def storage_account(endpoint: AzureEndpoint) -> BlobServiceClient:
    """Create a client of the storage account, which sends no request, or raise InvalidSetting."""
    if endpoint.connection_string is None:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415  only where needed

        return BlobServiceClient(endpoint.address or "", DefaultAzureCredential(), **_OPTIONS)
    try:
        return BlobServiceClient.from_connection_string(endpoint.connection_string, **_OPTIONS)
    except ValueError:
        # The error's text would repeat the connection string.
        raise InvalidSetting(
            "PAYLOAD_STORAGE is invalid: expected the connection string of a storage account"
        ) from None


def connect_for_weights(endpoint: AzureEndpoint | None) -> BlobServiceClient:
    """Do the same for weights, which need no storage account if they are elsewhere.

    Raises WeightsUnavailable.
    """
    if endpoint is None:
        raise WeightsUnavailable(
            "PAYLOAD_STORAGE is not set, but the model's weights are in blob storage; set "
            "it to the connection string of the storage account"
        )
    try:
        return storage_account(endpoint)
    except InvalidSetting as error:
        raise WeightsUnavailable(str(error)) from None


class AzureBlobStore(BlobStore):
    """The blob container for payloads."""

    def __init__(self, account: BlobServiceClient) -> None:
        self._container = account.get_container_client(PAYLOAD_CONTAINER)

    def read(self, ref: PayloadRef) -> Iterator[bytes]:
        """Return an iterator over the content of a blob, in chunks.

        Raises:
            ObjectMissing: The blob does not exist.
            ObjectChanged: The blob's ETag differs from the ETag in the reference.
            PayloadCorrupt: The blob's size differs from the size in the reference.
        """
        pinned: dict[str, Any] = {}
        if ref.etag:
            pinned = {"etag": ref.etag, "match_condition": MatchConditions.IfNotModified}
        # The blob is read as it is stored, and not decompressed if it has a content encoding.
        with _translated():
            download = self._container.download_blob(
                ref.blob, max_concurrency=1, decompress=False, **pinned
            )
        if download.size != ref.size_bytes:
            raise PayloadCorrupt(
                f"the payload has {download.size} bytes, but its reference says "
                f"{ref.size_bytes} bytes"
            )
        # Not the download itself, which keeps its first bytes in memory.
        with _translated():
            chunks = download.chunks()
        return _translated_chunks(chunks)

    def read_from(self, blob: str, offset: int, max_bytes: int, timeout_seconds: float) -> bytes:
        """Return what a blob has from `offset` on; nothing if it does not exist or ends there."""
        with _translated():
            try:
                download = self._container.download_blob(
                    blob, offset, max_bytes, max_concurrency=1, **_limit(timeout_seconds)
                )
                return bytes(download.readall())
            except HttpResponseError as error:
                if error.status_code in {404, 416}:
                    return b""
                raise

    def write(
        self, blob: str, data: bytes, media_type: str, timeout_seconds: float | None = None
    ) -> None:
        """Write a blob. An existing blob with this name is replaced."""
        options = _limit(timeout_seconds)
        with _translated():
            try:
                self._upload(blob, data, media_type, options)
            except ResourceNotFoundError:
                # Only the container can be missing, because the first write creates it.
                with contextlib.suppress(ResourceExistsError):
                    self._container.create_container(**options)
                self._upload(blob, data, media_type, options)

    def delete(self, blob: str, timeout_seconds: float | None = None) -> None:
        """Delete a blob if it exists."""
        with _translated(), contextlib.suppress(ResourceNotFoundError):
            self._container.delete_blob(blob, **_limit(timeout_seconds))

    def _upload(self, blob: str, data: bytes, media_type: str, options: dict[str, Any]) -> None:
        self._container.upload_blob(
            blob,
            data,
            overwrite=True,
            content_settings=ContentSettings(content_type=media_type),
            **options,
        )


def _limit(timeout_seconds: float | None) -> dict[str, Any]:
    if timeout_seconds is None:
        return {}
    return {"connection_timeout": timeout_seconds, "read_timeout": timeout_seconds}


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Raise the errors of the port for those of the SDK."""
    try:
        yield
    except AzureError as error:
        kind = ObjectsUnavailable
        if isinstance(error, ResourceNotFoundError):
            kind = ObjectMissing
        elif isinstance(error, ResourceModifiedError):
            kind = ObjectChanged
        # Only the first line: the rest of an Azure error may contain a signed address.
        name, lines = type(error).__name__, str(error).strip().splitlines()
        raise kind(f"{name}: {lines[0]}" if lines else name) from None


def _translated_chunks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    with _translated():
        yield from chunks


class AzureBlobReader(BlobReader):
    """Reads blobs from the storage account that also contains the jobs' inputs and results."""

    def __init__(self, account: Callable[[], BlobServiceClient]) -> None:
        self._account = cache(account)

    def read(self, container: str, blob: str) -> Download:
        """Start to read a blob. Raises WeightsMissing or, also later, WeightsUnavailable."""
        where = f"{WeightsScheme.BLOB}:{container}/{blob}"
        try:
            client = self._account().get_blob_client(container, blob)
            found = client.download_blob(max_concurrency=1)
        except ResourceNotFoundError:
            raise WeightsMissing(f"{where}: this blob does not exist") from None
        except AzureError as error:
            # The error's text could contain a signed address.
            raise _unreadable(where, error) from None
        return Download(_chunks(where, found), found.size)


def _chunks(where: str, found: Any) -> Iterator[bytes]:
    try:
        yield from found.chunks()
    except AzureError as error:
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: AzureError) -> WeightsUnavailable:
    return WeightsUnavailable(f"{where}: the blob cannot be read: {type(error).__name__}")
