"""Send requests to queues without a gateway, as a producer does, and check the replies."""

import json
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.pipeline.transport import RequestsTransport
from azure.servicebus import ServiceBusClient
from azure.servicebus.management import ServiceBusAdministrationClient

from tests.e2e import by_hand
from tests.e2e.system import ROOT, System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

PAGE = ROOT / "docs" / "message-contract.md"


class HttpTransport(RequestsTransport):  # type: ignore[misc]  # loaded lazily, so untyped
    """Sends each request by http, because the emulator has no https.

    The administration client always uses https.
    """

    def send(self, request: Any, **kwargs: Any) -> Any:
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, **kwargs)


@pytest.fixture
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
    system: System, reply_queue: str, queue: str = "noop", model: str = "noop", **changes: Any
) -> dict[str, Any]:
    """Send a request to `queue`, and return the reply from `reply_queue`."""
    job_id = by_hand.put_request(
        system, queue, model=model, reply_to={"queue": reply_queue}, **changes
    )
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_receiver(reply_queue) as receiver,
    ):
        (reply,) = receiver.receive_messages(max_wait_time=30)
        receiver.complete_message(reply)
        assert reply.correlation_id == job_id
        answer: dict[str, Any] = json.loads(str(reply))
        assert answer["job_id"] == job_id
        return answer


def test_the_documented_producer_receives_the_reply_to_a_submitted_job(
    system: System, reply_queue: str, tmp_path: Path
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    program = tmp_path / "producer.py"
    program.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(program), system.service_bus, reply_queue],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("True ")
    assert json.loads(ran.stdout.removeprefix("True "))["result"]["json"]["size_bytes"] > 0


def test_a_producer_receives_the_error_of_a_failed_job(system: System, reply_queue: str) -> None:
    unread = {"media_type": "audio/wav", "base64": "AAAA"}
    answer = request_reply(system, reply_queue, input=unread)
    assert answer["error"]["code"] == "unsupported-media-type"


def test_a_producer_receives_the_error_code_expired_for_a_job_past_its_deadline(
    system: System, reply_queue: str
) -> None:
    passed = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    answer = request_reply(system, reply_queue, deadline=passed)
    assert answer["error"]["code"] == "expired"


def test_a_producer_receives_the_reply_to_a_low_priority_job(
    system: System, reply_queue: str
) -> None:
    assert request_reply(system, reply_queue, "noop-low")["result"]["json"]["size_bytes"] == 1


@pytest.mark.parametrize("queue", ["noop", "noop-low"])
def test_a_producer_receives_the_failure_of_a_dead_lettered_job(
    system: System, reply_queue: str, queue: str
) -> None:
    answer = request_reply(system, reply_queue, queue, model="classifier")
    assert answer["error"]["code"] == "dead-lettered"


def test_the_gateway_serves_the_json_schema_of_a_request(system: System) -> None:
    answer = system.http.get("/schemas/job-request.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json()["title"] == "JobRequest"
