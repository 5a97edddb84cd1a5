"""Run the three services of the emulator for a fuzz test, and check them with valid requests."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from blobs_tests.sdk.blob_servers import ACCOUNT, signature
from local_ports import free_port

APP = Path(__file__).parents[1] / "crash_tests" / "app"
#: The entities that malformed requests use. The others are for `check_services`.
FUZZED_QUEUE, FUZZED_CONTAINER = "queue", "box"
FUZZED_SESSION_QUEUE, FUZZED_TOPIC = "session-queue", "topic"
_CHECKED_QUEUE, _CHECKED_CONTAINER = "checked", "checked"
KEY_NAME, KEY = "key", "value"
DURABLE = "/runtime/webhooks/durabletask"
_START_SECONDS = 60.0
_TRACEBACK = "Traceback (most recent call last):"
_ALL_TIMES = {"createdTimeFrom": "2000-01-01T00:00:00Z"}


class ServiceFailure(Exception):
    """Raised if a service has ended, or answers a valid request wrongly or too late."""


@dataclass(frozen=True)
class FuzzedServices:
    """The running services and their ports.

    The keys of `processes` and `logs` are the names of the services.
    """

    processes: Mapping[str, subprocess.Popen[bytes]]
    logs: Mapping[str, Path]
    amqp_port: int
    admin_port: int
    blobs_port: int
    functions_port: int
    #: The query parameters that sign a request for a blob.
    signature: str

    @property
    def connection_string(self) -> str:
        """The connection string of the Service Bus emulator."""
        return (
            f"Endpoint=sb://localhost:{self.amqp_port};SharedAccessKeyName={KEY_NAME};"
            f"SharedAccessKey={KEY};UseDevelopmentEmulator=true;"
        )

    def find_tracebacks(self) -> Counter[str]:
        """Count the tracebacks in the logs.

        Each key contains the name of the service, the last line of the traceback, and the file and
        the line of the code that raised the error.
        """
        found: Counter[str] = Counter()
        for name, log in self.logs.items():
            place: str | None = None
            for line in log.read_text("utf-8", "replace").splitlines():
                if line.startswith(_TRACEBACK):
                    place = ""
                elif place is not None and line.startswith("  File "):
                    place = line.strip()
                elif place is not None and line and not line.startswith(" "):
                    found[f"{name}: {line[:200]} ({place})"] += 1
                    place = None
        return found

    def find_ended(self) -> list[str]:
        """Return a sentence for each service whose process has ended."""
        return [
            f"the process of {name} has ended with status {process.returncode}"
            for name, process in self.processes.items()
            if process.poll() is not None
        ]


@contextlib.asynccontextmanager
async def running_services(folder: Path) -> AsyncIterator[FuzzedServices]:
    """Run the three services during the `with` block, with their data and logs in `folder`."""
    amqp, admin, blobs, functions = (free_port() for _ in range(4))
    commands = {
        "servicebus": [
            *("--port", str(amqp), "--admin-port", str(admin)),
            *("--key", f"{KEY_NAME}={KEY}"),
        ],
        "blobs": ["--port", str(blobs)],
        "functions": [
            "--port",
            str(functions),
            "--app",
            str(APP),
            "--no-reload",
            "--no-request-log",
        ],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    logs = {name: folder / f"{name}.log" for name in commands}
    try:
        for name, options in commands.items():
            processes[name] = _launch(name, folder, logs[name], options)
        services = FuzzedServices(processes, logs, amqp, admin, blobs, functions, signature())
        for port in (amqp, admin, blobs, functions):
            await _wait_until_listening(services, port)
        await _create_entity(services, _CHECKED_QUEUE)
        await _create_fuzzed_entities(services)
        await _create_container(services, _CHECKED_CONTAINER)
        yield services
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _launch(name: str, folder: Path, log: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"emulator.{name}", "--data", str(folder / name)]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "--log-level", "warning", *options],
            stdin=subprocess.DEVNULL,
            stderr=file,
        )


async def _wait_until_listening(services: FuzzedServices, port: int) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if services.find_ended() or time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


async def check_services(services: FuzzedServices, limit_seconds: float) -> float:
    """Use each service, delete what malformed requests made, and return the longest time.

    Raises ServiceFailure if a service has ended, answers wrongly, or needs `limit_seconds`.
    """
    if ended := services.find_ended():
        raise ServiceFailure("; ".join(ended))
    longest = 0.0
    for name, use in (
        ("servicebus", _use_servicebus),
        ("blobs", _use_blobs),
        ("functions", _use_functions),
    ):
        begun_at = time.monotonic()
        try:
            async with asyncio.timeout(limit_seconds):
                await use(services)
        except TimeoutError:
            raise ServiceFailure(f"{name} did not answer within {limit_seconds:g} s") from None
        except (httpx.HTTPError, AssertionError) as error:
            raise ServiceFailure(f"{name} answers a valid request with: {error!r}") from error
        longest = max(longest, time.monotonic() - begun_at)
    await _remove_queues(services)
    await _remove_blobs(services)
    await _remove_orchestrations(services)
    return longest


# Service Bus


async def _create_fuzzed_entities(services: FuzzedServices) -> None:
    """Create the queues, the topic and the subscription that the fuzz test uses.

    Those that exist already are left unchanged.
    """
    sessions = "<RequiresSession>true</RequiresSession>"
    await _create_entity(services, FUZZED_QUEUE)
    await _create_entity(services, FUZZED_SESSION_QUEUE, properties=sessions)
    await _create_entity(services, FUZZED_TOPIC, "Topic")
    await _create_entity(services, f"{FUZZED_TOPIC}/Subscriptions/sub-1", "Subscription")


async def _create_entity(
    services: FuzzedServices, path: str, kind: str = "Queue", properties: str = ""
) -> None:
    """Create a queue, topic or subscription unless it exists. `properties` is XML."""
    namespace = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
    body = (
        '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
        f'<{kind}Description xmlns="{namespace}">{properties}</{kind}Description>'
        "</content></entry>"
    )
    async with _http(services.admin_port) as http:
        answer = await http.put(f"/{path}?api-version=2021-05", content=body)
        assert answer.status_code in {200, 201, 409}, answer.text


async def _use_servicebus(services: FuzzedServices) -> None:
    async with _http(services.admin_port) as http:
        # A malformed request may have switched faults on.
        (await http.put("/$emulator/faults", json={})).raise_for_status()
        assert (await http.get("/health")).json()["status"] == "ok"
    text = uuid.uuid4().hex
    async with ServiceBusClient.from_connection_string(services.connection_string) as client:
        async with client.get_queue_sender(_CHECKED_QUEUE) as sender:
            await sender.send_messages(ServiceBusMessage(text))
        async with client.get_queue_receiver(_CHECKED_QUEUE) as receiver:
            (message,) = await receiver.receive_messages(1, max_wait_time=30)
            assert str(message) == text
            await receiver.complete_message(message)


async def _remove_queues(services: FuzzedServices) -> None:
    kept = {_CHECKED_QUEUE}
    async with _http(services.admin_port) as http:
        while True:
            feed = (await http.get("/$Resources/queues?$top=100")).text
            # The first title is that of the feed.
            names = set(re.findall(r"<title[^>]*>([^<]+)</title>", feed)[1:]) - kept
            if not names:
                break
            for name in names:
                await http.delete(f"/{quote(name)}?api-version=2021-05")
                kept.add(name)
    await _create_fuzzed_entities(services)


# Blobs


async def _create_container(services: FuzzedServices, name: str) -> None:
    async with _http(services.blobs_port) as http:
        answer = await http.put(f"/{ACCOUNT}/{name}?restype=container&{services.signature}")
        assert answer.status_code in {201, 409}, answer.text


async def _use_blobs(services: FuzzedServices) -> None:
    content = uuid.uuid4().bytes * 5000
    url = f"/{ACCOUNT}/{_CHECKED_CONTAINER}/alive?{services.signature}"
    async with _http(services.blobs_port) as http:
        headers = {"x-ms-blob-type": "BlockBlob"}
        (await http.put(url, content=content, headers=headers)).raise_for_status()
        assert (await http.get(url)).content == content


async def _remove_blobs(services: FuzzedServices) -> None:
    async with _http(services.blobs_port) as http:
        listed = (await http.get(f"/{ACCOUNT}?comp=list&{services.signature}")).text
        for name in set(re.findall(r"<Name>([^<]+)</Name>", listed)):
            if name != _CHECKED_CONTAINER:
                await http.delete(f"/{ACCOUNT}/{name}?restype=container&{services.signature}")
    await _create_container(services, FUZZED_CONTAINER)


# Functions


async def _use_functions(services: FuzzedServices) -> None:
    async with _http(services.functions_port) as http:
        answer = await http.post(
            f"{DURABLE}/orchestrators/shipment?timeout=30&pollingInterval=0.05", json=None
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()) == 1


async def _remove_orchestrations(services: FuzzedServices) -> None:
    async with _http(services.functions_port) as http:
        running = {"runtimeStatus": "Running,Pending,Suspended"}
        answer = await http.get(f"{DURABLE}/instances", params=running)
        for instance in json.loads(answer.text):
            name = quote(instance["instanceId"], safe="")
            await http.post(f"{DURABLE}/instances/{name}/terminate")
        await http.delete(f"{DURABLE}/instances", params=_ALL_TIMES)


def _http(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60)
