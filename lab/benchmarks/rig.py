"""Run a worker and the Service Bus emulator (the broker) without a gateway, for the benchmarks.

The benchmarks send their jobs directly to the model's queue.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiveMode

from contract.catalogue import Catalogue
from contract.messages import (
    JobReply,
    JobRequest,
    Payload,
    ReplyQueue,
    decode_reply,
    encode_request,
)
from contract.queues import config
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
REPLIES = "replies"
_START_SECONDS = 120.0
_COUNT = re.compile(rb"ActiveMessageCount>(\d+)<")


@dataclass(slots=True)
class ProbedProgram:
    """A running Python program whose readiness can be checked by HTTP.

    The program is ready when a GET request to the URL `probe` gets a response with the status
    `ready_status`. If `ready_status` is None, the status can be any. `log` is the file with the
    program's standard error.
    """

    process: subprocess.Popen[bytes]
    probe: str
    log: Path
    ready_status: int | None = 200

    @classmethod
    def start(
        cls,
        *command: str,
        probe: str,
        log: Path,
        ready_status: int | None = 200,
        **settings: str,
    ) -> "ProbedProgram":
        """Start a Python module as a program, and wait until the program is ready.

        Args:
            command: The name of the module, followed by the arguments of the program.
            probe: The URL to which GET requests are sent until the program is ready.
            log: The file to which the program's standard error is appended.
            ready_status: The status of the response if the program is ready; None for any status.
            settings: Additional environment variables of the program.

        Raises:
            RuntimeError: if the program ends or is not ready in time. The error message contains
                the end of the program's log.
        """
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'functions'}"} | settings
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=environment, stderr=output
            )
        program = cls(process, probe, log, ready_status)
        ends_at = time.monotonic() + _START_SECONDS
        while not program._is_ready():
            if process.poll() is not None or time.monotonic() > ends_at:
                process.kill()
                raise RuntimeError(
                    f"{command[0]} did not become ready; its log ends with: "
                    f"{log.read_text('utf-8')[-2000:]}"
                )
            time.sleep(0.05)
        return program

    def _is_ready(self) -> bool:
        try:
            status = httpx.get(self.probe, timeout=5).status_code
        except httpx.TransportError:
            return False
        return self.ready_status in {None, status}

    def stop(self) -> None:
        """Terminate the program. Kill the program if it still runs after 20 s."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class WorkerRig:
    """A running worker and Service Bus emulator (the broker), and a client of the broker.

    The client sends jobs to the worker through the broker, and receives the worker's replies.
    """

    def __init__(
        self,
        broker: ProbedProgram,
        worker: ProbedProgram,
        admin_port: int,
        client: ServiceBusClient,
    ) -> None:
        self.broker = broker
        self.worker = worker
        self._admin_port = admin_port
        self._client = client

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the broker and the worker during the `with` block.

        Use this method while other programs are measured, because even idle programs disturb them.
        """
        for program in (self.worker, self.broker):
            program.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for program in (self.broker, self.worker):
                program.process.send_signal(signal.SIGCONT)

    def fill(self, model: str, inputs: Sequence[Payload], count: int) -> set[str]:
        """Send `count` jobs to the model's queue. Return their ids.

        The worker is suspended until all jobs are in the queue. The jobs use the `inputs` in order.
        After the last input, the first input is used again.
        """
        now = datetime.now(UTC)
        ids = [str(uuid.uuid4()) for _ in range(count)]
        self.worker.process.send_signal(signal.SIGSTOP)
        try:
            with self._client.get_queue_sender(model) as sender:
                batch = sender.create_message_batch()
                for number, job_id in enumerate(ids):
                    request = JobRequest(
                        job_id=job_id,
                        model=model,
                        input=inputs[number % len(inputs)],
                        created_at=now,
                        deadline=now + timedelta(minutes=10),
                        reply_to=ReplyQueue(REPLIES),
                    )
                    message = ServiceBusMessage(
                        encode_request(request), message_id=job_id, correlation_id=job_id
                    )
                    try:
                        batch.add_message(message)
                    except ValueError:
                        sender.send_messages(batch)
                        batch = sender.create_message_batch()
                        batch.add_message(message)
                sender.send_messages(batch)
        finally:
            self.worker.process.send_signal(signal.SIGCONT)
        return set(ids)

    def wait_for_replies(
        self, model: str, replies: int, seconds: float, expected_seconds: float = 0.0
    ) -> None:
        """Wait until the worker has sent `replies` replies and the model's queue is empty.

        Check the queues for the first time after `expected_seconds`, and then once a second.
        Earlier or more frequent requests to the broker would disturb the measurement.

        Raises:
            RuntimeError: if the replies take more than `seconds`, or if the worker ends.
        """
        ends_at = time.monotonic() + seconds
        time.sleep(expected_seconds)
        while (count := self.count(REPLIES)) < replies or self.count(model):
            if time.monotonic() > ends_at or self.worker.process.poll() is not None:
                raise RuntimeError(
                    f"the worker sent only {count} of {replies} replies, because the worker ended "
                    f"or needed more than {seconds:.0f} s"
                )
            time.sleep(1.0)

    def count(self, queue: str) -> int:
        """Return the number of active messages in the queue with the name `queue`."""
        connection = http.client.HTTPConnection("127.0.0.1", self._admin_port, timeout=10)
        connection.request("GET", f"/{queue}?api-version=2021-05")
        found = _COUNT.search(connection.getresponse().read())
        connection.close()
        if found is None:
            raise RuntimeError(
                f"the broker did not return the number of active messages in the queue {queue}"
            )
        return int(found[1])

    def take_replies(self) -> list[JobReply]:
        """Receive all replies from the reply queue, and return them."""
        found: list[JobReply] = []
        with self._client.get_queue_receiver(
            REPLIES, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
        ) as receiver:
            while messages := receiver.receive_messages(max_message_count=500, max_wait_time=1):
                found += [decode_reply(b"".join(message.body)) for message in messages]
        return found


@contextlib.contextmanager
def run_rig(folder: Path, catalogue: Path, model: str) -> Iterator[WorkerRig]:
    """Run a broker and a worker for `model` during the `with` block. Yield both as a `WorkerRig`.

    The broker and the worker write their data and logs to `folder`.
    """
    document = config(Catalogue.load(catalogue))
    queues = document["UserConfig"]["Namespaces"][0]["Queues"]
    queues.append({"Name": REPLIES, "Properties": {}})
    configuration = folder / "servicebus.json"
    configuration.write_text(json.dumps(document), encoding="utf-8")
    port, admin_port, health_port = free_port(), free_port(), free_port()
    connection = (
        f"Endpoint=sb://localhost:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        "SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
    )
    with contextlib.ExitStack() as stack:
        broker = ProbedProgram.start(
            *("emulator.servicebus", "--config", str(configuration), "--port", str(port)),
            *("--admin-port", str(admin_port), "--data", str(folder / "servicebus")),
            probe=f"http://127.0.0.1:{admin_port}/health",
            log=folder / "servicebus.log",
        )
        stack.callback(broker.stop)
        worker = ProbedProgram.start(
            "worker",
            probe=f"http://127.0.0.1:{health_port}/ready",
            log=folder / "worker.log",
            SERVICE_BUS=connection,
            # The worker does not use this storage, because inputs and results are small enough for
            # messages.
            PAYLOAD_STORAGE="DefaultEndpointsProtocol=http;AccountName=none;AccountKey=bm9uZQ==;"
            f"BlobEndpoint=http://127.0.0.1:{free_port()}/none;",
            MODEL_CATALOGUE=str(catalogue),
            WORKER_MODELS=model,
            REPLY_HOSTS="localhost:1",
            HEALTH_PORT=str(health_port),
        )
        stack.callback(worker.stop)
        client = stack.enter_context(ServiceBusClient.from_connection_string(connection))
        yield WorkerRig(broker, worker, admin_port, client)
