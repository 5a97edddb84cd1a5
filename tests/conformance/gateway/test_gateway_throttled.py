"""Test that a gateway's sender keeps its link to a throttled Service Bus and sends all messages."""

import asyncio
from pathlib import Path

import httpx
import pytest
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusServerBusyError

from gateway.brokers.servicebus import BatchingSender
from tests.conformance.gateway.emulated_services import (
    message,
    received,
    running_service_bus,
    service_bus,
)
from tests.ports import free_port


def throttle(admin_port: int, share: float) -> None:
    url = f"http://127.0.0.1:{admin_port}/$emulator/faults"
    httpx.put(url, json={"throttled_share": share}).raise_for_status()


async def test_throttled_sender_keeps_its_link(tmp_path: Path) -> None:
    port, admin_port = free_port(), free_port()
    made = 0
    with running_service_bus(port, tmp_path, admin_port):
        connection_string = service_bus(port).connection_string or ""
        async with ServiceBusClient.from_connection_string(connection_string) as client:
            # No retries by the SDK, so that the sender meets each refusal.
            client._config.retry_total = 0

            def make_sender():  # type: ignore[no-untyped-def]  # a type of the SDK
                nonlocal made
                made += 1
                return client.get_queue_sender("noop")

            sender = BatchingSender(make_sender, busy_pause_seconds=0.01)
            try:
                await sender.send(message(0))
                throttle(admin_port, 1.0)
                with pytest.raises(ServiceBusServerBusyError):
                    await sender.send(message(1))
                # The namespace answers every third request.
                throttle(admin_port, 2 / 3)
                for number in range(1, 11):
                    await sender.send(message(number))
                await asyncio.gather(*(sender.send(message(number)) for number in range(11, 31)))
                throttle(admin_port, 0.0)
                assert len(await received(port, "noop", 31)) == 31
                assert made == 1
            finally:
                await sender.close()
