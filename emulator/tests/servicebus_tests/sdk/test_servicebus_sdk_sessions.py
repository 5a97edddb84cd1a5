"""Test message sessions with Microsoft's clients."""

import asyncio
import gc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from servicebus_tests.sdk.both_clients import with_both_clients
from servicebus_tests.sdk.servicebus_process import Server, run_server


async def send(client: Any, queue: str, session_id: str, *texts: str) -> list[ServiceBusMessage]:
    messages = [ServiceBusMessage(text, session_id=session_id) for text in texts]
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(messages)
    return messages


async def receive(receiver: Any, count: int = 1) -> list[Any]:
    """Receive exactly `count` messages."""
    messages: list[Any] = []
    while len(messages) < count:
        some = await receiver.receive_messages(count - len(messages), max_wait_time=10)
        assert some, f"only {len(messages)} of {count} messages arrived"
        messages += some
    return messages


async def call_session(receiver: Any, method: str, *arguments: Any) -> Any:
    """Call a method of the receiver's session, which the blocking client does in a thread."""
    wrapped = getattr(receiver, "_wrapped", None)
    if wrapped is None:
        return await getattr(receiver.session, method)(*arguments)
    return await asyncio.to_thread(getattr(wrapped.session, method), *arguments)


def session_of(receiver: Any) -> Any:
    return getattr(receiver, "_wrapped", receiver).session


