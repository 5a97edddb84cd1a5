"""One interface for Microsoft's blocking and asynchronous clients of Service Bus.

Each test can run with both clients through this interface.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from azure.servicebus import ServiceBusClient as SyncClient
from azure.servicebus.aio import ServiceBusClient as AsyncClient

from blocking_client import Blocking
from servicebus_tests.sdk.servicebus_process import Server

Scenario = Callable[[Server, Any], Awaitable[None]]


def connect(kind: str, connection_string: str, **options: Any) -> Any:
    """Return the blocking client if `kind` is "sync", or the asynchronous client if it is "aio"."""
    options = {"retry_total": 0, **options}
    if kind == "aio":
        return AsyncClient.from_connection_string(connection_string, **options)
    return Blocking(SyncClient.from_connection_string(connection_string, **options))


def with_both_clients(scenario: Scenario) -> Callable[[Server], Awaitable[None]]:
    """Decorate the test function `scenario`, so that it runs twice at the same time.

    One run gets the blocking client, and the other run gets the asynchronous client.
    """

    async def run(server: Server) -> None:
        async def run_with(kind: str) -> None:
            try:
                async with connect(kind, server.connection_string) as client:
                    await scenario(server, client)
            except BaseException as error:
                error.add_note(f"this error occurred with the {kind} client")
                raise

        ended = await asyncio.gather(run_with("sync"), run_with("aio"), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    run.__name__ = scenario.__name__
    return run


async def receive(receiver: Any, count: int = 1, wait_seconds: float = 10) -> list[Any]:
    """Receive and return `count` messages, with several calls of the client if necessary.

    Raises AssertionError if a call returns no message within `wait_seconds`.
    """
    found: list[Any] = []
    while len(found) < count:
        batch = await receiver.receive_messages(
            max_message_count=count - len(found), max_wait_time=wait_seconds
        )
        assert batch, f"{len(found)} of {count} messages were received"
        found += batch
    return found
