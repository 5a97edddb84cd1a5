"""Test how the emulator's process starts and stops, and which state survives a kill."""

import gc
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from local_ports import free_port
from servicebus_tests.sdk.servicebus_process import Server, run_server

# The client does not close the socket of a lost connection; the garbage collector does.
CUT = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def collected() -> Iterator[None]:
    yield
    gc.collect()


@CUT
@pytest.mark.usefixtures("collected")
def test_acknowledged_messages_survive_a_kill(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        server.create_queue_named("durable")
        with _client(server) as client, client.get_queue_sender("durable") as sender:
            for at in range(20):
                sender.send_messages(ServiceBusMessage(str(at)))
            server.kill()
        server.start()
        with _client(server) as client, client.get_queue_receiver("durable") as receiver:
            messages = receiver.receive_messages(20, max_wait_time=10)
            assert [str(message) for message in messages] == [str(at) for at in range(20)]
            for message in messages:
                receiver.complete_message(message)
            server.kill()
        server.start()
        with _client(server) as client, client.get_queue_receiver("durable") as receiver:
            assert receiver.peek_messages(20, sequence_number=1) == []
        assert server.stop() == 0


@CUT
@pytest.mark.usefixtures("collected")
def test_client_reconnects_after_a_restart(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        server.create_queue_named("queue")
        with (
            ServiceBusClient.from_connection_string(
                server.connection_string, retry_backoff_factor=0.05
            ) as client,
            client.get_queue_sender("queue") as sender,
        ):
            sender.send_messages(ServiceBusMessage("before"))
            server.stop()
            server.start()
            sender.send_messages(ServiceBusMessage("after"))
            with client.get_queue_receiver("queue") as receiver:
                assert [str(each) for each in receiver.peek_messages(5)] == ["before", "after"]


def test_invalid_option_ends_with_status_2(tmp_path: Path) -> None:
    config = tmp_path / "Config.json"
    config.write_text("{}")
    for options, said in (
        (["--host", "0.0.0.0"], "public"),
        (["--policies", str(tmp_path / "absent")], "absent"),
        (["--config", str(config)], "UserConfig"),
        (["--config", str(tmp_path / "missing")], "missing"),
        (["--tls-cert", "cert.pem"], "--tls-key"),
    ):
        ended = _start(tmp_path, "--port", "0", "--admin-port", "0", *options)
        assert ended.returncode == 2
        assert said in ended.stderr.splitlines()[-1]


def test_busy_port_ends_with_status_98(tmp_path: Path) -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        ended = _start(tmp_path, "--port", str(port), "--admin-port", str(free_port()))
    assert ended.returncode == 98
    assert str(port) in ended.stderr


def _client(server: Server) -> ServiceBusClient:
    return ServiceBusClient.from_connection_string(server.connection_string, retry_total=0)


def _start(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emulator.servicebus", "--data", str(data), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
