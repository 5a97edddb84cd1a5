"""The operations of both clients: coroutines, which never suspend if the transport blocks."""

import math
import time
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sized,
)
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from random import random
from typing import Any, Final
from urllib.parse import parse_qs, urljoin, urlsplit

from loosely.client.batches import AsyncBatches
from loosely.client.errors import (
    GatewayUnreachable,
    LooselyError,
    PayloadTooLarge,
    RequestRefused,
    UnexpectedAnswer,
    WaitTimedOut,
    ending_of,
)
from loosely.client.mapping import DEFAULT_CONCURRENCY, Input, InputRunner, Outcome, run_each
from loosely.client.media import is_json
from loosely.client.progress import progress_bar
from loosely.client.requests import (
    HttpRequest,
    Payload,
    Priority,
    RequestBuilder,
    Source,
    Submission,
    read_payload,
)
from loosely.client.resources import (
    Event,
    Job,
    JobEvent,
    JobPage,
    Model,
    Result,
    Timeline,
    Upload,
)
from loosely.client.responses import HttpResponse, read_as, read_job
from loosely.client.retry import Retry
from loosely.client.sending import REDIRECTS, RequestSender
from loosely.client.settings import MAX_WAIT_SECONDS
from loosely.client.sse import EVENT_STREAM
from loosely.client.streams import AsyncJobStream, StreamReader
from loosely.client.tenants import AsyncTenants
from loosely.client.transport import MAX_CONNECTIONS, Transport

#: The longest wait of one request. Load balancers in clouds close connections idle for longer.
POLL_SECONDS: Final = 60
#: The longest time, in seconds, until `iter_events` sees a change that does not end the job.
_EVENT_POLL_SECONDS: Final = 1
#: For a smaller input, a refused submit costs less than a request for the model's limit.
_SURELY_SMALL_BYTES: Final = 1024 * 1024
#: The limit above which even an empty input is uploaded.
_UPLOAD_ALL: Final = -1
_ANY_TYPE: Final = {"accept": "*/*"}
#: If the gateway responds in fewer seconds than this, it did not wait for the job's end.
_SHORTEST_POLL_SECONDS: Final = 0.9
_DEFAULT_PAUSE_SECONDS: Final = 1.0


