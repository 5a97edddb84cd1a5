"""Test the web extension: on its own server, which Azure's worker starts, and with real sockets."""

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway import web_extension
from tests.ports import free_port
from tests.unit.gateway.conftest import ENVIRON, RunningGateway
from tests.unit.gateway.web_calls import call, scope_of, serving

FUNCTIONS = Path(__file__).parents[3] / "functions"
JOBS = "/v1/models/noop/jobs"
START = {"type": "http.response.start", "status": 207, "headers": [(b"x", b"a"), (b"x", b"b")]}


class EchoApp:
    """An ASGI app that answers each part of a body with this part, and keeps the scope."""

    def __init__(self, error: Exception | None = None, *, fails_early: bool = False) -> None:
        self.scope: dict[str, Any] = {}
        self.error = error
        self.fails_early = fails_early

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        if self.error and self.fails_early:
            raise self.error
        await send(dict(START))
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            await send({**message, "type": "http.response.body", "more_body": more})
        if self.error:
            raise self.error


PROXY_HEADERS = {
    "host": "127.0.0.1:1234",
    "x-forwarded-host": "gateway.test:7071",
    "x-forwarded-proto": "https",
    "x-forwarded-for": "10.0.0.1:99",
    "x-ms-invocation-id": "1",
}


async def test_app_sees_the_request_of_the_caller() -> None:
    app, durable = EchoApp(), object()
    scope = scope_of("GET", "http://h/a%252Fb%20c%252f?x=%2F", {**PROXY_HEADERS, "accept": "a"})
    added = {"app": 1, "router": 2, "endpoint": 3, "path_params": {"path": "a"}}
    answer = await call(app, durable, {**scope, **added})  # type: ignore[arg-type] # never called
    assert (answer.status, answer.headers.getlist("x")) == (207, ["a", "b"])
    assert (app.scope["raw_path"], app.scope["path"]) == (b"/a%2Fb%20c%2f", "/a/b c/")
    assert (app.scope["scheme"], app.scope["query_string"]) == ("https", b"x=%2F")
    assert app.scope["headers"] == [(b"host", b"gateway.test:7071"), (b"accept", b"a")]
    assert app.scope["state"] == {}
    assert app.scope["durable"] is durable
    assert app.scope.keys().isdisjoint(added)


async def test_forwarded_host_of_the_caller_is_ignored() -> None:
    app, headers = EchoApp(), {"host": "h", "x-forwarded-host": "evil, gateway.test"}
    await call(app, object(), scope_of("GET", "http://h/", headers))  # type: ignore[arg-type]
    assert app.scope["headers"] == [(b"host", b"gateway.test")]


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def test_bodies_pass_in_parts_both_ways() -> None:
    async with serving(EchoApp()) as url:
        reader, writer = await connect(url)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 207")
        assert b"server:" not in head
        for part in (b"one", b"two"):
            # The next part is sent after the answer to this one.
            chunk = b"3\r\n" + part + b"\r\n"
            writer.write(chunk)
            assert await reader.readexactly(len(chunk)) == chunk
        writer.close()


@pytest.mark.parametrize("fails_early", [True, False])
async def test_error_of_the_app_is_logged_once(
    fails_early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = EchoApp(ValueError("why"), fails_early=fails_early)
    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/")
    assert answer.status_code == (500 if fails_early else 207)
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert str(errors[0].exc_info[1]) == "why"


async def test_request_without_an_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_extension, "MAX_REQUEST_SECONDS", 0.01)
    never = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await never.wait()

    async with serving(app) as url, httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/")).status_code == 500


def with_durable(gateway: RunningGateway) -> Any:
    return serving(gateway.app, gateway.durable)


async def test_hang_up_ends_the_wait_not_the_job(gateway: RunningGateway) -> None:
    async with with_durable(gateway) as url:
        for send in (submit_bytes, submit_large, get_job, infer):
            count = len(gateway.queues.sent)
            waiting = asyncio.create_task(send(gateway, url))
            await gateway.queues.wait_for(count + 1)
            request = gateway.queues.request()
            await until(lambda: gateway.services.waiters.count == 1)
            await until(partial(gateway.durable.runs.get, request.job_id))
            waiting.cancel()
            await until(lambda: gateway.services.waiters.count == 0)
            assert (await gateway.reply(request)).status_code == 202
            assert (await gateway.job(request.job_id))["status"] == "succeeded"


async def submit_bytes(gateway: RunningGateway, url: str) -> None:
    async with httpx.AsyncClient() as http:
        await http.post(url + JOBS, content=b"x", timeout=60)


async def submit_large(gateway: RunningGateway, url: str) -> None:
    async with httpx.AsyncClient() as http:
        await http.post(url + JOBS, content=bytes(2_000_000), timeout=60)


