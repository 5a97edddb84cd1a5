"""Tests of an app that wraps a whole ASGI app in a web extension of its own."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from functions_tests.process.host_process import (
    BOTH_FORMS,
    ISOLATED,
    RunningHost,
    copy_app,
    running_host,
)

SERVED = {"PYTHON_ENABLE_INIT_INDEXING": "1"}
pytestmark = [pytest.mark.asyncio(loop_scope="module"), BOTH_FORMS]


@pytest.fixture(scope="module")
def folder(form: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_app("ownweb", tmp_path_factory.mktemp("ownweb") / "app")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(folder: Path) -> AsyncIterator[RunningHost]:
    data = folder.parent / "data"
    async with running_host(folder, data, environment=SERVED, is_reloading=True) as host:
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(host: RunningHost) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        yield client


async def test_whole_app_is_behind_one_function(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert (response.status_code, response.text) == (200, "our docs")
    assert response.headers.get_list("set-cookie") == [
        "a=1; Path=/; SameSite=lax",
        "b=2; Path=/; SameSite=lax",
    ]
    assert "server" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("HEAD", "/docs", 200, b""),
        ("GET", "/nowhere", 404, b"Not Found"),
        ("GET", "/echo", 405, b"Method Not Allowed"),
        ("PUT", "/docs", 404, b""),
    ],
)
async def test_status_is_that_of_the_inner_app(
    client: httpx.AsyncClient, method: str, path: str, status: int, body: bytes
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.content) == (status, body)


async def test_large_body_passes_both_ways_at_once(host: RunningHost) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(host.url).port)
    head = b"POST /echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    writer.write(head + b"content-length: 20000000\r\n\r\n")

    async def send() -> None:
        for _ in range(40):
            writer.write(b"x" * 500_000)
            await writer.drain()

    answer, _ = await asyncio.gather(reader.read(), send())
    writer.close()
    assert answer.partition(b"\r\n\r\n")[2].count(b"x") == 20_000_000


async def test_saved_extension_is_loaded_again(
    client: httpx.AsyncClient, host: RunningHost, folder: Path
) -> None:
    before = len(host.lines)
    extension = folder / "own_extension.py"
    text = extension.read_text()
    changed = text.replace("await response(", "response.saved = True\n        await response(")
    assert changed != text
    extension.write_text(changed)
    await host.logged("1 functions loaded", after=before)
    assert (await client.get("/docs")).text == "our docs"


async def test_kill_cuts_a_stream_and_the_next_request_waits(
    client: httpx.AsyncClient, host: RunningHost, form: str
) -> None:
    if form != ISOLATED:
        pytest.skip("the app has no process of its own")
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(host.url).port)
    writer.write(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
    writer.write(b"5\r\nfirst\r\n")
    await reader.readuntil(b"5\r\nfirst\r\n")
    os.kill(host.app_pid(), signal.SIGKILL)
    assert await reader.read() == b""
    writer.close()
    assert (await client.get("/docs")).text == "our docs"
