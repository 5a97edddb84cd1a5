"""Test settlement and message locks with Microsoft's clients."""

from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusSubQueue
from azure.servicebus.exceptions import MessageLockLostError, MessageNotFoundError

from blocking_client import unwrap
from servicebus_tests.sdk.both_clients import receive, with_both_clients
from servicebus_tests.sdk.servicebus_process import Server


async def send(client: Any, queue: str, *texts: str) -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage(text) for text in texts])


@with_both_clients
async def test_client_settles_in_every_way(server: Server, client: Any) -> None:
    queue = server.create_queue()
    await send(client, queue, "complete", "abandon", "defer", "dead-letter")
    async with client.get_queue_receiver(queue) as receiver:
        completed, abandoned, deferred, dead = await receive(receiver, 4)
        await receiver.complete_message(completed)
        await receiver.defer_message(deferred)
        await receiver.dead_letter_message(dead, reason="why", error_description="in detail")
        await receiver.abandon_message(abandoned)
        (again,) = await receive(receiver)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        await receiver.complete_message(again)
        (kept,) = await receiver.peek_messages(10, sequence_number=1)
        assert (str(kept), kept.state) == ("defer", ServiceBusMessageState.DEFERRED)
        (found,) = await receiver.receive_deferred_messages(kept.sequence_number)
        await receiver.complete_message(found)
        with pytest.raises(MessageNotFoundError):
            await receiver.receive_deferred_messages(kept.sequence_number)
    async with client.get_queue_receiver(
        queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
    ) as receiver:
        (message,) = await receive(receiver)
        assert message.dead_letter_reason == "why"
        assert message.dead_letter_error_description == "in detail"
        assert message.application_properties[b"DeadLetterReason"] == b"why"
        await receiver.complete_message(message)


@with_both_clients
async def test_lock_expires_unless_renewed(server: Server, client: Any) -> None:
    queue = server.create_queue(LockDuration="PT2S")
    await send(client, queue, "message")
    async with (
        client.get_queue_receiver(queue) as holder,
        client.get_queue_receiver(queue) as rival,
    ):
        (message,) = await receive(holder)
        first_end = message.locked_until_utc
        renewed_until = await holder.renew_message_lock(message)
        assert renewed_until > first_end
        assert renewed_until == message.locked_until_utc
        (again,) = await receive(rival)  # this call waits until the lock expires
        assert again.delivery_count == 1
        with pytest.raises(MessageLockLostError):
            await holder.complete_message(message)
        await rival.complete_message(again)


@with_both_clients
async def test_lost_lock_refuses_settlement(server: Server, client: Any) -> None:
    queue = server.create_queue()
    await send(client, queue, "message")
    async with (
        client.get_queue_receiver(queue) as holder,
        client.get_queue_receiver(queue) as rival,
    ):
        (message,) = await receive(holder)
        await rival.complete_message(_held_by(message, rival))
        with pytest.raises(MessageLockLostError):
            await holder.complete_message(message)
        with pytest.raises(MessageLockLostError):
            await holder.renew_message_lock(message)


def _held_by(message: Any, receiver: Any) -> Any:
    """Return a copy of `message` that `receiver` can settle, although another receiver got it.

    The copy is marked as deferred. The client settles a deferred message with a management request,
    for which any receiver of the queue can be used.
    """
    kind = type(message)
    return kind(
        message._message,
        receiver=unwrap(receiver),
        lock_token=message.lock_token,
        is_deferred_message=True,
    )


@with_both_clients
async def test_maximum_delivery_count_dead_letters(server: Server, client: Any) -> None:
    queue = server.create_queue(MaxDeliveryCount=2)
    await send(client, queue, "poison")
    async with client.get_queue_receiver(queue) as receiver:
        for delivery_count in range(2):
            (message,) = await receive(receiver)
            assert message.delivery_count == delivery_count
            await receiver.abandon_message(message)
    async with client.get_queue_receiver(
        queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
    ) as receiver:
        (message,) = await receive(receiver)
        assert message.dead_letter_reason == "MaxDeliveryCountExceeded"
        await receiver.abandon_message(message)
        (message,) = await receive(receiver)  # MaxDeliveryCount does not limit a dead-letter queue
        await receiver.complete_message(message)


@with_both_clients
async def test_prefetched_messages_return_after_the_close(server: Server, client: Any) -> None:
    queue = server.create_queue()
    await send(client, queue, *map(str, range(10)))
    async with client.get_queue_receiver(queue, prefetch_count=10) as receiver:
        (message,) = await receive(receiver)
        await receiver.complete_message(message)
    async with client.get_queue_receiver(queue) as receiver:
        rest = await receive(receiver, 9)
        assert [message.delivery_count for message in rest] == [0] * 9
        assert sorted(int(str(message)) for message in rest) == list(range(1, 10))


@with_both_clients
async def test_lock_outlives_its_link(server: Server, client: Any) -> None:
    queue = server.create_queue()
    await send(client, queue, "message")
    async with client.get_queue_receiver(queue) as first:
        (message,) = await receive(first)
    async with client.get_queue_receiver(queue) as second:
        await second.complete_message(_held_by(message, second))
        assert await second.peek_messages(1, sequence_number=1) == []
