"""Test with Microsoft's clients that the rights of shared access policies are enforced."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus._base_handler import ServiceBusSharedKeyCredential
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)
from azure.servicebus.management import AuthorizationRule, QueueProperties

from servicebus_tests.sdk.both_clients import connect
from servicebus_tests.sdk.servicebus_process import (
    KEY,
    KEY_NAME,
    Server,
    administration_client,
    run_server,
)

BOTH = pytest.mark.parametrize("sdk", ["sync", "aio"])
RIGHTS = {
    "listener": ["Listen"],
    "sender": ["Send"],
    "manager": ["Manage", "Send", "Listen"],
}


def rules(prefix: str) -> list[dict[str, Any]]:
    return [
        {"Name": f"{prefix}-{name}", "Rights": rights, "PrimaryKey": f"{prefix}-{name}-secret"}
        for name, rights in RIGHTS.items()
    ]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server with shared access policies of its namespace and of a queue.

    The names of the namespace's policies begin with `all-` or `file-`, and the names of the queue's
    policies begin with `own-`.
    """
    folder = tmp_path_factory.mktemp("policies")
    queues = [{"Name": "own", "AuthorizationRules": rules("own")}]
    queues += [{"Name": "other"}, {"Name": "own/below"}]
    namespace = {"Name": "ns", "Queues": queues, "AuthorizationRules": rules("all")}
    config = folder / "Config.json"
    config.write_text(json.dumps({"UserConfig": {"Namespaces": [namespace]}}))
    policies = folder / "policies.json"
    policies.write_text(json.dumps({"AuthorizationRules": rules("file")}))
    options = ["--config", str(config), "--policies", str(policies)]
    with run_server(folder / "data", options) as running:
        yield running


def client_of(server: Server, sdk: str, policy: str, queue: str | None = None) -> Any:
    return connect(sdk, server.connection_string_with(policy, f"{policy}-secret", queue))


async def send(client: Any, queue: str, text: str = "text") -> None:
    async with client.get_queue_sender(queue) as sender:
        await sender.send_messages(ServiceBusMessage(text))


async def receive(client: Any, queue: str) -> str:
    """Receive one message, renew its lock and complete it. Return the text of the message."""
    async with client.get_queue_receiver(queue) as receiver:
        (message,) = await receiver.receive_messages(1, max_wait_time=10)
        await receiver.renew_message_lock(message)
        await receiver.complete_message(message)
        return str(message)


def lacks(right: str, queue: str) -> Any:
    """Return a context manager that expects Azure's error for a client without `right`."""
    text = (
        f"Unauthorized access. '{right}' claim\\(s\\) are required to perform this operation. "
        f"Resource: 'sb://localhost/{queue}"
    )
    return pytest.raises(ServiceBusAuthorizationError, match=text)


@pytest.mark.parametrize(("sdk", "prefix"), [("sync", "own"), ("aio", "all"), ("aio", "file")])
async def test_listen_right_permits_only_receiving(guarded: Server, sdk: str, prefix: str) -> None:
    queue = "own"
    async with connect(sdk, guarded.connection_string) as client:
        await send(client, queue, "one")
    path = queue if prefix == "own" else None
    async with client_of(guarded, sdk, f"{prefix}-listener", path) as client:
        assert await receive(client, queue) == "one"
        async with client.get_queue_receiver(queue) as receiver:
            assert await receiver.peek_messages(1) == []
        with lacks("Send", queue):
            await send(client, queue)


@pytest.mark.parametrize(("sdk", "prefix"), [("sync", "own"), ("aio", "all"), ("aio", "file")])
async def test_send_right_permits_only_sending(guarded: Server, sdk: str, prefix: str) -> None:
    queue = "own"
    path = queue if prefix == "own" else None
    async with client_of(guarded, sdk, f"{prefix}-sender", path) as client:
        await send(client, queue, "one")
        with lacks("Listen", queue):
            await receive(client, queue)
        with lacks("Listen", queue):
            async with client.get_queue_receiver(queue, sub_queue="deadletter") as receiver:
                await receiver.peek_messages(1)
    async with connect(sdk, guarded.connection_string) as client:
        assert await receive(client, queue) == "one"


@BOTH
async def test_scheduling_needs_listen_and_send(guarded: Server, sdk: str) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)

    async def schedule(policy: str) -> None:
        async with (
            client_of(guarded, sdk, policy) as client,
            client.get_queue_sender("other") as sender,
        ):
            numbers = await sender.schedule_messages(ServiceBusMessage("later"), due)
            await sender.cancel_scheduled_messages(numbers)

    await schedule("all-manager")
    # The client does not read why the management link is refused.
    with pytest.raises(ServiceBusError, match="Failed to open mgmt link"):
        await schedule("all-sender")
    with lacks("Send", "other"):
        await schedule("all-listener")


