"""Tests of the reload of an app whose files change while the host runs."""

import asyncio
import os
import signal
from pathlib import Path

import httpx

from functions_tests.process.host_process import (
    BOTH_FORMS,
    RunningHost,
    finished,
    running_host,
    write_app,
)

pytestmark = BOTH_FORMS

CHANGED = "loading the app again"
LOADED = r"\d functions loaded; listening"
BUNDLED = """{"version": "2.0", "extensionBundle":
 {"id": "Microsoft.Azure.Functions.ExtensionBundle", "version": "[4.*, 5.0.0)"}}"""
WEB = """
import os
import threading
import azure.functions as func
from neighbour import GREETING
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="text")
def text(req: func.HttpRequest) -> str:
    return GREETING
@app.route(route="block")
def block(req: func.HttpRequest) -> str:
    print("blocks", flush=True)
    while not os.path.exists(req.params["until"]):
        threading.Event().wait(0.01)
    return GREETING
"""
DURABLE = """
import os
import threading
import azure.durable_functions as df
import azure.functions as func
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="start", methods=["POST"])
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client) -> func.HttpResponse:
    id = await client.start_new("steps", None, req.get_json())
    return client.create_check_status_response(req, id)
@app.orchestration_trigger(context_name="context")
def steps(context: df.DurableOrchestrationContext):
    folder, results = context.get_input(), []
    for number in range(4):
        results.append((yield context.call_activity("step", [folder, number])))
    return results
@app.activity_trigger(input_name="given")
def step(given: list) -> str:
    folder, number = given
    with open(folder + "/runs", "a") as runs:
        runs.write(f"{number} ")
    if number == 1:
        print("blocks", flush=True)
        while not os.path.exists(folder + "/gate"):
            threading.Event().wait(0.01)
    return f"VERSION {number}"
"""


def save(path: Path, text: str) -> None:
    """Replace a file with a new file that has the content `text`, as editors do.

    The modification time changes, but only within the same second. Python compares the times of a
    source file and of its cached bytecode only in whole seconds, so Python itself would not notice
    this change.
    """
    before = path.stat().st_mtime_ns if path.exists() else None
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    if before is not None:
        second = 1_000_000_000
        os.utime(fresh, ns=(before, before // second * second + (before + second // 2) % second))
    fresh.replace(path)


def web_app(folder: Path) -> Path:
    write_app(folder, WEB)
    (folder / "neighbour.py").write_text("GREETING = 'one'")
    return folder


async def reloaded(host: RunningHost, after: int) -> None:
    await host.logged(CHANGED, after=after)
    await host.logged(LOADED, after=after + 1)


async def test_reload_waits_for_requests_and_fails_none(
    tmp_path: Path,
) -> None:
    folder, gate = web_app(tmp_path / "app"), tmp_path / "gate"
    async with (
        running_host(
            *(folder, tmp_path / "data", "--no-request-log"),
            environment={"PYTHONDONTWRITEBYTECODE": ""},
            is_reloading=True,
        ) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.get("/api/text")).text == "one"
        in_flight = asyncio.create_task(client.get("/api/block", params={"until": str(gate)}))
        await host.logged("blocks")
        count = len(host.lines)
        # The new text has the same size, so Python alone would run the cached bytecode.
        save(folder / "neighbour.py", "GREETING = 'two'")
        await host.logged(CHANGED, after=count)
        later = asyncio.create_task(client.get("/api/text"))
        gate.touch()
        assert (await in_flight).text == "one"
        assert (await later).text == "two"
    assert "Executing '" not in "\n".join(host.lines)


async def test_host_recovers_from_broken_code_and_host_json(
    tmp_path: Path,
) -> None:
    folder = web_app(tmp_path / "app")
    async with (
        running_host(folder, tmp_path / "data", is_reloading=True) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        count = len(host.lines)
        save(folder / "function_app.py", "def (")
        await host.logged("the app could not be loaded .*SyntaxError", after=count)
        response = await client.get("/api/text")
        assert (response.status_code, response.content) == (404, b"")
        assert (await client.get("/admin/host/status")).json()["state"] == "Running"

        save(folder / "host.json", "{")
        await host.logged("the app could not be started .*host.json", after=count)
        response = await client.get("/api/text")
        assert (response.status_code, response.text) == (503, "Function host is not running.")
        status = (await client.get("/admin/host/status")).json()
        assert (status["state"], len(status["errors"])) == ("Error", 1)

        count = len(host.lines)
        save(folder / "function_app.py", WEB)
        save(folder / "host.json", '{"version": "2.0"}')
        await reloaded(host, count)
        assert (await client.get("/api/text")).text == "one"

        hang = "print('hanging', flush=True)\nimport threading\nthreading.Event().wait()"
        save(folder / "neighbour.py", hang)
        await host.logged("hanging")
        assert await host.stop() == 0


async def test_orchestration_continues_after_a_reload(
    tmp_path: Path,
) -> None:
    folder = write_app(tmp_path / "app", DURABLE.replace("VERSION", "old"), BUNDLED)
    gate = tmp_path / "gate"
    async with (
        running_host(folder, tmp_path / "data", is_reloading=True) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        links = (await client.post("/api/start", json=str(tmp_path))).json()
        await host.logged("blocks")
        count = len(host.lines)
        save(folder / "function_app.py", DURABLE.replace("VERSION", "new"))
        await host.logged(CHANGED, after=count)
        gate.touch()
        output = (await finished(client, links))["output"]
        assert output == ["old 0", "old 1", "new 2", "new 3"]
        assert (tmp_path / "runs").read_text() == "0 1 2 3 "


async def test_signal_replaces_the_app_without_a_wait(
    tmp_path: Path,
) -> None:
    folder, gate = web_app(tmp_path / "app"), tmp_path / "gate"
    environment = {"PYTHONDONTWRITEBYTECODE": ""}
    async with (
        running_host(folder, tmp_path / "data", environment=environment) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        in_flight = asyncio.create_task(client.get("/api/block", params={"until": str(gate)}))
        await host.logged("blocks")
        for text, expected in (("def (", "one"), ("GREETING = 'two'", "two")):
            count = len(host.lines)
            (folder / "neighbour.py").write_text(text)
            host.process.send_signal(signal.SIGHUP)
            await host.logged(f"{LOADED}|the current one stays: .*SyntaxError", after=count)
            assert (await client.get("/api/text")).text == expected
        gate.touch()
        assert (await in_flight).text == "one"
        await host.logged("the replaced app has ended")


async def test_orchestration_continues_after_a_signal(
    tmp_path: Path,
) -> None:
    folder = write_app(tmp_path / "app", DURABLE.replace("VERSION", "old"), BUNDLED)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        links = (await client.post("/api/start", json=str(tmp_path))).json()
        await host.logged("blocks")
        (folder / "function_app.py").write_text(DURABLE.replace("VERSION", "new"))
        count = len(host.lines)
        host.process.send_signal(signal.SIGHUP)
        await host.logged("loading the app again", after=count)
        (tmp_path / "gate").touch()
        await host.logged(LOADED, after=count)
        assert (await finished(client, links))["output"][:2] == ["old 0", "old 1"]
        assert (tmp_path / "runs").read_text() == "0 1 2 3 "
        links = (await client.post("/api/start", json=str(tmp_path))).json()
        assert (await finished(client, links))["output"] == [f"new {n}" for n in range(4)]
