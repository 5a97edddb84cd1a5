"""Tests of the host's options and output that are like those of Azure Functions Core Tools."""

import asyncio
import re
import socket
from pathlib import Path

import httpx

from functions_tests.process.host_process import (
    BOTH_FORMS,
    failed_start,
    running_host,
    write_app,
)

APP = """
import azure.functions as func
app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)
@app.route(route="hello/{name?}", methods=["POST", "GET"])
def Hello(req: func.HttpRequest, context: func.Context) -> str:
    return context.invocation_id
@app.route(route="fails")
def fails(req: func.HttpRequest) -> str:
    raise ValueError("boom")
@app.timer_trigger(arg_name="timer", schedule="0 0 0 1 1 *")
def yearly(timer: func.TimerRequest) -> None:
    pass
@app.route(route="other")
def other(req: func.HttpRequest) -> str:
    return "other"
"""
REASON = "This function was programmatically called via the host APIs."


@BOTH_FORMS
async def test_selected_functions_are_listed_and_logged(
    tmp_path: Path,
) -> None:
    folder = write_app(tmp_path / "app", APP)
    options = [*("--functions", "hello", "FAILS", "yearly"), "--verbose"]
    options += ["--cors", "https://page.example"]
    async with (
        running_host(folder, tmp_path / "data", *options) as host,
        httpx.AsyncClient(base_url=host.url) as client,
    ):
        url = host.url.replace("127.0.0.1", "localhost")
        listed = host.lines[: host.lines.index("\tyearly: timerTrigger") + 1]
        assert [line for line in listed if line] == [
            "Functions:",
            f"\tfails: {url}/api/fails",
            f"\tHello: [GET,POST] {url}/api/hello/{{name?}}",
            "\tyearly: timerTrigger",
        ]
        page = {"origin": "https://page.example"}
        response = await client.get("/api/hello", headers=page)
        assert response.headers["access-control-allow-origin"] == "https://page.example"
        id_ = response.text
        await host.logged(rf"Executing 'Functions\.Hello' \(Reason='{REASON}', Id={id_}\)$")
        await host.logged(rf"Executed 'Functions\.Hello' \(Succeeded, Id={id_}, Duration=\d+ms\)$")
        response = await client.get(
            "/api/fails?code=SECRET", headers={"origin": "https://b.example"}
        )
        assert response.status_code == 500
        assert "access-control-allow-origin" not in response.headers
        await host.logged(
            r" ERROR .*Executed 'Functions\.fails' \(Failed, Id=\S+, Duration=\d+ms\)"
        )
        await host.logged(r" DEBUG functions\.host Functions\.fails failed: ValueError: boom")
        assert (await client.get("/api/other")).status_code == 404
        run = await client.post("/admin/functions/yearly", json={})
        assert run.status_code == 202
        await host.logged(
            r"Executing 'Functions\.yearly' \(Reason='Timer fired at 20\d\d-\S+', Id="
        )
    assert not re.search("SECRET|\x1b", "\n".join(host.lines))


async def test_unknown_option_error_hides_the_value(
    tmp_path: Path,
) -> None:
    folder, data = write_app(tmp_path / "app", APP), tmp_path / "data"
    status, line = await failed_start(folder, data, "--password=SECRET", "--useHttps")
    assert status == 2
    assert "--password is not an option of this host: use one of --allow-host, --app," in line
    assert "--port" in line
    assert "SECRET" not in line


async def test_host_needs_one_of_the_selected_functions(
    tmp_path: Path,
) -> None:
    folder = write_app(tmp_path / "app", APP)
    status, line = await failed_start(folder, tmp_path / "data", "--functions", "hallo")
    assert status == 1
    expected = "the app has no function hallo; it has Hello, fails, other, yearly"
    assert expected in line


async def test_port_option_precedes_local_settings(
    tmp_path: Path,
) -> None:
    folder = write_app(tmp_path / "app", APP)
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [each.getsockname()[1] for each in (busy, other)]
        settings = f'{{"Host": {{"LocalHttpPort": {ports[0]}}}, "Values": {{}}}}'
        (folder / "local.settings.json").write_text(settings)
        # Both ports are in use, so the error names the port that the host has chosen.
        starts = [
            failed_start(folder, tmp_path / name, *options, chooses_port=False)
            for name, options in (("a", ()), ("b", ("-p", str(ports[1]))))
        ]
        outcomes = await asyncio.gather(*starts)
    texts = [f"emulator.functions: port {port} is in use by another program" for port in ports]
    assert outcomes == [(98, text) for text in texts]
