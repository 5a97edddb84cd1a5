"""Tests of a durable app in a host process, with the unmodified SDK."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from functions_tests.process.host_process import (
    BOTH_FORMS,
    RunningHost,
    copy_app,
    finished,
    running_host,
)

HUB = {"HUB": "TestHub"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["local", "azure-storage"])
async def host(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, form: str
) -> AsyncIterator[RunningHost]:
    place = tmp_path_factory.mktemp("durable")
    folder = copy_app("durable", place / "app")
    options = ("--engine", request.param)
    async with running_host(folder, place / "data", *options, environment=HUB) as host:
        yield host


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(host: RunningHost) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=30) as client:
        yield client


pytestmark = [pytest.mark.asyncio(loop_scope="module"), BOTH_FORMS]


@pytest.mark.parametrize(
    ("name", "value", "output"),
    [
        ("chaining", "Tokyo", ["Hello Tokyo!", "Hello Hello Tokyo!!"]),
        ("fan_out", [1, 2, 3, 4], 30),
        ("naps", 50, "rested"),
        ("failing", None, "Activity function 'breaks' failed: ValueError: out of order"),
    ],
)
async def test_orchestrations_of_all_kinds_complete(
    client: httpx.AsyncClient, name: str, value: object, output: object
) -> None:
    response = await client.post(f"/api/start/{name}", json=value)
    assert response.status_code == 202
    status = await finished(client, response.json())
    if isinstance(status["output"], str):
        status["output"], _, details = status["output"].partition(" \n ")
        assert not details or "out of order" in json.loads(details)["InnerException"]["Message"]
        assert not details or "function_app.py" in details
    assert (status["runtimeStatus"], status["output"]) == ("Completed", output), status


async def test_event_to_the_management_url_completes(
    client: httpx.AsyncClient, host: RunningHost
) -> None:
    response = await client.post("/api/start/approval", params={"id": "order-1"}, json=None)
    links = response.json()
    assert links["id"] == "order-1"
    assert links["statusQueryGetUri"].startswith(
        f"{host.url}/runtime/webhooks/durabletask/instances/order-1?taskHub=TestHub"
    )
    # With the azure-storage engine, an event during the first episode is lost.
    async with asyncio.timeout(30):
        while True:
            running = await client.get(links["statusQueryGetUri"])
            assert running.status_code == 202
            if running.json()["runtimeStatus"] == "Running":
                break
            await asyncio.sleep(0.02)
    event = links["sendEventPostUri"].replace("{eventName}", "approval")
    assert (await client.post(event, json={"by": "chief"})).status_code == 202
    status = await finished(client, links)
    assert status["output"] == {"approved": {"by": "chief"}}
    assert (await client.post(event, json=True)).status_code == 410


async def test_wait_for_completion_returns_the_output(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/api/wait/chaining", json="Oslo")
    assert (response.status_code, response.json()) == (
        200,
        ["Hello Oslo!", "Hello Hello Oslo!!"],
    )


async def test_instances_survive_a_kill_of_the_host(tmp_path: Path) -> None:
    folder, data = copy_app("durable", tmp_path / "app"), tmp_path / "data"
    async with running_host(folder, data, environment=HUB) as host, httpx.AsyncClient() as client:
        started = [
            (await client.post(f"{host.url}/api/start/{name}", json=value)).json()["id"]
            for name, value in (("approval", None), ("naps", 1500), ("chaining", "Rome"))
        ]
        host.process.send_signal(signal.SIGKILL)
        await host.process.wait()
    async with running_host(folder, data, environment=HUB) as host, httpx.AsyncClient() as client:
        response = await client.post(f"{host.url}/api/start/approval", json=None)
        first = response.json()
        links = [
            {key: link.replace(first["id"], id_) for key, link in first.items()} for id_ in started
        ]
        event = links[0]["sendEventPostUri"].replace("{eventName}", "approval")
        assert (await client.post(event, json=1)).status_code == 202
        outputs = [(await finished(client, link))["output"] for link in links]
        assert outputs == [
            {"approved": 1},
            "rested",
            ["Hello Rome!", "Hello Hello Rome!!"],
        ]
