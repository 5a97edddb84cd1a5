"""Run many inputs, a limited number of them at once: `map` of both clients."""

import asyncio
import sys
import threading
import uuid
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from loosely.client.errors import AccessDenied, InvalidRequest, JobEnded, LooselyError, NotFound
from loosely.client.requests import Source
from loosely.client.resources import Job, Upload
from loosely.client.retry import Retry, is_transient

S = TypeVar("S")
T = TypeVar("T")
Input: TypeAlias = Source | Upload

#: How many inputs `map` runs at once if the caller does not say.
DEFAULT_CONCURRENCY: Final = 32
_END: Final[Any] = object()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one input of `map` ended: its job with a result, or else the error.

    ``index`` is the number of the input, from 0, and ``source`` the input. ``job`` is ``None`` if
    no job was made. ``error`` is a ValueError or an OSError if the input could not be read.
    """

    index: int
    source: Input = field(repr=False)
    job: Job | None = None
    error: LooselyError | ValueError | OSError | None = None

    @property
    def result(self) -> Any:
        """The job's result, as `Job.result`. Raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return None if self.job is None else self.job.result


class RunInput(Protocol):
    """Run one input as a job, and return the succeeded job."""

    def __call__(self, source: Input, *, idempotency_key: str) -> Awaitable[Job]:
        """Run ``source``. All calls with the same key make only one job."""


class InputRunner:
    """Runs single inputs of one `map`, and repeats what may succeed later.

    Raises an error only if the rest of the inputs would fail with it too.
    """

    def __init__(
        self,
        run: RunInput,
        retries: int,
        retry: Retry,
        sleep: Callable[[float], Coroutine[Any, Any, None]],
    ) -> None:
        self._run = run
        self._retries = retries
        self._retry = retry
        self._sleep = sleep
        self._ended = 0

    async def run(self, index: int, source: Input) -> Outcome:
        """Return how the input ended. A job that failed temporarily is submitted again."""
        outcome = await self._run_until_ended(index, source)
        self._ended += 1
        return outcome

    async def _run_until_ended(self, index: int, source: Input) -> Outcome:
        failures, key = 0, str(uuid.uuid4())
        while True:
            ended_before = self._ended
            try:
                return Outcome(index, source, await self._run(source, idempotency_key=key))
            except JobEnded as error:
                if not error.retryable or failures >= self._retries:
                    return Outcome(index, source, error.job, error)
                failures, key = failures + 1, str(uuid.uuid4())
                pause_seconds = self._retry.first_seconds * 4.0**failures
                await self._sleep(min(pause_seconds, self._retry.longest_seconds))
            except LooselyError as error:
                if not self._is_of_one_input(error):
                    # While other inputs end, the gateway works: this one had no luck.
                    if not is_transient(error) or self._ended == ended_before:
                        raise
                    await self._sleep(self._retry.first_seconds)
                    continue
                return Outcome(index, source, None, error)
            except (ValueError, OSError) as error:
                return Outcome(index, source, None, error)

    def _is_of_one_input(self, error: LooselyError) -> bool:
        """Return whether other inputs need not meet the error. If any has ended, most need not."""
        if isinstance(error, InvalidRequest):
            return True
        is_of_all = isinstance(error, AccessDenied | NotFound) or is_transient(error)
        return self._ended > 0 and not is_of_all


async def run_each(
    run: Callable[[int, T], Coroutine[Any, Any, S]],
    inputs: AsyncIterable[T] | Iterable[T],
    concurrency: int,
    *,
    in_order: bool,
) -> AsyncGenerator[S, None]:
    """Yield what ``run`` returns for each input and its index; at most ``concurrency`` run.

    At most twice as many inputs are taken before their outcomes are yielded. If ``inputs`` raises
    an error, the outcomes of the inputs before come first.
    """
    given = aiter(inputs if isinstance(inputs, AsyncIterable) else _iterate(inputs))
    places, window = asyncio.Semaphore(concurrency), asyncio.Semaphore(2 * concurrency)
    tasks: set[asyncio.Task[S]] = set()
    to_yield: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()

    async def run_one(index: int, source: T) -> S:
        try:
            return await run(index, source)
        finally:
            places.release()

    async def start_all() -> None:
        for index in count():
            await window.acquire()
            await places.acquire()
            if (source := await anext(given, _END)) is _END:
                return
            task = asyncio.create_task(run_one(index, source))
            tasks.add(task)
            if in_order:
                to_yield.put_nowait(task)
            else:
                task.add_done_callback(to_yield.put_nowait)

    starting = asyncio.create_task(start_all())
    starting.add_done_callback(to_yield.put_nowait)
    try:
        while tasks or not starting.done():
            task = await to_yield.get()
            if task is not starting:
                outcome = await task
                tasks.remove(task)
                window.release()
                yield outcome
        await starting
    finally:
        for each in (starting, *tasks):
            each.cancel()
        await asyncio.gather(starting, *tasks, return_exceptions=True)


async def _iterate(inputs: Iterable[T]) -> AsyncIterator[T]:
    for each in inputs:
        yield each


class _ThreadInputs(AsyncIterator[T]):
    """The inputs of a caller that blocks, whose own thread iterates over them.

    ``calls`` has what this thread must do next: give an input to the loop, or return a value.
    """

    def __init__(self, inputs: Iterable[T], loop: asyncio.AbstractEventLoop) -> None:
        self.calls: SimpleQueue[asyncio.Future[T] | Future[Any]] = SimpleQueue()
        self._inputs = iter(inputs)
        self._loop = loop

    async def __anext__(self) -> T:
        asked: asyncio.Future[T] = self._loop.create_future()
        self.calls.put(asked)
        if (source := await asked) is _END:
            raise StopAsyncIteration
        return source

    def give(self, asked: asyncio.Future[T]) -> None:
        """Give the next input to the loop, or the error of the inputs."""
        error: Exception | None = None
        source: T = _END
        try:
            source = next(self._inputs, _END)
        except Exception as raised:  # noqa: BLE001 - raised again after the earlier outcomes
            error = raised

        def settle() -> None:
            if asked.done():  # cancelled, because the iteration has ended
                return
            if error is None:
                asked.set_result(source)
            else:
                asked.set_exception(error)

        self._loop.call_soon_threadsafe(settle)


def iterate_in_thread(
    iterate: Callable[[AsyncIterable[T]], AsyncGenerator[S, None]], inputs: Iterable[T]
) -> Iterator[S]:
    """Yield what ``iterate`` yields for the inputs, in an event loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    given = _ThreadInputs(inputs, loop)
    values = iterate(given)
    step: asyncio.Task[Any] | None = None

    async def take_step() -> S:
        nonlocal step
        step = asyncio.current_task()
        return await anext(values, _END)

    async def close() -> None:
        if step is not None:
            step.cancel()
            await asyncio.wait([step])
        await values.aclose()

    # A daemon does not keep alive a process that is interrupted.
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        while True:
            value = asyncio.run_coroutine_threadsafe(take_step(), loop)
            value.add_done_callback(given.calls.put)
            while isinstance(call := given.calls.get(), asyncio.Future):
                given.give(call)
            if value.result() is _END:
                return
            yield value.result()
    finally:
        # When a process ends, the thread of the loop has stopped already.
        if not sys.is_finalizing():
            asyncio.run_coroutine_threadsafe(close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
