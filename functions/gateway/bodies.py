"""Limit the memory and the processor time that all large request bodies together use.

A body of up to SMALL_BODY_BYTES is always accepted, and is parsed on the event loop. A larger body
is counted until its request is answered, because the Functions worker of Azure keeps the message
with the body until then. One thread parses the large bodies, one after another, and the tenants
take turns.

A function in C, such as the JSON parser, holds the interpreter's lock, and the event loop waits.
For this reason, MAX_JSON_VALUES limits the number of values in a JSON text.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from gateway import problems
from gateway.problems import HttpProblem

SMALL_BODY_BYTES: Final = 64 * 1024
"""The largest size, in bytes, of a body that does not count towards the limits of LargeBodies."""

RETRY_AFTER_SECONDS: Final = 5

T = TypeVar("T")


class LargeBodies:
    """Counts and parses the large bodies of all requests that this process is serving."""

    def __init__(self, limit_bytes: int) -> None:
        """Limit the size of all large bodies together, and those of a tenant to half of it."""
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        self._tenants_bytes: dict[str, int] = {}
        self._turns = _Turns()
        # The executor starts the thread when the first large body is parsed.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-body")

    @property
    def total_bytes(self) -> int:
        """The total size, in bytes, of all large bodies that are counted now."""
        return self._total_bytes

    @contextmanager
    def admit(self, tenant: str, size_bytes: int) -> Iterator[None]:
        """Count a body during the `with` block. Raises the problem `overloaded` if it does not fit.

        A body that is the only one, in the process or of its tenant, always fits that limit.
        """
        own_bytes = self._tenants_bytes.get(tenant, 0)
        fits = not self._total_bytes or self._total_bytes + size_bytes <= self._limit_bytes
        fits_tenant = not own_bytes or own_bytes + size_bytes <= self._limit_bytes // 2
        if not fits or not fits_tenant:
            whose = "other requests" if not fits else "your other requests"
            raise HttpProblem(
                problems.OVERLOADED,
                f"there is not enough memory for this large body while {whose} are processed; try "
                f"again in {RETRY_AFTER_SECONDS} s, or send the input as an upload (POST "
                "/v1/uploads)",
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
        """Return `parse(body)`. A large body waits for the turn of its tenant in the thread."""
        if len(body) <= SMALL_BODY_BYTES:
            return parse(body)
        async with self._turns.take(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._thread, parse, body)


class _Turns:
    """A lock for asyncio tasks. It goes to the next tenant, for the task that waited longest."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def take(self, tenant: str) -> AsyncIterator[None]:
        """Wait until this tenant gets the lock, and hold the lock during the `async with` block."""
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
                self._waiting[tenant] = turns  # the tenant is now behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False
