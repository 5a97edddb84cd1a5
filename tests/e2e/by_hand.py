"""Receive requests and send replies in place of a worker, so that a test decides how jobs end."""

import base64
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.management import ServiceBusAdministrationClient
from azure.storage.blob import BlobClient

from contract.names import PAYLOAD_CONTAINER, result_blob
from loosely.local.parts import SystemSettings
from loosely.local.ports import Ports
from tests.e2e.system import ROOT, System, until

DONE = {"result": {"json": {"done": True}}}


def wait_for_request(system: System, queue: str, text: str) -> dict[str, Any]:
    wanted = base64.b64encode(text.encode()).decode()

    def found() -> dict[str, Any] | None:
        with (
            ServiceBusClient.from_connection_string(system.service_bus) as client,
            client.get_queue_receiver(queue) as receiver,
        ):
            requests = [_request(each) for each in receiver.peek_messages(max_message_count=100)]
        return next((each for each in requests if each["input"].get("base64") == wanted), None)

    request: dict[str, Any] = until(found, 10, f"{text!r} is queued")
    return request


def dead_letter_first(system: System, queue: str) -> None:
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_receiver(queue, max_wait_time=10) as receiver,
    ):
        (message,) = receiver.receive_messages(max_message_count=1)
        receiver.dead_letter_message(message, reason="MaxDeliveryCountExceeded")


def put_request(system: System, queue: str, **changes: Any) -> str:
    now, job_id = datetime.now(UTC), str(uuid.uuid4())
    request = {
        "schema": 1,
        "job_id": job_id,
        "model": queue,
        "input": {"json": 1},
        "created_at": now.isoformat(),
        "deadline": (now + timedelta(seconds=60)).isoformat(),
        **changes,
    }
    message = ServiceBusMessage(json.dumps(request), message_id=job_id, correlation_id=job_id)
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_sender(queue) as sender,
    ):
        sender.send_messages(message)
    return job_id


class HttpTransport(RequestsTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """Replaces https with http in the requests of the SDK's administration client."""

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


@contextmanager
def reply_queue(system: System) -> Iterator[str]:
    port = system.part("servicebus").ports["servicebus admin"]
    connection = re.sub(r"localhost:\d+", f"localhost:{port}", system.service_bus)
    name = f"replies-{uuid.uuid4().hex[:8]}"
    with ServiceBusAdministrationClient.from_connection_string(
        connection, transport=HttpTransport()
    ) as client:
        client.create_queue(name)
        yield name
        client.delete_queue(name)


def request_reply(
    system: System, replies: str, queue: str = "noop", model: str = "noop", **changes: Any
) -> dict[str, Any]:
    job_id = put_request(system, queue, model=model, reply_to={"queue": replies}, **changes)
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_receiver(replies) as receiver,
    ):
        (reply,) = receiver.receive_messages(max_wait_time=30)
        receiver.complete_message(reply)
        assert reply.correlation_id == job_id
        answer: dict[str, Any] = json.loads(str(reply))
        assert answer["job_id"] == job_id
        return answer


def make_producer_dead_letter(system: System, queue: str) -> str:
    """Put a request on a queue without the gateway, and dead-letter it. Return the job's id."""
    job_id = put_request(system, queue)
    dead_letter_first(system, queue)
    return job_id


def send_reply(
    request: dict[str, Any], outcome: dict[str, Any], held_seconds: float = 0.01
) -> None:
    answer = httpx.post(
        request["reply_to"]["url"], json=make_reply(request["job_id"], outcome, held_seconds)
    )
    assert answer.status_code == 202, answer.text


def make_reply(job_id: str, outcome: dict[str, Any], held_seconds: float = 0.01) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "schema": 1,
        "job_id": job_id,
        **outcome,
        "started_at": (now - timedelta(seconds=held_seconds)).isoformat(),
        "finished_at": now.isoformat(),
        "timing": {"queued_ms": 1, "inference_ms": held_seconds * 1000, "batch_size": 1},
    }


def make_failure(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "By hand.", "stage": "run", "retryable": True}}


def upload_large_result(system: System, job_id: str) -> dict[str, Any]:
    """Upload a large result to a blob. Return the part of a worker's reply that names the blob."""
    data = json.dumps({"text": "x" * 300_000}).encode()
    name = result_blob(job_id)
    with BlobClient.from_connection_string(_storage(system), PAYLOAD_CONTAINER, name) as blob:
        etag = blob.upload_blob(data)["etag"]
    reference = {"blob": name, "size_bytes": len(data), "etag": etag}
    return {"result": {"media_type": "application/json", **reference}}


def _storage(system: System) -> str:
    ports = Ports(blobs=system.part("blobs").ports["blobs"])
    return SystemSettings(ROOT, system.data, ports, "", "info").storage_connection


def _request(message: ServiceBusReceivedMessage) -> dict[str, Any]:
    request: dict[str, Any] = json.loads(str(message))
    return request
