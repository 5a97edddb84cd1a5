"""Test that each console command starts a service that handles requests."""

import socket
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.storage.blob import BlobServiceClient

from command_process import running
from local_ports import free_port

_CONFIG = '{"UserConfig": {"Namespaces": [{"Name": "sbemulatorns", "Queues": [{"Name": "work"}]}]}}'
_BLOB_ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


_HAS_IPV6 = _has_ipv6()
_FUNCTION_APP = """
import azure.functions as func

app = func.FunctionApp()


@app.route("hello", auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("hello")
"""


def test_local_servicebus_sends_and_receives(
    tmp_path: Path,
) -> None:
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


def test_local_blobs_uploads_and_downloads(tmp_path: Path) -> None:
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


def test_local_functions_runs_an_http_trigger(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text(_FUNCTION_APP)
    port = free_port()
    url = f"http://127.0.0.1:{port}/api/hello"
    options = ["--app", str(app), "--port", str(port), "--data", str(tmp_path / "data")]
    with running("local-functions", "emulator.functions", url, *options):
        assert httpx.get(url).text == "hello"


@pytest.mark.skipif(not _HAS_IPV6, reason="this machine has no IPv6 loopback address")
def test_each_service_listens_on_ipv6_loopback(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text(_FUNCTION_APP)
    amqp, admin, blobs, functions = (free_port() for _ in range(4))
    bus_options = ["--host", "::1", "--port", str(amqp), "--admin-port", str(admin)]
    bus_options += ["--data", str(tmp_path / "bus")]
    url = f"http://[::1]:{admin}/health"
    header = b"AMQP\x03\x01\x00\x00"
    with (
        running("local-servicebus", "emulator.servicebus", url, *bus_options),
        socket.create_connection(("::1", amqp), timeout=30) as client,
    ):
        client.sendall(header)
        assert client.recv(len(header)) == header
    url = f"http://[::1]:{blobs}/devstoreaccount1"
    options = ["--host", "::1", "--port", str(blobs), "--data", str(tmp_path / "blobs")]
    connection_string = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;"
        f"AccountKey={_BLOB_ACCOUNT_KEY};BlobEndpoint={url};"
    )
    with (
        running("local-blobs", "emulator.blobs", url, *options),
        BlobServiceClient.from_connection_string(connection_string) as service,
    ):
        container = service.create_container("pictures")
        container.upload_blob("one.txt", b"hello")
        assert container.download_blob("one.txt").readall() == b"hello"
    url = f"http://[::1]:{functions}/api/hello"
    options = ["--host", "::1", "--port", str(functions), "--data", str(tmp_path / "functions")]
    with running("local-functions", "emulator.functions", url, "--app", str(app), *options):
        assert httpx.get(url).text == "hello"
