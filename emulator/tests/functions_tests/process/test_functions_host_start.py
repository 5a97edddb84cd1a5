"""Tests of the start and the stop of a host process, and of the limits in host.json."""

import asyncio
import os
import socket
from pathlib import Path

import httpx
import pytest

from functions_tests.process.host_process import (
    BOTH_FORMS,
    ISOLATED,
    copy_app,
    failed_start,
    running_host,
    write_app,
)

HEAD = """
import azure.functions as func
import azure.durable_functions as df
from typing import Any, Dict, List, Optional
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)
"""
BUNDLED = """{"version": "2.0", "extensionBundle":
 {"id": "Microsoft.Azure.Functions.ExtensionBundle", "version": "[4.*, 5.0.0)"}}"""

REFUSED = {
    "an activity with an optional input": (
        "@app.activity_trigger(input_name='p')\ndef a(p: Optional[dict]): pass",
        (
            "FunctionLoadError: cannot load the a function: binding p has invalid non-type "
            "annotation typing.Optional[dict]"
        ),
    ),
    "a builtin generic": (
        "@app.activity_trigger(input_name='p')\ndef a(p: dict[str, int]): pass",
        "cannot load the a function: binding p has invalid non-type annotation dict[str, int]",
    ),
    "a parameter without a binding": (
        "@app.route(route='x')\ndef a(req: func.HttpRequest, other): pass",
        (
            "cannot load the a function: the following parameters are declared in Python but not "
            "in the function definition (function.json or function decorators):  {'other'}"
        ),
    ),
    "a binding without a parameter": (
        "@app.activity_trigger(input_name='p')\ndef a(q): pass",
        "are declared in Python but not in the function definition",
    ),
    "a context of another type": (
        "@app.route(route='x')\ndef a(req: func.HttpRequest, context: dict): pass",
        (
            'the "context" parameter is expected to be of type azure.functions.Context, got '
            "\"<class 'dict'>\""
        ),
    ),
    "an HTTP trigger with a wrong annotation": (
        "@app.route(route='x')\ndef a(req: int): pass",
        "Python type annotation int",
    ),
    "a return annotation that HTTP cannot take": (
        "@app.route(route='x')\ndef a(req: func.HttpRequest) -> dict: pass",
        'Python return annotation "dict" does not match binding type "http"',
    ),
    "a return annotation that is not a type": (
        "@app.route(route='x')\ndef a(req: func.HttpRequest) -> Optional[str]: pass",
        "has invalid non-type return annotation typing.Optional[str]",
    ),
    "two functions with the same name": (
        "@app.route(route='x')\ndef a(req): pass\n@app.route(route='y')\ndef a(req): pass",
        "a",
    ),
    "an import that fails": ("import no_such_module", "ModuleNotFoundError"),
    "an exception at import": ("raise KeyError('setting')", "KeyError: 'setting'"),
    "a syntax error": ("def (", "SyntaxError"),
    "an exit at import": ("import sys; sys.exit(4)", "SystemExit: 4"),
    "two apps": (
        "other = func.FunctionApp()\n@app.route(route='x')\ndef a(req): pass",
        "More than one",
    ),
    "no functions": ("", "no functions were found in the app"),
    "a reserved route": (
        "@app.route(route='x')\ndef a(req): pass",
        "The specified route conflicts with one or more built in routes.",
    ),
    "an invalid schedule": (
        "@app.timer_trigger(arg_name='t', schedule='every day')\ndef a(t): pass",
        "The schedule expression 'every day' was not recognized as a valid cron expression",
    ),
    "a missing app setting": (
        "@app.timer_trigger(arg_name='t', schedule='%WHEN%')\ndef a(t): pass",
        "cannot load the a function: '%WHEN%' does not resolve to a value",
    ),
    "a missing connection string": (
        (
            "@app.service_bus_queue_trigger(arg_name='m', queue_name='q', connection='BUS')\n"
            "def a(m: func.ServiceBusMessage): pass"
        ),
        (
            "the app setting 'BUS' is missing or empty: "
            "it must contain a Service Bus connection string"
        ),
    ),
    "a binding that the host does not support": (
        "@app.blob_trigger(arg_name='b', path='p', connection='c')\ndef a(b): pass",
        "this host does not support bindings of type 'blobTrigger'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_invalid_app_ends_the_host_with_status_1(case: str, tmp_path: Path) -> None:
    source, expected = REFUSED[case]
    host_file = BUNDLED
    if case == "a reserved route":
        host_file = '{"version": "2.0", "extensions": {"http": {"routePrefix": "admin"}}}'
    folder = write_app(tmp_path / "app", HEAD + source, host_file)
    status, line = await failed_start(folder, tmp_path / "data")
    assert status == 1
    assert expected in line


@pytest.mark.parametrize(
    ("host_file", "expected"),
    [
        (None, "host.json is missing: a Function App folder needs a host.json"),
        ("{", "host.json: "),
        ("[]", "the file must contain a JSON object"),
        ("{}", "'version' must be \"2.0\", got null"),
        ('{"version": "2.0", "functionTimeout": "soon"}', '"soon" is not a time span'),
        ('{"version": "2.0", "extensions": 1}', "'extensions' must be a JSON object"),
    ],
)
async def test_invalid_host_file_is_refused(
    host_file: str | None, expected: str, tmp_path: Path
) -> None:
    folder = write_app(tmp_path / "app", "", host_file or "")
    if host_file is None:
        (folder / "host.json").unlink()
    status, line = await failed_start(folder, tmp_path / "data")
    assert (status, expected in line) == (2, True), line


async def test_durable_app_needs_an_extension_bundle(tmp_path: Path) -> None:
    source = HEAD + "@app.activity_trigger(input_name='p')\ndef a(p): pass"
    folder = write_app(tmp_path / "app", source)
    status, line = await failed_start(folder, tmp_path / "data")
    assert status == 1
    assert "The binding type(s) 'activityTrigger' are not registered." in line


async def test_invalid_functions_are_skipped(
    tmp_path: Path,
) -> None:
    source = """
@app.route(route='same', methods=['GET'])
def second(req): return 'second'
@app.route(route='same')
def first(req): return 'first'
@app.route(route='Same', methods=['POST'])
def afterwards(req): return 'posted'
@app.blob_trigger(arg_name='b', path='p', connection='c')
def blob(b): pass
@app.entity_trigger(context_name='context')
def counter(context): pass
"""
    folder = write_app(tmp_path / "app", HEAD + source, BUNDLED)
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        assert (await client.get(f"{host.url}/api/same")).text == "second"
        assert (await client.post(f"{host.url}/api/same")).text == "posted"
        listed = (await client.get(f"{host.url}/admin/functions")).json()
        assert [function["name"] for function in listed] == ["second", "afterwards"]
        for text in (
            (
                "The 'blob' function is in error: this host does not support bindings of type "
                "'blobTrigger'"
            ),
            (
                "The 'counter' function is in error: this host does not support bindings of type "
                "'entityTrigger'"
            ),
            (
                "The 'first' function is in error: The route specified conflicts with the route "
                "defined by function 'afterwards'."
            ),
        ):
            await host.logged(text)


async def test_invalid_route_template_stops_all_functions(
    tmp_path: Path,
) -> None:
    source = "@app.route(route='{}')\ndef {}(req): return 'ok'\n"
    folder = write_app(
        tmp_path / "app", HEAD + source.format("b/{x", "bad") + source.format("g", "good")
    )
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        for path in ("/api/g", "/", "/runtime/webhooks/durabletask/instances"):
            response = await client.get(host.url + path)
            assert (response.status_code, response.text) == (503, "Function host is not running.")
        status = (await client.get(f"{host.url}/admin/host/status")).json()
        assert status["state"] == "Error"
        assert "'api/b/{x' is not a valid route template" in status["errors"][0]


async def test_host_file_may_contain_comments(tmp_path: Path) -> None:
    # The Durable SDK itself refuses a host.json with comments.
    source = HEAD.replace("import azure.durable_functions as df", "")
    source = source.replace("df.DFApp", "func.FunctionApp")
    source += "@app.route(route='x')\ndef a(req): return 'ok'"
    text = '{"version": "2.0", // of the runtime\n"logging": {/* none */},}'
    folder = write_app(tmp_path / "app", source, text)
    (folder / "local.settings.json").write_text('{"Values": {}, // none\n}')
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        assert (await client.get(f"{host.url}/api/x")).text == "ok"


@BOTH_FORMS
async def test_durable_sdk_2_is_refused(tmp_path: Path) -> None:
    source = HEAD + "@app.activity_trigger(input_name='p')\ndef a(p): pass"
    folder = write_app(tmp_path / "app", source, BUNDLED)
    packages = folder / ".python_packages" / "lib" / "site-packages"
    information = packages / "azure_functions_durable-2.0.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Name: azure-functions-durable\nVersion: 2.0.0\n")
    status, line = await failed_start(folder, tmp_path / "data")
    assert status == 1
    assert (
        "The app uses azure-functions-durable 2.0.0, whose gRPC protocol this host does not "
        "support: install azure-functions-durable<2."
    ) in line


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"IsEncrypted": true}', '{"Values": []}', '{"Values": {"A": 1}}']
)
async def test_invalid_local_settings_are_refused(text: str, tmp_path: Path) -> None:
    folder = copy_app("web", tmp_path / "app")
    (folder / "local.settings.json").write_text(text)
    status, line = await failed_start(folder, tmp_path / "data")
    assert (status, "local.settings.json" in line) == (2, True)


