"""Choose the adapters of the object store by the settings."""

from functools import partial

from contract.settings import AzureEndpoint
from worker.objects.azure import (
    AzureBlobReader,
    AzureBlobStore,
    connect_for_weights,
    storage_account,
)
from worker.objects.port import BlobReader, BlobStore
from worker.streams.blobs import AppendBlobs
from worker.streams.store import WritableLogs


def make_blob_store(endpoint: AzureEndpoint) -> BlobStore:
    """Return the store of payloads, which sends no request yet, or raise InvalidSetting."""
    return AzureBlobStore(storage_account(endpoint))


def make_stream_logs(endpoint: AzureEndpoint) -> WritableLogs:
    """Return the store of the logs of streams beside the payloads, or raise InvalidSetting."""
    return AppendBlobs(storage_account(endpoint))


def make_blob_reader(endpoint: AzureEndpoint | None) -> BlobReader:
    """Return the reader of weights, which connects when it reads."""
    return AzureBlobReader(partial(connect_for_weights, endpoint))
