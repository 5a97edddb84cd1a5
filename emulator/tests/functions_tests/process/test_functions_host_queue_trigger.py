"""Test Service Bus triggers: a host process receives messages from the Service Bus emulator."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from functions_tests.process.host_process import (
    BOTH_FORMS,
    ISOLATED_FORM,
    RunningHost,
    copy_app,
    running_host,
)
from local_ports import free_port

LOCK_SECONDS = 5
CONFIG = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [
                    {
                        "Name": name,
                        "Properties": {
                            "LockDuration": f"PT{LOCK_SECONDS}S",
                            "MaxDeliveryCount": 2,
                            "DefaultMessageTimeToLive": "PT1H",
                            "DeadLetteringOnMessageExpiration": False,
                            "DuplicateDetectionHistoryTimeWindow": "PT20S",
                            "ForwardDeadLetteredMessagesTo": "",
                            "ForwardTo": "",
                            "RequiresDuplicateDetection": False,
                            "RequiresSession": False,
                        },
                    }
                    for name in ("jobs", "texts")
                ],
                "Topics": [],
            }
        ],
        "Logging": {"Type": "File"},
    }
}


def write_config(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    config = folder / "Config.json"
    config.write_text(json.dumps(CONFIG))
    return config


@asynccontextmanager
async def running_bus(folder: Path, port: int) -> AsyncIterator[None]:
    """Run the Service Bus emulator. Its configuration and data are in `folder`."""
    config = write_config(folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "emulator.servicebus", "--config", str(config)),
        *("--port", str(port), "--admin-port", "0", "--data", str(folder / "data")),
        *("--key", "k=c2VjcmV0"),
    )
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


def connection_string(port: int) -> str:
    return (
        f"Endpoint=sb://localhost:{port};SharedAccessKeyName=k;SharedAccessKey=c2VjcmV0;"
        "UseDevelopmentEmulator=true;"
    )


def _send(port: int, queue: str, *messages: ServiceBusMessage) -> None:
    with (
        ServiceBusClient.from_connection_string(connection_string(port), retry_total=3) as client,
        client.get_queue_sender(queue) as sender,
    ):
        for message in messages:
            sender.send_messages(message)


async def send(port: int, queue: str, *messages: ServiceBusMessage) -> None:
    await asyncio.to_thread(_send, port, queue, *messages)


@pytest.fixture
async def bus_port(tmp_path: Path) -> AsyncIterator[int]:
    port = free_port()
    async with running_bus(tmp_path / "bus", port):
        yield port


def environment(port: int) -> dict[str, str]:
    return {"BUS": connection_string(port), "QUEUE": "jobs"}


@pytest.fixture
async def host(tmp_path: Path, bus_port: int, form: str) -> AsyncIterator[RunningHost]:
    folder = copy_app("queue", tmp_path / "app")
    async with running_host(folder, tmp_path / "data", environment=environment(bus_port)) as host:
        yield host


async def seen(host: RunningHost, *, count: int = 1) -> dict[str, Any]:
    found = await host.logged(rf'Functions.on_job\] job (.*"count": {count}.*)')
    message: dict[str, Any] = json.loads(found[1])
    return message


@BOTH_FORMS
async def test_function_receives_message_and_metadata(host: RunningHost, bus_port: int) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    message = ServiceBusMessage(
        b"good",
        message_id="m-1",
        correlation_id="c-1",
        content_type="text/plain",
        subject="greeting",
        application_properties={"kind": "test", "n": 7, "traceparent": trace},
    )
    await send(bus_port, "jobs", message)
    got = await seen(host)
    assert got.pop("sequence") > 0
    assert got.pop("enqueued").startswith("20")
    assert got == {
        "body": "good",
        "id": "m-1",
        "correlation": "c-1",
        "type": "text/plain",
        "subject": "greeting",
        "count": 1,
        "properties": {"kind": "test", "n": 7, "traceparent": trace},
        "trace": trace,
    }
    await host.logged("done good")


async def test_failing_function_ends_in_the_dead_letter_queue(
    host: RunningHost, bus_port: int
) -> None:
    await send(bus_port, "jobs", ServiceBusMessage(b"bad", message_id="m-2"))
    await seen(host, count=1)
    await seen(host, count=2)
    await host.logged(r"Functions.on_dead\] dead bad MaxDeliveryCountExceeded")


async def test_str_parameter_receives_text(host: RunningHost, bus_port: int) -> None:
    await send(bus_port, "texts", ServiceBusMessage("Grüße"))
    await host.logged(r"Functions.on_text\] text 'Grüße'")


async def test_locks_are_renewed_until_the_functions_end(
    host: RunningHost, bus_port: int, tmp_path: Path
) -> None:
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    for gate in gates:
        os.mkfifo(gate)
    await send(bus_port, "jobs", *(ServiceBusMessage(f"wait {gate}") for gate in gates))
    for gate in gates:
        await host.logged(rf'"body": "wait {gate}"')
    await asyncio.sleep(
        LOCK_SECONDS + 1
    )  # sleep, because a test cannot set the clock of the emulator process
    for gate in gates:
        await asyncio.to_thread(gate.write_text, "go")
        await host.logged(f"done wait {gate}")
    unwanted = ('"count": 2', "the lock of")
    assert not [line for line in host.lines if any(text in line for text in unwanted)]


@ISOLATED_FORM
async def test_dead_app_process_means_redelivery(
    host: RunningHost, bus_port: int, tmp_path: Path
) -> None:
    body = f"crash {tmp_path / 'marker'}"
    await send(bus_port, "jobs", ServiceBusMessage(body))
    await seen(host, count=2)
    await host.logged(f"done {body}")


async def test_trigger_reconnects_after_a_service_restart(
    tmp_path: Path,
) -> None:
    port = free_port()
    folder = copy_app("queue", tmp_path / "app")
    async with running_host(folder, tmp_path / "data", environment=environment(port)) as host:
        await host.logged(r"WARNING .* no messages can be received from jobs \(Functions.on_job\)")
        async with running_bus(tmp_path / "bus", port):
            await host.logged(r"messages can be received from jobs \(Functions.on_job\) again")
            await send(port, "jobs", ServiceBusMessage(b"first"))
            await host.logged("done first")
        before = len(host.lines)
        await host.logged(r"WARNING .* no messages can be received from jobs", after=before)
        async with running_bus(tmp_path / "bus", port):
            await send(port, "jobs", ServiceBusMessage(b"second"))
            await host.logged("done second")
        complaints = [
            line
            for line in host.lines
            if "no messages can be received from jobs (Functions.on_job)" in line
        ]
        assert len(complaints) <= 3
