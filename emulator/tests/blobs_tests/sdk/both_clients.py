"""Give the blocking client of azure-storage-blob the interface of the asynchronous client.

Therefore one test can use both clients. The methods of the blocking client run in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from azure.core.exceptions import HttpResponseError
from azure.core.paging import ItemPaged
from azure.storage.blob import BlobServiceClient, StorageStreamDownloader
from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient

_NOT_AWAITED = ("get_container_client", "get_blob_client", "list_", "walk_", "by_page", "chunks")


def connect(kind: str, url: str, credential: Any = None, **options: Any) -> Any:
    """Return a client of the Blob service, which does not retry failed requests.

    If `kind` is `aio`, the client is the SDK's asynchronous client. If `kind` is `sync`, the
    client is the SDK's blocking client in a wrapper with asynchronous methods. `options` are passed
    to the SDK's client.
    """
    client = AsyncBlobServiceClient if kind == "aio" else BlobServiceClient
    service = client(url, credential=credential, retry_total=0, **options)
    return service if kind == "aio" else Dressed(service)


class Dressed:
    """A wrapper with asynchronous methods for a blocking object of the SDK.

    The asynchronous methods run the methods of the blocking object in a thread.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return value
        if name.startswith(_NOT_AWAITED):
            return lambda *args, **kwargs: _dress(value(*_undress(args), **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return _dress(await asyncio.to_thread(value, *_undress(args), **kwargs))

        return call

    async def __aenter__(self) -> Dressed:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.inner.close)

    async def __aiter__(self) -> AsyncIterator[Any]:
        iterator = iter(self.inner)
        end = object()
        while (item := await asyncio.to_thread(next, iterator, end)) is not end:
            yield _dress(item)


def _dress(value: Any) -> Any:
    name = type(value).__name__
    is_ours = name.endswith("Client") or isinstance(value, (ItemPaged, StorageStreamDownloader))
    iterates = hasattr(value, "__next__") or isinstance(value, ItemPaged)
    return Dressed(value) if is_ours or iterates else value


def _undress(values: tuple[Any, ...]) -> list[Any]:
    return [value.inner if isinstance(value, Dressed) else value for value in values]


def code_of(error: HttpResponseError) -> str:
    """Return Azure's error code of an SDK error, for example `BlobNotFound`."""
    code = getattr(error, "error_code", "")
    return str(getattr(code, "value", code))
