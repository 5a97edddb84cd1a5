"""Read queue lengths from our Service Bus emulator with Microsoft's administration client."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from contract.brokers import BrokerMessage
from contract.settings import AzureEndpoint
from gateway.brokers.port import MessageCounts
from gateway.brokers.servicebus import Administration, ServiceBusQueues
from gateway.errors import NoAnswer, Unavailable
from tests.conformance.gateway.emulated_services import running_service_bus, service_bus
from tests.ports import free_port


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def connection_string(port: int) -> str:
    return str(service_bus(port).connection_string)


@pytest.fixture
async def queues(tmp_path: Path, port: int) -> AsyncIterator[ServiceBusQueues]:
    admin_port = free_port()
    with running_service_bus(port, tmp_path, admin_port):
        opened = ServiceBusQueues(service_bus(port), f"http://localhost:{admin_port}")
        yield opened
        await opened.close()


async def test_length_is_the_number_of_messages(queues: ServiceBusQueues) -> None:
    assert (await queues.count("noop")).active == 0
    for number in range(3):
        await queues.send("noop", BrokerMessage(b"x", str(number), str(number)))
    assert (await queues.count("noop")).active == 3
    with pytest.raises(Unavailable):
        await queues.count("nobody")


async def test_scheduled_messages_are_counted_separately(
    queues: ServiceBusQueues, connection_string: str
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    message = ServiceBusMessage(b"x", message_id="later", scheduled_enqueue_time_utc=later)
    # The gateway schedules no messages.
    async with (
        ServiceBusClient.from_connection_string(connection_string) as client,
        client.get_queue_sender("classifier") as sender,
    ):
        await sender.send_messages(message)
    assert await queues.count("classifier") == MessageCounts(active=0, scheduled=1, dead=0)


@pytest.mark.parametrize(("url", "is_answer"), [(None, True), ("http://localhost:9", False)])
async def test_silent_management_api_is_unavailable(url: str | None, is_answer: bool) -> None:
    emulator = "Endpoint=sb://localhost;SharedAccessKeyName=a;SharedAccessKey=b;"
    administration = Administration(AzureEndpoint(emulator + "UseDevelopmentEmulator=true;"), url)
    with pytest.raises(Unavailable) as caught:
        await administration.count("noop")
    assert isinstance(caught.value, NoAnswer) is not is_answer
    await administration.close()