@BOTH
async def test_queues_policy_gives_no_access_to_others(guarded: Server, sdk: str) -> None:
    name = "own-manager"
    async with client_of(guarded, sdk, name, "own") as client:
        await send(client, "own", "one")
        assert await receive(client, "own") == "one"
    # The name without EntityPath makes the client sign tokens for the queue that it uses.
    async with client_of(guarded, sdk, name) as client:
        for queue in ("other", "own/below"):
            with pytest.raises(ServiceBusAuthenticationError):
                await send(client, queue)


@BOTH
async def test_documented_key_keeps_all_rights(guarded: Server, sdk: str) -> None:
    async with connect(sdk, guarded.connection_string) as client:
        await send(client, "other", "one")
        assert await receive(client, "other") == "one"
    with administration_client(guarded.admin_port) as admin:
        admin.create_queue("made")
        admin.delete_queue("made")


@pytest.mark.parametrize("policy", ["all-listener", "all-sender", "file-sender"])
def test_management_api_needs_manage(guarded: Server, policy: str) -> None:
    with administration_client(guarded.admin_port, policy, f"{policy}-secret") as admin:
        with pytest.raises(ClientAuthenticationError, match="Manage,EntityRead claims required"):
            admin.get_queue("own")
        with pytest.raises(ClientAuthenticationError, match="Manage,EntityDelete claims required"):
            admin.delete_queue("own")
    url = f"http://127.0.0.1:{guarded.admin_port}/$emulator/faults"
    assert httpx.put(url, json={}, headers={"Authorization": "nonsense"}).status_code == 401
    assert httpx.put(url, json={}).status_code == 200


@pytest.mark.parametrize(
    ("policy", "resource", "path", "status"),
    [
        ("own-manager", "/own", "/own", 200),
        ("own-manager", "/own", "/other", 401),
        ("own-manager", "/own", "/$Resources/queues", 401),
        ("own-manager", "/other", "/other", 401),
        ("own-manager", "", "/own", 401),
        ("own-manager", "/own", "/own/below", 401),
        ("own-manager", "/own", "/own/missing", 401),
        ("own-manager", "/own/below", "/own/below", 401),
        ("own-listener", "/own", "/own", 401),
        ("all-manager", "", "/$Resources/queues", 200),
        ("all-manager", "/own", "/own", 200),
        ("all-manager", "/own", "/own/below", 200),
        ("all-manager", "/own", "/other", 401),
    ],
)
def test_token_permits_its_policys_rights_on_its_resource(
    guarded: Server, policy: str, resource: str, path: str, status: int
) -> None:
    url = f"http://localhost:{guarded.admin_port}"
    credential = ServiceBusSharedKeyCredential(policy, f"{policy}-secret")
    token = credential.get_token(f"{url}{resource}").token
    answer = httpx.get(f"{url}{path}", headers={"Authorization": token})
    assert answer.status_code == status


def send_with(connection_string: str, queue: str) -> None:
    with (
        ServiceBusClient.from_connection_string(connection_string, retry_total=0) as client,
        client.get_queue_sender(queue) as sender,
    ):
        sender.send_messages(ServiceBusMessage("text"))


def only_rule(queue: QueueProperties) -> AuthorizationRule:
    assert queue.authorization_rules is not None
    (rule,) = queue.authorization_rules
    return rule


