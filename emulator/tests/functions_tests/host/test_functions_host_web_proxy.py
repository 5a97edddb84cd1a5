"""Tests of the two ways to a web extension: over a connection, and by a call of its ASGI app."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.functions.asgi import Application, Listener, Receive, Scope, Send, respond_empty
from emulator.functions.exchange import Exchange, Forwarder, ForwardError
from emulator.functions.web_call import WebCaller
from emulator.functions.web_proxy import WebProxy

MEGABYTE = 1024 * 1024
LIMIT_BYTES = 100 * MEGABYTE


def bound() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made


def address_of(made: socket.socket) -> str:
    return f"127.0.0.1:{made.getsockname()[1]}"


@asynccontextmanager
async def listening(application: Application) -> AsyncIterator[str]:
    """Serve an ASGI app, and yield its address."""
    made = bound()
    listener = Listener(application, [made])
    await listener.start()
    try:
        yield address_of(made)
    finally:
        await listener.stop()


class Front:
    """A host that forwards each request, and notes why that failed."""

    def __init__(self) -> None:
        self.forwarder: Forwarder
        self.max_body_bytes = LIMIT_BYTES
        self.errors: asyncio.Queue[str] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self.max_body_bytes)
        if not await exchange.wait_for_body():
            return
        try:
            await self.forwarder.forward(exchange, "id", lambda: False)
        except ForwardError as error:
            self.errors.put_nowait(str(error).rpartition(" ")[2])
            if not exchange.is_started:
                await respond_empty(send, error.status)
            elif not exchange.is_complete:
                await exchange.abort()

    async def error(self) -> str:
        async with asyncio.timeout(10):
            return await self.errors.get()


Run = Callable[..., Any]


@pytest_asyncio.fixture(params=["proxy", "call"])
async def run(request: pytest.FixtureRequest) -> AsyncIterator[Run]:
    """Yield a function that starts a host for an ASGI app, and returns it with a client for it."""
    stops: list[Callable[[], Awaitable[Any]]] = []

    async def start(
        application: Application, silence_seconds: float = 30
    ) -> tuple[Front, httpx.AsyncClient]:
        front = Front()
        if request.param == "proxy":
            server = listening(application)
            proxy = WebProxy(await server.__aenter__(), silence_seconds)
            stops.append(lambda: server.__aexit__(None, None, None))
            front.forwarder = proxy
        else:
            start_task = asyncio.get_running_loop().create_task
            front.forwarder = WebCaller(application, ("127.0.0.1", 1), start_task, silence_seconds)
        host = listening(front)
        client = httpx.AsyncClient(base_url=f"http://{await host.__aenter__()}", timeout=10)
        stops.append(lambda: host.__aexit__(None, None, None))
        stops.append(client.aclose)
        return front, client

    yield start
    for stop in reversed(stops):
        await stop()


async def start_response(send: Send, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def write(send: Send, body: bytes, *, more_body: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


async def quiet(progress: Callable[[], int]) -> int:
    """Return a count as soon as it has not grown for 0.2 s."""
    async with asyncio.timeout(20):
        while True:
            before = progress()
            await asyncio.sleep(0.2)
            if progress() == before:
                return before


class TestBothWays:
    async def test_response_passes_with_all_its_headers(self, run: Run) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            cookies = ((b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"))
            await start_response(send, *cookies, (b"x-own", b"1"), status=418)
            for piece in (b"one", b"", b"two"):
                await write(send, piece)
            await write(send, b"", more_body=False)

        _, client = await run(application)
        for _ in range(3):
            response = await client.get("/")
            assert (response.status_code, response.content) == (418, b"onetwo")
            assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
            assert response.headers["x-own"] == "1"

    async def test_both_bodies_stream_at_once(self, run: Run) -> None:
        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            await start_response(send)
            more_body = True
            while more_body:
                message = await receive()
                more_body = message["more_body"]
                await write(send, message["body"], more_body=more_body)

        _, client = await run(echo)
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        async with asyncio.timeout(10):
            writer.write(
                b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for piece in (b"5\r\nfirst\r\n", b"6\r\nsecond\r\n"):
                writer.write(piece)
                await reader.readuntil(piece)
            writer.write(b"0\r\n\r\n")
            await reader.readuntil(b"0\r\n\r\n")
        writer.close()

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("status", [200, 204, 304, 404])
    async def test_response_without_a_body(self, run: Run, method: str, status: int) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            length = () if status == 204 else ((b"content-length", b"0"),)
            await start_response(send, *length, status=status)
            await write(send, b"", more_body=False)

        _, client = await run(application)
        for _ in range(2):
            response = await client.request(method, "/")
            assert (response.status_code, response.content) == (status, b"")

    async def test_slow_client_stops_the_app(self, run: Run) -> None:
        sent = 0

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await start_response(send)
            for _ in range(100):
                await write(send, b"x" * MEGABYTE)
                sent += MEGABYTE
            await write(send, b"", more_body=False)

        _, client = await run(application)
        async with client.stream("GET", "/") as response:
            assert await quiet(lambda: sent) < 40 * MEGABYTE
            total = sum([len(piece) async for piece in response.aiter_raw()])
        assert total == 100 * MEGABYTE

    async def test_slow_app_stops_the_client(self, run: Run) -> None:
        goes_on = asyncio.Event()
        sent = received = 0

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal received
            await goes_on.wait()
            more_body = True
            while more_body:
                message = await receive()
                more_body = message["more_body"]
                received += len(message["body"])
            await start_response(send)
            await write(send, b"", more_body=False)

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(99):
                yield b"x" * MEGABYTE
                sent += MEGABYTE

        _, client = await run(application)
        posting = asyncio.create_task(client.post("/", content=pieces()))
        assert await quiet(lambda: sent) < 40 * MEGABYTE
        goes_on.set()
        assert (await posting).status_code == 200
        assert received == 99 * MEGABYTE

    async def test_silence_in_a_response_is_cut(self, run: Run) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await start_response(send)
            await write(send, b"first")
            while (await receive())["type"] != "http.disconnect":
                pass

        front, client = await run(application, silence_seconds=0.05)
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        assert await front.error() == "RequestTimedOut"

    async def test_silence_before_a_response_is_cut(self, run: Run) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        front, client = await run(application, silence_seconds=0.05)
        assert (await client.get("/")).status_code == 504
        assert await front.error() == "RequestTimedOut"

    async def test_client_that_does_not_read_is_cut(self, run: Run) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await start_response(send)
            for _ in range(100):
                await write(send, b"x" * MEGABYTE)

        front, client = await run(application, silence_seconds=0.3)
        async with client.stream("GET", "/"):
            assert await front.error() == "RequestTimedOut"

    async def test_app_is_told_of_a_hang_up(self, run: Run) -> None:
        disconnected = asyncio.Event()

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await start_response(send)
            await write(send, b"first")
            while (await receive())["type"] != "http.disconnect":
                pass
            disconnected.set()

        front, client = await run(application)
        async with client.stream("GET", "/") as response:
            assert await anext(response.aiter_raw()) == b"first"
        async with asyncio.timeout(1):
            await disconnected.wait()
        assert await front.error() == "RequestCanceled"

    async def test_body_over_the_limit_is_cut(self, run: Run) -> None:
        disconnected = asyncio.Event()
        received = 0

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal received
            while (message := await receive())["type"] != "http.disconnect":
                received += len(message["body"])
            disconnected.set()

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(30):
                yield b"x" * 100_000

        front, client = await run(application)
        front.max_body_bytes = MEGABYTE
        assert (await client.post("/", content=pieces())).status_code == 500
        assert await front.error() == "RequestBodyClient"
        async with asyncio.timeout(5):
            await disconnected.wait()
        assert received <= MEGABYTE

    @pytest.mark.parametrize("is_started", [False, True])
    async def test_error_of_the_app_is_500_or_a_cut(self, run: Run, *, is_started: bool) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if is_started:
                await start_response(send)
                await write(send, b"first")
            raise ValueError("on purpose")

        front, client = await run(application)
        if is_started:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/")
            assert await front.error() == "ResponseBodyDestination"
        else:
            response = await client.get("/")
            assert (response.status_code, response.text) == (500, "Internal Server Error")
            assert response.headers["content-type"].startswith("text/plain")

    async def test_early_answer_ends_an_upload(self, run: Run) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await start_response(send, status=413)
            await write(send, b"too large", more_body=False)

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(50):
                yield b"x" * MEGABYTE

        _, client = await run(application)
        for _ in range(2):
            response = await client.post("/", content=pieces())
            assert (response.status_code, response.text) == (413, "too large")


@asynccontextmanager
async def proxied(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[Front, httpx.AsyncClient]]:
    """Run a host in front of a server that speaks in bytes."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    front = Front()
    proxy = WebProxy(address_of(server.sockets[0]))
    front.forwarder = proxy
    async with (
        server,
        listening(front) as address,
        httpx.AsyncClient(base_url=f"http://{address}", timeout=10) as client,
    ):
        yield front, client
        proxy.close()


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
RESPONSES = st.binary(max_size=60) | st.binary(max_size=60).map(lambda end: OK[:-2] + end)


