"""Test Service Bus as a producer without the gateway sees it: its requests, keys and rights."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.management import ServiceBusAdministrationClient

from tests import connections
from tests.e2e import by_hand
from tests.e2e.system import ROOT, System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

PAGE = ROOT / "docs/reference/message-contract.md"


@pytest.fixture
def reply_queue(system: System) -> Iterator[str]:
    with by_hand.reply_queue(system) as name:
        yield name


def test_documented_program_receives_its_reply(
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


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"input": {"media_type": "audio/wav", "base64": "AAAA"}}, "unsupported-media-type"),
        ({"deadline": "2026-01-01T00:00:00Z"}, "expired"),
    ],
)
def test_producer_receives_an_error(
    system: System, reply_queue: str, changes: dict[str, Any], code: str
) -> None:
    assert by_hand.request_reply(system, reply_queue, **changes)["error"]["code"] == code


def test_producer_receives_a_low_priority_reply(system: System, reply_queue: str) -> None:
    answer = by_hand.request_reply(system, reply_queue, "noop-low")
    assert answer["result"]["json"]["size_bytes"] == 1


@pytest.mark.parametrize("queue", ["noop", "noop-low"])
def test_producer_receives_a_dead_letters_failure(
    system: System, reply_queue: str, queue: str
) -> None:
    answer = by_hand.request_reply(system, reply_queue, queue, model="classifier")
    assert answer["error"]["code"] == "dead-lettered"


def keys(system: System) -> dict[str, str]:
    path = system.visible_data / "servicebus-policies.json"
    assert path.stat().st_mode & 0o777 == 0o600
    return {
        rule["Name"]: rule["PrimaryKey"]
        for rule in json.loads(path.read_text())["AuthorizationRules"]
    }


def administration_client(
    system: System, name: str = "RootManageSharedAccessKey", key: str = "SAS_KEY_VALUE"
) -> ServiceBusAdministrationClient:
    port = system.part("servicebus").ports["servicebus admin"]
    return ServiceBusAdministrationClient.from_connection_string(
        connections.service_bus(port, name, key),
        transport=by_hand.HttpTransport(),
        retry_total=0,
    )


def test_each_part_uses_the_key_of_its_policy(system: System) -> None:
    response = system.http.post("/v1/models/noop/jobs", content=b"x")
    assert response.status_code == 200, response.text
    found = keys(system)
    for part, policy in (("functions", "gateway"), ("worker", "worker")):
        environment = Path(f"/proc/{system.part(part).pid}/environ").read_bytes()
        expected = f"SharedAccessKeyName={policy};SharedAccessKey={found[policy]};"
        assert expected.encode() in environment
        assert b"SAS_KEY_VALUE" not in environment
    logs = "".join(path.read_text("utf-8", "replace") for path in system.data.glob("logs/*.log"))
    assert not any(key in logs for key in found.values())


def test_workers_key_cannot_manage(system: System) -> None:
    found = keys(system)
    with administration_client(system, "gateway", found["gateway"]) as admin:
        assert "noop" in {queue.name for queue in admin.list_queues()}
    with administration_client(system, "worker", found["worker"]) as admin:
        with pytest.raises(ClientAuthenticationError, match="Manage,EntityRead claims required"):
            list(admin.list_queues())
        with pytest.raises(ClientAuthenticationError, match="Manage,EntityWrite claims required"):
            admin.create_queue("made")


def test_documented_key_sends_and_receives(system: System) -> None:
    with administration_client(system) as admin:
        admin.create_queue("of-the-user")
    with (
        ServiceBusClient.from_connection_string(system.service_bus) as client,
        client.get_queue_sender("of-the-user") as sender,
        client.get_queue_receiver("of-the-user") as receiver,
    ):
        sender.send_messages(ServiceBusMessage("hello"))
        (message,) = receiver.receive_messages(max_wait_time=10)
        receiver.complete_message(message)
