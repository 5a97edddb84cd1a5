"""Test topics and subscriptions with Microsoft's clients."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)
from azure.servicebus.management import (
    AuthorizationRule,
    CorrelationRuleFilter,
    EntityStatus,
    FalseRuleFilter,
    SqlRuleAction,
    SqlRuleFilter,
    TrueRuleFilter,
)

from servicebus_tests.sdk.both_clients import connect, receive, with_both_clients
from servicebus_tests.sdk.servicebus_process import Server, administration_client


@pytest.fixture(scope="module")
def admin(server: Server) -> Iterator[Any]:
    with administration_client(server.admin_port) as client:
        yield client


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Any]:
    async with connect("aio", server.connection_string) as client:
        yield client


def create_topic(server: Server, *subscriptions: str, **properties: Any) -> str:
    """Create a topic with subscriptions that get all messages, and return its name."""
    name = f"topic-{uuid4().hex[:12]}"
    with administration_client(server.admin_port) as admin:
        admin.create_topic(name, **properties)
        for subscription in subscriptions:
            admin.create_subscription(name, subscription)
    return name


async def peek(client: Any, topic: str, subscription: str, **options: Any) -> list[str]:
    async with client.get_subscription_receiver(topic, subscription, **options) as receiver:
        return [str(message) for message in await receiver.peek_messages(100)]


@with_both_clients
async def test_each_subscription_settles_its_own_copy(server: Server, client: Any) -> None:
    topic = create_topic(server, "one", "two")
    async with client.get_topic_sender(topic) as sender:
        await sender.send_messages(ServiceBusMessage("a", application_properties={"n": 1}))
        batch = await sender.create_message_batch()
        batch.add_message(ServiceBusMessage("b"))
        batch.add_message(ServiceBusMessage("c"))
        await sender.send_messages(batch)
    async with client.get_subscription_receiver(topic, "one") as receiver:
        first, second, third = await receive(receiver, 3)
        assert [str(each) for each in (first, second, third)] == ["a", "b", "c"]
        assert first.application_properties == {b"n": 1}
        await receiver.complete_message(first)
        await receiver.dead_letter_message(second, reason="why", error_description="what")
        await receiver.defer_message(third)
        (deferred,) = await receiver.receive_deferred_messages([third.sequence_number])
        assert await receiver.renew_message_lock(deferred) > datetime.now(UTC)
        await receiver.complete_message(deferred)
    dead_letters = {"sub_queue": ServiceBusSubQueue.DEAD_LETTER}
    async with client.get_subscription_receiver(topic, "one", **dead_letters) as receiver:
        (dead,) = await receive(receiver)
        assert (str(dead), dead.dead_letter_reason) == ("b", "why")
        await receiver.complete_message(dead)
    mode = {"receive_mode": ServiceBusReceiveMode.RECEIVE_AND_DELETE}
    async with client.get_subscription_receiver(topic, "two", **mode) as receiver:
        assert [str(each) for each in await receive(receiver, 3)] == ["a", "b", "c"]


async def test_scheduled_message_is_received_when_due(server: Server, client: Any) -> None:
    topic = create_topic(server, "one")
    later = datetime.now(UTC) + timedelta(hours=1)
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    async with client.get_topic_sender(topic) as sender:
        (cancelled,) = await sender.schedule_messages(ServiceBusMessage("never"), later)
        (kept,) = await sender.schedule_messages(ServiceBusMessage("soon"), soon)
        await sender.cancel_scheduled_messages(cancelled)
    async with client.get_subscription_receiver(topic, "one") as receiver:
        (message,) = await receive(receiver)
        assert (str(message), message.enqueued_sequence_number) == ("soon", kept)
        await receiver.complete_message(message)


def test_rules_select_by_properties(server: Server, admin: Any) -> None:
    topic = create_topic(server)
    rules = {
        "label": SqlRuleFilter("sys.Label LIKE '%bus%' AND sys.CorrelationId IS NULL"),
        "number": SqlRuleFilter("quantity > @limit", parameters={"@limit": 10}),
        "flag": CorrelationRuleFilter(properties={"urgent": True}),
        "system": CorrelationRuleFilter(
            content_type="text/plain", reply_to="there", correlation_id="c1", message_id="m1"
        ),
        "all": TrueRuleFilter(),
        "none": FalseRuleFilter(),
    }
    for name, rule in rules.items():
        admin.create_subscription(topic, name)
        admin.delete_rule(topic, name, "$Default")
        admin.create_rule(topic, name, "rule", filter=rule)
    sent = [
        ServiceBusMessage("1", subject="a bus"),
        ServiceBusMessage("2", subject="a bus", correlation_id="c2"),
        ServiceBusMessage("3", application_properties={"quantity": 11, "urgent": True}),
        ServiceBusMessage("4", application_properties={"quantity": 10.5, "urgent": "yes"}),
        ServiceBusMessage("5", application_properties={"quantity": "11"}),
        ServiceBusMessage(
            "6", content_type="text/plain", reply_to="there", correlation_id="c1", message_id="m1"
        ),
        ServiceBusMessage("7", content_type="text/plain", reply_to="there", message_id="m1"),
    ]
    with (
        ServiceBusClient.from_connection_string(server.connection_string) as client,
        client.get_topic_sender(topic) as sender,
    ):
        sender.send_messages(sent)
    found = admin.list_subscriptions_runtime_properties(topic)
    assert {each.name: each.total_message_count for each in found} == {
        "label": 1,
        "number": 2,
        "flag": 1,
        "system": 1,
        "all": 7,
        "none": 0,
    }


async def test_action_changes_its_copy(server: Server, admin: Any, client: Any) -> None:
    topic = create_topic(server, "changed")
    action = SqlRuleAction(
        "SET sys.To = 'Entity'; SET sys.Label = sys.Label + '!'; SET COUNT = count + @step;"
        " SET added = 'x'; REMOVE gone; REMOVE sys.ReplyTo",
        parameters={"@step": 2},
    )
    created = admin.create_rule(topic, "changed", "act", action=action)
    assert created.action.sql_expression == action.sql_expression
    assert created.action.parameters == {"@step": 2}
    properties: dict[Any, Any] = {"count": 5, "gone": 1, "kept": True}
    async with client.get_topic_sender(topic) as sender:
        await sender.send_messages(
            ServiceBusMessage(
                "body", subject="label", reply_to="back", application_properties=properties
            )
        )
    async with client.get_subscription_receiver(topic, "changed") as receiver:
        plain, changed = await receive(receiver, 2)
        assert plain.application_properties == {b"count": 5, b"gone": 1, b"kept": True}
        assert (plain.subject, plain.to, plain.reply_to) == ("label", None, "back")
        assert changed.application_properties == {
            b"kept": True,
            b"count": 7,
            b"added": b"x",
            b"RuleName": b"act",
        }
        assert (changed.subject, changed.to, changed.reply_to) == ("label!", "Entity", None)
        assert str(changed) == "body"
        assert changed.message_id == plain.message_id


async def test_missing_subscription_and_topic_cannot_be_received(
    server: Server, client: Any
) -> None:
    topic = create_topic(server, "one")
    with pytest.raises(MessagingEntityNotFoundError, match="could not be found"):
        await peek(client, topic, "absent")
    with pytest.raises(ServiceBusError, match="which is a topic: receive them from one of"):
        async with client.get_queue_receiver(topic) as receiver:
            await receiver.receive_messages(1, max_wait_time=1)


async def test_disabled_topic_and_subscription_are_refused(
    server: Server, admin: Any, client: Any
) -> None:
    topic = create_topic(server, "one")
    admin.update_topic(admin.get_topic(topic), status=EntityStatus.SEND_DISABLED)
    one = admin.get_subscription(topic, "one")
    admin.update_subscription(topic, one, status=EntityStatus.RECEIVE_DISABLED)
    with pytest.raises(MessagingEntityDisabledError):
        async with client.get_topic_sender(topic) as sender:
            await sender.send_messages(ServiceBusMessage("x"))
    with pytest.raises(MessagingEntityDisabledError):
        await peek(client, topic, "one")


def test_properties_can_be_set_and_changed(server: Server, admin: Any) -> None:
    rule = AuthorizationRule(key_name="reader", rights=["Listen"], primary_key="first")
    topic = create_topic(
        server,
        default_message_time_to_live=timedelta(hours=2),
        requires_duplicate_detection=True,
        duplicate_detection_history_time_window=timedelta(minutes=5),
        max_size_in_megabytes=2048,
        authorization_rules=[rule],
    )
    admin.create_subscription(
        topic,
        "one",
        lock_duration=timedelta(seconds=45),
        max_delivery_count=3,
        default_message_time_to_live="PT1H",
        dead_lettering_on_message_expiration=True,
        dead_lettering_on_filter_evaluation_exceptions=False,
    )
    got = admin.get_topic(topic)
    assert got.default_message_time_to_live == timedelta(hours=2)
    assert got.duplicate_detection_history_time_window == timedelta(minutes=5)
    assert (got.requires_duplicate_detection, got.max_size_in_megabytes) == (True, 2048)
    assert [each.key_name for each in got.authorization_rules] == ["reader"]
    one = admin.get_subscription(topic, "one")
    assert (one.name, one.max_delivery_count) == ("one", 3)
    assert one.lock_duration == timedelta(seconds=45)
    assert one.default_message_time_to_live == timedelta(hours=1)
    assert one.dead_lettering_on_message_expiration
    assert not one.dead_lettering_on_filter_evaluation_exceptions
    got.default_message_time_to_live = timedelta(hours=3)
    admin.update_topic(got)
    admin.create_rule(topic, "one", "second", filter=SqlRuleFilter("a = 1"))
    one.max_delivery_count = 7
    admin.update_subscription(topic, one)
    assert admin.get_topic(topic).default_message_time_to_live == timedelta(hours=3)
    assert admin.get_subscription(topic, "one").max_delivery_count == 7
    assert [each.name for each in admin.list_rules(topic, "one")] == ["$Default", "second"]


def test_entities_are_listed_and_deleted(server: Server, admin: Any) -> None:
    topic = create_topic(server, *(f"s{at:03}" for at in range(102)))
    queue = server.create_queue()
    assert topic in [each.name for each in admin.list_topics()]
    assert queue not in [each.name for each in admin.list_topics()]
    assert topic not in [each.name for each in admin.list_queues()]
    assert len([each.name for each in admin.list_subscriptions(topic)]) == 102
    for name in ("one", "two"):
        admin.create_rule(topic, "s000", name, filter=CorrelationRuleFilter(label=name))
    rules = list(admin.list_rules(topic, "s000"))
    assert [each.name for each in rules] == ["$Default", "one", "two"]
    assert isinstance(rules[0].filter, TrueRuleFilter)
    assert rules[1].filter.label == "one"
    changed = admin.get_rule(topic, "s000", "two")
    changed.filter = FalseRuleFilter()
    admin.update_rule(topic, "s000", changed)
    assert isinstance(admin.get_rule(topic, "s000", "two").filter, FalseRuleFilter)
    admin.delete_rule(topic, "s000", "one")
    assert [each.name for each in admin.list_rules(topic, "s000")] == ["$Default", "two"]
    admin.delete_subscription(topic, "s001")
    assert admin.get_topic_runtime_properties(topic).subscription_count == 101
    admin.delete_topic(topic)
    assert topic not in [each.name for each in admin.list_topics()]
    with pytest.raises(ResourceNotFoundError):
        admin.get_subscription_runtime_properties(topic, "s000")


async def test_runtime_properties_have_message_counts(
    server: Server, admin: Any, client: Any
) -> None:
    topic = create_topic(server, "one", "two")
    later = datetime.now(UTC) + timedelta(hours=1)
    async with client.get_topic_sender(topic) as sender:
        await sender.send_messages([ServiceBusMessage(str(at)) for at in range(3)])
        await sender.schedule_messages(ServiceBusMessage("later"), later)
    async with client.get_subscription_receiver(topic, "one") as receiver:
        (message,) = await receive(receiver)
        await receiver.dead_letter_message(message)
    one = admin.get_subscription_runtime_properties(topic, "one")
    assert (one.active_message_count, one.dead_letter_message_count) == (2, 1)
    assert one.total_message_count == 3
    all_of_them = admin.list_subscriptions_runtime_properties(topic)
    assert [each.active_message_count for each in all_of_them] == [2, 3]
    found = admin.get_topic_runtime_properties(topic)
    assert (found.subscription_count, found.scheduled_message_count) == (2, 1)
    assert found.size_in_bytes > one.total_message_count


def test_invalid_request_has_a_reason(server: Server, admin: Any) -> None:
    topic = create_topic(server, "one")
    long_name = "x" * 51
    for error, complaint, request in (
        (ResourceExistsError, "the topic .* already exists", lambda: admin.create_topic(topic)),
        (ResourceExistsError, "the topic .* already exists", lambda: admin.create_queue(topic)),
        (
            ResourceExistsError,
            "the subscription .* already exists",
            lambda: admin.create_subscription(topic, "ONE"),
        ),
        (
            ResourceExistsError,
            r"the rule '\$default' of .* already exists",
            lambda: admin.create_rule(topic, "one", "$default"),
        ),
        (
            ResourceNotFoundError,
            "could not be found",
            lambda: admin.create_subscription("absent", "one"),
        ),
        (
            HttpResponseError,
            "is not a valid subscription name",
            lambda: admin.create_subscription(topic, long_name),
        ),
        (
            HttpResponseError,
            "RequiresSession",
            lambda: admin.create_subscription(topic, "two", requires_session=True),
        ),
        (
            HttpResponseError,
            "ForwardTo: omit this property, because forwarding is not supported",
            lambda: admin.create_subscription(topic, "two", forward_to="other"),
        ),
        (
            HttpResponseError,
            "SqlExpression: character 3: expected a property or a constant, found the end",
            lambda: admin.create_rule(topic, "one", "bad", filter=SqlRuleFilter("a=")),
        ),
        (
            HttpResponseError,
            "SqlExpression: character 1: expected SET or REMOVE",
            lambda: admin.create_rule(topic, "one", "bad", action=SqlRuleAction("a=1")),
        ),
        (
            HttpResponseError,
            "CorrelationFilter: expected a value for at least one property",
            lambda: admin.create_rule(topic, "one", "bad", filter=CorrelationRuleFilter()),
        ),
        (ResourceNotFoundError, "does not exist", lambda: admin.get_rule(topic, "one", "absent")),
        (ResourceNotFoundError, "Not Found", lambda: admin.delete_rule(topic, "one", "absent")),
        (ResourceNotFoundError, "Not Found", lambda: list(admin.list_rules(topic, "absent"))),
    ):
        with pytest.raises(error, match=complaint):
            request()
    assert [each.name for each in admin.list_subscriptions(topic)] == ["one"]


async def test_policies_apply_to_topics_and_subscriptions(server: Server, admin: Any) -> None:
    policies = [
        AuthorizationRule(key_name=name, rights=[right], primary_key=f"{name}-key")
        for name, right in (("sender", "Send"), ("listener", "Listen"))
    ]
    topic = create_topic(server, "one", authorization_rules=policies)
    other = create_topic(server, "one")

    def client_of(policy: str) -> Any:
        return connect("aio", server.connection_string_with(policy, f"{policy}-key"))

    async with client_of("sender") as sending, client_of("listener") as listening:
        async with sending.get_topic_sender(topic) as sender:
            await sender.send_messages(ServiceBusMessage("hello"))
        assert await peek(listening, topic, "one") == ["hello"]
        with pytest.raises(ServiceBusAuthorizationError, match="'Send' claim"):
            async with listening.get_topic_sender(topic) as sender:
                await sender.send_messages(ServiceBusMessage("x"))
        with pytest.raises(ServiceBusAuthenticationError):
            await peek(listening, other, "one")
