"""One interface to `Client` and `AsyncClient`, with which a test can cover both classes."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loosely import (
    AsyncClient,
    Client,
    Event,
    Job,
    JobPage,
    Model,
    Result,
    Retry,
    Timeline,
    Upload,
)


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
    """Wraps a `Client` or an `AsyncClient`. The methods block in both cases."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def submit(self, *args: Any, **options: Any) -> Job:
        return self._run(self.client.submit(*args, **options))  # type: ignore[no-any-return]

    def run(self, *args: Any, **options: Any) -> Job:
        return self._run(self.client.run(*args, **options))  # type: ignore[no-any-return]

    def wait(self, *args: Any, **options: Any) -> Job:
        return self._run(self.client.wait(*args, **options))  # type: ignore[no-any-return]

    def get(self, *args: Any, **options: Any) -> Job:
        return self._run(self.client.get(*args, **options))  # type: ignore[no-any-return]

    def timeline(self, job_id: str) -> Timeline:
        return self._run(self.client.timeline(job_id))  # type: ignore[no-any-return]

    def cancel(self, job_id: str) -> Job:
        return self._run(self.client.cancel(job_id))  # type: ignore[no-any-return]

    def result(self, job_id: str, name: str | None = None) -> Result | Job:
        return self._run(self.client.result(job_id, name))  # type: ignore[no-any-return]

    def upload(self, *args: Any, **options: Any) -> Upload:
        return self._run(self.client.upload(*args, **options))  # type: ignore[no-any-return]

    def models(self) -> tuple[Model, ...]:
        return self._run(self.client.models())  # type: ignore[no-any-return]

    def jobs(self, **filters: Any) -> list[Job]:
        return self._collect(self.client.jobs(**filters))

    def find_jobs(self, **filters: Any) -> JobPage:
        return self._run(self.client.find_jobs(**filters))  # type: ignore[no-any-return]

    def events(self, *args: Any, **options: Any) -> list[Event]:
        return self._collect(self.client.iter_events(*args, **options))

    def _run(self, value: Any) -> Any:
        return self._runner.run(value) if asyncio.iscoroutine(value) else value

    def _collect(self, values: Any) -> list[Any]:
        async def collect() -> list[Any]:
            return [value async for value in values]

        return list(values) if isinstance(values, Iterator) else self._runner.run(collect())


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
