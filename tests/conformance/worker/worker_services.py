"""Run workers as processes, which use a local Service Bus, blob storage and a scripted gateway."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSubQueue,
)

from contract.catalogue import Catalogue
from contract.messages import InlineBytes, JobRequest, Payload, ReplyUrl, encode_request
from contract.queues import config
from tests import connections
from tests.conformance.worker.worker_gateway import Gateway
from tests.ports import free_port
from worker.brokers.port import LockedMessage
from worker.brokers.servicebus.link import QueueLink

ROOT = Path(__file__).resolve().parents[3]
# The limit is long, because a busy machine is slow.
START_SECONDS = 60.0
LOCK_SECONDS = 5
# The locks of this queue last longer than a test.
PATIENT_QUEUE = "patient"

CATALOGUE = """
[scripted]
description = "Does what its input says."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 4
max_wait_ms = 50
lock_seconds = 5

[single]
description = "Does what its input says, one job at a time."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5

[faulty]
description = "Loses its device while it loads."
implementation = "tests.conformance.worker.worker_models"
options = {loses_device = true}
media_types = ["application/json"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5

[long]
description = "Runs until the test opens the gate or the lock is lost."
implementation = "tests.conformance.worker.worker_long"
media_types = ["application/json"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 5
reports_progress = true

[talking]
description = "Emits numbers until the test opens the gate or the lock is lost."
implementation = "tests.conformance.worker.worker_talking"
media_types = ["application/json"]
lock_seconds = 5
reports_progress = true

[echoing]
description = "Emits its inputs, and fails on a batch with the input bad."
implementation = "tests.conformance.worker.worker_echoing"
media_types = ["application/json"]
max_batch_size = 2
max_wait_ms = 60000
lock_seconds = 300
reports_progress = true

[together]
description = "Each batch waits until it is full."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 4
max_wait_ms = 60000
lock_seconds = 300

[item]
description = "Does what its input says, one item in each call."
implementation = "tests.conformance.worker.worker_item"
media_types = ["application/json"]
lock_seconds = 5

[limited]
description = "Does what its input says, one item in each call, for two seconds at most."
implementation = "tests.conformance.worker.worker_item"
media_types = ["application/json"]
max_run_seconds = 2
lock_seconds = 5
max_delivery_count = 1

[limited-batch]
description = "Does what its input says, for two seconds at most."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 4
max_wait_ms = 500
max_run_seconds = 2
lock_seconds = 5

[broken]
description = "Cannot be loaded."
implementation = "tests.conformance.worker.no_such_module"
media_types = ["application/json"]
lock_seconds = 5

[once]
description = "Each batch waits until it is full, and no job may run twice."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 2
max_wait_ms = 60000
lock_seconds = 300
max_delivery_count = 1

[dying]
description = "Kills the process while it loads, when the test opens the gate."
implementation = "tests.conformance.worker.worker_models"
options = {dies = true}
media_types = ["application/json"]

[compared]
description = "Compares two JSON values."
implementation = "tests.conformance.worker.worker_compared"
media_types = ["application/json"]
max_input_bytes = 5_000_000
inputs.other = {media_types = ["application/json"]}

[pictured]
description = "Answers with a size, a picture and zeros."
implementation = "tests.conformance.worker.worker_pictured"
media_types = ["application/json"]
results.picture = {media_type = "image/png"}
results.zeros = {media_type = "application/json", optional = true}

[patient]
description = "Its locks last longer than a test."
implementation = "tests.conformance.worker.worker_models"
media_types = ["application/json"]
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 300

"""

_JOB_NUMBERS = count(1)
# One client, because making a client takes longer than a request. Its connections are not kept,
# because the programs are killed.
_HTTP = httpx.Client(timeout=START_SECONDS, limits=httpx.Limits(max_keepalive_connections=0))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    pause, ends_at = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends_at:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        pause.wait(0.02)


@dataclass
class Program:
    """Runs a program of this repository as a process, which can be killed and started again."""

    command: list[str]
    probe: str
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> Path:
        return self.log.with_suffix(".out")

    def start(self, *, wait: bool = True) -> None:
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"} | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )
        if wait:
            wait_until(self.is_ready, f"{self.command[0]} is ready (log: {self.log})")

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return _HTTP.get(self.probe).status_code < 500
        except httpx.TransportError:
            return False

    def is_ready_for_jobs(self) -> bool:
        return _HTTP.get(self.probe).status_code == 200

    def held(self, model: str) -> int:
        """Return how many messages of this model the worker has received but not yet settled."""
        document = _HTTP.get(self.probe).json()
        count: int = document["models"][model]["held"]
        return count

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def exit_code(self, seconds: float = START_SECONDS) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


@dataclass
class LocalServices:
    """The local Service Bus and blob storage, with methods to start workers and to use queues."""

    folder: Path
    catalogue_path: Path
    service_bus: Program
    blobs: Program
    service_bus_url: str
    blobs_url: str
    client: ServiceBusClient

    def worker(self, gateway_host: str, models: str, **settings: str) -> Program:
        port = free_port()
        environment = {
            "SERVICE_BUS": self.service_bus_url,
            "PAYLOAD_STORAGE": self.blobs_url,
            "MODEL_CATALOGUE": str(self.catalogue_path),
            "WORKER_MODELS": models,
            "REPLY_HOSTS": gateway_host,
            "HEALTH_PORT": str(port),
            **settings,
        }
        log = self.folder / f"worker-{port}.log"
        return Program(["worker"], f"http://127.0.0.1:{port}/ready", log, environment)

    def send(self, queue: str, *messages: ServiceBusMessage) -> None:
        with self.client.get_queue_sender(queue) as sender:
            for message in messages:
                sender.send_messages(message)

    def receiver(
        self, queue: str, sub_queue: ServiceBusSubQueue | None = None
    ) -> ServiceBusReceiver:
        return self.client.get_queue_receiver(queue, sub_queue=sub_queue, socket_timeout=0.05)

    def waiting(self, queue: str) -> list[str]:
        with self.receiver(queue) as receiver:
            return [str(message.message_id) for message in receiver.peek_messages(200)]

    def wait_until_empty(self, queue: str) -> None:
        with self.receiver(queue) as receiver:
            wait_until(
                lambda: not receiver.peek_messages(1, sequence_number=1), f"{queue} is empty"
            )

    def clear_queues(self) -> None:
        catalogue = Catalogue.load(self.catalogue_path)
        for queue in {catalogue[name].queue for name in catalogue}:
            while self.count_active(queue):
                with self.receiver(queue) as receiver:
                    for message in receiver.receive_messages(10, max_wait_time=1):
                        receiver.complete_message(message)

    def count_active(self, queue: str) -> int:
        address = self.service_bus.probe.removesuffix("/health")
        description = _HTTP.get(f"{address}/{queue}").raise_for_status().text
        return int(description.partition("ActiveMessageCount>")[2].partition("<")[0])

    def dead_letter(self, queue: str, message_id: str) -> ServiceBusReceivedMessage:
        with self.receiver(queue, ServiceBusSubQueue.DEAD_LETTER) as receiver:
            ends_at = time.monotonic() + START_SECONDS
            while time.monotonic() < ends_at:
                for message in receiver.receive_messages(max_wait_time=1):
                    receiver.complete_message(message)
                    if message.message_id == message_id:
                        return message
        raise AssertionError(
            f"{message_id} was not dead-lettered in {queue} within {START_SECONDS:g} s"
        )


def receive(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    return list(_arriving(receiver, count))


def take(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    found = []
    for each in _arriving(receiver, count):
        receiver.complete_message(each)
        found.append(each)
    return found


def _arriving(receiver: ServiceBusReceiver, count: int) -> Iterator[ServiceBusReceivedMessage]:
    arrived = 0
    while arrived < count:
        messages = receiver.receive_messages(count - arrived, max_wait_time=START_SECONDS)
        assert messages, f"only {arrived} of {count} messages arrived"
        arrived += len(messages)
        yield from messages


@contextlib.contextmanager
def run_services(
    folder: Path, catalogue: str | None = None, *, service_bus_module: str = "emulator.servicebus"
) -> Iterator[LocalServices]:
    catalogue_path = folder / "models.toml"
    shipped = (ROOT / "functions/contract/models.toml").read_text()
    catalogue_path.write_text(catalogue or CATALOGUE + shipped)
    config_path = folder / "servicebus.json"
    config_path.write_text(json.dumps(config(Catalogue.load(catalogue_path))))
    amqp, admin, http = free_port(), free_port(), free_port()
    service_bus = Program(
        [
            *(service_bus_module, "--config", str(config_path), "--port", str(amqp)),
            *("--admin-port", str(admin), "--data", str(folder / "servicebus")),
        ],
        f"http://127.0.0.1:{admin}/health",
        folder / "servicebus.log",
    )
    blobs = Program(
        ["emulator.blobs", "--port", str(http), "--data", str(folder / "blobs")],
        f"http://127.0.0.1:{http}/",
        folder / "blobs.log",
    )
    service_bus_url, blobs_url = connections.service_bus(amqp), connections.blob_storage(http)
    try:
        service_bus.start()
        blobs.start()
        with ServiceBusClient.from_connection_string(service_bus_url) as client:
            yield LocalServices(
                folder, catalogue_path, service_bus, blobs, service_bus_url, blobs_url, client
            )
    finally:
        service_bus.kill()
        blobs.kill()


def job_id() -> str:
    return f"job-{os.getpid()}-{next(_JOB_NUMBERS)}"


def message(
    gateway: Gateway,
    identity: str,
    model: str,
    task: dict[str, Any] | Payload,
    *,
    deadline_seconds: float = 600.0,
    reply_url: str | None = None,
    stream: bool = False,
) -> ServiceBusMessage:
    now = datetime.now(UTC)
    payload: Payload = (
        InlineBytes("application/json", json.dumps(task).encode())
        if isinstance(task, dict)
        else task
    )
    request = JobRequest(
        job_id=identity,
        model=model,
        input=payload,
        created_at=now,
        deadline=now + timedelta(seconds=deadline_seconds),
        reply_to=ReplyUrl(reply_url or gateway.url(identity)),
        stream=stream,
    )
    return ServiceBusMessage(
        encode_request(request),
        message_id=identity,
        correlation_id=identity,
        application_properties={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"},
    )


def submit(
    services: LocalServices, gateway: Gateway, model: str, *tasks: dict[str, Any] | Payload
) -> list[str]:
    """Send a job for each input to the model's queue, and return the jobs' ids."""
    jobs = [job_id() for _ in tasks]
    pairs = zip(jobs, tasks, strict=True)
    services.send(model, *(message(gateway, job, model, task) for job, task in pairs))
    return jobs


def received(link: QueueLink, count: int) -> list[LockedMessage]:
    found: list[LockedMessage] = []
    for _ in range(count):
        found += link.receive_messages(count - len(found), 5.0)
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} of {count} messages arrived")
