"""Test which exceptions Microsoft's SDK raises if the emulator refuses an operation."""

from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import (
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)

from servicebus_tests.sdk.both_clients import connect, with_both_clients
from servicebus_tests.sdk.servicebus_process import KEY_NAME, Server


@with_both_clients
async def test_missing_queue_raises_entity_not_found(server: Server, client: Any) -> None:
    with pytest.raises(MessagingEntityNotFoundError):
        async with client.get_queue_sender("nowhere") as sender:
            await sender.send_messages(ServiceBusMessage("lost"))
    with pytest.raises(MessagingEntityNotFoundError):
        async with client.get_queue_receiver("nowhere"):
            pass


@with_both_clients
async def test_deleted_queue_raises_entity_not_found(server: Server, client: Any) -> None:
    queue = server.create_queue()
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage("kept"))
        server.delete_queue(queue)
        with pytest.raises(MessagingEntityNotFoundError):
            await sender.send_messages(ServiceBusMessage("lost"))


@with_both_clients
async def test_next_session_needs_a_queue_with_sessions(server: Server, client: Any) -> None:
    queue = server.create_queue()
    with pytest.raises(ServiceBusError):
        async with client.get_queue_receiver(queue, session_id=NEXT_AVAILABLE_SESSION):
            pass


@with_both_clients
async def test_dead_letter_queue_refuses_messages(server: Server, client: Any) -> None:
    queue = server.create_queue()
    with pytest.raises(ServiceBusError):
        async with client.get_queue_sender(f"{queue}/$DeadLetterQueue") as sender:
            await sender.send_messages(ServiceBusMessage("refused"))


@pytest.mark.parametrize("sdk", ["sync", "aio"])
@pytest.mark.parametrize(("name", "key"), [(KEY_NAME, "wrong"), ("unknown", "SAS_KEY_VALUE")])
async def test_wrong_key_raises_authentication_error(
    server: Server, sdk: str, name: str, key: str
) -> None:
    queue = server.create_queue()
    async with connect(sdk, server.connection_string_with(name, key)) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            async with client.get_queue_sender(queue):
                pass


def test_entra_id_token_is_refused(server: Server) -> None:
    class Credential:
        def get_token(self, *_: str, **__: object) -> AccessToken:
            return AccessToken("header.claims.signature", 4_000_000_000)

    queue = server.create_queue()
    with (
        ServiceBusClient(
            f"localhost:{server.port}",
            Credential(),
            use_tls=False,
            retry_total=0,
        ) as client,
        pytest.raises((ServiceBusAuthenticationError, ServiceBusAuthorizationError)),
        client.get_queue_sender(queue),
    ):
        pass
