"""Test that gateway and worker access Service Bus only with the rights that each of them needs."""

import json
from pathlib import Path

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.management import ServiceBusAdministrationClient

from tests import connections
from tests.e2e.by_hand import HttpTransport
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch]


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
        transport=HttpTransport(),
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