async def test_invalid_options_are_refused(tmp_path: Path) -> None:
    folder = copy_app("web", tmp_path / "app")
    data = tmp_path / "data"
    assert (await failed_start(tmp_path / "nowhere", data))[0] == 2
    assert (await failed_start(folder, data, "--port", "70000"))[0] == 2
    assert (await failed_start(folder, data, "--host", "0.0.0.0"))[0] == 2
    assert (await failed_start(folder, data, "--log-level", "loud"))[0] == 2
    assert (await failed_start(folder, folder / "host.json"))[0] == 2
    status, line = await failed_start(folder, data, "--python", "/no/such/python")
    assert (status, "/no/such/python cannot be started" in line) == (1, True)


async def test_busy_port_ends_the_host_with_status_98(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        folder = copy_app("web", tmp_path / "app")
        status, line = await failed_start(folder, tmp_path / "data", "--port", str(port))
    assert (status, line) == (98, f"emulator.functions: port {port} is in use by another program")


async def test_second_host_on_the_same_data_is_refused(
    tmp_path: Path,
) -> None:
    folder, data = copy_app("web", tmp_path / "app"), tmp_path / "data"
    async with running_host(folder, data) as host, httpx.AsyncClient() as client:
        assert (await client.get(f"{host.url}/api/text")).text == "hello from next door"
        status, line = await failed_start(folder, data)
        assert (status, line) == (
            2,
            (
                f"emulator.functions: another host uses the data directory {data}; "
                "choose another directory with --data"
            ),
        )
        assert (await client.get(f"{host.url}/api/noop")).text == "ok"
    assert host.process.returncode == 0


async def test_empty_route_prefix_keeps_the_admin_paths(
    tmp_path: Path,
) -> None:
    source = HEAD + (
        "@app.route(route='{*path}')\n"
        "def a(req: func.HttpRequest) -> str: return f\"<{req.route_params.get('path')}>\"\n"
    )
    prefix = '{"version": "2.0", "extensions": {"http": {"routePrefix": ""}}}'
    folder = write_app(tmp_path / "app", source, prefix)
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        for path, text in (
            ("", "<None>"),
            ("/v1/jobs", "<v1/jobs>"),
            ("/administer", "<administer>"),
        ):
            assert (await client.get(f"{host.url}{path}")).text == text
        status = (await client.get(f"{host.url}/admin/host/status")).json()
        assert status["state"] == "Running"
        functions = (await client.get(f"{host.url}/admin/functions")).json()
        assert functions[0]["invoke_url_template"] == f"{host.url}/{{*path}}"


@BOTH_FORMS
async def test_function_timeout_gets_500(tmp_path: Path, form: str) -> None:
    folder = copy_app("web", tmp_path / "app")
    (folder / "host.json").write_text('{"version": "2.0", "functionTimeout": "00:00:01"}')
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        response = await client.get(f"{host.url}/api/hang", timeout=20)
        assert (response.status_code, response.content) == (500, b"")
        if form == ISOLATED:
            await host.logged("the app process is running again")
        assert (await client.get(f"{host.url}/api/noop", timeout=20)).text == "ok"


@BOTH_FORMS
async def test_stop_waits_for_requests_in_flight(
    tmp_path: Path,
) -> None:
    folder, gate = copy_app("web", tmp_path / "app"), tmp_path / "gate"
    os.mkfifo(gate)
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        query = {"until": str(gate)}
        request = asyncio.create_task(client.get(f"{host.url}/api/block", params=query))
        writer = await asyncio.to_thread(
            gate.open, "w"
        )  # returns when the function has opened the pipe
        host.process.terminate()
        await host.logged("shutting down")
        writer.write("done")
        writer.close()
        assert (await request).text == "done"
        assert await host.process.wait() == 0


@BOTH_FORMS
async def test_thread_count_limits_the_pool(tmp_path: Path) -> None:
    folder, gate = copy_app("web", tmp_path / "app"), tmp_path / "gate"
    os.mkfifo(gate)
    one_thread = {"PYTHON_THREADPOOL_THREAD_COUNT": "1"}
    data = tmp_path / "data"
    async with (
        running_host(folder, data, environment=one_thread) as host,
        httpx.AsyncClient(base_url=host.url) as client,
    ):
        block = asyncio.create_task(client.get("/api/block", params={"until": str(gate)}))
        writer = await asyncio.to_thread(gate.open, "w")
        waiting = asyncio.create_task(client.get("/api/text"))
        for _ in range(10):
            assert (await client.get("/api/noop")).text == "ok"
        assert not waiting.done()
        writer.close()
        assert (await waiting).status_code == 200
        assert (await block).text == ""


async def test_outstanding_requests_over_the_limit_get_429(
    tmp_path: Path,
) -> None:
    folder, gate = copy_app("web", tmp_path / "app"), tmp_path / "gate"
    os.mkfifo(gate)
    limit = '{"version": "2.0", "extensions": {"http": {"maxOutstandingRequests": 1}}}'
    (folder / "host.json").write_text(limit)
    async with (
        running_host(folder, tmp_path / "data") as host,
        httpx.AsyncClient(base_url=host.url) as client,
    ):
        block = asyncio.create_task(client.get("/api/block", params={"until": str(gate)}))
        writer = await asyncio.to_thread(gate.open, "w")
        assert (await client.get("/api/noop")).status_code == 429
        writer.close()
        await block
        assert (await client.get("/api/noop")).status_code == 200


@BOTH_FORMS
async def test_objects_are_frozen_before_the_gc(
    tmp_path: Path,
) -> None:
    source = f"""{HEAD}
import gc
@app.route(route='collector')
def collector(req):
    return f"{{gc.isenabled()}} {{gc.get_freeze_count() > 0}}"
"""
    folder = write_app(tmp_path / "app", source, BUNDLED)
    async with running_host(folder, tmp_path / "data") as host, httpx.AsyncClient() as client:
        response = await client.get(f"{host.url}/api/collector")
    assert response.text == "True True"
