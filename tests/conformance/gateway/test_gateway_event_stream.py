"""The event stream through a real ASGI server, to a real HTTP client, as it happens."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from contract.catalogue import DEFAULT_PATH
from contract.names import progress_url
from tests.unit.gateway.conftest import STARTED_AT, World, gateway

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


@asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """The gateway's app on a port of its own; its base URL."""
    transport: Any = world.http._transport
    config = uvicorn.Config(transport.app, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    path = tmp_path / "models.toml"
    path.write_text(f"{DEFAULT_PATH.read_text('utf-8')}\nreports_progress = true\n", "utf-8")
    async with gateway(catalogue_path=path) as opened:
        yield opened


async def lines(response: httpx.Response, prefix: str) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith(prefix):
            yield line.removeprefix(prefix)


async def tell(world: World, sequence: int, fraction: float) -> None:
    url = progress_url(world.queues.request().reply_url or "") or ""
    report = {"attempt": 1, "sequence": sequence, "started_at": STARTED_AT, "fraction": fraction}
    assert (await world.http.put(url, json=report)).status_code == 200


async def test_each_step_arrives_as_it_happens(world: World) -> None:
    job_id = await world.accept()
    async with (
        served(world) as url,
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        http.stream("GET", f"/v1/jobs/{job_id}/events") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        ids = lines(response, "id: ")
        assert await anext(ids) == "0.0.0"
        await tell(world, 0, 0.0)
        assert await anext(ids) == "1.1.0"
        await tell(world, 1, 0.5)
        assert await anext(ids) == "1.1.1"
        await world.reply()
        assert await anext(ids) == "3.0.0"
        with pytest.raises(StopAsyncIteration):
            await anext(ids)


async def test_a_reader_that_comes_back_goes_on_where_it_was(world: World) -> None:
    job_id = await world.accept()
    await tell(world, 0, 0.1)
    path = f"/v1/jobs/{job_id}/events"
    async with served(world) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        async with http.stream("GET", path) as response:
            last = await anext(lines(response, "id: "))
        await tell(world, 1, 0.2)
        await tell(world, 2, 0.3)
        async with http.stream("GET", path, headers={"last-event-id": last}) as response:
            assert await anext(lines(response, "id: ")) == "1.1.2"
        await world.reply()
        async with http.stream("GET", path, headers={"last-event-id": "1.1.2"}) as response:
            assert [name async for name in lines(response, "event: ")] == ["final"]
        assert (await http.get(path, headers={"last-event-id": "3.0.0"})).status_code == 204


async def test_a_reader_that_hangs_up_leaves_nothing_behind(world: World) -> None:
    job_id = await world.accept()
    async with served(world) as url, httpx.AsyncClient(base_url=url, timeout=10) as http:
        async with http.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            assert await anext(lines(response, "id: ")) == "0.0.0"
            assert world.services.waiters.count == 1
        async with asyncio.timeout(10):
            while world.services.waiters.count:  # noqa: ASYNC110  nothing tells of a closed stream
                await asyncio.sleep(0.01)
