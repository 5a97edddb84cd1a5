"""Tests of the ready-made web extension azurefunctions-extensions-http-fastapi.

Each test repeats what was seen on Azure's host 4.1037 with the Python worker 4.34.
"""

import asyncio
import time
import uuid
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
    failed_start,
    finished,
    running_host,
    write_app,
)

SERVED = {"PYTHON_ENABLE_INIT_INDEXING": "1"}
ORDINARY = """

@app.route(route="ordinary")
async def ordinary(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("ok")
"""
APP_WITHOUT_EXTENSION = f"import azure.functions as func\napp = func.FunctionApp()\n{ORDINARY}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(form: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningHost]:
    place = tmp_path_factory.mktemp("readymade")
    folder = copy_app("readymade", place / "app")
    async with running_host(folder, place / "data", environment=SERVED) as host:
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(host: RunningHost) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        yield client


@pytest.fixture
def impatient(tmp_path: Path) -> Path:
    """Return the folder of a copy of the app with a functionTimeout of 1 s."""
    folder = copy_app("readymade", tmp_path / "app")
    host_file = folder / "host.json"
    timeout = '{"functionTimeout": "00:00:01", '
    host_file.write_text(host_file.read_text().replace("{", timeout, 1))
    return folder


pytestmark = [pytest.mark.asyncio(loop_scope="module"), BOTH_FORMS]


async def test_request_is_changed_as_the_proxy_does(
    client: httpx.AsyncClient, host: RunningHost, form: str
) -> None:
    headers = {"x-forwarded-for": "1.2.3.4", "x-ms-invocation-id": "mine", "x-own": "1"}
    response = await client.get("/raw/a%2Fb/c%20d?x=%41", headers=headers)
    got = response.json()
    assert got["raw_path"] == "/raw/a%252Fb/c%20d"
    assert got["path"] == {"path": "a%2Fb/c d"}
    assert got["query"] == {"x": "A"}
    assert got["client"] == ["127.0.0.1", 0]
    assert got["headers"]["host"].startswith("127.0.0.1:")
    assert got["headers"]["host"] != httpx.URL(host.url).netloc.decode()
    assert got["headers"]["x-forwarded-host"] == httpx.URL(host.url).netloc.decode()
    assert got["headers"]["x-forwarded-for"] == "127.0.0.1"
    assert got["headers"]["x-forwarded-proto"] == "http"
    assert got["headers"]["x-own"] == "1"
    assert uuid.UUID(got["headers"]["x-ms-invocation-id"]) == uuid.UUID(got["invocation"])
    assert response.headers.get("server") == ("uvicorn" if form == ISOLATED else None)
    assert len(response.headers.get_list("date")) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/noop", 200, '"ok"'),
        ("HEAD", "/noop", 200, ""),
        ("GET", "/NOOP/", 200, '"ok"'),
        ("POST", "/nowhere", 404, ""),
        ("PUT", "/noop", 404, ""),
        ("GET", "/broken", 500, "Internal Server Error"),
    ],
)
async def test_requests_get_status_and_body(
    client: httpx.AsyncClient, method: str, path: str, status: int, text: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.text) == (status, text)


async def test_error_in_a_function_is_plain_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/broken")
    assert response.headers["content-type"].startswith("text/plain")


async def test_latin_1_header_gets_400(client: httpx.AsyncClient) -> None:
    response = await client.get("/noop", headers={b"x-name": "é".encode("latin-1")})
    assert response.status_code == 400


@pytest.mark.parametrize("size", [0, 50_000, 3_000_000])
async def test_chunked_body_arrives_whole(client: httpx.AsyncClient, size: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 10_000):
            yield b"x" * min(10_000, size - start)

    response = await client.post("/size", content=pieces())
    assert response.json()["bytes"] == size


async def test_large_body_arrives_in_chunks(client: httpx.AsyncClient) -> None:
    got = (await client.post("/size", content=b"x" * 30_000_000)).json()
    assert got["bytes"] == 30_000_000
    assert got["chunks"] > 50


async def test_events_arrive_when_they_are_sent(client: httpx.AsyncClient) -> None:
    async with client.stream("GET", "/times") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lags = [
            time.time() - float(line.removeprefix("data: "))
            async for line in response.aiter_lines()
            if line
        ]
    assert len(lags) == 10
    assert min(lags) < 0.05


