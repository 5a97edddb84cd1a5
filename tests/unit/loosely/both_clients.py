"""One face for the two clients, so that each test of what they do is a test of both."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loosely import AsyncClient, Client, Event, Job, Model, Result, Retry, Upload


class Clock:
    """Time that passes only in `sleep`."""

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


class Face:
    """The client's methods; those of the asynchronous one are run to their end."""

    def __init__(self, client: Client | AsyncClient, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def submit(self, *given: Any, **options: Any) -> Job:
        return self._done(self.client.submit(*given, **options))  # type: ignore[no-any-return]

    def run(self, *given: Any, **options: Any) -> Job:
        return self._done(self.client.run(*given, **options))  # type: ignore[no-any-return]

    def wait(self, *given: Any, **options: Any) -> Job:
        return self._done(self.client.wait(*given, **options))  # type: ignore[no-any-return]

    def get(self, *given: Any, **options: Any) -> Job:
        return self._done(self.client.get(*given, **options))  # type: ignore[no-any-return]

    def cancel(self, job_id: str) -> Job:
        return self._done(self.client.cancel(job_id))  # type: ignore[no-any-return]

    def result(self, job_id: str) -> Result | Job:
        return self._done(self.client.result(job_id))  # type: ignore[no-any-return]

    def upload(self, *given: Any, **options: Any) -> Upload:
        return self._done(self.client.upload(*given, **options))  # type: ignore[no-any-return]

    def models(self) -> tuple[Model, ...]:
        return self._done(self.client.models())  # type: ignore[no-any-return]

    def jobs(self, **filters: Any) -> list[Job]:
        return self._all(self.client.jobs(**filters))

    def events(self, *given: Any, **options: Any) -> list[Event]:
        return self._all(self.client.iter_events(*given, **options))

    def _done(self, given: Any) -> Any:
        return self._runner.run(given) if asyncio.iscoroutine(given) else given

    def _all(self, values: Any) -> list[Any]:
        async def gathered() -> list[Any]:
            return [value async for value in values]

        return list(values) if isinstance(values, Iterator) else self._runner.run(gathered())


Make = Callable[..., Face]


@contextmanager
def faces(kind: str, clock: Clock) -> Iterator[Make]:
    """Make clients of this kind, and close them."""
    with asyncio.Runner() as runner:
        made: list[Client | AsyncClient] = []

        def make(url: str, *, retry: Retry | None = None, api_key: str | None = None) -> Face:
            client = (
                Client(url, retry=retry, api_key=api_key, clock=clock, sleep=clock.sleep)
                if kind == "sync"
                else AsyncClient(
                    url, retry=retry, api_key=api_key, clock=clock, sleep=clock.sleep_async
                )
            )
            made.append(client)
            return Face(client, runner)

        yield make
        for client in made:
            if isinstance(client, Client):
                client.close()
            else:
                runner.run(client.close())
