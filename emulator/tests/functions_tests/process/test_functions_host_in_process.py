"""Test what differs if the app runs in the process of its host, as it does by default."""

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from functions_tests.process.host_process import (
    finished,
    running_host,
    start_host,
    write_app,
)

BUNDLED = """{"version": "2.0", "extensionBundle":
 {"id": "Microsoft.Azure.Functions.ExtensionBundle", "version": "[4.*, 5.0.0)"}}"""
BLOCKING = """
import asyncio, logging, os, threading
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
def work(seconds):
    threading.Event().wait(seconds)
@app.route(route="blocks")
async def blocks(req: func.HttpRequest) -> str:
    work(float(req.params["seconds"]))
    return "done"
@app.route(route="thread")
def thread(req: func.HttpRequest) -> str:
    logging.warning("waits")
    while not os.path.exists(req.params["until"]):
        threading.Event().wait(0.01)
    logging.warning("ends late")
    return "done"
@app.route(route="sleeps")
async def sleeps(req: func.HttpRequest) -> str:
    try:
        await asyncio.sleep(3600)
    finally:
        logging.warning("is cancelled")
@app.route(route="pid")
async def pid(req: func.HttpRequest) -> str:
    return str(os.getpid())
"""
BACKGROUND = """
import asyncio, logging
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
tasks = set()
async def beat():
    try:
        await asyncio.sleep(3600)
    finally:
        print("VERSION beat has ended", flush=True)
@app.route(route="start")
async def start(req: func.HttpRequest) -> str:
    tasks.add(asyncio.create_task(beat()))
    return "VERSION"
"""
CLIENT = """
import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions.models.utils.http_utils import _get_session
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="start")
@app.durable_client_input(client_name="client")
async def start(req: func.HttpRequest, client) -> func.HttpResponse:
    id = await client.start_new("waits", None, {"a": "ü"})
    return client.create_check_status_response(req, id)
@app.route(route="session")
@app.durable_client_input(client_name="client")
async def session(req: func.HttpRequest, client) -> str:
    session = await _get_session()
    url = client._orchestration_bindings.rpc_base_url
    async with session.get(f"{url}instances/{req.params['id']}") as answer:
        status = await answer.json(content_type=None)
    name = type(session).__name__
    return f"{name} of {status['name']}, connections: {session._session}"
@app.route(route="url")
@app.durable_client_input(client_name="client")
async def url(req: func.HttpRequest, client) -> str:
    return client._orchestration_bindings.rpc_base_url
@app.orchestration_trigger(context_name="context")
def waits(context: df.DurableOrchestrationContext):
    return (yield context.wait_for_external_event("go"))
"""

CACHED = """
import sys, typing, weakref
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
class Model:
    def predict(self): pass
Models = typing.List[Model]  # typing keeps it in a cache
sys.models = [*getattr(sys, "models", ()), weakref.ref(Model)]
@app.route(route="alive")
async def alive(req: func.HttpRequest) -> str:
    return str(len([each for each in sys.models if each() is not None]))
"""


