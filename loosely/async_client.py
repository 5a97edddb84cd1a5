"""The gateway over HTTP, for callers in an event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from loosely.endpoint import Priority
from loosely.errors import LooselyError
from loosely.events import Event
from loosely.following import events
from loosely.job import Job, Model, Result, Upload
from loosely.operations import Operations
from loosely.payload import Payload, Source
from loosely.retry import Retry
from loosely.steps import Emit, Steps, kept
from loosely.surface import DEFAULT_URL, Submission, endpoint_of, http_settings
from loosely.wire import AsyncWire

T = TypeVar("T")


class AsyncClient:
    """A connection to one gateway; close it, or use it in an ``async with``.

    The methods are those of :class:`~loosely.client.Client`, and mean the same.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        retry: Retry | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``url`` is where the gateway is; ``api_key`` defaults to ``LOOSELY_API_KEY``.

        Raises:
            ValueError: ``url`` is not an http or https URL, or the key is none.
        """
        self._operations = Operations(endpoint_of(url, api_key), retry or Retry(), clock)
        self._sleep = sleep
        self._http = httpx.AsyncClient(**http_settings(url))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return self._operations.place

    async def submit(  # noqa: PLR0913 - what a submit can say
        self,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        wait_seconds: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """Hand in bytes, a file or an upload for ``model``; return the job as it then is.

        The gateway answers as soon as the job has ended, after ``wait_seconds`` (0 to 200) at
        the latest. The media type is found from the bytes unless it is given. What is too
        large for a request goes by upload.
        With ``priority="low"`` the job waits until no other of the model does.

        Raises:
            RequestRefused: no job was made.
            JobEnded: the job ended without a result within the wait.
        """
        submission = Submission.of(
            source,
            model,
            media_type=media_type,
            parameters=parameters,
            deadline_seconds=deadline_seconds,
            webhook_url=webhook_url,
            priority=priority,
            idempotency_key=idempotency_key,
        )
        return await self._done(submission.submitted(self._operations, wait_seconds))

    async def run(  # noqa: PLR0913 - what a submit can say
        self,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit, and wait as long as needed, or ``wait_seconds``; return the succeeded job.

        A lost connection or a restarted gateway does not end the wait.

        Raises:
            RequestRefused: no job was made.
            JobEnded: the job ended without a result.
            WaitTimedOut: ``wait_seconds`` have passed; the job goes on.
            GatewayUnreachable: no answer came for longer than ``retry`` or the wait allow.
        """
        submission = Submission.of(
            source,
            model,
            media_type=media_type,
            parameters=parameters,
            deadline_seconds=deadline_seconds,
            webhook_url=webhook_url,
            priority=priority,
            idempotency_key=idempotency_key,
        )
        return await self._done(submission.run(self._operations, wait_seconds))

    async def wait(self, job: Job | str, *, wait_seconds: float | None = None) -> Job:
        """Wait for a job, given itself or by its id, and return or raise as `run` does."""
        return await self._done(self._operations.limited(wait_seconds).wait(job, wait_seconds))

    async def get(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        """Return the job as it is now or, if it is not final, as it is after the wait.

        Raises:
            RequestRefused: there is no such job.
        """
        return await self._done(self._operations.get(job_id, wait_seconds))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it: ``cancelling``, or as it ended if it was final."""
        return await self._done(self._operations.cancel(job_id))

    async def result(self, job_id: str) -> Result | Job:
        """Return the result alone, or the job while it has none yet.

        Raises:
            JobEnded: the job ended without a result.
            RequestRefused: there is no such job.
        """
        return await self._done(self._operations.result(job_id))

    def iter_events(self, job_id: str, *, after: str = "") -> AsyncIterator[Event]:
        """Yield what happens to a job, until it is final.

        ``after`` is the id of the last event known. A lost connection is taken up again;
        where the gateway's host cannot stream, the job is asked for instead.
        """
        return self._driven(events(self._operations, job_id, after))

    async def upload(self, source: Source, model: str, *, media_type: str | None = None) -> Upload:
        """Put a large input into the gateway's store, for a later submit to ``model``."""
        return await self._done(self._operations.upload(Payload.of(source, media_type), model))

    async def models(self) -> tuple[Model, ...]:
        """Return the models that take jobs."""
        return await self._done(self._operations.models())

    async def model(self, name: str) -> Model:
        """Return one model."""
        return await self._done(self._operations.model(name))

    def jobs(self, *, model: str | None = None, status: str | None = None) -> AsyncIterator[Job]:
        """Yield the caller's jobs, newest first; pages are fetched as they are reached."""
        return self._driven(self._operations.jobs({"model": model, "status": status}))

    async def _done(self, steps: Steps[T]) -> T:
        outcome: list[T] = []
        async for _ in self._driven(kept(steps, outcome)):
            pass
        return outcome[0]

    async def _driven(self, steps: Steps[None]) -> AsyncGenerator[Any, None]:
        """Yield what the steps emit."""
        async with AsyncWire(self._http, self._sleep) as wire:
            try:
                step = next(steps)
                while True:
                    if isinstance(step, Emit):
                        yield step.value
                    try:
                        outcome = await wire.do(step)
                    except LooselyError as lost:
                        step = steps.throw(lost)
                    else:
                        step = steps.send(outcome)
            except StopIteration:
                return
