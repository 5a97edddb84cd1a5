"""One interface to `Client` and `AsyncClient`, with which a test can cover both classes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loosely import AsyncClient, AsyncJobStream, Client, JobEvent, JobStream, Retry


class SleepClock:
    """A clock whose time advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class AnyClient:
    """Wraps a `Client` or an `AsyncClient`. All methods block, and iterators become lists."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            value = getattr(self.client, name)(*args, **options)
            if isinstance(value, JobStream | AsyncJobStream):
                return AnyStream(value, self._runner)
            if isinstance(value, Iterator):
                return list(value)
            if isinstance(value, AsyncIterator):
                return self._runner.run(_collect(value))
            return self._runner.run(value) if asyncio.iscoroutine(value) else value

        return call


class AnyStream:
    """Wraps a `JobStream` or an `AsyncJobStream`. All methods block and return lists."""

    def __init__(self, stream: JobStream | AsyncJobStream, runner: asyncio.Runner) -> None:
        self._stream = stream
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def events(self) -> list[JobEvent]:
        return self._list(self._stream)

    def chunks(self) -> list[Any]:
        return self._list(self._stream.chunks())

    def _list(self, values: Iterator[Any] | AsyncIterator[Any]) -> list[Any]:
        if isinstance(values, AsyncIterator):
            return self._runner.run(_collect(values))
        return list(values)


async def _collect(values: AsyncIterator[Any]) -> list[Any]:
    return [value async for value in values]


Connect = Callable[..., AnyClient]


@contextmanager
def connecting_clients(kind: str, clock: SleepClock) -> Iterator[Connect]:
    """Yield a function that creates clients, and close these clients at the end.

    The clients are of the class `Client` if `kind` is "sync", and otherwise `AsyncClient`.
    """
    with asyncio.Runner() as runner:
        clients: list[Client | AsyncClient] = []

        def connect(
            url: str, *, retry: Retry | None = None, api_key: str | None = None
        ) -> AnyClient:
            client = (
                Client(url, retry=retry, api_key=api_key, clock=clock, sleep=clock.sleep)
                if kind == "sync"
                else AsyncClient(
                    url, retry=retry, api_key=api_key, clock=clock, sleep=clock.sleep_async
                )
            )
            clients.append(client)
            return AnyClient(client, runner)

        yield connect
        for client in clients:
            if isinstance(client, Client):
                client.close()
            else:
                runner.run(client.close())
