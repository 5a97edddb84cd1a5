"""Test on which addresses the services listen, and that other machines need a secret key."""

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus._base_handler import ServiceBusSharedKeyCredential
from azure.storage.blob import BlobServiceClient

from emulator.program import (
    PortInUse,
    SettingError,
    bind,
    bind_all,
    has_ipv6,
    is_remote,
    listen,
)
from local_ports import free_port
from servicebus_tests.sdk.servicebus_process import administration_client, run_server

NEEDS_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
SECRET = "c2VjcmV0IG9mIHRoaXMgdGVzdA=="
FUNCTION_APP = """
import azure.functions as func

app = func.FunctionApp()


@app.route("hello", auth_level=func.AuthLevel.ANONYMOUS)
def hello(req: func.HttpRequest) -> func.HttpResponse:
    return func.HttpResponse("hello")
"""


@contextlib.contextmanager
def running(module: str, *options: str) -> Iterator[None]:
    """Run a service during the `with` block, which begins when the service listens on all ports."""
    ports = {value for name, value in pairwise(options) if name in {"--port", "--admin-port"}}
    command = [sys.executable, "-m", module, *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "listening on" in line:
                    ports -= set(re.findall(r":([0-9]+)\b", line))
                if not ports:
                    break
            else:
                raise AssertionError(f"{module} ended during its start")
            # Read the rest, so that the service never waits for space in the pipe.
            reader = threading.Thread(target=process.stderr.read)
            reader.start()
            try:
                yield
            finally:
                process.terminate()
                reader.join(timeout=20)
        finally:
            process.kill()
            process.wait()


def refusal(module: str, *options: str) -> str:
    """Run a service that refuses its options, and return the last line of its output."""
    command = [sys.executable, "-m", module, *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2, ended.stderr
    return ended.stderr.splitlines()[-1]


def make_app(folder: Path) -> Path:
    folder.mkdir()
    (folder / "host.json").write_text('{"version": "2.0"}')
    (folder / "function_app.py").write_text(FUNCTION_APP)
    return folder


@NEEDS_IPV6
def test_both_loopback_addresses_get_the_same_port() -> None:
    bound = bind_all(None, 0)
    try:
        (first, port), (second, other_port, *_) = (each.getsockname() for each in bound)
    finally:
        for each in bound:
            each.close()
    assert (first, second) == ("127.0.0.1", "::1")
    assert port == other_port != 0


@NEEDS_IPV6
def test_port_busy_on_one_address_is_refused() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} is in use"):
            bind_all(None, port)
        # The port of 127.0.0.1 is free again.
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_error_has_the_reason_for_not_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SettingError, match=f"cannot listen on port {port}: .*Invalid argument"):
            listen([socket.create_connection(("127.0.0.1", port))], port, 1)


def test_remote_address_needs_allow_remote() -> None:
    assert [is_remote(host) for host in (None, "127.0.0.1", "::1", "localhost")] == [False] * 4
    assert [is_remote(host) for host in ("0.0.0.0", "::", "192.0.2.1")] == [True] * 3
    with pytest.raises(SettingError, match=r"--host 0.0.0.0 is not a loopback address"):
        bind("0.0.0.0", 0)
    with pytest.raises(SettingError, match="--host example is not an IP address"):
        bind("example", 0, allow_remote=True)
    bind("0.0.0.0", 0, allow_remote=True).close()


@NEEDS_IPV6
def test_each_service_answers_on_both_addresses(tmp_path: Path) -> None:
    bus, admin, blobs, functions = (free_port() for _ in range(4))
    app = make_app(tmp_path / "app")
    header = b"AMQP\x03\x01\x00\x00"
    with (
        running(
            "emulator.servicebus",
            *("--port", str(bus), "--admin-port", str(admin)),
            *("--data", str(tmp_path / "bus")),
        ),
        running("emulator.blobs", "--port", str(blobs), "--data", str(tmp_path / "blobs")),
        running(
            "emulator.functions",
            *("--app", str(app), "--port", str(functions)),
            *("--data", str(tmp_path / "functions")),
        ),
    ):
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, bus), timeout=30) as client:
                client.sendall(header)
                assert client.recv(len(header)) == header
            name = f"[{host}]" if ":" in host else host
            assert httpx.get(f"http://{name}:{admin}/health").is_success
            blob_url = f"http://{name}:{blobs}/devstoreaccount1"
            assert "x-ms-request-id" in httpx.get(blob_url).headers
            assert httpx.get(f"http://{name}:{functions}/api/hello").text == "hello"