class TestConnections:
    async def test_connection_is_used_again(self) -> None:
        opened = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal opened
            opened += 1
            for _ in range(5):
                await read_head(reader)
                writer.write(OK)
            writer.close()

        async with proxied(serve) as (_, client):
            for _ in range(5):
                assert (await client.get("/")).text == "ok"
        assert opened == 1

    async def test_connection_that_ends_at_its_reuse_is_replaced(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await read_head(reader)
            await reader.readexactly(4 if b"POST" in head else 0)
            writer.write(OK)
            await reader.read(1)
            writer.close()

        async with proxied(serve) as (front, client):
            for method in ("GET", "GET", "POST", "POST"):
                content = b"body" if method == "POST" else None
                assert (await client.request(method, "/", content=content)).text == "ok"
            assert front.errors.empty()

    async def test_lost_request_is_not_sent_twice(self) -> None:
        seen = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen += 1
            await read_head(reader)
            writer.close()

        async with proxied(serve) as (front, client):
            assert (await client.get("/")).status_code == 502
            assert await front.error() == "Request"
        assert seen == 1

    async def test_refused_connection_is_tried_again(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await start_response(send)
            await write(send, b"ok", more_body=False)

        made = bound()
        front = Front()
        front.forwarder = WebProxy(address_of(made))
        listener = Listener(application, [made])
        async with (
            listening(front) as address,
            httpx.AsyncClient(base_url=f"http://{address}", timeout=10) as client,
        ):
            getting = asyncio.create_task(client.get("/"))
            await asyncio.sleep(0.1)
            await listener.start()
            assert (await getting).text == "ok"
        await listener.stop()

    async def test_refusal_is_an_error_once_the_app_is_over(self) -> None:
        made = bound()
        exchange = Exchange(
            {"headers": [], "method": "GET", "scheme": "http", "raw_path": b"/"}
            | {"query_string": b"", "client": None},
            *(None, None, 0),  # type: ignore[arg-type] # not used
        )
        with pytest.raises(ForwardError) as raised:
            await WebProxy(address_of(made)).forward(exchange, "id", lambda: True)
        assert not raised.value.has_arrived
        made.close()

    @pytest.mark.parametrize(
        "response",
        [
            b"HTTP/1.1 200 OK\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\n\r\nok",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ],
    )
    async def test_every_framing_of_a_response_is_read(self, response: bytes) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            for position in range(len(response)):
                writer.write(response[position : position + 1])
                await writer.drain()
            writer.close()

        async with proxied(serve) as (front, client):
            assert (await client.get("/")).text == "ok"
            assert front.errors.empty()

    async def test_answer_before_the_end_of_a_body_is_not_lost(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(OK)
            writer.transport.abort()  # there are bytes that it has not read

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 50_000

        async with proxied(serve) as (front, client):
            for _ in range(20):
                assert (await client.post("/", content=pieces())).text == "ok"
            assert front.errors.empty()

    async def test_second_response_is_not_that_of_the_next_request(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(OK + OK.replace(b"ok", b"no"))
            await reader.read()
            writer.close()

        async with proxied(serve) as (_, client):
            for _ in range(3):
                assert (await client.get("/")).text == "ok"

    async def test_head_with_a_length_has_no_body(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await read_head(reader):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")

        async with proxied(serve) as (_, client):
            for _ in range(3):
                response = await client.head("/")
                assert response.headers["content-length"] == "5"

    @settings(max_examples=5)
    @given(st.lists(RESPONSES, max_size=20))
    async def test_no_response_makes_the_proxy_hang(self, responses: list[bytes]) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_head(reader)
            writer.write(responses[-1])
            writer.close()

        async with proxied(serve) as (_, client), asyncio.timeout(20):
            while responses:
                with suppress(httpx.RemoteProtocolError):  # the response was cut
                    assert (await client.get("/")).status_code in {200, 502}
                responses.pop()
