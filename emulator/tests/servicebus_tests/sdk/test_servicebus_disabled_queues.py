"""Test with Microsoft's clients that a disabled queue refuses new links and detaches open links."""

from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessagingEntityDisabledError, ServiceBusError

from servicebus_tests.sdk.both_clients import connect, with_both_clients
from servicebus_tests.sdk.servicebus_process import (
    Server,
    administration_client,
    run_server,
)


def set_status(server: Server, queue: str, status: str) -> None:
    with administration_client(server.admin_port) as admin:
        description = admin.get_queue(queue)
        description.status = status
        admin.update_queue(description)
        assert admin.get_queue(queue).status == status


def forbids(queue: str, operations: str) -> Any:
    """Return a context manager that expects Azure's error for the use of a disabled queue."""
    text = {
        "": f"Messaging entity 'sb://localhost/{queue}' is currently disabled. TrackingId:",
        "Send": f"'localhost:Queue:{queue}' is currently disabled for Send operations. TrackingId:",
        "Receive": f"'localhost:Queue:{queue}' is currently disabled for Receive operations. ",
    }[operations]
    return pytest.raises(MessagingEntityDisabledError, match=text)


async def send(client: Any, queue: str) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage("text"))


async def receive(client: Any, queue: str, **options: Any) -> int:
    """Receive and complete up to five messages, and return their number."""
    async with client.get_queue_receiver(queue, **options) as receiver:
        messages = await receiver.receive_messages(5, max_wait_time=5)
        for message in messages:
            await receiver.complete_message(message)
        return len(messages)


@with_both_clients
async def test_send_disabled_refuses_only_senders(server: Server, client: Any) -> None:
    queue = server.create_queue(Status="SendDisabled")
    with forbids(queue, "Send"):
        await send(client, queue)
    set_status(server, queue, "Active")
    await send(client, queue)
    set_status(server, queue, "SendDisabled")
    assert await receive(client, queue) == 1


@with_both_clients
async def test_receive_disabled_refuses_only_receivers(server: Server, client: Any) -> None:
    queue = server.create_queue(Status="ReceiveDisabled")
    await send(client, queue)
    with forbids(queue, "Receive"):
        await receive(client, queue)
    set_status(server, queue, "Active")
    assert await receive(client, queue) == 1


@with_both_clients
async def test_disabled_refuses_all_links(server: Server, client: Any) -> None:
    queue = server.create_queue(Status="Disabled")
    with forbids(queue, ""):
        await send(client, queue)
    with forbids(queue, ""):
        await receive(client, queue)
    with forbids(f"{queue}/\\$DeadLetterQueue", ""):
        await receive(client, queue, sub_queue="deadletter")


@pytest.mark.parametrize("sdk", ["sync", "aio"])
async def test_disabling_detaches_the_affected_links(server: Server, sdk: str) -> None:
    queue, other = server.create_queue(), server.create_queue()
    # The retry attaches a new link, whose refusal has the reason.
    async with (
        connect(sdk, server.connection_string, retry_total=1) as client,
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue) as receiver,
        client.get_queue_sender(other) as untouched,
    ):
        for each in (sender, sender, untouched):
            await each.send_messages(ServiceBusMessage("text"))
        (first,) = await receiver.receive_messages(1, max_wait_time=5)
        set_status(server, queue, "SendDisabled")
        with forbids(queue, "Send"):
            await sender.send_messages(ServiceBusMessage("refused"))
        await receiver.complete_message(first)
        (second,) = await receiver.receive_messages(1, max_wait_time=5)
        set_status(server, queue, "ReceiveDisabled")
        with forbids(queue, "Receive"):
            await receiver.receive_messages(1, max_wait_time=5)
        await untouched.send_messages(ServiceBusMessage("text"))
    set_status(server, queue, "Active")
    async with (
        connect(sdk, server.connection_string) as client,
        client.get_queue_receiver(queue) as receiver,
    ):
        peeked = await receiver.peek_messages(5)
        assert [each.sequence_number for each in peeked] == [second.sequence_number]


@with_both_clients
async def test_receive_disabled_cannot_be_peeked(server: Server, client: Any) -> None:
    queue = server.create_queue()
    await send(client, queue)
    async with client.get_queue_receiver(queue) as receiver:
        assert len(await receiver.peek_messages(1)) == 1
        set_status(server, queue, "ReceiveDisabled")
        with pytest.raises(ServiceBusError):
            await receiver.peek_messages(1)


def test_status_survives_a_kill(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        queue = server.create_queue(Status="SendDisabled")
        server.kill()
        server.start()
        with administration_client(server.admin_port) as admin:
            assert admin.get_queue(queue).status == "SendDisabled"