@with_both_clients
async def test_a_client_receives_the_messages_of_one_session_in_order(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true")
    async with client.get_queue_sender(queue) as sender:
        for at in range(3):
            for session_id in ("one", "two"):
                message = ServiceBusMessage(f"{session_id} {at}", session_id=session_id)
                await sender.send_messages(message)
    for session_id in ("two", "one"):
        async with client.get_queue_receiver(queue, session_id=session_id) as receiver:
            session = session_of(receiver)
            assert session.session_id == session_id
            remaining = session.locked_until_utc - datetime.now(UTC)
            assert timedelta(seconds=50) < remaining <= timedelta(seconds=60)
            messages = await receive(receiver, 3)
            assert [str(each) for each in messages] == [f"{session_id} {at}" for at in range(3)]
            assert {each.session_id for each in messages} == {session_id}
            assert messages[0].locked_until_utc is None
            for message in messages:
                await receiver.complete_message(message)
            assert await receiver.peek_messages(9, sequence_number=1) == []


@with_both_clients
async def test_a_client_waits_for_the_next_available_session_until_its_timeout(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true")
    next_session = {"session_id": NEXT_AVAILABLE_SESSION}
    with pytest.raises(OperationTimeoutError):
        async with client.get_queue_receiver(queue, max_wait_time=1, **next_session):
            pass

    async def receive_next() -> str:
        async with client.get_queue_receiver(queue, max_wait_time=20, **next_session) as receiver:
            (message,) = await receive(receiver)
            await receiver.complete_message(message)
            assert session_of(receiver).session_id == message.session_id
            return str(message)

    waiting = [asyncio.ensure_future(receive_next()) for _ in range(2)]
    await send(client, queue, "one", "first")
    await send(client, queue, "two", "second")
    assert sorted(await asyncio.gather(*waiting)) == ["first", "second"]


@with_both_clients
async def test_a_locked_session_is_refused_until_its_receiver_is_closed(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true")
    await send(client, queue, "s", "a", "b")
    async with client.get_queue_receiver(queue, session_id="s") as holder:
        await receive(holder)
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver(queue, session_id="s"):
                pass
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        messages = await receive(receiver, 2)
        assert [(str(each), each.delivery_count) for each in messages] == [("a", 0), ("b", 0)]


@with_both_clients
async def test_a_client_can_renew_the_lock_and_store_the_state_of_a_session(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true")
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        before = session_of(receiver).locked_until_utc
        assert await call_session(receiver, "renew_lock") > before
        assert await call_session(receiver, "get_state") is None
        await call_session(receiver, "set_state", b"\x00state")
        assert await call_session(receiver, "get_state") == b"\x00state"
        with pytest.raises(ServiceBusError):
            await call_session(receiver, "set_state", b"x" * (256 * 1024 + 1))
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        assert await call_session(receiver, "get_state") == b"\x00state"
        await call_session(receiver, "set_state", None)
        assert await call_session(receiver, "get_state") is None


@with_both_clients
async def test_after_the_session_lock_expires_settling_and_renewing_raise_session_lock_lost(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true", LockDuration="PT1S")
    await send(client, queue, "s", "message")
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        (message,) = await receive(receiver)
        # The next receiver gets the session when the lock expires.
        async with client.get_queue_receiver(
            queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=20
        ) as other:
            (again,) = await receive(other)
            assert again.delivery_count == 1
            with pytest.raises(SessionLockLostError):
                await receiver.complete_message(message)
            with pytest.raises(SessionLockLostError):
                await call_session(receiver, "renew_lock")
            await other.complete_message(again)


@with_both_clients
async def test_a_client_can_abandon_defer_and_dead_letter_messages_of_a_session(
    server: Server, client: Any
) -> None:
    queue = server.create_queue(RequiresSession="true")
    await send(client, queue, "s", "abandon", "defer", "dead-letter")
    async with client.get_queue_receiver(queue, session_id="s") as receiver:
        abandoned, deferred, dead = await receive(receiver, 3)
        await receiver.defer_message(deferred)
        await receiver.dead_letter_message(dead, reason="why")
        await receiver.abandon_message(abandoned)
        (again,) = await receive(receiver)
        assert (str(again), again.delivery_count) == ("abandon", 1)
        await receiver.complete_message(again)
        (found,) = await receiver.receive_deferred_messages(deferred.sequence_number)
        assert found.locked_until_utc is None
        await receiver.complete_message(found)
    sub_queue = ServiceBusSubQueue.DEAD_LETTER
    async with client.get_queue_receiver(queue, sub_queue=sub_queue) as receiver:
        (message,) = await receive(receiver)
        assert (message.session_id, message.dead_letter_reason) == ("s", "why")
        await receiver.complete_message(message)


@with_both_clients
async def test_a_client_can_list_the_sessions_of_a_queue(server: Server, client: Any) -> None:
    queue = server.create_queue(RequiresSession="true")
    wrapped = getattr(client, "_wrapped", None)

    async def list_sessions() -> list[str]:
        if wrapped is None:
            return [each async for each in client.list_queue_sessions(queue)]
        return await asyncio.to_thread(lambda: list(wrapped.list_queue_sessions(queue)))

    assert await list_sessions() == []
    expected = [f"{at:03}" for at in range(130)]  # the client asks for pages of 100
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages([ServiceBusMessage("x", session_id=each) for each in expected])
    assert await list_sessions() == expected


@with_both_clients
async def test_sending_and_receiving_without_a_session_and_the_reverse_are_refused(
    server: Server, client: Any
) -> None:
    queue, plain = server.create_queue(RequiresSession="true"), server.create_queue()
    with pytest.raises(ServiceBusError, match="The SessionId was not set on a message"):
        async with client.get_queue_sender(queue) as sender:
            await sender.send_messages(ServiceBusMessage("no session"))
    with pytest.raises(ServiceBusError, match="create a non-sessionful message receiver"):
        async with client.get_queue_receiver(queue):
            pass
    with pytest.raises(ServiceBusError, match="A sessionful message receiver cannot be created"):
        async with client.get_queue_receiver(plain, session_id="s"):
            pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_kill_of_the_emulator_keeps_the_state_of_a_session_and_releases_its_lock(
    tmp_path: Path,
) -> None:
    with run_server(tmp_path) as server:
        server.create_queue_named("queue", RequiresSession="true", LockDuration="PT5M")

        def open_client() -> ServiceBusClient:
            return ServiceBusClient.from_connection_string(server.connection_string, retry_total=0)

        with open_client() as client:
            with client.get_queue_sender("queue") as sender:
                sender.send_messages([ServiceBusMessage(text, session_id="s") for text in "abc"])
            with client.get_queue_receiver("queue", session_id="s") as receiver:
                first, second = receiver.receive_messages(2, max_wait_time=10)
                receiver.session.set_state("after a")
                receiver.complete_message(first)
                server.kill()
        server.start()
        with (
            open_client() as client,
            client.get_queue_receiver("queue", session_id="s") as receiver,
        ):
            assert receiver.session.get_state() == b"after a"
            messages = receiver.receive_messages(2, max_wait_time=10)
            assert [(str(each), each.delivery_count) for each in messages] == [("b", 0), ("c", 0)]
            assert str(second) == "b"
    gc.collect()  # closes the sockets of the lost connection
