"""Give a blocking client of Microsoft's SDKs the interface of its asynchronous client.

So one test can use both clients.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self

_NOT_AWAITED = (
    *("get_container_client", "get_blob_client", "walk_", "by_page", "chunks", "list_"),
    *("get_queue_", "get_topic_", "get_subscription_"),
)
_WRAPPED = ("Client", "Sender", "Receiver", "Session", "ItemPaged", "StorageStreamDownloader")


class Blocking:
    """A wrapper with asynchronous methods, which run the blocking methods in a thread."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.inner, name)
        if not callable(value):
            return _wrap(value)
        if name.startswith(_NOT_AWAITED):
            return lambda *args, **kwargs: _wrap(value(*map(unwrap, args), **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return _wrap(await asyncio.to_thread(value, *map(unwrap, args), **kwargs))

        return call

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.inner.__enter__)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self.inner.__exit__, *exc_info)

    async def __aiter__(self) -> AsyncIterator[Any]:
        iterator = iter(self.inner)
        end = object()
        while (item := await asyncio.to_thread(next, iterator, end)) is not end:
            yield _wrap(item)


def unwrap(value: Any) -> Any:
    """Return the SDK's own object, blocking or asynchronous."""
    return value.inner if isinstance(value, Blocking) else value


def _wrap(value: Any) -> Any:
    is_wrapped = type(value).__name__.endswith(_WRAPPED) or hasattr(value, "__next__")
    return Blocking(value) if is_wrapped else value
