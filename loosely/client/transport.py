"""Send requests with httpx: `Client` blocks the thread, `AsyncClient` uses an event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, Final, TypeAlias

import httpx

from loosely.client.errors import GatewayUnreachable
from loosely.client.requests import LOOPBACK_HOSTS, Body, FileBody, HttpRequest, parse_url
from loosely.client.responses import HttpResponse
from loosely.client.settings import __version__
from loosely.client.sse import EVENT_STREAM

CONNECT_TIMEOUT_SECONDS: Final = 5.0
#: The maximum number of requests that one client sends at the same time. Further requests wait.
MAX_CONNECTIONS: Final = 100
_CHUNK_BYTES: Final = 1024 * 1024


class BlockingTransport:
    """A transport that blocks the calling thread. Its coroutines never suspend."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None]) -> None:
        self._http = http
        self._sleep = sleep

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send a request, and block the thread until the whole response is read."""
        body = request.body
        if isinstance(body, FileBody) or (body and request.is_chunked):
            content: Iterator[bytes] | bytes | None = _read_chunks(body)
        else:
            content = body
        try:
            return _read(request, self._http.send(_build(self._http, request, content)))
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error

    async def open(self, request: HttpRequest) -> HttpResponse:
        """Send a request without a body. An event stream is only read as far as its headers."""
        try:
            response = self._http.send(_build(self._http, request, None), stream=True)
            if _is_event_stream(response):
                return _read(request, response, self._read_stream(request, response))
            response.read()
            return _read(request, response)
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error

    async def _read_stream(
        self, request: HttpRequest, response: httpx.Response
    ) -> AsyncGenerator[bytes, None]:
        try:
            for chunk in response.iter_bytes():
                yield chunk
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error
        finally:
            response.close()

    async def sleep(self, seconds: float) -> None:
        """Block the calling thread for this number of seconds."""
        self._sleep(seconds)


class AsyncTransport:
    """A transport for asyncio. While a method waits, only the calling task is suspended."""

    def __init__(self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._http = http
        self._sleep = sleep
        # With thousands of waiting requests, the connection pool of httpx takes quadratic time.
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Wait until fewer than `MAX_CONNECTIONS` requests are open, and send the request."""
        await self._take_turn(request)
        body = request.body
        if isinstance(body, FileBody) or (body and request.is_chunked):
            content: AsyncIterator[bytes] | bytes | None = _read_chunks_in_thread(body)
        else:
            content = body
        try:
            return _read(request, await self._http.send(_build(self._http, request, content)))
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error
        finally:
            self._free.release()

    async def open(self, request: HttpRequest) -> HttpResponse:
        """Send a request without a body. An event stream is only read as far as its headers."""
        await self._take_turn(request)
        is_open = False
        try:
            response = await self._http.send(_build(self._http, request, None), stream=True)
            is_open = _is_event_stream(response)
            if is_open:
                return _read(request, response, self._read_stream(request, response))
            await response.aread()
            return _read(request, response)
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error
        finally:
            if not is_open:
                self._free.release()

    async def _read_stream(
        self, request: HttpRequest, response: httpx.Response
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        except httpx.HTTPError as error:
            raise _unreachable(request, error) from error
        finally:
            self._free.release()
            await response.aclose()

    async def _take_turn(self, request: HttpRequest) -> None:
        try:
            async with asyncio.timeout(request.queue_seconds):
                await self._free.acquire()
        except TimeoutError as error:
            raise _unreachable(request, httpx.PoolTimeout("")) from error

    async def sleep(self, seconds: float) -> None:
        """Suspend the calling task for this number of seconds."""
        await self._sleep(seconds)


Transport: TypeAlias = BlockingTransport | AsyncTransport


def http_options(url: str) -> dict[str, Any]:
    """Return the arguments with which to create an httpx client for the gateway at ``url``."""
    return {
        "headers": {"user-agent": f"loosely/{__version__}"},
        "follow_redirects": False,
        "limits": httpx.Limits(
            max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS
        ),
        # A proxy that the environment names cannot reach a loopback address.
        "trust_env": parse_url(url).host not in LOOPBACK_HOSTS,
    }


def _build(
    http: httpx.Client | httpx.AsyncClient,
    request: HttpRequest,
    content: bytes | Iterator[bytes] | AsyncIterator[bytes] | None,
) -> httpx.Request:
    headers = dict(request.headers)
    if isinstance(request.body, FileBody) and not request.is_chunked:
        headers["content-length"] = str(request.body.size_bytes)
    return http.build_request(
        request.method,
        request.url,
        headers=headers,
        params=dict(request.params) or None,
        content=content,
        timeout=httpx.Timeout(
            request.timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS, pool=request.queue_seconds
        ),
    )


def _is_event_stream(response: httpx.Response) -> bool:
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    return response.status_code == 200 and media_type == EVENT_STREAM


def _read(
    request: HttpRequest,
    response: httpx.Response,
    chunks: AsyncGenerator[bytes, None] | None = None,
) -> HttpResponse:
    return HttpResponse(
        response.status_code,
        dict(response.headers),
        response.content if chunks is None else b"",
        str(response.url),
        request.shown_url,
        chunks,
    )


def _unreachable(request: HttpRequest, error: httpx.HTTPError) -> GatewayUnreachable:
    match error:
        case httpx.PoolTimeout():
            reason = (
                f"all {MAX_CONNECTIONS} connections of this client were in use for "
                f"{request.queue_seconds:.0f} s"
            )
        case httpx.ConnectTimeout():
            reason = f"no connection within {CONNECT_TIMEOUT_SECONDS:.0f} s"
        case httpx.TimeoutException():
            reason = f"no response to {request.method} within {request.timeout_seconds:.0f} s"
        case _:
            reason = str(error) or type(error).__name__
    is_unsent = isinstance(
        error, httpx.PoolTimeout | httpx.ConnectTimeout | httpx.ConnectError | httpx.ProxyError
    )
    return GatewayUnreachable(request.shown_url, reason, is_sent=not is_unsent)


def _open(body: Body) -> BinaryIO:
    return BytesIO(body) if isinstance(body, bytes) else body.path.open("rb")


def _read_chunks(body: Body) -> Iterator[bytes]:
    with _open(body) as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


async def _read_chunks_in_thread(body: Body) -> AsyncIterator[bytes]:
    # A slow disk must not block the event loop.
    with await asyncio.to_thread(_open, body) as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk
