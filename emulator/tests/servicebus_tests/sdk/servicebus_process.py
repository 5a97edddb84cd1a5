"""Run the Service Bus emulator as a process, and create queues in the emulator."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus.management import ServiceBusAdministrationClient

from command_process import wait_until_listening
from local_ports import free_port

KEY_NAME = "RootManageSharedAccessKey"
KEY = "SAS_KEY_VALUE"
_ENTRY = """<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">
<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">
{properties}</QueueDescription></content></entry>"""


class PlainTransport(RequestsTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """A transport that sends requests over http although their URLs have the scheme https."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


def administration_client(
    admin_port: int, name: str = KEY_NAME, key: str = KEY
) -> ServiceBusAdministrationClient:
    """Return Microsoft's client of the management API.

    The client signs its requests with the shared access policy `name` and the policy's `key`.
    """
    return ServiceBusAdministrationClient.from_connection_string(
        f"Endpoint=sb://localhost:{admin_port};SharedAccessKeyName={name};"
        f"SharedAccessKey={key};UseDevelopmentEmulator=true;",
        transport=PlainTransport(),
        retry_total=0,
    )


@dataclass(slots=True)
class Server:
    """A process of the Service Bus emulator.

    The process can be killed, and then started again with the same data directory.
    """

    data: Path
    port: int
    admin_port: int
    options: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def connection_string(self) -> str:
        return self.connection_string_with(KEY_NAME, KEY)

    def connection_string_with(self, name: str, key: str, queue: str | None = None) -> str:
        """Return a connection string with the name and the key of a shared access policy.

        The connection string is only for `queue`, or for the whole namespace if `queue` is None.
        """
        entity = f"EntityPath={queue};" if queue else ""
        return (
            f"Endpoint=sb://localhost:{self.port};SharedAccessKeyName={name};"
            f"SharedAccessKey={key};UseDevelopmentEmulator=true;{entity}"
        )

    def start(self) -> None:
        command = [sys.executable, "-m", "emulator.servicebus", "--data", str(self.data)]
        command += ["--port", str(self.port), "--admin-port", str(self.admin_port)]
        command += ["--log-level", "warning", *self.options]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        wait_until_listening(self.process, f"http://127.0.0.1:{self.admin_port}/health")

    def kill(self) -> None:
        """Kill the server process with SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Stop the server process with SIGTERM and return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=10)

    def create_queue(self, **properties: str | int) -> str:
        """Create a queue, and return its name. `properties` are elements of a QueueDescription."""
        name = f"queue-{uuid4().hex[:12]}"
        self.create_queue_named(name, **properties)
        return name

    def create_queue_named(self, name: str, **properties: str | int) -> None:
        elements = "".join(f"<{key}>{value}</{key}>" for key, value in properties.items())
        url = f"http://127.0.0.1:{self.admin_port}/{name}?api-version=2021-05"
        httpx.put(url, content=_ENTRY.format(properties=elements)).raise_for_status()

    def delete_queue(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.admin_port}/{name}?api-version=2021-05"
        httpx.delete(url).raise_for_status()


@contextlib.contextmanager
def run_server(data: Path, options: Sequence[str] = ()) -> Iterator[Server]:
    """Start a server on free ports, and kill it at the end of the `with` block."""
    server = Server(data, free_port(), free_port(), options)
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()
