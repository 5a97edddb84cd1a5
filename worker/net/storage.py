"""The client of the storage account that holds payloads and weights."""

from typing import Any, Final

from azure.storage.blob import BlobServiceClient

from worker.settings import AzureEndpoint

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
    """Create a client of the storage account, without sending a request.

    Raises:
        ValueError: The connection string or the address is malformed.
    """
    if endpoint.connection_string is not None:
        return BlobServiceClient.from_connection_string(endpoint.connection_string, **_OPTIONS)
    from azure.identity import DefaultAzureCredential  # noqa: PLC0415  only where needed

    return BlobServiceClient(endpoint.address or "", DefaultAzureCredential(), **_OPTIONS)
