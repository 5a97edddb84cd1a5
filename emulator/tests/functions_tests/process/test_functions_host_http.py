"""Tests of HTTP triggers: a host process receives real HTTP requests."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from functions_tests.process.host_process import BOTH_FORMS, RunningHost, copy_app, running_host

HUNDRED_MIB = 100 * 1024 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory, form: str) -> AsyncIterator[RunningHost]:
    place = tmp_path_factory.mktemp("web")
    folder = copy_app("web", place / "app")
    (folder / "local.settings.json").write_text(
        '{"IsEncrypted": false, "Values": {"FROM_FILE": "file", "FROM_BOTH": "file"}}'
    )
    environment = {"FROM_BOTH": "environment"}
    async with running_host(folder, place / "data", environment=environment) as host:
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(host: RunningHost) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        yield client


pytestmark = [pytest.mark.asyncio(loop_scope="module"), BOTH_FORMS]


async def test_function_receives_the_whole_request(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = await client.post(
        "/api/echo/cats/7?a=1&a=2&empty=&sp=a%20b",
        content="Grüße".encode(),
        headers={"X-Test": "yes", "traceparent": trace},
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    got = response.json()
    assert uuid.UUID(got.pop("invocation"))
    assert Path(got.pop("folder")).name == "app"
    assert got == {
        "method": "POST",
        "url": f"{host.url}/api/echo/cats/7?a=1&a=2&empty=&sp=a%20b",
        "route": {"kind": "cats", "number": "7"},
        "query": {"a": "1,2", "sp": "a b"},
        "header": "yes",
        "body": "Grüße",
        "function": "echo",
        "trace": trace,
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/noop", 200),
        ("GET", "/API/Noop/", 200),
        ("DELETE", "/api/noop", 200),  # a route without a list of methods serves all methods
        ("GET", "/api/echo/cats/seven", 404),
        ("GET", "/api/echo/c4ts/7", 404),
        (
            "PUT",
            "/api/echo/cats/7",
            404,
        ),  # as in Azure, a method that the route does not serve gets 404, not 405
        ("GET", "/noop", 404),
        ("GET", "/api", 404),
        ("GET", "/admin/nowhere", 404),
        ("GET", "/runtime/webhooks/durabletask/instances", 404),
        ("GET", "/", 200),
        ("PUT", "/", 200),
        ("GET", "//api/noop", 404),
        ("GET", "/api//noop", 404),
        ("GET", "/admin/host/status", 200),
        ("GET", "/admin/functions", 200),
        ("GET", "/admin/functions/noop", 200),
        ("GET", "/admin/functions/nobody", 404),
        ("POST", "/admin/functions/noop", 400),
    ],
)
async def test_requests_are_routed_by_path_and_method(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await client.request(method, path)).status_code == status


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/api/files/readme", {"files": "readme"}),
        ("/api/files/a%2Fb", {"files": "a%2Fb"}),
        ("/api/files/a/b/c.txt", {"files": "a/b/c.txt"}),
        ("/api/files/with%20space/%C3%BC", {"files": "with space/ü"}),
        ("/api/files", {"files": None}),
        ("/api/by-id/0af76519-16cd-43dd-8448-eb211c80319c", None),
        ("/api/by-id/tom", {"name": "tom"}),
    ],
)
async def test_first_matching_function_by_name_serves(
    client: httpx.AsyncClient, path: str, answer: dict[str, object] | None
) -> None:
    got = (await client.get(path)).json()
    assert got == (answer or {"guid": path.rsplit("/", 1)[1]})


async def test_response_has_status_headers_cookies_and_charset(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/api/cookies")
    assert response.status_code == 201
    assert response.headers["x-one"] == "1"
    assert sorted(response.headers.get_list("set-cookie")) == [
        "a=1; HttpOnly; Path=/",
        "b=2; Max-Age=60",
    ]
    response = await client.get("/api/latin")
    assert response.headers["content-type"] == "text/plain; charset=latin-1"
    assert response.content == "Grüße".encode("latin-1")
    response = await client.get("/api/text")
    assert response.text == "hello from next door"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("status", "body"),
    [(205, b""), (299, b"text"), (304, b""), (418, b"text"), (600, b"text"), (999, b"text")],
)
async def test_unusual_status_is_returned(
    client: httpx.AsyncClient, status: int, body: bytes
) -> None:
    response = await client.get("/api/status", params={"status": status})
    assert (response.status_code, response.content) == (status, body)


async def test_informational_status_is_returned(
    host: RunningHost,
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rsplit(":", 1)[1]))
    writer.write(
        b"GET /api/status?status=199 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 199 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_head_response_has_no_body(client: httpx.AsyncClient) -> None:
    response = await client.head("/api/noop")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", ["broken", "nothing", "leaves", "smuggle?value=a%0D%0AX-In: 1"])
async def test_failing_function_gets_500_without_a_body(
    client: httpx.AsyncClient, path: str
) -> None:
    response = await client.get(f"/api/{path}")
    assert (response.status_code, response.content) == (500, b"")
    assert "x-in" not in response.headers
    assert (await client.get("/api/noop")).text == "ok"


async def test_failure_is_logged_with_function_and_error(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    before = len(host.lines)
    await client.get("/api/broken")
    await host.logged(
        r"WARNING \[Functions.broken\] about to fail: one\\ntwo\\x1b\[2J", after=before
    )
    await host.logged(r"    ValueError: broken on purpose", after=before)
    await client.get("/api/nothing")
    await host.logged(
        'TypeError: unable to encode outgoing TypedData: unsupported type "http" for '
        'Python type "NoneType"',
        after=before,
    )


async def test_large_bodies_are_complete(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/api/size", content=b"x" * HUNDRED_MIB)
    assert response.json() == HUNDRED_MIB
    response = await client.get("/api/large", params={"bytes": 20_000_000})
    assert len(response.content) == 20_000_000


async def test_body_over_100_mib_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/size", content=b"x" * (HUNDRED_MIB + 1))
    assert (response.status_code, response.content) == (500, b"")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(101):
            yield b"x" * (1024 * 1024)

    try:
        response = await client.post("/api/size", content=pieces())
        assert response.status_code == 500
    except httpx.WriteError:
        pass  # the host refused the request while the client was sending the body
    assert (await client.get("/api/noop")).text == "ok"


async def test_body_over_the_setting_is_refused_unread(tmp_path: Path) -> None:
    environment = {"FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "1000"}
    folder = copy_app("web", tmp_path / "app")
    async with (
        running_host(folder, tmp_path / "data", environment=environment) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.post("/api/size", content=b"x" * 1000)).json() == 1000
        for path in ("/api/size", "/admin/host/status", "/runtime/webhooks/durabletask/instances"):
            response = await client.post(path, content=b"x" * 1001)
            assert (response.status_code, response.content) == (500, b"")
        await host.logged("Request body too large. The max request body size is 1000 bytes.")
        # A client that waits for 100 Continue sends nothing.
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(host.url).port)
        writer.write(
            b"POST /api/size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000000\r\n"
            b"expect: 100-continue\r\n\r\n"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 500 ")
        writer.close()


async def test_missing_content_length_means_an_empty_body(
    client: httpx.AsyncClient,
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 50_000

    assert (await client.post("/api/size", content=pieces())).json() == 0
    length = {"content-length": "1000000"}
    answer = await client.post("/api/size", content=pieces(), headers=length)
    assert answer.json() == 1_000_000


async def test_blocking_calls_do_not_delay_others(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    for gate in gates:
        os.mkfifo(gate)
    blocked = [
        asyncio.create_task(client.get("/api/block", params={"until": str(gate)})) for gate in gates
    ]
    for _ in range(20):
        assert (await client.get("/api/noop")).text == "ok"
        assert (await client.get("/api/text")).status_code == 200
    for gate in gates:
        await asyncio.to_thread(gate.write_text, "done")
    assert [response.text for response in await asyncio.gather(*blocked)] == ["done"] * 3


async def test_app_has_its_settings_and_folder(
    client: httpx.AsyncClient,
) -> None:
    names = "FROM_FILE,FROM_BOTH,FUNCTIONS_WORKER_RUNTIME,AZURE_FUNCTIONS_ENVIRONMENT"
    got = (await client.get("/api/environment", params={"names": names})).json()
    assert got["settings"] == {
        "FROM_FILE": "file",
        "FROM_BOTH": "environment",
        "FUNCTIONS_WORKER_RUNTIME": "python",
        "AZURE_FUNCTIONS_ENVIRONMENT": "Development",
    }
    assert got["path"][0] == got["cwd"]


async def test_invalid_requests_do_no_harm(client: httpx.AsyncClient, host: RunningHost) -> None:
    port = int(host.url.rsplit(":", 1)[1])
    for garbage in (b"\x00\xff" * 100, b"GET\r\n\r\n", b"POST /api/size HTTP/1.1\r\n" * 3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await client.get("/api/noop")).text == "ok"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1\r\nHost: localhost", 200),
        (b"HTTP/1.1\r\nHost: [::1]:80", 200),
        (b"HTTP/1.0", 200),
        (b"HTTP/1.1", 400),
        (b"HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
        (b"HTTP/1.1\r\nHost: localhost/api/size?", 400),
    ],
)
async def test_http_1_1_needs_exactly_one_host_header(
    host: RunningHost, head: bytes, status: int
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rsplit(":", 1)[1]))
    writer.write(b"GET /api/noop %b\r\nConnection: close\r\n\r\n" % head)
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_endless_headers_close_the_connection(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    port = int(host.url.rsplit(":", 1)[1])
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /api/noop HTTP/1.1\r\nx: ")

    async def flood() -> None:
        for _ in range(1000):
            writer.write(b"x" * 65536)
            await writer.drain()

    with pytest.raises(ConnectionError):
        await flood()
    writer.close()
    assert (await client.get("/api/noop")).text == "ok"
