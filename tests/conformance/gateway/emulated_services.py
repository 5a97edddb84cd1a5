"""Run the emulated services, and name their endpoints, for the tests of the gateway's parts."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from azure.servicebus.aio import ServiceBusClient

from contract.brokers import BrokerMessage
from contract.catalogue import Catalogue
from contract.queues import config
from contract.settings import AzureEndpoint
from tests import connections
from tests.ports import free_port

ROOT = Path(__file__).parents[3]


@contextmanager
def running(module: str, port: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", module, "--port", str(port), *options]
    process = subprocess.Popen(
        [*command, "--log-level", "warning"], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            with suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"{module} ended with exit code {process.wait(0.05)}")
        else:
            raise AssertionError(f"{module} does not listen on its port")
        yield process
    finally:
        process.kill()
        process.wait()


def storage(port: int) -> AzureEndpoint:
    return AzureEndpoint(connections.blob_storage(port))


def service_bus(port: int) -> AzureEndpoint:
    return AzureEndpoint(connections.service_bus(port))


@contextmanager
def running_service_bus(
    port: int, folder: Path, admin_port: int = 0, queues: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    content: Any = config(Catalogue.load())
    if queues:
        (namespace,) = content["UserConfig"]["Namespaces"]
        namespace["Queues"] = [{"Name": name, "Properties": {}} for name in queues]
    configuration = folder / "config.json"
    configuration.write_text(json.dumps(content), encoding="utf-8")
    options = ("--config", str(configuration), "--data", str(folder / "data"))
    with running(
        "emulator.servicebus", port, *options, "--admin-port", str(admin_port or free_port())
    ) as process:
        yield process


async def received(port: int, queue: str, count: int) -> list[Any]:
    connection_string = service_bus(port).connection_string or ""
    found: list[Any] = []
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_receiver(queue) as receiver,
    ):
        while len(found) < count:
            messages = await receiver.receive_messages(count - len(found), max_wait_time=30)
            assert messages, f"only {len(found)} of {count} messages arrived"
            for message in messages:
                await receiver.complete_message(message)
            found += messages
    return found


def message(number: int) -> BrokerMessage:
    return BrokerMessage(b"%d" % number, f"job-{number}", f"job-{number}")
