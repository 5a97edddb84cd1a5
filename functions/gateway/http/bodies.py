"""Bound the memory and the processor time that large request bodies use together.

A body of up to SMALL_BODY_BYTES is always accepted, and is parsed on the event loop. A larger body
is counted until its request is answered, because the Functions worker of Azure keeps the message
with the body until then. One after another, large bodies are parsed in a thread. A waiting
request of another tenant is next, so no tenant can keep the thread for itself.

A thread keeps the event loop free only while it runs Python code. One call of a function in C, for
example of the JSON parser, keeps the interpreter's lock. Therefore such a call must be short for
every body: see MAX_JSON_VALUES.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from gateway.http import problems
from gateway.http.problems import HttpProblem

SMALL_BODY_BYTES: Final = 64 * 1024
"""The largest body that is neither counted nor parsed in the thread."""

RETRY_AFTER_SECONDS: Final = 5

T = TypeVar("T")


class LargeBodies:
    """The large bodies of all requests that this process is serving."""

    def __init__(self, limit_bytes: int) -> None:
        """Accept bodies of `limit_bytes` together, and of half of it for each tenant."""
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        self._tenants_bytes: dict[str, int] = {}
        self._turns = _Turns()
        # The thread is started by the first large body.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-body")

    @property
    def total_bytes(self) -> int:
        """The size in bytes of all bodies that are counted now."""
        return self._total_bytes

    @contextmanager
    def admit(self, tenant: str, size_bytes: int) -> Iterator[None]:
        """Count a body during the `with` block.

        Raises the problem `overloaded` if the limit would be exceeded. One body is always accepted
        if no other body is counted, and for each tenant if its size fits into the limit.
        """
        own_bytes = self._tenants_bytes.get(tenant, 0)
        fits = not self._total_bytes or self._total_bytes + size_bytes <= self._limit_bytes
        fits_tenant = not own_bytes or own_bytes + size_bytes <= self._limit_bytes // 2
        if not fits or not fits_tenant:
            whose = "requests" if not fits else "your requests"
            raise HttpProblem(
                problems.OVERLOADED,
                f"the bodies of {whose} in progress use all memory that they may use; try again "
                f"in {RETRY_AFTER_SECONDS} s, or send the input to an upload (POST /v1/uploads)",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._total_bytes += size_bytes
        self._tenants_bytes[tenant] = own_bytes + size_bytes
        try:
            yield
        finally:
            self._total_bytes -= size_bytes
            self._tenants_bytes[tenant] -= size_bytes
            if not self._tenants_bytes[tenant]:
                del self._tenants_bytes[tenant]

    async def parse(self, tenant: str, body: bytes, parse: Callable[[bytes], T]) -> T:
        """Return `parse(body)`. For a large body, the function runs in the thread."""
        if len(body) <= SMALL_BODY_BYTES:
            return parse(body)
        async with self._turns.take(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._thread, parse, body)


class _Turns:
    """Lets one task after another run, and takes the next task from the next tenant."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def take(self, tenant: str) -> AsyncIterator[None]:
        """Wait until it is this task's turn; the turn ends with the `async with` block."""
        if self._is_taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(tenant, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._is_taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            tenant = next(iter(self._waiting))
            turns = self._waiting.pop(tenant)
            turn = turns.popleft()
            if turns:
                self._waiting[tenant] = turns  # at the end: the other tenants are first
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False