async def test_many_streams_run_at_once(client: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(*(client.get("/times") for _ in range(50)))
    assert {response.text.count("data: ") for response in responses} == {10}


async def test_hang_up_closes_the_generator(client: httpx.AsyncClient, host: RunningHost) -> None:
    before = len(host.lines)
    async with client.stream("GET", "/events") as response:
        await anext(response.aiter_bytes())
    await host.logged(r"the generator is closed", after=before)
    await host.logged("ForwarderError: RequestCanceled", after=before)
    await host.logged(r"Executed 'Functions.events' \(Failed", after=before)


async def test_hang_up_is_visible_to_the_function(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    before = len(host.lines)
    with pytest.raises(httpx.ReadTimeout):
        await client.get("/gone", timeout=0.2)
    await host.logged("disconnected", after=before)
    await host.logged("ForwarderError: RequestCanceled", after=before)


async def test_hang_up_before_the_body_invokes_nothing(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    before = len(host.lines)
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(host.url).port)
    writer.write(b"POST /size HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n")
    await writer.drain()
    await client.get("/noop")
    writer.close()
    await client.get("/noop")
    await host.logged("Executed 'Functions.noop'", after=before)
    assert not [line for line in host.lines[before:] if "Functions.size" in line]


async def test_durable_client_starts_an_instance(client: httpx.AsyncClient) -> None:
    links = (await client.post("/start", json=21)).json()
    assert (await finished(client, links))["output"] == 42


async def test_own_pages_hang_until_the_timeout(form: str, impatient: Path) -> None:
    async with (
        running_host(impatient, impatient.parent / "data", environment=SERVED) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        paths = ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")
        for response in await asyncio.gather(*map(client.get, paths)):
            assert response.status_code == 200
            assert response.text != "ours"
        await host.logged(r"Executed 'Functions.whatever' \(Failed")
        if form == ISOLATED:
            await host.logged("the app process is running again")


async def test_stream_is_cut_at_the_timeout(form: str, impatient: Path) -> None:
    async with (
        running_host(impatient, impatient.parent / "data", environment=SERVED) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/events")
        await host.logged(
            "the app process is running again" if form == ISOLATED else "the generator is closed"
        )


async def test_nothing_answers_without_the_setting(impatient: Path) -> None:
    async with (
        running_host(impatient, impatient.parent / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        await host.logged("the app setting PYTHON_ENABLE_INIT_INDEXING is not 1")
        response = await client.get("/noop")
        assert (response.status_code, response.content) == (500, b"")


@pytest.mark.parametrize("setting", ["1", "0"])
async def test_ordinary_http_function_beside_it_is_refused(
    form: str, tmp_path: Path, setting: str
) -> None:
    folder = copy_app("readymade", tmp_path / "app")
    with (folder / "function_app.py").open("a") as file:
        file.write(ORDINARY)
    environment = {"PYTHON_ENABLE_INIT_INDEXING": setting}
    status, line = await failed_start(folder, tmp_path / "data", environment=environment)
    assert status == 1
    if setting == "1":
        assert (
            "FunctionLoadError: cannot load the ordinary function: 'req' binding type "
            '"httpTrigger" and dataType "None" in function.json do not match the corresponding '
            'function parameter\'s Python type annotation "HttpRequest"'
        ) in line
    else:
        assert "FunctionLoadError: cannot load the noop function" in line


async def test_other_triggers_beside_it_load(form: str, tmp_path: Path) -> None:
    source = (
        "import azure.functions as func\n"
        "from azurefunctions.extensions.http.fastapi import Request\n"
        "app = func.FunctionApp()\n"
        "@app.timer_trigger(schedule='0 0 0 1 1 *', arg_name='timer')\n"
        "async def yearly(timer: func.TimerRequest) -> None: ...\n"
    )
    folder = write_app(tmp_path / "app", source)
    async with running_host(folder, tmp_path / "data", environment=SERVED) as host:
        await host.logged("1 functions loaded")


async def test_save_that_mixes_both_leaves_404(form: str, tmp_path: Path) -> None:
    folder = copy_app("readymade", tmp_path / "app")
    source = (folder / "function_app.py").read_text()
    async with (
        running_host(folder, tmp_path / "data", environment=SERVED, is_reloading=True) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        (folder / "function_app.py").write_text(source + ORDINARY)
        await host.logged("cannot load the ordinary function")
        assert (await client.get("/noop")).status_code == 404
        before = len(host.lines)
        (folder / "function_app.py").write_text(source)
        await host.logged("functions loaded", after=before)
        assert (await client.get("/noop")).text == '"ok"'
        before = len(host.lines)
        (folder / "function_app.py").write_text(APP_WITHOUT_EXTENSION)
        await host.logged("1 functions loaded", after=before)
        assert (await client.get("/ordinary")).text == "ok"


async def test_body_over_the_limit_is_cut(form: str, tmp_path: Path) -> None:
    folder = copy_app("readymade", tmp_path / "app")
    environment = {**SERVED, "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": "100000"}

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    async with (
        running_host(folder, tmp_path / "data", environment=environment) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.post("/size", content=b"x" * 100_000)).status_code == 200
        for content in (b"x" * 100_001, pieces()):
            response = await client.post("/size", content=content)
            assert (response.status_code, response.content) == (500, b"")
        await host.logged("Request body too large. The max request body size is 100000 bytes.")