def test_queue_is_created_and_updated_with_policies(guarded: Server) -> None:
    with administration_client(guarded.admin_port) as admin:
        rule = AuthorizationRule(key_name="writer", rights=["Send"])
        created = admin.create_queue("with-policy", authorization_rules=[rule])
        found = only_rule(admin.get_queue("with-policy"))
        assert vars(found) == vars(only_rule(created))
        assert (found.type, found.key_name) == ("SharedAccessAuthorizationRule", "writer")
        assert found.rights == ["Send"]
        strings = [
            guarded.connection_string_with("writer", str(key), "with-policy")
            for key in (found.primary_key, found.secondary_key)
        ]
        for string in strings:
            send_with(string, "with-policy")
        # An update of another property keeps the keys.
        queue = admin.get_queue("with-policy")
        queue.max_delivery_count = 3
        admin.update_queue(queue)
        assert vars(only_rule(admin.get_queue("with-policy"))) == vars(found)
        admin.update_queue(queue, authorization_rules=[])
    assert len(str(found.primary_key)) == len(str(found.secondary_key)) == 44
    for string in strings:
        with pytest.raises(ServiceBusAuthenticationError):
            send_with(string, "with-policy")


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (AuthorizationRule(key_name="a", rights=["Manage"]), "requires Listen and Send"),
        (AuthorizationRule(key_name="a", rights=["Read"]), "expected Listen, Send or Manage"),
        (AuthorizationRule(key_name="a", rights=[]), "at least one right"),
        (
            AuthorizationRule(key_name="a b", rights=["Send"]),
            "the name must have at most 50 letters",
        ),
        (
            AuthorizationRule(key_name="a", rights=["Send"], primary_key="k;k"),
            "printable ASCII characters",
        ),
    ],
)
def test_invalid_policy_is_refused(
    guarded: Server, rule: AuthorizationRule, complaint: str
) -> None:
    with (
        administration_client(guarded.admin_port) as admin,
        pytest.raises(HttpResponseError, match=complaint) as raised,
    ):
        admin.create_queue("refused", authorization_rules=[rule])
    assert raised.value.status_code == 400


def put_policy(server: Server, name: str, **body: Any) -> httpx.Response:
    url = f"http://127.0.0.1:{server.admin_port}/$emulator/authorizationRules/{name}"
    return httpx.put(url, json=body)


def test_policy_is_created_replaced_and_deleted_live(
    guarded: Server,
) -> None:
    made = put_policy(guarded, "late", rights=["Send"]).json()
    assert made["rights"] == ["Send"]
    first, second, new = (
        guarded.connection_string_with("late", key)
        for key in (made["primaryKey"], made["secondaryKey"], "new")
    )
    send_with(first, "other")
    send_with(second, "other")
    # Without keys in the body, the policy keeps its keys.
    rights = ["Listen", "Send"]
    assert put_policy(guarded, "late", rights=rights).json() == {**made, "rights": rights}
    replaced = put_policy(guarded, "late", rights=["Listen", "Send"], primaryKey="new")
    assert replaced.json() == {
        "name": "late",
        "rights": ["Listen", "Send"],
        "primaryKey": "new",
        "secondaryKey": "",
    }
    send_with(new, "other")
    with pytest.raises(ServiceBusAuthenticationError):
        send_with(first, "other")
    url = f"http://127.0.0.1:{guarded.admin_port}/$emulator/authorizationRules"
    listed = httpx.get(url)
    assert {"name": "late", "rights": ["Listen", "Send"]} in listed.json()["value"]
    assert "new" not in listed.text
    assert KEY not in listed.text
    assert httpx.delete(f"{url}/late").status_code == 200
    with pytest.raises(ServiceBusAuthenticationError):
        send_with(new, "other")
    assert httpx.delete(f"{url}/late").status_code == 404


@pytest.mark.parametrize(
    ("name", "body", "complaint"),
    [
        (KEY_NAME, {"rights": ["Send"]}, "is set when the emulator starts"),
        ("all-sender", {"rights": ["Send"]}, "is set when the emulator starts"),
        ("a", {}, "rights: expected a list"),
        ("a", {"rights": ["Manage"]}, "requires Listen and Send"),
        ("a", {"rights": ["Send"], "primaryKey": 5}, "expected strings"),
        ("a", {"rights": ["Send"], "key": "k"}, "unknown member 'key'"),
    ],
)
def test_invalid_namespace_policy_is_refused(
    guarded: Server, name: str, body: dict[str, Any], complaint: str
) -> None:
    answer = put_policy(guarded, name, **body)
    assert answer.status_code == 400
    assert complaint in answer.json()["error"]


def test_created_policies_survive_a_kill(
    tmp_path: Path,
) -> None:
    with run_server(tmp_path) as server:
        with administration_client(server.admin_port) as admin:
            rule = AuthorizationRule(key_name="mine", rights=["Send"], primary_key="secret")
            admin.create_queue("kept", authorization_rules=[rule])
        put_policy(server, "ours", rights=["Send"], primaryKey="secret")
        server.kill()
        server.start()
        for name, queue in (("mine", "kept"), ("ours", None)):
            send_with(server.connection_string_with(name, "secret", queue), "kept")


def test_thirteenth_policy_is_refused(tmp_path: Path) -> None:
    with run_server(tmp_path) as server:
        answers = [put_policy(server, f"p{at}", rights=["Send"]) for at in range(13)]
    assert [each.status_code for each in answers] == [200] * 12 + [400]
    assert "at most 12" in answers[-1].text
