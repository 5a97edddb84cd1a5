"""Test message sessions with Microsoft's clients.

Most tests share one queue and one sender, because it takes about one second to open and close a
sender.
"""

import gc
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from servicebus_tests.sdk.both_clients import receive, with_both_clients
from servicebus_tests.sdk.servicebus_process import Server, run_server


class SessionQueue:
    """A queue with message sessions, and a sender for this queue."""

    def __init__(self, server: Server, name: str, sender: ServiceBusSender) -> None:
        self.name = name
        self._server = server
        self._sender = sender

    def send(self, session_id: str | None, *texts: str) -> None:
        self._sender.send_messages(
            [ServiceBusMessage(text, session_id=session_id) for text in texts]
        )

    async def run(self, scenario: Callable[[Any], Awaitable[None]]) -> None:
        """Run a scenario with the blocking and the asynchronous client concurrently."""

        async def run_with(_: Server, client: Any) -> None:
            await scenario(client)

        await with_both_clients(run_with)(self._server)


@pytest.fixture(scope="module")
def queue(server: Server) -> Iterator[SessionQueue]:
    name = server.create_queue(RequiresSession="true")
    with (
        ServiceBusClient.from_connection_string(server.connection_string, retry_total=0) as client,
        client.get_queue_sender(name) as sender,
    ):
        yield SessionQueue(server, name, sender)


async def test_one_receiver_at_a_time_gets_messages_in_order(
    queue: SessionQueue,
) -> None:
    async def scenario(client: Any) -> None:
        session_id, other_id = str(uuid4()), str(uuid4())
        for text in "abc":
            queue.send(session_id, text)
            queue.send(other_id, f"not {text}")
        async with client.get_queue_receiver(queue.name, session_id=session_id) as holder:
            session = holder.session
            assert session.session_id == session_id
            remaining = session.locked_until_utc - datetime.now(UTC)
            assert timedelta(seconds=50) < remaining <= timedelta(seconds=60)
            first, second = await receive(holder, 2)
            assert [str(first), str(second)] == ["a", "b"]
            assert (first.session_id, first.locked_until_utc) == (session_id, None)
            await holder.complete_message(first)
            with pytest.raises(SessionCannotBeLockedError):
                async with client.get_queue_receiver(queue.name, session_id=session_id):
                    pass
        async with client.get_queue_receiver(queue.name, session_id=session_id) as receiver:
            rest = await receive(receiver, 2)
            assert [(str(each), each.delivery_count) for each in rest] == [("b", 0), ("c", 0)]
            peeked = await receiver.peek_messages(9, sequence_number=1)
            assert [str(each) for each in peeked] == ["b", "c"]

    await queue.run(scenario)


async def test_client_renews_the_lock_and_stores_the_state(
    queue: SessionQueue,
) -> None:
    async def scenario(client: Any) -> None:
        async with client.get_queue_receiver(queue.name, session_id=str(uuid4())) as receiver:
            before = receiver.session.locked_until_utc
            assert await receiver.session.renew_lock() > before
            assert await receiver.session.get_state() is None
            await receiver.session.set_state(b"\x00state")
            assert await receiver.session.get_state() == b"\x00state"
            with pytest.raises(ServiceBusError):
                await receiver.session.set_state(b"x" * (256 * 1024 + 1))
            await receiver.session.set_state(None)
            assert await receiver.session.get_state() is None

    await queue.run(scenario)


async def test_next_session_may_have_an_expired_lock(
    server: Server,
) -> None:
    async def scenario(client: Any) -> None:
        name = server.create_queue(RequiresSession="true", LockDuration="PT1S")
        next_session = {"session_id": NEXT_AVAILABLE_SESSION}
        with pytest.raises(OperationTimeoutError):
            async with client.get_queue_receiver(name, max_wait_time=0.5, **next_session):
                pass
        async with client.get_queue_sender(name) as sender:
            await sender.send_messages(ServiceBusMessage("message", session_id="s"))
        async with client.get_queue_receiver(name, session_id="s") as receiver:
            (message,) = await receive(receiver)
            async with client.get_queue_receiver(name, max_wait_time=20, **next_session) as other:
                assert other.session.session_id == "s"
                (again,) = await receive(other)
                assert again.delivery_count == 1
                with pytest.raises(SessionLockLostError):
                    await receiver.complete_message(message)
                with pytest.raises(SessionLockLostError):
                    await receiver.session.renew_lock()
                await other.complete_message(again)

    await with_both_clients(lambda _, client: scenario(client))(server)


async def test_client_settles_in_every_way(
    queue: SessionQueue,
) -> None:
    async def scenario(client: Any) -> None:
        session_id = str(uuid4())
        queue.send(session_id, "abandon", "defer", "dead-letter")
        async with client.get_queue_receiver(queue.name, session_id=session_id) as receiver:
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
        dead_letter = ServiceBusSubQueue.DEAD_LETTER
        async with client.get_queue_receiver(queue.name, sub_queue=dead_letter) as receiver:
            letters = await receiver.peek_messages(9, sequence_number=1)
            assert ("dead-letter", session_id, "why") in [
                (str(each), each.session_id, each.dead_letter_reason) for each in letters
            ]

    await queue.run(scenario)


async def test_client_lists_the_sessions(queue: SessionQueue) -> None:
    prefix = str(uuid4())
    expected = [f"{prefix}-{at:03}" for at in range(130)]  # the client asks for pages of 100
    for session_id in expected:
        queue.send(session_id, "message")

    async def scenario(client: Any) -> None:
        ids = [each async for each in client.list_queue_sessions(queue.name)]
        assert [each for each in ids if each.startswith(prefix)] == expected

    await queue.run(scenario)


async def test_session_id_is_needed(
    queue: SessionQueue,
) -> None:
    with pytest.raises(ServiceBusError, match="The SessionId was not set on a message"):
        queue.send(None, "no session")

    async def scenario(client: Any) -> None:
        with pytest.raises(ServiceBusError, match="create a non-sessionful message receiver"):
            async with client.get_queue_receiver(queue.name):
                pass

    await queue.run(scenario)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_kill_keeps_the_state_but_not_the_lock(
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