async def test_block_of_the_event_loop_is_named_once(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", BLOCKING)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        await client.get("/api/blocks", params={"seconds": 0.5})
        assert (await client.get("/api/blocks", params={"seconds": 6})).text == "done"
    named = [line for line in host.lines if "has blocked the event loop" in line]
    assert len(named) == 1
    place = "Functions.blocks at function_app.py:6"
    assert f"{place} has blocked the event loop of the host for 2 s" in named[0]
    assert "--isolated" in named[0]


async def test_host_and_app_are_one_process(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", BLOCKING)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.get("/api/pid")).text == str(host.process.pid)


async def test_coroutine_is_cancelled_at_the_timeout(tmp_path: Path) -> None:
    folder = write_app(
        tmp_path / "app", BLOCKING, '{"version": "2.0", "functionTimeout": "00:00:01"}'
    )
    async with (
        running_host(folder, tmp_path / "data", "--verbose") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        response = await client.get("/api/sleeps")
        assert (response.status_code, response.content) == (500, b"")
        await host.logged(r"\[Functions.sleeps\] is cancelled")
        await host.logged(
            "FunctionTimeoutException: Timeout value of 1 s exceeded by function: Functions.sleeps"
        )
        assert (await client.get("/api/pid")).text == str(host.process.pid)


async def test_thread_is_abandoned_at_the_timeout(tmp_path: Path) -> None:
    host_file = '{"version": "2.0", "functionTimeout": "00:00:01"}'
    folder, gate = write_app(tmp_path / "app", BLOCKING, host_file), tmp_path / "gate"
    one_thread = {"PYTHON_THREADPOOL_THREAD_COUNT": "1"}
    async with (
        running_host(folder, tmp_path / "data", environment=one_thread) as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        for _ in range(2):  # the second run has a thread, although the first holds the only one
            count = len(host.lines)
            response = await client.get("/api/thread", params={"until": str(gate)})
            assert (response.status_code, response.content) == (500, b"")
            await host.logged(r"\[Functions.thread\] waits", after=count)
            await host.logged("Functions.thread has exceeded .* --isolated", after=count)
        gate.touch()
        await host.logged(r"\[Functions.thread\] ends late")
    # A thread that runs on does not keep the host alive.
    assert host.process.returncode == 0


async def test_hanging_thread_does_not_keep_the_host(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", BLOCKING)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        hanging = asyncio.create_task(client.get("/api/thread", params={"until": "/never"}))
        await host.logged("waits")
        assert await host.stop() == 0
        await asyncio.gather(hanging, return_exceptions=True)


async def test_sigterm_ends_a_hanging_import(tmp_path: Path) -> None:
    source = "print('loading', flush=True)\nimport threading\nthreading.Event().wait()"
    host = await start_host(write_app(tmp_path / "app", source), tmp_path / "data")
    await host.logged("loading")
    assert await host.stop() == 0


@pytest.mark.parametrize("place", ["app", "site-packages/app"])
async def test_reload_cancels_the_tasks_of_the_old_app(tmp_path: Path, place: str) -> None:
    folder = write_app(tmp_path / place, BACKGROUND.replace("VERSION", "old"))
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.get("/api/start")).text == "old"
        (folder / "function_app.py").write_text(BACKGROUND.replace("VERSION", "new"))
        host.process.send_signal(signal.SIGHUP)
        await host.logged("old beat has ended")
        await host.logged("the replaced app has ended")
        assert (await client.get("/api/start")).text == "new"
    assert "new beat has ended" in host.lines


async def test_failed_reload_restores_the_settings(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", BLOCKING + "COLOUR = os.environ.get('COLOUR')\n")
    source = (folder / "function_app.py").read_text()
    colour = "\n@app.route(route='colour')\nasync def colour(req) -> str:\n    import late\n"
    colour += "    return f\"{os.environ['COLOUR']} {late.VALUE}\"\n"
    (folder / "function_app.py").write_text(source + colour)
    (folder / "late.py").write_text("VALUE = 1\n")
    settings = folder / "local.settings.json"
    settings.write_text('{"Values": {"COLOUR": "green"}}')
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        assert (await client.get("/api/colour")).text == "green 1"
        settings.write_text('{"Values": {"COLOUR": "red"}}')
        (folder / "late.py").write_text("VALUE = 2\n")
        (folder / "function_app.py").write_text(source + colour + "import late\n1 / 0\n")
        host.process.send_signal(signal.SIGHUP)
        await host.logged("the current one stays: ZeroDivisionError")
        assert (await client.get("/api/colour")).text == "green 1"


async def test_durable_client_needs_no_connection(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", CLIENT, BUNDLED)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        links = (await client.post("/api/start")).json()
        session = await client.get("/api/session", params={"id": links["id"]})
        assert session.text == "DirectSession of waits, connections: None"
        event = links["sendEventPostUri"].replace("{eventName}", "go")
        assert (await client.post(event, json="now")).status_code == 202
        assert (await finished(client, links))["output"] == "now"


async def test_durable_client_url_is_also_a_port(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", CLIENT, BUNDLED)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        url = (await client.get("/api/url")).text
        started = await client.post(f"{url}orchestrators/waits", json={})
        assert started.status_code == 202
        assert (await client.get(f"{url}instances/nobody")).status_code == 404


async def test_reloads_free_the_former_apps(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", CACHED)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url, timeout=30) as client,
    ):
        for _ in range(3):
            count = len(host.lines)
            host.process.send_signal(signal.SIGHUP)
            await host.logged("the replaced app has ended", after=count)
        # The app before the current one is freed with the next reload.
        assert int((await client.get("/api/alive")).text) <= 2


async def test_app_may_change_the_root_logger(tmp_path: Path) -> None:
    source = BLOCKING + (
        "handler = logging.StreamHandler()\n"
        "handler.setFormatter(logging.Formatter('mine: %(message)s'))\n"
        "logging.basicConfig(level='ERROR', handlers=[handler], force=True)\n"
        "logging.error('loaded')\n"
    )
    folder = write_app(tmp_path / "app", source)
    async with running_host(folder, tmp_path / "data") as host:
        assert "mine: loaded" in host.lines
        await host.logged(r" INFO functions.host \d functions loaded; listening")
