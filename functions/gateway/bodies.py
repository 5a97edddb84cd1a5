"""Read request bodies in pieces, and limit the memory and the processor time that they use.

A body is checked against its limit while it is read, because a chunked body announces no size. A
body that is larger than STREAMED_BYTES and is the input itself is passed on to the blob storage as
it arrives. All others are read whole, up to the limit of the model.

A body of up to SMALL_BODY_BYTES is always accepted, and is parsed on the event loop. What a larger
body needs in memory is counted until its inputs are stored. One thread parses the large bodies, one
after another, and the tenants take turns.

A function in C, such as the JSON parser, holds the interpreter's lock, and the event loop waits.
For this reason, MAX_JSON_VALUES limits the number of values in a JSON text.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from gateway import problems
from gateway.problems import HttpProblem

SMALL_BODY_BYTES: Final = 64 * 1024
"""The largest size, in bytes, of a body that does not count towards the limits of LargeBodies."""

STREAMED_BYTES: Final = 512 * 1024
"""The size in bytes from which an input is passed on in pieces, and of most of these pieces."""

# One piece is collected while the one before is on its way to the storage, which copies it.
_STREAM_MEMORY_BYTES: Final = 3 * STREAMED_BYTES

MAX_BODY_BYTES: Final = 104_857_599
"""The largest size of any body in bytes. Azure's host breaks off a body that is larger."""

RETRY_AFTER_SECONDS: Final = 5

T = TypeVar("T")


class LargeBodies:
    """Counts and parses the large bodies of all requests that this process is serving."""

    def __init__(self, limit_bytes: int) -> None:
        """Limit the memory for all large bodies together, and that of a tenant to half of it."""
        self._limit_bytes = limit_bytes
        self._total_bytes = 0
        self._tenants_bytes: Counter[str] = Counter()
        self._turns = _Turns()
        # The executor starts the thread when the first large body is parsed.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-body")

    @property
    def total_bytes(self) -> int:
        """The total size, in bytes, of all large bodies that are counted now."""
        return self._total_bytes

    @contextmanager
    def counting(self, tenant: str) -> Iterator["HeldBytes"]:
        """Yield the count of one body's memory, which is released at the latest after the block."""
        held = HeldBytes(self, tenant)
        try:
            yield held
        finally:
            held.release()

    def resize(self, tenant: str, old_bytes: int, new_bytes: int) -> None:
        """Change the counted size of a body. Raises the problem `overloaded` if it does not fit.

        A body that is the only one, in the process or of its tenant, always fits that limit.
        """
        others_bytes = self._total_bytes - old_bytes
        own_bytes = self._tenants_bytes[tenant] - old_bytes
        fits = not others_bytes or others_bytes + new_bytes <= self._limit_bytes
        fits_tenant = not own_bytes or own_bytes + new_bytes <= self._limit_bytes // 2
        if new_bytes > old_bytes and not (fits and fits_tenant):
            whose = "other requests" if not fits else "your other requests"
            raise HttpProblem(
                problems.OVERLOADED,
                f"there is not enough memory for this large body while {whose} are processed; try "
                f"again in {RETRY_AFTER_SECONDS} s, or send the input as an upload (POST "
                "/v1/uploads)",
                headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
            )
        self._total_bytes = others_bytes + new_bytes
        self._tenants_bytes[tenant] = own_bytes + new_bytes
        if not self._tenants_bytes[tenant]:
            del self._tenants_bytes[tenant]

    async def parse(
        self,
        tenant: str,
        body: bytes,
        parse: Callable[[bytes], T],
        small_bytes: int = SMALL_BODY_BYTES,
    ) -> T:
        """Return `parse(body)`. A large body waits for the turn of its tenant in the thread."""
        if len(body) <= small_bytes:
            return parse(body)
        async with self._turns.take(tenant):
            return await asyncio.get_running_loop().run_in_executor(self._thread, parse, body)


class HeldBytes:
    """The memory that one body needs, counted towards the limits of LargeBodies."""

    def __init__(self, bodies: LargeBodies, tenant: str) -> None:
        self._bodies = bodies
        self._tenant = tenant
        self._size_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count at least `size_bytes`, if this is large. Raises the problem `overloaded`."""
        if size_bytes > max(SMALL_BODY_BYTES, self._size_bytes):
            self._bodies.resize(self._tenant, self._size_bytes, size_bytes)
            self._size_bytes = size_bytes

    def release(self) -> None:
        """Count nothing any more."""
        if self._size_bytes:
            self._bodies.resize(self._tenant, self._size_bytes, 0)
            self._size_bytes = 0


class IncomingBody:
    """The body of one request, which is read once. Reading stops when the body is too large."""

    def __init__(
        self, pieces: AsyncIterator[bytes], announced_bytes: int = 0, held: HeldBytes | None = None
    ) -> None:
        """Read from `pieces`; `announced_bytes` is the Content-Length, or 0 if there is none."""
        self._pieces = pieces
        self._announced_bytes = announced_bytes
        self._check: Callable[[int], None] = lambda _: None
        self._size_bytes = 0
        self.held = held

    def limit(self, check: Callable[[int], None]) -> None:
        """Call `check` with the announced size now, and with the size so far at each piece.

        `check` raises HttpProblem if the size is too large.
        """
        self._check = check
        self._check_size(self._announced_bytes)

    async def read(self) -> bytes:
        """Return the whole body."""
        self._hold(self._announced_bytes)
        found = []
        async for piece in self._read():
            self._hold(self._size_bytes)
            found.append(piece)
        return b"".join(found)

    async def read_head(self) -> tuple[bytes, bool]:
        """Return the first STREAMED_BYTES or somewhat more, and whether this is the whole body."""
        self._hold(min(self._announced_bytes, _STREAM_MEMORY_BYTES))
        found: list[bytes] = []
        async for piece in self._read():
            self._hold(min(self._size_bytes, _STREAM_MEMORY_BYTES))
            found.append(piece)
            if self._size_bytes > STREAMED_BYTES:
                return b"".join(found), False
        return b"".join(found), True

    async def read_rest(self, head: bytes) -> AsyncIterator[bytes]:
        """Yield the head, and then the rest of the body in pieces of about STREAMED_BYTES."""
        self._hold(_STREAM_MEMORY_BYTES)
        found, size_bytes = [head], len(head)
        del head  # otherwise its memory would be needed until the end
        async for piece in self._read():
            if size_bytes >= STREAMED_BYTES:
                yield b"".join(found)
                found, size_bytes = [], 0
            found.append(piece)
            size_bytes += len(piece)
        yield b"".join(found)

    async def _read(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self._size_bytes += len(piece)
            self._check_size(self._size_bytes)
            if piece:
                yield piece

    def _check_size(self, size_bytes: int) -> None:
        self._check(size_bytes)
        if size_bytes > MAX_BODY_BYTES:
            raise HttpProblem(
                problems.PAYLOAD_TOO_LARGE,
                f"the body has more than {MAX_BODY_BYTES} bytes, which no request may have; send "
                "the input as an upload (POST /v1/uploads)",
                limit_bytes=MAX_BODY_BYTES,
            )

    def _hold(self, size_bytes: int) -> None:
        if self.held is not None:
            self.held.hold(size_bytes)


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
