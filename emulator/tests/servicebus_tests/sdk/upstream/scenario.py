"""Use a queue in all the ways that azure-servicebus has offered since version 7.8.

`python scenario.py CONNECTION-STRING QUEUE CERTIFICATE`

The program uses the version of azure-servicebus that is installed for its interpreter. It
raises an error if an operation fails or has an unexpected result.
"""

import asyncio
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

import azure.servicebus
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient as AsyncClient
from azure.servicebus.exceptions import MessagingEntityNotFoundError, ServiceBusError

DEAD_LETTER = "deadletter"
VERSION = azure.servicebus.__version__
# More than one frame. But 7.10 counts the credit of such messages wrong and then receives nothing.
LARGE = "x" * (15_000 if VERSION.startswith("7.10.") else 150_000)


def use_synchronously(client: Any, queue: str) -> None:
    """Send, receive and settle messages with the synchronous client."""
    with client.get_queue_sender(queue) as sender:
        sender.send_messages(ServiceBusMessage("single", message_id="first"))
        sender.send_messages([ServiceBusMessage(text) for text in ("a", "b")])
        batch = sender.create_message_batch()
        batch.add_message(ServiceBusMessage(LARGE, application_properties={"k": 1}))
        sender.send_messages(batch)
    with client.get_queue_receiver(queue) as receiver:
        messages = receive(receiver, 4)
        assert [str(each) for each in messages] == ["single", "a", "b", LARGE]
        assert all(each.message_id for each in messages)
        single, a, b, large = messages
        receiver.renew_message_lock(single)
        receiver.complete_message(single)
        receiver.abandon_message(a)
        receiver.defer_message(b)
        receiver.dead_letter_message(large, reason="why", error_description="because")
        (a,) = receive(receiver, 1)
        assert (str(a), a.delivery_count) == ("a", 1)
        receiver.complete_message(a)
        (b,) = receiver.receive_deferred_messages([b.sequence_number])
        receiver.complete_message(b)
        assert receiver.peek_messages(5) == []
    with client.get_queue_receiver(queue, sub_queue=DEAD_LETTER) as receiver:
        (dead,) = receive(receiver, 1)
        assert (dead.dead_letter_reason, str(dead)) == ("why", LARGE)
        receiver.complete_message(dead)
    later = datetime.now(timezone.utc) + timedelta(hours=1)  # noqa: UP017 - for older Pythons
    with client.get_queue_sender(queue) as sender:
        (number,) = sender.schedule_messages(ServiceBusMessage("later"), later)
        sender.cancel_scheduled_messages(number)
        sender.send_messages(ServiceBusMessage("deleted"))
    with client.get_queue_receiver(queue, receive_mode="receiveanddelete") as receiver:
        assert [str(each) for each in receive(receiver, 1)] == ["deleted"]


def receive(receiver: Any, count: int) -> list[Any]:
    """Receive and return `count` messages.

    Raises AssertionError if no further message arrives within 10 s.
    """
    messages: list[Any] = []
    while len(messages) < count:
        received = receiver.receive_messages(count - len(messages), max_wait_time=10)
        assert received, "no message was received within 10 s"
        messages += received
    return messages


def fail_as_documented(client: Any) -> None:
    """Check that opening a queue that does not exist raises the documented error."""
    try:
        with client.get_queue_receiver("no-such-queue") as receiver:
            receiver.receive_messages(max_wait_time=5)
    except MessagingEntityNotFoundError:
        return
    except ServiceBusError as error:  # the versions before 7.10, which use uamqp, raise another
        if VERSION.startswith(("7.8.", "7.9.")):
            return
        raise AssertionError(f"expected MessagingEntityNotFoundError, found {error!r}") from error
    raise AssertionError("a queue that does not exist was opened")


async def use_asynchronously(connection_string: str, queue: str, options: dict[str, Any]) -> None:
    """Send, receive and settle messages with the asynchronous client."""
    async with AsyncClient.from_connection_string(connection_string, **options) as client:
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages([ServiceBusMessage(text) for text in ("a", LARGE)])
        async with client.get_queue_receiver(queue, prefetch_count=5) as receiver:
            messages: list[Any] = []
            while len(messages) < 2:
                messages += await receiver.receive_messages(2, max_wait_time=10)
            assert [str(each) for each in messages] == ["a", LARGE]
            for each in messages:
                await receiver.complete_message(each)
            assert await receiver.peek_messages(5) == []


def main(connection_string: str, queue: str, certificate: str) -> None:
    """Use the queue with the synchronous client, and then with the asynchronous client."""
    options: dict[str, Any] = {"retry_total": 0, "connection_verify": certificate}
    with ServiceBusClient.from_connection_string(connection_string, **options) as client:
        use_synchronously(client, queue)
        fail_as_documented(client)
    asyncio.run(use_asynchronously(connection_string, queue, options))


if __name__ == "__main__":
    main(*sys.argv[1:])
