"""Test AMQP and AMQP over WebSocket, both with TLS."""

import socket
import ssl
from pathlib import Path

from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from emulator.servicebus.amqp.connection import SASL_HEADER
from local_ports import free_port
from servicebus_tests.sdk.certificate import make_certificate
from servicebus_tests.sdk.servicebus_process import (
    KEY,
    KEY_NAME,
    run_server,
)


async def test_tls_port_accepts_amqp_and_websockets(
    tmp_path: Path,
) -> None:
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    options = ["--tls-cert", str(certificate), "--tls-key", str(key), "--tls-port", str(port)]
    with run_server(tmp_path / "data", options) as server:
        # Connect without the client, because with TLS it always uses port 5671.
        context = ssl.create_default_context(cafile=certificate)
        with (
            socket.create_connection(("localhost", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(SASL_HEADER)
            assert secure.recv(8) == SASL_HEADER
        client = ServiceBusClient.from_connection_string(
            f"Endpoint=sb://localhost/;SharedAccessKeyName={KEY_NAME};SharedAccessKey={KEY}",
            custom_endpoint_address=f"sb://localhost:{port}",  # makes the client use WebSocket
            connection_verify=str(certificate),
            retry_total=0,
        )
        await _send_and_receive(client, server.create_queue())


async def _send_and_receive(client: ServiceBusClient, queue: str) -> None:
    async with (
        client,
        client.get_queue_sender(queue) as sender,
        client.get_queue_receiver(queue) as receiver,
    ):
        await sender.send_messages(ServiceBusMessage(b"x" * 200_000))
        (message,) = await receiver.receive_messages(1, max_wait_time=10)
        assert len(b"".join(message.body)) == 200_000
        await receiver.complete_message(message)
