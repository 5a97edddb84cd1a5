"""`Client` and `AsyncClient`: the blocking client and the asynchronous client of one gateway."""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sized,
)
from contextlib import aclosing
from functools import partial, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, Self, TypeVar, cast

import httpx

from loosely.client.batches import AsyncBatches, BatchItem, BatchLines
from loosely.client.mapping import Input, Outcome, iterate_in_thread
from loosely.client.operations import ClientOperations
from loosely.client.requests import RequestBuilder
from loosely.client.resources import Job, JobBatch, JobEvent
from loosely.client.retry import Retry
from loosely.client.sending import RequestSender
from loosely.client.settings import DEFAULT_URL, read_api_key
from loosely.client.streams import AsyncJobStream
from loosely.client.tenants import AsyncTenants
from loosely.client.transport import AsyncTransport, BlockingTransport, Transport, http_options

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
Kind = TypeVar("Kind", bound=RequestSender)


class Blocking:
    """A class whose methods run the coroutines of ``_operations``, whose transport blocks.

    ``_connect`` returns the same operations with another transport.
    """

    _operations: RequestSender
    _connect: Callable[[Transport], RequestSender]

    @property
    def url(self) -> str:
        """The gateway's URL."""
        return self._operations.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def block(
    operation: Callable[Concatenate[Kind, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Blocking, P], T]:
    """Return a method that runs the coroutine ``operation`` and returns its result."""

    @wraps(operation)
    def method(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _complete(operation(cast(Kind, self._operations), *args, **kwargs))

    return method


def block_each(
    operation: Callable[Concatenate[Kind, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Blocking, P], Iterator[T]]:
    """Return a method that yields each value that ``operation`` yields."""

    @wraps(operation)
    def method(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _iterate(operation(cast(Kind, self._operations), *args, **kwargs))

    return method


def block_stream(
    operation: Callable[Concatenate[Kind, P], AsyncJobStream],
) -> "Callable[Concatenate[Client, P], JobStream]":
    """Return a method of `Client` that returns the stream of ``operation``."""

    @wraps(operation)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> JobStream:
        return JobStream(operation(cast(Kind, self._operations), *args, **kwargs))

    return method


def block_map(
    operation: Callable[
        Concatenate[Kind, str, Iterable[Input] | AsyncIterable[Input], P],
        AsyncGenerator[Outcome, None],
    ],
) -> "Callable[Concatenate[Client, str, Iterable[Input], P], Iterator[Outcome]]":
    """Return a method of `Client` that runs ``operation`` in an event loop of its own."""

    @wraps(operation)
    def method(
        self: "Client", model: str, inputs: Iterable[Input], *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[Outcome]:
        if isinstance(inputs, Sized):
            kwargs.setdefault("total", len(inputs))
        return _iterate_in_loop(
            self, lambda sender, given: operation(sender, model, given, *args, **kwargs), inputs
        )

    return method  # type: ignore[return-value] # the model and the inputs also have names


def block_submit(
    operation: Callable[
        Concatenate[AsyncBatches, str, BatchLines, P], Coroutine[Any, Any, JobBatch]
    ],
) -> "Callable[Concatenate[BlockingBatches, str, BatchLines, P], JobBatch]":
    """Return a method of `BlockingBatches` that runs ``operation`` in an event loop of its own."""

    @wraps(operation)
    def method(
        self: "BlockingBatches", model: str, lines: BatchLines, *args: P.args, **kwargs: P.kwargs
    ) -> JobBatch:
        async def submit(
            sender: AsyncBatches, given: AsyncIterable[BatchItem]
        ) -> AsyncGenerator[JobBatch, None]:
            yield await operation(sender, model, given, *args, **kwargs)

        if not isinstance(lines, Iterable) or isinstance(lines, bytes | str):
            return _complete(operation(self._operations, model, lines, *args, **kwargs))
        [batch] = _iterate_in_loop(self, submit, lines)
        return batch

    return method  # type: ignore[return-value] # the model and the lines also have names


def _iterate_in_loop(
    blocking: Blocking,
    operation: Callable[[Any, AsyncIterable[U]], AsyncGenerator[T, None]],
    inputs: Iterable[U],
) -> Iterator[T]:
    """Yield what ``operation`` yields for the inputs, in an event loop of its own."""

    async def iterate(given: AsyncIterable[U]) -> AsyncGenerator[T, None]:
        async with httpx.AsyncClient(**http_options(blocking.url)) as http:
            sender = blocking._connect(AsyncTransport(http, asyncio.sleep))
            async with aclosing(operation(sender, given)) as values:
                async for each in values:
                    yield each

    return iterate_in_thread(iterate, inputs)


def _iterate(values: AsyncGenerator[T, None]) -> Iterator[T]:
    try:
        while True:
            try:
                value = _complete(anext(values))
            except StopAsyncIteration:
                return
            yield value
    finally:
        _complete(values.aclose())


def _complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, because its transport blocks, and return its value."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        value: T = finished.value
        return value
    raise RuntimeError(
        "the operation needs an event loop, but Client has no event loop; use AsyncClient"
    )


class JobStream:
    """An iterator over the events of a job. See :class:`~loosely.AsyncJobStream`."""

    def __init__(self, stream: AsyncJobStream) -> None:
        """Take the events from a stream whose transport blocks."""
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> JobEvent:
        try:
            return _complete(anext(self._stream))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. The job continues."""
        _complete(self._stream.close())

    def chunks(self) -> Iterator[Any]:
        """Yield only the chunks. Raises StreamRestarted if earlier ones count no more."""
        return _iterate(self._stream.chunks())

    @property
    def job(self) -> Job | None:
        """The job, when it is known. After the last event it has ended."""
        return self._stream.job

    @property
    def last_event_id(self) -> str | None:
        """The id at which `follow` continues, also in another process."""
        return self._stream.last_event_id

    @property
    def result(self) -> Any:
        """The job's result, as `Job.result`. Raises RuntimeError before the end of the stream."""
        return self._stream.result


class BlockingBatches(Blocking):
    """The operations on the batches of one gateway: ``Client.batches``."""

    _operations: AsyncBatches

    def __init__(
        self, operations: AsyncBatches, connect: Callable[[Transport], AsyncBatches]
    ) -> None:
        """Take the operations, and how to make the same with another transport."""
        self._operations, self._connect = operations, connect

    submit = block_submit(AsyncBatches.submit)
    get = block(AsyncBatches.get)
    cancel = block(AsyncBatches.cancel)
    list = block_each(AsyncBatches.list)
    wait = block(AsyncBatches.wait)
    results = block_each(AsyncBatches.results)
    errors = block_each(AsyncBatches.errors)
    save = block(AsyncBatches.save)


class BlockingTenants(Blocking):
    """The operations on the tenants of one gateway: ``Client.tenants``."""

    def __init__(self, operations: AsyncTenants) -> None:
        """Take the operations."""
        self._operations = operations

    list = block(AsyncTenants.list)
    get = block(AsyncTenants.get)
    set = block(AsyncTenants.set)
    reset = block(AsyncTenants.reset)
    audit = block(AsyncTenants.audit)


class Client(Blocking):
    """A blocking client of one gateway. Use it in a ``with`` block, or call `close`.

    Every method raises :exc:`~loosely.LooselyError` if the network or the gateway fails. A request
    that fails temporarily is repeated as ``retry`` allows. This also applies to `submit`: all its
    attempts have the same idempotency key, so they make only one job.

    Example:
        >>> with Client("http://127.0.0.1:7071") as client:
        ...     job = client.run(Path("cat.jpg"), "classifier")
        ...     print(job.result)
    """

    #: The class that has the operations of this client.
    _kind: ClassVar[type[ClientOperations]] = ClientOperations
    _operations: ClientOperations
    _connect: Callable[[Transport], ClientOperations]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        retry: Retry | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Create a client. No request is sent until a method is called.

        ``api_key`` is by default ``LOOSELY_API_KEY``. ``clock`` returns the time in seconds, and
        ``sleep`` blocks for a number of seconds. Raises ValueError for an invalid URL or key.
        """
        requests = RequestBuilder(url, api_key or read_api_key())
        self._http = httpx.Client(**http_options(url))
        self._connect = partial(self._kind, requests, retry=retry or Retry(), clock=clock)
        self._operations = self._connect(BlockingTransport(self._http, sleep))
        #: The operations on batches.
        self.batches = BlockingBatches(
            self._operations.batches, lambda transport: self._connect(transport).batches
        )
        #: The operations on tenants.
        self.tenants = BlockingTenants(self._operations.tenants)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the gateway."""
        self._http.close()

    submit = block(ClientOperations.submit)
    run = block(ClientOperations.run)
    wait = block(ClientOperations.wait)
    map = block_map(ClientOperations.map)
    get = block(ClientOperations.get)
    timeline = block(ClientOperations.timeline)
    cancel = block(ClientOperations.cancel)
    result = block(ClientOperations.result)
    iter_events = block_each(ClientOperations.iter_events)
    stream = block_stream(ClientOperations.stream)
    follow = block_stream(ClientOperations.follow)
    upload = block(ClientOperations.upload)
    models = block(ClientOperations.models)
    model = block(ClientOperations.model)
    jobs = block_each(ClientOperations.jobs)
    find_jobs = block(ClientOperations.find_jobs)


class AsyncClient(ClientOperations):
    """A client of one gateway for asyncio. Use it in an ``async with`` block, or call `close`.

    The methods are those of :class:`~loosely.Client`, as coroutines and asynchronous iterators.
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
        """Create a client. The arguments are those of :class:`~loosely.Client`."""
        requests = RequestBuilder(url, api_key or read_api_key())
        self._http = httpx.AsyncClient(**http_options(url))
        super().__init__(requests, AsyncTransport(self._http, sleep), retry or Retry(), clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the gateway."""
        await self._http.aclose()
