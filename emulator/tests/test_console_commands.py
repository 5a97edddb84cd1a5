"""Each console command starts its service, which answers its first request."""

import contextlib
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.storage.blob import BlobServiceClient

from local_ports import free_port

_START_SECONDS = 30.0
_CONFIG = '{"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", "Queues": [{"Name": "work"}]}]}}'
_BLOB_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_FUNCTION_APP = """
import azure.functions as func

app = func.FunctionApp()


@app.route("hello", auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("hello")
"""


def command(name: str, module: str) -> list[str]:
    """Return the installed command, or the module if the package is not installed as a wheel."""
    script = Path(sysconfig.get_path("scripts")) / name
    return [str(script)] if script.exists() else [sys.executable, "-m", module]


@contextlib.contextmanager
def running(name: str, module: str, url: str, *options: str) -> Iterator[None]:
    process = subprocess.Popen([*command(name, module), *options], stdin=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, url)
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)
    assert process.returncode == 0


def _wait_until_listening(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the service ended while it started"
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return
        time.sleep(0.05)
    pytest.fail(f"nothing listens at {url}")


def test_local_servicebus_carries_a_message(tmp_path: Path) -> None:
    port, admin_port = free_port(), free_port()
    config = tmp_path / "Config.json"
    config.write_text(_CONFIG)
    options = ["--config", str(config), "--data", str(tmp_path / "data")]
    options += ["--port", str(port), "--admin-port", str(admin_port)]
    connection_string = (
        f"Endpoint=sb://localhost:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
    )
    url = f"http://127.0.0.1:{admin_port}/health"
    with (
        running("local-servicebus", "emulator.servicebus", url, *options),
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender("work") as sender,
        client.get_queue_receiver("work") as receiver,
    ):
        sender.send_messages(ServiceBusMessage("hello"))
        (message,) = receiver.receive_messages(max_wait_time=10)
        receiver.complete_message(message)
        assert str(message) == "hello"


def test_local_blobs_keeps_a_blob(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/devstoreaccount1"
    connection_string = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        f"AccountKey={_BLOB_ACCOUNT_KEY};BlobEndpoint={url};"
    )
    options = ["--port", str(port), "--data", str(tmp_path)]
    with (
        running("local-blobs", "emulator.blobs", url, *options),
        BlobServiceClient.from_connection_string(connection_string) as service,
    ):
        container = service.create_container("pictures")
        container.upload_blob("one.txt", b"hello")
        assert container.download_blob("one.txt").readall() == b"hello"


def test_local_functions_answers_an_http_trigger(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text(_FUNCTION_APP)
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/hello"
    options = ["--app", str(app), "--port", str(port), "--data", str(tmp_path / "data")]
    with running("local-functions", "emulator.functions", url, *options):
        assert httpx.get(url).text == "hello"
