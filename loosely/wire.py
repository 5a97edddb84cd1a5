"""Steps done over httpx: what differs between waiting in a thread and in an event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import httpx

from loosely.errors import GatewayUnreachable
from loosely.steps import Answer, Body, Emit, FileBody, Open, Pause, Read, Request, Send, Step
from loosely.surface import CONNECT_TIMEOUT_SECONDS

_CHUNK_BYTES: Final = 1024 * 1024
#: A stream speaks at least every 15 seconds; twice missed, it is dead.
_SILENCE_SECONDS: Final = 40.0


class Wire:
    """Does the steps of one operation, each with the calling thread."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self._http = http
        self._sleep = sleep
        self._stream: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._place = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def do(self, step: Step) -> Any:
        """Return what the step is answered with; raise `GatewayUnreachable` where nothing is."""
        try:
            match step:
                case Send(request):
                    self._place = request.place
                    return _answer(self._http.send(self._build(request)))
                case Open(request):
                    return self._open(request)
                case Read():
                    return next(self._pieces, b"")
                case Pause(seconds):
                    self._sleep(seconds)
                case Emit():
                    pass
        except httpx.HTTPError as error:
            raise lost(self._place, error) from error

    def _open(self, request: Request) -> Answer:
        self._close()
        self._place = request.place
        built = self._build(request, read_seconds=_SILENCE_SECONDS)
        self._stream = self._http.send(built, stream=True)
        if self._stream.status_code != 200:
            self._stream.read()
            return _answer(self._stream)
        self._pieces = self._stream.iter_bytes()
        return _opened(self._stream)

    def _build(self, request: Request, read_seconds: float | None = None) -> httpx.Request:
        return _built(self._http, request, _sync_content(request.body), read_seconds)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class AsyncWire:
    """Does the steps of one operation, each with the calling task."""

    def __init__(
        self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._http = http
        self._sleep = sleep
        self._stream: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None
        self._place = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._close()

    async def do(self, step: Step) -> Any:
        """Return what the step is answered with; raise `GatewayUnreachable` where nothing is."""
        try:
            match step:
                case Send(request):
                    self._place = request.place
                    return _answer(await self._http.send(self._build(request)))
                case Open(request):
                    return await self._open(request)
                case Read():
                    return await anext(self._pieces, b"") if self._pieces else b""
                case Pause(seconds):
                    await self._sleep(seconds)
                case Emit():
                    pass
        except httpx.HTTPError as error:
            raise lost(self._place, error) from error

    async def _open(self, request: Request) -> Answer:
        await self._close()
        self._place = request.place
        built = self._build(request, read_seconds=_SILENCE_SECONDS)
        self._stream = await self._http.send(built, stream=True)
        if self._stream.status_code != 200:
            await self._stream.aread()
            return _answer(self._stream)
        self._pieces = self._stream.aiter_bytes()
        return _opened(self._stream)

    def _build(self, request: Request, read_seconds: float | None = None) -> httpx.Request:
        return _built(self._http, request, _async_content(request.body), read_seconds)

    async def _close(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None


def lost(place: str, error: httpx.HTTPError) -> GatewayUnreachable:
    """Return what operations know of a network failure."""
    return GatewayUnreachable(place, str(error) or type(error).__name__)


def _built(
    http: httpx.Client | httpx.AsyncClient,
    request: Request,
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None,
    read_seconds: float | None,
) -> httpx.Request:
    headers = dict(request.headers)
    if isinstance(request.body, FileBody):
        headers["content-length"] = str(request.body.size_bytes)
    seconds = request.timeout_seconds if read_seconds is None else read_seconds
    return http.build_request(
        request.method,
        request.url,
        headers=headers,
        params=dict(request.params) or None,
        content=content,
        timeout=httpx.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS),
    )


def _sync_content(body: Body | None) -> bytes | Iterator[bytes] | None:
    return _pieces(body) if isinstance(body, FileBody) else body


def _async_content(body: Body | None) -> bytes | AsyncIterator[bytes] | None:
    return _async_pieces(body) if isinstance(body, FileBody) else body


def _pieces(body: FileBody) -> Iterator[bytes]:
    with body.path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            yield piece


async def _async_pieces(body: FileBody) -> AsyncIterator[bytes]:
    # A disk can be slow: the event loop must not wait for it.
    with await asyncio.to_thread(body.path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield piece


def _answer(response: httpx.Response) -> Answer:
    return Answer(response.status_code, dict(response.headers), response.content, str(response.url))


def _opened(response: httpx.Response) -> Answer:
    return Answer(response.status_code, dict(response.headers), b"", str(response.url))
