"""Test the management API of Durable Functions with the client of the Python SDK."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn
from azure.durable_functions import DurableOrchestrationClient
from azure.durable_functions.models.OrchestrationRuntimeStatus import (
    OrchestrationRuntimeStatus as RuntimeStatus,
)
from azure.durable_functions.models.utils import http_utils

from emulator.clock import WallClock
from emulator.functions.durable.direct import DirectSession, DurableBinding, install
from emulator.functions.durable.extension import DurableExtension
from emulator.functions.durable.management import (
    RPC_PATH,
    ManagementRequest,
    ManagementResponse,
)
from emulator.functions.settings import DurableOptions
from functions_tests.durable.durable_host import SdkRunner

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "instances/nobody", {}),
    ("GET", "instances/a%2Fb%20c", {}),
    ("GET", "instances/ü b", {}),
    ("GET", "instances/../instances/one/raiseEvent", {}),
    ("GET", "instances/", {"params": {"instanceIdPrefix": "on e&", "top": "1"}}),
    ("GET", "instances/nobody?showInput=true", {"params": {"a": "b"}}),
    ("GET", "instances/nobody?taskHub=NoHub1", {}),
    ("GET", "instances/nobody?" + "&".join(f"a{n}=1" for n in range(101)), {}),
    ("POST", "instances/one/raiseEvent/check", {}),
    ("POST", "instances/one/raiseEvent/check", {"json": None}),
    ("POST", "instances/one/raiseEvent/check", {"json": {"a": "ü"}}),
    ("POST", "instances/one/raiseEvent/check", {"data": "text"}),
    ("POST", "instances/one/raiseEvent/check", {"data": b"bytes"}),
    (
        "POST",
        "instances/one/raiseEvent/check",
        {"data": b"{", "headers": {"Content-Type": "application/json"}},
    ),
    ("post", "instances/nobody/suspend?reason=why", {"timeout": None}),
    ("DELETE", "instances/", {}),
    ("DELETE", "instances/nobody", {}),
    ("PUT", "nowhere", {}),
]


class ListeningHost:
    """A durable extension that serves its management API over HTTP. `client` calls this API."""

    def __init__(self, engine: DurableExtension, runner: SdkRunner, port: int) -> None:
        self.engine = engine
        self.runner = runner
        self.base_url = f"http://127.0.0.1:{port}/runtime/webhooks/durabletask"
        self.client = DurableOrchestrationClient(
            engine.client_binding(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}")
        )

    async def finished(self, instance_id: str) -> Any:
        """Wait until an instance has finished, and return its status. Raises AssertionError."""
        assert await self.engine.engine.wait_finished(instance_id, 20)
        return await self.client.get_status(instance_id)


def _functions(runner: SdkRunner) -> None:
    @runner.activity
    def shout(value: Any) -> str:
        return str(value).upper()

    @runner.activity
    def fragile(text: str) -> str:
        if runner.calls.count(("fragile", text)) == 1:
            raise ValueError("not yet")
        return text

    @runner.orchestrator
    def greet(context: Any) -> Any:
        greeting = yield context.call_activity("shout", context.get_input())
        context.set_custom_status({"half": "way"})
        name = yield context.wait_for_external_event("name")
        return f"{greeting} {name}"

    @runner.orchestrator
    def fail(context: Any) -> Any:
        text = yield context.call_activity("fragile", "glass")
        return text


@asynccontextmanager
async def serving(engine: DurableExtension) -> AsyncIterator[int]:
    config = uvicorn.Config(engine.management_app, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture(params=["connection", "call"])
async def host(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[ListeningHost]:
    """Yield a host, to which the SDK connects, or which the SDK in this process calls."""
    runner = SdkRunner()
    _functions(runner)
    engine = DurableExtension(tmp_path / "hub.db", runner, WallClock(), DurableOptions("TestHub"))
    await engine.start()
    async with serving(engine) as port:
        listening = ListeningHost(engine, runner, port)
        if request.param == "call":
            rpc_url = f"http://127.0.0.1:{port}{RPC_PATH}/"
            install(DurableBinding("", rpc_url, engine.management_app.respond))
        yield listening
        await http_utils._close_session()
        http_utils._client_session = None
    await engine.stop()


async def test_event_completes_a_waiting_instance(
    host: ListeningHost,
) -> None:
    assert await host.client.start_new("greet", "one", "hello") == "one"
    await host.client.raise_event("one", "name", "Ada")
    status = await host.finished("one")
    assert status.runtime_status is RuntimeStatus.Completed
    # The SDK encodes an event twice, but decodes it only once (issue #295 of the SDK).
    assert status.output == 'HELLO "Ada"'
    assert status.custom_status == {"half": "way"}
    assert status.name == "greet"
    assert abs(status.created_time - datetime.now(UTC)) < timedelta(seconds=30)
    # The SDK omits `showInput=False` from its query, and the API shows the input by default.
    assert status.input_ == '"hello"'


async def test_start_without_id_gets_a_new_id(host: ListeningHost) -> None:
    instance_id = await host.client.start_new("greet", client_input={"a": 1})
    assert len(instance_id) == 32
    assert await host.client.get_status("nobody") is not None
    assert not await host.client.get_status("nobody")


async def test_unknown_orchestrator_or_bad_id_raises_an_error(
    host: ListeningHost,
) -> None:
    await host.client.start_new("greet", "twice", "x")
    with pytest.raises(Exception, match="already exists"):
        await host.client.start_new("greet", "twice", "x")
    with pytest.raises(Exception, match="No instance with ID nobody found"):
        await host.client.raise_event("nobody", "name", 1)
    with pytest.raises(Exception, match="No instance with ID 'nobody' found"):
        await host.client.terminate("nobody", "why")
    with pytest.raises(Exception, match="No instance with ID nobody found"):
        await host.client.rewind("nobody", "why")


async def test_terminated_instance_can_be_purged(
    host: ListeningHost,
) -> None:
    await host.client.start_new("greet", "t", "x")
    await host.client.terminate("t", "enough")
    status = await host.finished("t")
    assert status.runtime_status is RuntimeStatus.Terminated
    assert status.output == "enough"
    await host.client.terminate("t", "again")
    with pytest.raises(Exception, match="is gone"):
        await host.client.raise_event("t", "name", 1)
    with pytest.raises(Exception, match="has status Terminated, but only"):
        await host.client.rewind("t", "why")
    assert (await host.client.purge_instance_history("t")).instances_deleted == 1
    assert (await host.client.purge_instance_history("t")).instances_deleted == 0
    assert not await host.client.get_status("t")


async def test_suspended_instance_completes_after_resume(host: ListeningHost) -> None:
    await host.client.start_new("greet", "s", "x")
    await host.client.suspend("s", "later")
    assert (await host.client.get_status("s")).runtime_status is RuntimeStatus.Suspended
    with pytest.raises(Exception, match="unexpected status code 500"):
        await host.client.suspend("s", "later")
    await host.client.raise_event("s", "name", "y")
    await asyncio.sleep(0)
    assert (await host.client.get_status("s")).runtime_status is RuntimeStatus.Suspended
    await host.client.resume("s", "now")
    assert (await host.finished("s")).runtime_status is RuntimeStatus.Completed
    await host.client.resume("s", "late")


async def test_failed_instance_completes_after_rewind(host: ListeningHost) -> None:
    await host.client.start_new("fail", "f")
    status = await host.finished("f")
    assert status.runtime_status is RuntimeStatus.Failed
    assert status.output.startswith(
        "Orchestrator function 'fail' failed: Activity function 'fragile' failed: "
        "ValueError: not yet"
    )
    await host.client.rewind("f", "repaired")
    status = await host.finished("f")
    assert (status.runtime_status, status.output) == (RuntimeStatus.Completed, "glass")


async def test_restart_uses_a_new_or_the_same_id(
    host: ListeningHost,
) -> None:
    await host.client.start_new("fail", "r")
    assert (await host.finished("r")).runtime_status is RuntimeStatus.Failed
    links: Any = await host.client.restart("r")
    assert links["id"] != "r"
    assert (await host.finished(links["id"])).output == "glass"
    links = await host.client.restart("r", restart_with_new_instance_id=False)
    assert links["id"] == "r"
    assert (await host.finished("r")).output == "glass"
    with pytest.raises(Exception, match="unexpected status code 400"):
        await host.client.restart("nobody")


async def test_filter_limits_listing_and_purging(
    host: ListeningHost,
) -> None:
    began = datetime.now(UTC) - timedelta(seconds=5)
    for number in range(5):
        await host.client.start_new("greet", f"q-{number}", "x")
    await host.client.start_new("fail", "other")
    await host.finished("other")
    await host.client.terminate("q-0", "")
    await host.finished("q-0")
    assert len(await host.client.get_status_all()) == 6
    found = await host.client.get_status_by(
        created_time_from=began,
        created_time_to=datetime.now(UTC) + timedelta(seconds=5),
        runtime_status=[RuntimeStatus.Running, RuntimeStatus.Pending],
        instance_id_prefix="q-",
    )
    assert [status.instance_id for status in found] == ["q-1", "q-2", "q-3", "q-4"]
    assert await host.client.get_status_by(created_time_to=began) == []
    purged = await host.client.purge_instance_history_by(began, None, [RuntimeStatus.Terminated])
    assert purged.instances_deleted == 1
    purged = await host.client.purge_instance_history_by(began)
    assert purged.instances_deleted == 1
    assert len(await host.client.get_status_all()) == 4


async def test_wait_for_completion_returns_the_output(
    host: ListeningHost,
) -> None:
    await host.client.start_new("greet", "w", "x")
    await host.client.raise_event("w", "name", "z")
    await host.finished("w")
    response = await host.client.wait_for_completion_or_create_check_status_response(None, "w")
    assert (response.status_code, response.get_body()) == (200, b'X "z"')
    await host.client.start_new("fail", "wf")
    await host.finished("wf")
    response = await host.client.wait_for_completion_or_create_check_status_response(None, "wf")
    assert response.status_code == 500


async def test_management_urls_start_query_and_send_events(
    host: ListeningHost,
) -> None:
    links = host.client.create_http_management_payload("l")
    async with httpx.AsyncClient() as http:
        started = await http.post(f"{host.base_url}/orchestrators/greet/l", json={"raw": 1})
        assert started.status_code == 202
        assert started.headers["retry-after"] == "10"
        assert started.headers["location"] == links["statusQueryGetUri"]
        assert started.json() == {
            key: value for key, value in links.items() if key != "rewindPostUri"
        }
        running = await http.get(links["statusQueryGetUri"])
        assert running.status_code == 202
        assert running.headers["retry-after"] == "5"
        assert running.json()["input"] == {"raw": 1}
        url = links["sendEventPostUri"].replace("{eventName}", "name")
        refused = await http.post(url, content="plain", headers={"content-type": "text/plain"})
        assert refused.status_code == 400
        assert (await http.post(url, json=[1])).status_code == 202
        await host.finished("l")
        done = await http.get(
            links["statusQueryGetUri"] + "&showHistory=true&showHistoryOutput=true"
        )
        assert done.status_code == 200
        events = done.json()["historyEvents"]
        assert [event["EventType"] for event in events] == [
            "ExecutionStarted",
            "TaskCompleted",
            "EventRaised",
            "ExecutionCompleted",
        ]
        assert events[1]["FunctionName"] == "shout"
        assert events[2]["Input"] == "[1]"
        assert events[3]["OrchestrationStatus"] == "Completed"
        assert (await http.post(url, json=1)).status_code == 410


async def test_start_waits_for_the_end_or_the_timeout(
    host: ListeningHost,
) -> None:
    async with httpx.AsyncClient(base_url=host.base_url) as http:
        query = "timeout=10&pollingInterval=1"
        failed = await http.post(f"/orchestrators/fail/sw?{query}")
        assert failed.status_code == 200
        assert failed.json()["runtimeStatus"] == "Failed"
        done = await http.post(f"/orchestrators/fail/sw?{query}")
        assert (done.status_code, done.json()) == (200, "glass")
        late = await http.post("/orchestrators/greet/sw?timeout=0.05&pollingInterval=0.01")
        assert late.status_code == 202


async def test_instances_are_listed_in_pages(host: ListeningHost) -> None:
    for number in range(5):
        await host.client.start_new("greet", f"p-{number}", "x")
    async with httpx.AsyncClient(base_url=host.base_url) as http:
        seen: list[str] = []
        token = ""
        while True:
            answer = await http.get(
                "/instances", params={"top": 2}, headers={"x-ms-continuation-token": token}
            )
            seen += [status["instanceId"] for status in answer.json()]
            if "x-ms-continuation-token" not in answer.headers:
                break
            token = answer.headers["x-ms-continuation-token"]
        assert seen == [f"p-{number}" for number in range(5)]
        bad = await http.get("/instances", headers={"x-ms-continuation-token": "x"})
        assert (bad.status_code, bad.json()) == (200, [])


async def test_call_answers_as_the_connection_does(host: ListeningHost) -> None:
    base = f"{host.base_url.removesuffix('/runtime/webhooks/durabletask')}{RPC_PATH}/"
    await host.client.start_new("greet", "one", "hello")
    async with aiohttp.ClientSession() as connection:
        call = DirectSession(DurableBinding("", base, host.engine.management_app.respond))
        for method, path, options in REQUESTS:
            answers: list[Any] = []
            for session in (connection, call):
                async with session.request(method, base + path, **options) as answer:
                    body = await answer.json(content_type=None)
                    length = answer.headers["CONTENT-LENGTH"]
                    kind = answer.headers.get("content-type")
                    seen = (answer.status, answer.reason, answer.ok, body, length, kind)
                    answers.append((*seen, str(answer.url), await answer.read()))
                    with (
                        contextlib.nullcontext()
                        if answer.ok
                        else pytest.raises(aiohttp.ClientResponseError, match=str(answer.status))
                    ):
                        answer.raise_for_status()
            assert answers[0] == answers[1], path
        await call.close()


async def test_cancelled_caller_leaves_its_call_running(host: ListeningHost) -> None:
    started = asyncio.Event()
    go = asyncio.Event()
    ended = asyncio.Event()

    async def respond(_: ManagementRequest) -> ManagementResponse:
        started.set()
        await go.wait()
        ended.set()
        return ManagementResponse(202)

    session = DirectSession(DurableBinding("", "http://127.0.0.1:1/durabletask/", respond))
    url = "http://127.0.0.1:1/durabletask/instances/one"

    async def caller() -> None:
        await session.get(url)

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go.set()
    await asyncio.wait_for(ended.wait(), 10)


async def test_other_urls_are_sent(host: ListeningHost) -> None:
    base = f"{host.base_url.removesuffix('/runtime/webhooks/durabletask')}{RPC_PATH}/"

    async def respond(_: ManagementRequest) -> ManagementResponse:
        raise AssertionError

    session = DirectSession(DurableBinding("", "http://127.0.0.1:1/durabletask/", respond))
    async with session.get(f"{base}instances/nobody") as answer:
        assert answer.status == 404
    assert not session.closed
    await session.close()
