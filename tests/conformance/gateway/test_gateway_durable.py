"""Test the gateway's Durable Functions client with the real SDK and a failing host."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from azure.durable_functions import DurableOrchestrationClient
from azure.durable_functions.models.utils.http_utils import _close_session

from contract.names import EVENT_REPLY
from gateway import durable
from gateway.durable import Durable
from gateway.errors import Unavailable, UnknownInstance
from tests.ports import free_port

JOB = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"

# The error message of the Durable extension if its store fails.
FAILED = {
    "Message": "Something went wrong while processing your request",
    "ExceptionMessage": 'Status(StatusCode="Unavailable")',
    "ExceptionType": "Grpc.Core.RpcException",
    "StackTrace": "at DurableTask…",
}


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Durable]:
    base = f"http://127.0.0.1:{port}/durabletask/"
    urls = {"createNewInstancePostUri": base, "id": JOB}
    binding = {"taskHubName": "t", "creationUrls": urls, "managementUrls": urls, "rpcBaseUrl": base}
    try:
        yield Durable(DurableOrchestrationClient(json.dumps(binding)))
    finally:
        await _close_session()


@asynccontextmanager
async def answering(answer: Callable[[], web.Response]) -> AsyncIterator[Durable]:
    async def handler(request: web.Request) -> web.Response:
        return answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with client_of(runner.addresses[0][1]) as client:
            yield client
    finally:
        await runner.cleanup()


async def test_unknown_job_is_none_and_status_500_an_error() -> None:
    async with answering(lambda: web.Response(status=404)) as client:
        assert await client.status(JOB) is None
        with pytest.raises(UnknownInstance):
            await client.raise_event(JOB, EVENT_REPLY, {})
    async with answering(lambda: web.json_response(FAILED, status=500)) as client:
        with pytest.raises(Unavailable):
            await client.status(JOB)
        with pytest.raises(Unavailable):
            await client.raise_event(JOB, EVENT_REPLY, {})
        with pytest.raises(Unavailable):
            await client.start(JOB, "{}")


@pytest.mark.parametrize("job_id", ["?", "#", "..", "", "a/b", "a/raiseEvent/cancel?", "a b", "é"])
async def test_id_that_is_no_url_part_is_not_looked_up(job_id: str) -> None:
    # Nothing listens on the port, so a request would raise Unavailable.
    async with client_of(free_port()) as client:
        assert await client.status(job_id) is None
        with pytest.raises(UnknownInstance):
            await client.raise_event(job_id, EVENT_REPLY, None)


async def test_silent_host_fails_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "READ_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(durable, "CHANGE_TIMEOUT_SECONDS", 0.1)
    # The operating system accepts connections, but no program reads them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with client_of(silent.getsockname()[1]) as client, asyncio.timeout(10):
            for call in (
                client.status(JOB),
                client.list_jobs("0", 1, ()),
                client.raise_event(JOB, EVENT_REPLY, {}),
                client.start(JOB, "{}"),
            ):
                with pytest.raises(Unavailable):
                    await call


async def test_check_fails_on_status_500() -> None:
    async with answering(lambda: web.Response(status=404)) as client:
        await client.check()
    async with answering(lambda: web.json_response(FAILED, status=500)) as client:
        with pytest.raises(Unavailable):
            await client.check()
