"""Test messages between Microsoft's clients: content, order, scheduling, expiry and duplicates."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import MessageSizeExceededError

from servicebus_tests.sdk.both_clients import receive, with_both_clients
from servicebus_tests.sdk.servicebus_process import Server


@with_both_clients
async def test_received_message_equals_the_sent_one(server: Server, client: Any) -> None:
    queue = server.create_queue()
    sent = ServiceBusMessage(
        b"body",
        message_id="id-1",
        correlation_id="id-2",
        subject="subject",
        content_type="application/json",
        reply_to="elsewhere",
        to="here",
        time_to_live=timedelta(seconds=90),
        application_properties={"text": "ä", "number": 2**30, "flag": True, "id": UUID(int=7)},
    )
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(sent)
    async with client.get_queue_receiver(queue) as receiver:
        (message,) = await receive(receiver)
        assert b"".join(message.body) == b"body"
        assert (message.message_id, message.correlation_id) == ("id-1", "id-2")
        assert (message.subject, message.content_type) == ("subject", "application/json")
        assert (message.reply_to, message.to) == ("elsewhere", "here")
        assert message.time_to_live == timedelta(seconds=90)
        assert message.application_properties == {
            b"text": "ä".encode(),
            b"number": 2**30,
            b"flag": True,
            b"id": UUID(int=7),
        }
        assert message.delivery_count == 0
        assert message.state == ServiceBusMessageState.ACTIVE
        assert message.sequence_number == message.enqueued_sequence_number == 1
        now = datetime.now(UTC)
        assert before < message.enqueued_time_utc < now < message.locked_until_utc
        token = message.raw_amqp_message.delivery_annotations[b"x-opt-lock-token"]
        assert token == message.lock_token
        await receiver.complete_message(message)


@with_both_clients
async def test_lists_batches_and_large_messages_keep_the_order(server: Server, client: Any) -> None:
    queue = server.create_queue()
    large = "x" * 200_000  # larger than an AMQP frame
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(f"list-{at}") for at in range(30)])
        batch = await sender.create_message_batch()
        for at in range(30):
            batch.add_message(ServiceBusMessage(f"batch-{at}", application_properties={"at": at}))
        await sender.send_messages(batch)
        await sender.send_messages(ServiceBusMessage(large))
    async with client.get_queue_receiver(
        queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=100
    ) as receiver:
        messages = await receive(receiver, 61)
        assert [str(message) for message in messages] == [
            *(f"list-{at}" for at in range(30)),
            *(f"batch-{at}" for at in range(30)),
            large,
        ]
        assert messages[59].application_properties == {b"at": 29}
        assert await receiver.peek_messages(10, sequence_number=1) == []


@with_both_clients
async def test_sender_survives_a_message_over_the_limit(server: Server, client: Any) -> None:
    queue = server.create_queue()
    async with client.get_queue_sender(queue) as sender:
        with pytest.raises(MessageSizeExceededError):
            await sender.send_messages(ServiceBusMessage(b"x" * 300_000))
        await sender.send_messages(ServiceBusMessage(b"small"))
        batch = await sender.create_message_batch()
        assert batch.max_size_in_bytes == 256 * 1024
    async with client.get_queue_receiver(queue) as receiver:
        assert [str(each) for each in await receiver.peek_messages(10)] == ["small"]


@with_both_clients
async def test_scheduled_message_is_received_unless_cancelled(server: Server, client: Any) -> None:
    queue = server.create_queue()
    due_at = datetime.now(UTC) + timedelta(seconds=2)
    async with (
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue) as receiver,
    ):
        numbers = await sender.schedule_messages(
            [ServiceBusMessage("cancelled"), ServiceBusMessage("due")], due_at
        )
        plain = ServiceBusMessage("due too", scheduled_enqueue_time_utc=due_at)
        await sender.send_messages(plain)
        peeked = await receiver.peek_messages(10)
        assert {each.state for each in peeked} == {ServiceBusMessageState.SCHEDULED}
        await sender.cancel_scheduled_messages(numbers[0])
        messages = await receive(receiver, 2)
        assert datetime.now(UTC) >= due_at
        assert sorted(str(message) for message in messages) == ["due", "due too"]
        assert all(each.scheduled_enqueue_time_utc is not None for each in messages)
        for message in messages:
            await receiver.complete_message(message)


@with_both_clients
async def test_each_peek_continues_after_the_last(server: Server, client: Any) -> None:
    queue = server.create_queue()
    async with (
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue) as receiver,
    ):
        await sender.send_messages([ServiceBusMessage(str(at)) for at in range(5)])
        assert [str(each) for each in await receiver.peek_messages(3)] == ["0", "1", "2"]
        assert [str(each) for each in await receiver.peek_messages(3)] == ["3", "4"]
        assert await receiver.peek_messages(3) == []
        again = await receiver.peek_messages(1, sequence_number=2)
        assert [str(each) for each in again] == ["1"]
        assert again[0].locked_until_utc is None


@with_both_clients
async def test_expired_message_is_dead_lettered(server: Server, client: Any) -> None:
    queue = server.create_queue(DeadLetteringOnMessageExpiration="true")
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage("late", time_to_live=timedelta(seconds=1)))
    async with client.get_queue_receiver(
        queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
    ) as receiver:
        (message,) = await receive(receiver)
        assert str(message) == "late"
        assert message.dead_letter_reason == "TTLExpiredException"
        await receiver.complete_message(message)


@with_both_clients
async def test_second_message_with_the_same_id_is_dropped(server: Server, client: Any) -> None:
    queue = server.create_queue(
        RequiresDuplicateDetection="true", DuplicateDetectionHistoryTimeWindow="PT1M"
    )
    async with (
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue) as receiver,
    ):
        await sender.send_messages(ServiceBusMessage("first", message_id="same"))
        await sender.send_messages(ServiceBusMessage("second", message_id="same"))
        await sender.send_messages(ServiceBusMessage("third", message_id="other"))
        assert [str(each) for each in await receiver.peek_messages(10)] == ["first", "third"]