class ClientOperations(RequestSender):
    """The operations on one gateway. Each raises LooselyError if network or gateway fails."""

    def __init__(
        self,
        requests: RequestBuilder,
        transport: Transport,
        retry: Retry,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random,
    ) -> None:
        super().__init__(requests, transport, retry, clock, draw)
        #: The operations on batches.
        self.batches = AsyncBatches(requests, transport, retry, clock, draw)
        #: The operations on tenants.
        self.tenants = AsyncTenants(requests, transport, retry, clock, draw)
        #: The models fetched already, by name. Their limits determine which inputs need an upload.
        self._known_models: dict[str, Model] = {}

    async def submit(  # noqa: PLR0913 - the options of a submit
        self,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None = None,
        inputs: Mapping[str, Source | Upload] | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        label: str | None = None,
        wait_seconds: int = 0,
        idempotency_key: str | None = None,
        stream: bool = False,
    ) -> Job:
        """Submit an input to ``model`` and return the job.

        The gateway responds when the job has ended, or after ``wait_seconds``, from 0 to 200. An
        input that is too large for the body of a request is uploaded first.

        Args:
            source: The input: bytes, the path of a file, or an upload.
            media_type: By default, detected from the first bytes or the file name.
            inputs: The named inputs of the model. Their media types are detected.
            deadline_seconds: The job expires if it has not ended after this number of seconds.
            webhook_url: The URL to which the gateway sends the job when it has ended.
            priority: With ``"low"``, all other jobs of the model are processed before this job.
            label: A short text by which `jobs` finds the job later.
            wait_seconds: The maximum number of seconds to wait for the job's end.
            idempotency_key: All calls with the same key make only one job. Default: a new key.
            stream: Keep what the model emits while it runs, for `follow`.

        Raises RequestRefused if the gateway made no job, and JobEnded if the job ended within
        ``wait_seconds`` without a result.
        """
        if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
            raise ValueError(
                f"wait_seconds: expected 0 to {MAX_WAIT_SECONDS}, found {wait_seconds}"
            )
        key = idempotency_key or str(uuid.uuid4())
        submission = Submission(
            model,
            key,
            wait_seconds,
            parameters,
            deadline_seconds,
            webhook_url,
            priority,
            label,
            stream,
        )
        return await self._submit(source, media_type, inputs or {}, submission)

    async def run(  # noqa: PLR0913 - the options of a submit
        self,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None = None,
        inputs: Mapping[str, Source | Upload] | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        label: str | None = None,
        wait_seconds: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit an input to ``model``, wait until the job has ended, and return the job.

        The arguments are those of `submit`, but ``wait_seconds`` has no maximum and no default. The
        wait continues after a restart of the gateway, and the job continues after WaitTimedOut.
        Raises RequestRefused if the gateway made no job, and JobEnded if there is no result.
        """
        give_up_at = self._give_up_at(wait_seconds)
        poll = (
            POLL_SECONDS if wait_seconds is None else max(0, min(POLL_SECONDS, int(wait_seconds)))
        )
        key = idempotency_key or str(uuid.uuid4())
        submission = Submission(
            model, key, poll, parameters, deadline_seconds, webhook_url, priority, label
        )
        job = await self._submit(source, media_type, inputs or {}, submission, give_up_at)
        return await self._wait(job, wait_seconds, give_up_at)

    def stream(  # noqa: PLR0913 - the options of a submit
        self,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None = None,
        inputs: Mapping[str, Source | Upload] | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        webhook_url: str | None = None,
        priority: Priority | None = None,
        label: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncJobStream:
        """Submit an input to ``model``, and iterate over what the model emits while it runs.

        The arguments are those of `submit`, which the first step of the iteration does. The
        iteration continues after a restart of the gateway, and raises JobEnded at its end if there
        is no result. A model that does not stream has only events with its progress, if any.

        Example:
            >>> with client.stream(b"Why is the sky blue?", "chat") as stream:
            ...     for event in stream:
            ...         print(event.kind, event.data)
            ...     print(stream.result)
        """
        submit = partial(
            self.submit,
            source,
            model,
            media_type=media_type,
            inputs=inputs,
            parameters=parameters,
            deadline_seconds=deadline_seconds,
            webhook_url=webhook_url,
            priority=priority,
            label=label,
            idempotency_key=idempotency_key,
            stream=True,
        )
        return AsyncJobStream(self._stream(submit))

    def follow(self, job: Job | str, *, after: str | None = None) -> AsyncJobStream:
        """Iterate over the events of a job, by default from the first, until it has ended.

        ``after`` is the id of the last event that is known: the ``last_event_id`` of a stream.
        Raises ValueError if it is not an id of an event.
        """
        job_id = job if isinstance(job, str) else job.id
        return AsyncJobStream(self._follow(job_id, StreamReader(after)), after)

    async def map(  # noqa: PLR0913 - the options of each submit, and those of the iteration
        self,
        model: str,
        inputs: Iterable[Input] | AsyncIterable[Input],
        *,
        media_type: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        deadline_seconds: int | None = None,
        priority: Priority | None = None,
        label: str | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        in_order: bool = False,
        retries: int = 2,
        progress: bool | None = None,
        total: int | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """Run each input as a job of ``model``, and yield the outcomes as the jobs end.

        An input that fails does not end the rest: its outcome has the error. An error that every
        further input would meet is raised, for example if the model is unknown or if the gateway
        stays away. The inputs are taken only as they are needed, so they may be a generator.

        Args:
            inputs: Bytes, paths of files, or uploads. `Outcome.index` counts them from 0.
            media_type: Of all inputs. The other options of a submit, too, are those of each job.
            concurrency: The maximum number of inputs that run at once, from 1 to 100.
            in_order: Yield the outcomes in the order of the inputs.
            retries: How often to submit an input again whose job failed with a retryable error.
            progress: Show a progress bar. Default: if standard error is a terminal.
            total: The number of inputs, for the progress bar. Default: their length, if known.

        Jobs that run when the iteration is stopped continue. Raises ValueError if ``concurrency``
        is out of range.

        Example:
            >>> for outcome in client.map("classifier", Path("pictures").glob("*.jpg")):
            ...     print(outcome.source, outcome.error or outcome.result)
        """
        if not 1 <= concurrency <= MAX_CONNECTIONS:
            raise ValueError(f"concurrency: expected 1 to {MAX_CONNECTIONS}, found {concurrency}")
        run = partial(
            self.run,
            model=model,
            media_type=media_type,
            parameters=parameters,
            deadline_seconds=deadline_seconds,
            priority=priority,
            label=label,
        )
        runner = InputRunner(run, retries, self._retry, self._transport.sleep)
        outcomes = run_each(runner.run, inputs, concurrency, in_order=in_order)
        total = len(inputs) if total is None and isinstance(inputs, Sized) else total
        with progress_bar(model, total, is_shown=progress) as bar:
            async with aclosing(outcomes):
                async for outcome in outcomes:
                    bar.add(is_failed=outcome.error is not None)
                    yield outcome

    async def wait(self, job: Job | str, *, wait_seconds: float | None = None) -> Job:
        """Wait until a job has ended, by default without a limit, and return the succeeded job.

        Raises JobEnded if it ended without a result. After WaitTimedOut, the job continues.
        """
        return await self._wait(job, wait_seconds, self._give_up_at(wait_seconds))

    async def get(self, job_id: str, *, wait_seconds: int = 0) -> Job:
        """Return a job when it has ended, or after ``wait_seconds`` if that is earlier."""
        return await self._get(job_id, wait_seconds)

    async def timeline(self, job_id: str) -> Timeline:
        """Return a job's timeline: how long each step and each delivery to a worker took."""
        request = self._requests.build("GET", "jobs", job_id, "timeline")
        response = await self._send(request, (200,))
        return read_as(
            response, lambda found: Timeline.from_document(found, response.body), "a timeline"
        )

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job, and return it: ``cancelling``, or with its final status if it had ended."""
        request = self._requests.build("DELETE", "jobs", job_id)
        return read_job(await self._send(request, (200, 202)))

    async def result(self, job_id: str, name: str | None = None) -> Result | Job:
        """Return a job's result in the model's media type, or the job if it has not ended.

        ``name`` is the name of a named result. Raises JobEnded if the job ended without a result.
        """
        response = await self._send(self._get_result(job_id, name), (200, 202, *REDIRECTS))
        if response.status == 202:
            return read_job(response)
        if response.status in REDIRECTS:
            response = await self._fetch_stored(response)
        return _result_of(response)

    def _get_result(self, job_id: str, name: str | None) -> HttpRequest:
        named = () if name is None else (name,)
        return self._requests.build("GET", "jobs", job_id, "result", *named, headers=_ANY_TYPE)

    async def iter_events(self, job_id: str) -> AsyncGenerator[Event, None]:
        """Yield an event for each change of a job's status or progress, until the job has ended.

        A change of ``job.place.phase`` to or from ``model_broken`` counts as a change of status.
        The first event has the job's current state. The client polls the gateway, so several quick
        changes may appear as one event.
        """
        seen: tuple[tuple[str, bool], Any] | None = None
        wait_seconds = 0
        while True:
            asked_at = self._clock()
            job = await self._get(job_id, wait_seconds)
            status = (job.status, job.place.phase == "model_broken")
            state = (status, job.progress)
            if job.is_final:
                yield Event("final", job)
                return
            if seen is None or seen[0] != status:
                yield Event("status", job)
            elif seen != state:
                yield Event("progress", job)
            if seen is not None:
                await self._pause_between_polls(job, self._clock() - asked_at)
            seen, wait_seconds = state, _EVENT_POLL_SECONDS

    async def upload(
        self,
        source: Source,
        model: str,
        *,
        media_type: str | None = None,
        input_name: str | None = None,
    ) -> Upload:
        """Upload an input to the gateway's blob storage, for one or more jobs of ``model``.

        ``input_name`` is the name of a named input. Raises PayloadTooLarge above the model's limit.
        """
        return await self._upload(read_payload(source, media_type), model, input_name)

    async def models(self) -> tuple[Model, ...]:
        """Return the models that accept jobs."""
        response = await self._send(self._requests.build("GET", "models"), (200,))
        return read_as(response, Model.list_from_document, "a list of models")

    async def model(self, name: str) -> Model:
        """Return the model with this name. Raises NotFound if it is unknown."""
        return await self._model(name)

    async def jobs(  # noqa: PLR0913 - the filters of a search
        self,
        *,
        model: str | None = None,
        status: str | None = None,
        code: str | None = None,
        label: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        job_id: str | None = None,
        batch: str | None = None,
        tenant: str | None = None,
    ) -> AsyncGenerator[Job, None]:
        """Yield the jobs that match all filters, newest first, with as many requests as needed.

        The filters are those of `find_jobs`, which sends only one request.
        """
        cursor: str | None = None
        while True:
            page = await self.find_jobs(
                model=model,
                status=status,
                code=code,
                label=label,
                created_after=created_after,
                created_before=created_before,
                job_id=job_id,
                batch=batch,
                tenant=tenant,
                cursor=cursor,
            )
            for job in page.jobs:
                yield job
            if page.next_cursor is None or page.next_cursor == cursor:
                return
            cursor = page.next_cursor

    async def find_jobs(  # noqa: PLR0913 - the filters of a search
        self,
        *,
        model: str | None = None,
        status: str | None = None,
        code: str | None = None,
        label: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        job_id: str | None = None,
        batch: str | None = None,
        tenant: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> JobPage:
        """Return one page of the jobs that match all filters, newest first.

        The gateway examines a limited number of jobs for a page. Even an empty page can have a
        ``next_cursor``, which continues the search.

        Args:
            code: Only jobs that ended with this code, for example ``"inference-failed"``.
            label: Only jobs with this label. A ``*`` at the end stands for any further text.
            created_after: Only jobs that were created at this time or later.
            created_before: Only jobs that were created before this time.
            job_id: Only the job with this id, or with the first characters before a ``*``.
            batch: The jobs of the lines of this batch, in the order of the lines. Without this
                filter, they are left out.
            tenant: Only jobs of this tenant; for operators ``"*"`` for all. Default: all tenants
                for a key with the scope ``ops:read``, otherwise the key's own tenant.
            limit: The maximum number of jobs on the page, from 1 to 100. Default: 20.
            cursor: The ``next_cursor`` of the previous page.

        Raises ValueError if a time has no time zone.
        """
        filters = {
            "model": model,
            "status": status,
            "code": code,
            "label": label,
            "created_after": _time_text(created_after),
            "created_before": _time_text(created_before),
            "id": job_id,
            "batch": batch,
            "tenant": tenant,
            "limit": None if limit is None else str(limit),
            "cursor": cursor or None,
        }
        request = self._requests.build("GET", "jobs", params=filters)
        response = await self._send(request, (200,))
        return read_as(response, JobPage.from_document, "a list of jobs")

    async def _stream(
        self, submit: Callable[[], Awaitable[Job]]
    ) -> AsyncGenerator[JobEvent | Job, None]:
        job = await submit()
        yield job
        async with aclosing(self._follow(job.id, StreamReader())) as found:
            async for each in found:
                yield each

    async def _follow(
        self, job_id: str, reader: StreamReader
    ) -> AsyncGenerator[JobEvent | Job, None]:
        """Yield the events of a job, and at the end the job, over as many responses as needed."""
        failures, failing_since = 0, 0.0
        while reader.ended is None:
            error = GatewayUnreachable(self.url, "it ended the stream before the end of the job")
            last_id, opened_at = reader.last_id, self._clock()
            async with aclosing(await self._open_stream(job_id, reader)) as chunks:
                try:
                    async for chunk in chunks:
                        for event in _read_events(reader, chunk, self.url):
                            yield event
                        if reader.ended or reader.is_interrupted:
                            break
                except GatewayUnreachable as broken:
                    error = broken
            if reader.ended or reader.is_interrupted:
                continue
            now = self._clock()
            if reader.last_id != last_id or now - opened_at >= 1:
                failures = 0
            failures += 1
            failing_since = failing_since if failures > 1 else now
            pause_seconds = self._retry.pause_seconds(
                error, failures, now - failing_since, self._draw
            )
            if pause_seconds is None:
                error.job_id = job_id
                raise error
            await self._transport.sleep(pause_seconds)
        yield reader.ended
        yield await self._wait(reader.ended, None, math.inf)

    async def _open_stream(self, job_id: str, reader: StreamReader) -> AsyncGenerator[bytes, None]:
        reader.start_response()
        resumption = {} if reader.last_id is None else {"last-event-id": reader.last_id}
        request = self._requests.build(
            *("GET", "jobs", job_id, "events"), headers={"accept": EVENT_STREAM, **resumption}
        )
        try:
            response = await self._send(request, (200,), send=self._transport.open)
        except LooselyError as error:
            error.job_id = job_id
            raise
        if response.chunks is None:
            raise UnexpectedAnswer(response.shown_url, 200, "the response is not an event stream")
        return response.chunks

    async def _submit(
        self,
        source: Source | Upload,
        media_type: str | None,
        inputs: Mapping[str, Source | Upload],
        submission: Submission,
        give_up_at: float = math.inf,
    ) -> Job:
        """Submit a job and return it.

        A single input is the body of the request if the model's limit permits that. Otherwise the
        inputs are in a JSON body, and large ones, or all if it is refused, are uploaded first.
        """
        first = source if isinstance(source, Upload) else read_payload(source, media_type)
        named: dict[str, Payload | Upload] = {
            name: each if isinstance(each, Upload) else read_payload(each, None)
            for name, each in inputs.items()
        }
        limit_bytes = _SURELY_SMALL_BYTES
        if isinstance(first, Payload) and not named:
            if not await self._is_too_large(first, submission.model, give_up_at):
                request = self._requests.submit(submission, first)
                with suppress(PayloadTooLarge):
                    return await self._create_job(request, submission, give_up_at)
            limit_bytes = _UPLOAD_ALL
        while True:
            if isinstance(first, Payload) and first.size_bytes > limit_bytes:
                first = await self._upload(first, submission.model, give_up_at=give_up_at)
            for name, each in named.items():
                if isinstance(each, Payload) and each.size_bytes > limit_bytes:
                    named[name] = await self._upload(each, submission.model, name, give_up_at)
            request = self._requests.submit_members(submission, first, named)
            try:
                return await self._create_job(request, submission, give_up_at)
            except PayloadTooLarge:
                if all(isinstance(each, Upload) for each in (first, *named.values())):
                    raise
                limit_bytes = _UPLOAD_ALL

    async def _create_job(
        self, request: HttpRequest, submission: Submission, give_up_at: float
    ) -> Job:
        try:
            return read_job(await self._send(request, (200, 202), give_up_at))
        except (GatewayUnreachable, UnexpectedAnswer) as error:
            if self._has_connected:
                error.idempotency_key = submission.idempotency_key
            raise

    async def _is_too_large(self, payload: Payload, name: str, give_up_at: float) -> bool:
        """Return whether the payload exceeds the limit of the model ``name`` for a request body."""
        if payload.size_bytes <= _SURELY_SMALL_BYTES:
            return False
        model = self._known_models.get(name) or await self._model(name, give_up_at)
        limit_bytes = model.input_limit_bytes
        return limit_bytes is not None and payload.size_bytes > limit_bytes

    async def _model(self, name: str, give_up_at: float = math.inf) -> Model:
        request = self._requests.build("GET", "models", name)
        response = await self._send(request, (200,), give_up_at)
        model = read_as(response, Model.from_document, "a model")
        self._known_models[name] = model
        return model

    async def _upload(
        self,
        payload: Payload,
        model: str,
        input_name: str | None = None,
        give_up_at: float = math.inf,
    ) -> Upload:
        document = {"model": model, "media_type": payload.media_type}
        if input_name is not None:
            document["input"] = input_name
        return await self._store(payload, document, give_up_at)

    async def _wait(self, job: Job | str, wait_seconds: float | None, give_up_at: float) -> Job:
        """Poll a job until it has ended, and return the succeeded job."""
        latest = job if isinstance(job, Job) else None
        job_id = job if isinstance(job, str) else job.id
        while latest is None or not latest.is_final:
            left_seconds = give_up_at - self._clock()
            if left_seconds <= 0:
                raise WaitTimedOut(job_id, wait_seconds or 0)
            asked_at = self._clock()
            latest = await self._get(job_id, int(min(POLL_SECONDS, left_seconds)) or 1, give_up_at)
            if not latest.is_final:
                await self._pause_between_polls(latest, self._clock() - asked_at, give_up_at)
        if latest.status != "succeeded":
            raise ending_of(latest)
        if names := latest.large_json_results:
            found = {name: await self._find_json_result(job_id, give_up_at, name) for name in names}
            latest = replace(latest, large_results=found)
        if latest.result is not None:
            return latest
        return replace(latest, large_result=await self._find_json_result(job_id, give_up_at))

    async def _find_json_result(
        self, job_id: str, give_up_at: float, name: str | None = None
    ) -> Any:
        """Return the result of a succeeded job if it is JSON and still exists, or ``None``."""
        try:
            response = await self._send(
                self._get_result(job_id, name), (200, *REDIRECTS), give_up_at
            )
        except RequestRefused:
            return None
        if response.status == 200:
            return _result_of(response).json()
        link = urljoin(response.url, response.headers.get("location", ""))
        # A link to blob storage names the media type with which the storage will respond.
        (media_type, *_) = parse_qs(urlsplit(link).query).get("rsct", [""])
        if not is_json(media_type):
            return None
        return _result_of(await self._fetch_stored(response)).json()

    async def _get(self, job_id: str, wait_seconds: int, give_up_at: float = math.inf) -> Job:
        headers = {"prefer": f"wait={wait_seconds}"} if wait_seconds > 0 else {}
        request = self._requests.build(
            "GET", "jobs", job_id, headers=headers, wait_seconds=wait_seconds
        )
        try:
            return read_job(await self._send(request, (200,), give_up_at))
        except LooselyError as error:
            error.job_id = job_id
            raise

    async def _pause_between_polls(
        self, job: Job, waited_seconds: float, give_up_at: float = math.inf
    ) -> None:
        """Wait for ``Retry-After`` if the gateway has not waited for the job's end."""
        if waited_seconds < _SHORTEST_POLL_SECONDS:
            pause_seconds = _DEFAULT_PAUSE_SECONDS
            if job.retry_after_seconds is not None:
                pause_seconds = min(max(job.retry_after_seconds, 0.1), 60.0)
            left_seconds = give_up_at - self._clock()
            await self._transport.sleep(min(pause_seconds, max(0.0, left_seconds)))


def _result_of(response: HttpResponse) -> Result:
    return Result(response.body, response.headers.get("content-type", ""))


def _read_events(reader: StreamReader, chunk: bytes, url: str) -> list[JobEvent]:
    try:
        return reader.read(chunk)
    except (ValueError, RecursionError) as error:
        raise UnexpectedAnswer(url, 200, f"with an invalid event: {error}") from error


def _time_text(time: datetime | None) -> str | None:
    """Return a time in RFC 3339 format. Raises ValueError if it has no time zone."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone; expected, for example, datetime.now(UTC)")
    return time.isoformat()
