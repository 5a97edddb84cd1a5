"""Choose the adapters of the object store by the settings. Only S3 needs its library."""

from functools import partial

from contract.settings import AzureEndpoint, S3Endpoint
from worker.objects.azure import (
    AzureBlobReader,
    AzureBlobStore,
    connect_for_weights,
    storage_account,
)
from worker.objects.port import BlobReader, BlobStore
from worker.streams.blobs import AppendBlobs
from worker.streams.store import WritableLogs


def make_blob_store(endpoint: AzureEndpoint | S3Endpoint) -> BlobStore:
    """Return the store of payloads, which sends no request yet, or raise InvalidSetting."""
    if isinstance(endpoint, S3Endpoint):
        from worker.objects.s3 import S3BlobStore  # noqa: PLC0415

        return S3BlobStore(endpoint)
    return AzureBlobStore(storage_account(endpoint))


def make_stream_logs(endpoint: AzureEndpoint | S3Endpoint) -> WritableLogs:
    """Return the store of the logs of streams beside the payloads, or raise InvalidSetting."""
    if isinstance(endpoint, S3Endpoint):
        from worker.objects.s3 import S3StreamLogs  # noqa: PLC0415

        return S3StreamLogs(endpoint)
    return AppendBlobs(storage_account(endpoint))


def make_blob_reader(endpoint: AzureEndpoint | S3Endpoint | None) -> BlobReader:
    """Return the reader of weights, which connects when it reads."""
    if isinstance(endpoint, S3Endpoint):
        from worker.objects.s3 import S3BlobReader  # noqa: PLC0415

        return S3BlobReader(endpoint)
    return AzureBlobReader(partial(connect_for_weights, endpoint))