def policies(folder: Path, key: str, name: str = "RootManageSharedAccessKey") -> str:
    path = folder / "policies.json"
    rights = ["Listen", "Send", "Manage"]
    rule = {"Name": name, "Rights": rights, "PrimaryKey": key}
    path.write_text(json.dumps({"AuthorizationRules": [rule]}))
    return str(path)


def test_public_policy_key_refuses_other_machines(
    tmp_path: Path,
) -> None:
    common = ["emulator.servicebus", "--host", "0.0.0.0", "--data", str(tmp_path / "data")]
    common += ["--port", "0", "--admin-port", "0"]
    public = policies(tmp_path, "SAS_KEY_VALUE")
    for options in (
        (),
        ("--policies", public),
        ("--key", "RootManageSharedAccessKey=SAS_KEY_VALUE"),
    ):
        said = refusal(*common, *options)
        assert "the key of the policy RootManageSharedAccessKey is public" in said
        assert "give this policy a secret key" in said
    # A policy of the database counts too.
    with run_server(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.admin_port}/$emulator/authorizationRules/late"
        httpx.put(url, json={"rights": ["Send"], "primaryKey": "SAS_KEY_VALUE"}).raise_for_status()
    assert "policy late is public" in refusal(*common, "--key", f"name={SECRET}")


def test_secret_policy_key_serves_tokens_remotely(
    tmp_path: Path,
) -> None:
    bus, admin = free_port(), free_port()
    with running(
        "emulator.servicebus",
        *("--host", "0.0.0.0", "--port", str(bus), "--admin-port", str(admin)),
        *("--data", str(tmp_path / "data"), "--policies", policies(tmp_path, SECRET)),
    ):
        with administration_client(admin, "RootManageSharedAccessKey", SECRET) as client:
            client.create_queue("work")
        url = f"http://127.0.0.1:{admin}"
        for path in ("/work", "/$Resources/queues", "/$emulator/faults"):
            assert httpx.get(f"{url}{path}").status_code == 401
        assert httpx.get(f"{url}/health").is_success
        credential = ServiceBusSharedKeyCredential("RootManageSharedAccessKey", SECRET)
        headers = {"Authorization": credential.get_token(url).token}
        assert httpx.get(f"{url}/$emulator/faults", headers=headers).is_success
        connection_string = (
            f"Endpoint=sb://localhost:{bus};SharedAccessKeyName=RootManageSharedAccessKey;"
            f"SharedAccessKey={SECRET};UseDevelopmentEmulator=true;"
        )
        with (
            ServiceBusClient.from_connection_string(connection_string) as bus_client,
            bus_client.get_queue_sender("work") as sender,
        ):
            sender.send_messages(ServiceBusMessage("hello"))


def test_blob_storage_needs_a_secret_key_remotely(tmp_path: Path) -> None:
    port = free_port()
    options = ("--host", "0.0.0.0", "--port", str(port), "--data", str(tmp_path))
    said = refusal("emulator.blobs", *options)
    assert "the key of the storage account is public: put a secret key into a file" in said
    key_file = tmp_path / "key"
    key_file.write_text(f"{SECRET}\n")
    with (
        running("emulator.blobs", *options, "--key-file", str(key_file)),
        BlobServiceClient(
            f"http://127.0.0.1:{port}/devstoreaccount1",
            credential={"account_name": "devstoreaccount1", "account_key": SECRET},
        ) as service,
    ):
        assert list(service.list_containers()) == []


def test_functions_host_refuses_remote_addresses(
    tmp_path: Path,
) -> None:
    app = make_app(tmp_path / "app")
    said = refusal(
        "emulator.functions",
        *("--host", "0.0.0.0", "--app", str(app), "--data", str(tmp_path / "data")),
    )
    assert "--host 0.0.0.0 is not a loopback address" in said
    assert "this host checks no keys" in said
