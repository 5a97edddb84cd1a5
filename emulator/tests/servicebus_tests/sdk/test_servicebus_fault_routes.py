"""Test with Microsoft's client that `/$emulator/faults` switches faults on and off."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusServerBusyError

from servicebus_tests.sdk.servicebus_process import Server, run_server


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a separate server for this module, because a fault affects all clients of its server."""
    with run_server(tmp_path_factory.mktemp("faults")) as running:
        yield running


def put(server: Server, body: Any) -> httpx.Response:
    return httpx.put(f"http://127.0.0.1:{server.admin_port}/$emulator/faults", json=body)


def test_throttled_send_raises_busy_until_it_ends(
    faulty: Server,
) -> None:
    queue = faulty.create_queue()
    with (
        ServiceBusClient.from_connection_string(faulty.connection_string, retry_total=0) as client,
        client.get_queue_sender(queue) as sender,
    ):
        sender.send_messages(ServiceBusMessage("before"))
        assert put(faulty, {"throttled_share": 1, "throttled_seconds": 600}).status_code == 200
        with pytest.raises(ServiceBusServerBusyError):
            sender.send_messages(ServiceBusMessage("meanwhile"))
        answer = put(faulty, {"latency_ms": 5})
        assert answer.json() == {
            "latency_ms": 5,
            "throttled_share": 0,
            "throttled_queue": None,
            "throttled_until": None,
            "idle_link_seconds": None,
        }
        sender.send_messages(ServiceBusMessage("after"))
        put(faulty, {})
        with client.get_queue_receiver(queue) as receiver:
            peeked = receiver.peek_messages(10)
            assert [str(each) for each in peeked] == ["before", "after"]


def test_throttling_one_queue_leaves_others_alone(faulty: Server) -> None:
    queue, other = faulty.create_queue(), faulty.create_queue()
    put(faulty, {"throttled_share": 1, "throttled_queue": queue})
    with ServiceBusClient.from_connection_string(faulty.connection_string, retry_total=0) as client:
        with client.get_queue_sender(other) as sender:
            sender.send_messages(ServiceBusMessage("sent"))
        with (
            pytest.raises(ServiceBusServerBusyError, match="Error code: 50002"),
            client.get_queue_sender(queue),
        ):
            pass
    put(faulty, {})


@pytest.mark.parametrize("body", [{"idle_link_seconds": 0}, None])
def test_client_sends_again_after_a_detach(faulty: Server, body: dict[str, int] | None) -> None:
    queue = faulty.create_queue()
    with (
        ServiceBusClient.from_connection_string(faulty.connection_string) as client,
        client.get_queue_sender(queue) as sender,
    ):
        sender.send_messages(ServiceBusMessage("before"))
        if body is None:
            url = f"http://127.0.0.1:{faulty.admin_port}/$emulator/detach"
            assert httpx.post(url, json={"queue": queue}).json() == {"detached": 1}
        else:
            put(faulty, body)  # this detaches all links at once
            put(faulty, {})
        sender.send_messages(ServiceBusMessage("after"))
        with client.get_queue_receiver(queue) as receiver:
            assert len(receiver.peek_messages(10)) == 2


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"latency": 5},
        {"latency_ms": -1},
        {"latency_ms": "5"},
        {"throttled_share": 1.5},
        {"throttled_share": True},
        {"throttled_share": 1, "throttled_queue": 5},
    ],
)
def test_invalid_value_gets_400(faulty: Server, body: Any) -> None:
    answer = put(faulty, body)
    assert answer.status_code == 400
    assert answer.json()["error"]