async def get_job(gateway: RunningGateway, url: str) -> None:
    job_id = await gateway.accept()
    async with httpx.AsyncClient() as http:
        await http.get(f"{url}/v1/jobs/{job_id}", headers={"prefer": "wait=60"}, timeout=60)


async def infer(gateway: RunningGateway, url: str) -> None:
    tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}
    async with httpx.AsyncClient() as http:
        await http.post(f"{url}/v2/models/noop/infer", json={"inputs": [tensor]}, timeout=60)


async def test_hang_up_in_an_upload_creates_no_job(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_durable(gateway) as url:
        _, writer = await connect(url)
        writer.write(f"POST {JOBS} HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000\r\n\r\n".encode())
        writer.write(bytes(3_000_000))
        await until(lambda: gateway.services.bodies.total_bytes > 0)
        writer.close()
        await until(lambda: gateway.services.bodies.total_bytes == 0)
    assert not gateway.queues.sent
    assert not gateway.payloads.blobs
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_endless_body_is_refused_and_closed(gateway: RunningGateway) -> None:
    async with with_durable(gateway) as url:
        status, code, sent_bytes = await asyncio.to_thread(send_without_end, urlsplit(url).port)
    assert (status, code) == (413, "payload-too-large")
    # The limit is 4 MiB; the buffers of the sockets may hold some more.
    assert sent_bytes < 16 * 1024**2


def send_without_end(port: int | None) -> tuple[int, str, int]:
    """Send a chunked body until the server closes; return the status, the code and the size."""
    chunk, sent_bytes = b"10000\r\n" + bytes(65536) + b"\r\n", 0
    with socket.create_connection(("127.0.0.1", port or 0), timeout=20) as sending:
        head = f"POST {JOBS} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        sending.sendall(head.encode())
        try:
            while sent_bytes < 100 * 1024**2:
                sending.sendall(chunk)
                sent_bytes += 65536
        except OSError:
            pass
        answer = sending.recv(65536)
    return (
        int(answer.split()[1]),
        answer.partition(b'"code":"')[2].split(b'"')[0].decode(),
        sent_bytes,
    )


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it waits for sockets
            await asyncio.sleep(0.001)


# What Azure's worker does with the app: it finds the extension by the module of its classes.
WORKER = """
import asyncio, importlib, sys
import function_app
from azurefunctions.extensions import base

CLIENT = '{"taskHubName": "t", "creationUrls": {}, "managementUrls": {}}'
module = importlib.import_module(base.ModuleTrackerMeta.get_module())
web_app = module.WebApp()
(http,) = [each for each in function_app.app.get_functions() if each.get_function_name() == "http"]

@web_app.route
async def catch_all(request: base.RequestTrackerMeta.get_request_type()):
    response = await http.get_user_function()(request, client=CLIENT)
    assert base.ResponseTrackerMeta.check_type(type(response))
    return response

async def serve():
    server = module.WebServer("127.0.0.1", int(sys.argv[1]), web_app)
    serving = asyncio.create_task(server.serve())
    await asyncio.sleep(0)
    while not server.server.started:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await serving

asyncio.run(serve())
"""


@pytest.fixture(scope="module")
def functions_url() -> Iterator[str]:
    """Serve the Function App's folder as Azure's worker does; yield the URL."""
    port = free_port()
    environ = {**os.environ, **ENVIRON, "PYTHON_ENABLE_INIT_INDEXING": "1"}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(port)],
        cwd=FUNCTIONS,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        worker.terminate()
        worker.communicate(timeout=20)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/", 200, '"docs":"/docs"'),
        ("/docs", 200, "Loosely"),
        ("/openapi.json", 200, "/v1/models/{model}/jobs"),
        ("/redoc", 404, "not-found"),
        ("/docs/oauth2-redirect", 404, "not-found"),
    ],
)
def test_pages_are_ours_on_the_extensions_server(
    functions_url: str, path: str, status: int, text: str
) -> None:
    answer = httpx.get(functions_url + path)
    assert (answer.status_code, "server" in answer.headers) == (status, False)
    assert text in answer.text
    assert "Catch All" not in answer.text


@pytest.mark.parametrize("value", ["1", None])
def test_missing_setting_is_named_at_the_start(value: str | None) -> None:
    setting = {} if value is None else {"PYTHON_ENABLE_INIT_INDEXING": value}
    started = subprocess.run(
        [sys.executable, "-c", "import function_app"],
        cwd=FUNCTIONS,
        env={**ENVIRON, **setting},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("PYTHON_ENABLE_INIT_INDEXING" in started.stderr) == (value is None)
