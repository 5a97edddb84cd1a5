"""Test the management API with Microsoft's administration client."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.servicebus._base_handler import ServiceBusSharedKeyCredential
from azure.servicebus.management import AuthorizationRule as PolicyOfQueue
from azure.servicebus.management import ServiceBusAdministrationClient, SqlRuleFilter

from emulator.clock import WallClock
from emulator.servicebus.access import AccessPolicies
from emulator.servicebus.administration import create_admin_app
from emulator.servicebus.broker.authorization import ALL_RIGHTS, AuthorizationRule
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import IncomingMessage, MessageDelivery, ReceiveMode
from emulator.servicebus.broker.settings import QueueSettings, TopicSettings
from emulator.servicebus.namespace import Namespace
from servicebus_tests.sdk.servicebus_process import administration_client

RULES = [AuthorizationRule("RootManageSharedAccessKey", ALL_RIGHTS, "not-a-secret")]
T = TypeVar("T")


@dataclass
class Served:
    broker: Broker
    port: int

    def client(
        self, key: str = "not-a-secret", name: str = "RootManageSharedAccessKey"
    ) -> ServiceBusAdministrationClient:
        return administration_client(self.port, name, key)

    async def call(
        self, use: Callable[[ServiceBusAdministrationClient], T], **credentials: str
    ) -> T:
        """Call `use` with an administration client in a thread, and return the result of `use`.

        `credentials` replace the client's valid credentials.
        """

        def run() -> T:
            with self.client(**credentials) as client:
                return use(client)

        return await asyncio.to_thread(run)


@asynccontextmanager
async def _serve(broker: Broker) -> AsyncIterator[int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    policies = AccessPolicies(RULES, broker)
    namespace = Namespace(broker, policies, WallClock())
    app = create_admin_app(broker, namespace, policies)
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    with closing(listener):
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    broker = await Broker.open(tmp_path / "admin.sqlite", [QueueSettings("q")], WallClock())
    async with _serve(broker) as port:
        yield Served(broker, port)
    await broker.close()


async def test_queue_has_the_requested_properties(served: Served) -> None:
    created = await served.call(
        lambda client: client.create_queue(
            "made",
            lock_duration=timedelta(seconds=45),
            max_delivery_count=3,
            default_message_time_to_live="PT1H",
            dead_lettering_on_message_expiration=True,
            requires_duplicate_detection=True,
            duplicate_detection_history_time_window=timedelta(minutes=5),
            requires_session=True,
            user_metadata="of the shop",
            enable_batched_operations=False,
            auto_delete_on_idle=timedelta(hours=1),
        )
    )
    got = await served.call(lambda client: client.get_queue("made"))
    for queue in (created, got):
        assert queue.name == "made"
        assert queue.lock_duration == timedelta(seconds=45)
        assert queue.max_delivery_count == 3
        assert queue.default_message_time_to_live == timedelta(hours=1)
        assert queue.dead_lettering_on_message_expiration
        assert queue.requires_duplicate_detection
        assert queue.duplicate_detection_history_time_window == timedelta(minutes=5)
        assert queue.requires_session
        assert queue.user_metadata == "of the shop"
        assert queue.enable_batched_operations is False
        assert queue.auto_delete_on_idle == timedelta(hours=1)
    assert served.broker.queue("made").settings == QueueSettings(
        "made",
        lock_duration=timedelta(seconds=45),
        max_delivery_count=3,
        default_message_time_to_live=timedelta(hours=1),
        dead_lettering_on_message_expiration=True,
        duplicate_detection_window=timedelta(minutes=5),
        requires_session=True,
        user_metadata="of the shop",
        enable_batched_operations=False,
        auto_delete_on_idle=timedelta(hours=1),
    )


async def test_queue_has_its_times(served: Served) -> None:
    before = datetime.now(UTC)
    await served.call(partial(_change, {"max_delivery_count": 3}))
    await served.broker.queue("q").send([IncomingMessage(b"", b"", b"x")])
    found: Any = await served.call(lambda client: client.get_queue_runtime_properties("q"))
    assert found.created_at_utc < before < found.updated_at_utc < found.accessed_at_utc


async def test_namespace_has_properties(served: Served) -> None:
    found: Any = await served.call(lambda client: client.get_namespace_properties())
    assert (found.name, found.messaging_sku) == ("sbemulatorns", "Standard")
    assert found.created_at_utc <= datetime.now(UTC)


async def test_defaults_are_azures(served: Served) -> None:
    await served.call(lambda client: client.create_queue("plain"))
    assert served.broker.queue("plain").settings == QueueSettings("plain")


async def test_existing_queue_is_refused(served: Served) -> None:
    with pytest.raises(ResourceExistsError, match="already exists"):
        await served.call(lambda client: client.create_queue("Q"))


async def test_unknown_queue_raises_not_found(
    served: Served,
) -> None:
    with pytest.raises(ResourceNotFoundError):
        await served.call(lambda client: client.get_queue("absent"))
    with pytest.raises(ResourceNotFoundError):
        await served.call(lambda client: client.get_queue_runtime_properties("absent"))
    with pytest.raises(ResourceNotFoundError):
        await served.call(lambda client: client.delete_queue("absent"))


async def test_lock_duration_and_delivery_count_change(
    served: Served,
) -> None:
    def change(client: ServiceBusAdministrationClient) -> None:
        queue = client.get_queue("q")
        queue.max_delivery_count = 7
        queue.lock_duration = timedelta(minutes=2)
        client.update_queue(queue)

    await served.call(change)
    settings = served.broker.queue("q").settings
    assert (settings.max_delivery_count, settings.lock_duration) == (7, timedelta(minutes=2))


async def test_invalid_updates_are_refused(
    served: Served,
) -> None:
    for changes, complaint in (
        ({"lock_duration": timedelta(minutes=6)}, "LockDuration"),
        (
            {"requires_duplicate_detection": True},
            "RequiresDuplicateDetection: this property cannot be changed",
        ),
        ({"requires_session": True}, "RequiresSession: this property cannot be changed"),
        (
            {"forward_to": "other"},
            "ForwardTo: omit this property, because forwarding is not supported",
        ),
    ):
        change = partial(_change, changes)
        with pytest.raises(HttpResponseError, match=complaint) as raised:
            await served.call(change)
        assert raised.value.status_code == 400
    assert served.broker.queue("q").settings == QueueSettings("q")


def _change(changes: dict[str, Any], client: ServiceBusAdministrationClient) -> None:
    client.update_queue(client.get_queue("q"), **changes)


async def test_deleted_queue_no_longer_exists(served: Served) -> None:
    await served.call(lambda client: client.delete_queue("q"))
    assert not served.broker.queues()


async def test_queues_are_listed_in_pages(served: Served) -> None:
    names = [f"queue-{at:03}" for at in range(205)]
    for name in names:
        await served.broker.create_queue(QueueSettings(name))
    listed = await served.call(lambda client: [each.name for each in client.list_queues()])
    assert listed == ["q", *names]
    counted = await served.call(
        lambda client: [each.name for each in client.list_queues_runtime_properties()]
    )
    assert counted == listed


async def test_rule_needs_a_subscription(
    served: Served,
) -> None:
    rule = SqlRuleFilter("1=1")
    with pytest.raises(HttpResponseError, match="could not be found"):
        await served.call(lambda client: client.create_rule("q", "s", "r", filter=rule))
    credential = ServiceBusSharedKeyCredential("RootManageSharedAccessKey", "not-a-secret")
    url = f"http://localhost:{served.port}/new"
    headers = {"Authorization": credential.get_token(url).token}
    body = (
        '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
        "<RuleDescription/></content></entry>"
    )
    async with httpx.AsyncClient(headers=headers) as client:
        answer = await client.put(url, content=body)
    assert answer.status_code == 400
    assert "contains a QueueDescription or TopicDescription" in answer.text


async def test_messages_without_subscription_are_counted(
    served: Served,
) -> None:
    topic = await served.broker.create_topic(TopicSettings("t"))
    await topic.send([IncomingMessage(b"", b"", b"x")] * 2)
    credential = ServiceBusSharedKeyCredential("RootManageSharedAccessKey", "not-a-secret")
    url = f"http://localhost:{served.port}/$emulator/topics"
    headers = {"Authorization": credential.get_token(url).token}
    async with httpx.AsyncClient(headers=headers) as client:
        answer = await client.get(url)
    assert answer.json() == [{"name": "t", "dropped_messages": 2}]


async def test_runtime_properties_have_message_counts(served: Served) -> None:
    queue = served.broker.queue("q")
    deliveries: list[MessageDelivery] = []
    message = IncomingMessage(b"", b"", b"12345")
    later = IncomingMessage(b"", b"", b"12345", scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await queue.send([message] * 4)
    await queue.schedule([later])
    queue.subscribe(ReceiveMode.PEEK_LOCK, deliveries.append).set_credit(2)
    served.broker.transactions.tick()
    token = deliveries[0].lock_token
    assert token is not None
    await queue.dead_letter(token, None, None)
    runtime = await served.call(lambda client: client.get_queue_runtime_properties("q"))
    assert runtime.active_message_count == 3
    assert runtime.dead_letter_message_count == 1
    assert runtime.scheduled_message_count == 1
    assert runtime.transfer_message_count == 0
    assert runtime.transfer_dead_letter_message_count == 0
    assert runtime.total_message_count == 5
    assert runtime.size_in_bytes == 25


@pytest.mark.parametrize("credentials", [{"key": "wrong"}, {"name": "nobody"}])
async def test_wrong_key_is_refused(served: Served, credentials: dict[str, str]) -> None:
    with pytest.raises(ClientAuthenticationError, match="invalid signature"):
        await served.call(lambda client: client.get_queue("q"), **credentials)


async def test_only_health_needs_no_token(served: Served) -> None:
    async with httpx.AsyncClient(base_url=f"http://localhost:{served.port}") as client:
        refused = [(await client.get(path)).status_code for path in ("/q", "/$Resources/queues")]
        health = await client.get("/health")
        changes = [
            (await client.request(method, "/health")).status_code
            for method in ("PUT", "POST", "PATCH", "DELETE")
        ]
        status_code = (await client.head("/health")).status_code
    assert refused == [401, 401]
    assert changes == [401] * 4
    assert status_code == 200
    assert (health.status_code, health.json()) == (200, {"status": "ok", "queues": 1})


@pytest.mark.parametrize("name", ["health", "Health"])
async def test_name_health_is_reserved(served: Served, name: str) -> None:
    with pytest.raises(HttpResponseError, match="reserved for the path /health") as raised:
        await served.call(lambda client: client.create_queue(name))
    assert raised.value.status_code == 400
    assert [queue.address for queue in served.broker.queues()] == ["q"]


async def test_public_key_is_refused_if_tokens_are_needed(
    served: Served,
) -> None:
    rule = PolicyOfQueue(key_name="late", rights=["Send"], primary_key="SAS_KEY_VALUE")
    with pytest.raises(HttpResponseError, match="the key of the policy 'late' is public") as raised:
        await served.call(lambda client: client.create_queue("made", authorization_rules=[rule]))
    assert raised.value.status_code == 400
    url = f"http://localhost:{served.port}/$emulator/authorizationRules/late"
    credential = ServiceBusSharedKeyCredential("RootManageSharedAccessKey", "not-a-secret")
    headers = {"Authorization": credential.get_token(url).token}
    async with httpx.AsyncClient(headers=headers) as client:
        for name in ("primaryKey", "secondaryKey"):
            body = {"rights": ["Send"], "primaryKey": "first", name: "SAS_KEY_VALUE"}
            answer = await client.put(url, json=body)
            assert answer.status_code == 400
            assert "is public" in answer.json()["error"]
    assert served.broker.authorization_rules == {}
    assert len(served.broker.queues()) == 1
