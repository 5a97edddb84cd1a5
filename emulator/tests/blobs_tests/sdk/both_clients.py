"""One interface for Microsoft's blocking and asynchronous clients of the Blob service."""

from __future__ import annotations

from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobServiceClient
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

from blocking_client import Blocking


def connect(kind: str, url: str, credential: Any = None, **options: Any) -> Any:
    """Return a client of the Blob service, which does not retry failed requests."""
    client = AsyncBlobServiceClient if kind == "aio" else BlobServiceClient
    service = client(url, credential=credential, retry_total=0, **options)
    return service if kind == "aio" else Blocking(service)


def code_of(error: HttpResponseError) -> str:
    """Return Azure's error code of an SDK error, for example `BlobNotFound`."""
    code = getattr(error, "error_code", "")
    return str(getattr(code, "value", code))
