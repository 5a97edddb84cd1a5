"""Test reading the configuration file of Microsoft's Service Bus emulator."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.servicebus.broker.authorization import (
    ALL_RIGHTS,
    AccessRight,
    AuthorizationRule,
)
from emulator.servicebus.broker.durations import (
    UNBOUNDED,
    bounded,
    format_duration,
    parse_duration,
)
from emulator.servicebus.broker.settings import QueueSettings, SubscriptionSettings, TopicSettings
from emulator.servicebus.broker.subscription_rules import (
    CorrelationFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
)
from emulator.servicebus.config import (
    ConfigError,
    load_config,
    parse_config,
    parse_policies,
)


def config(properties: dict[str, Any] | None = None, **namespace: Any) -> str:
    queue = {"Name": "queue.1", "Properties": properties or {}}
    spaces = [{"Name": "sbemulatorns", "Queues": [queue], **namespace}]
    return json.dumps({"UserConfig": {"Namespaces": spaces, "Logging": {"Type": "File"}}})


def test_every_queue_property_is_read(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    text = config(
        {
            "DeadLetteringOnMessageExpiration": True,
            "DefaultMessageTimeToLive": "PT1H",
            "DuplicateDetectionHistoryTimeWindow": "PT20S",
            "ForwardDeadLetteredMessagesTo": "",
            "ForwardTo": "",
            "LockDuration": "PT1M30S",
            "MaxDeliveryCount": 3,
            "RequiresDuplicateDetection": True,
            "RequiresSession": False,
        },
        Topics=[],
    )
    path.write_text(text, encoding="utf-8-sig")
    assert load_config(path).queues == [
        QueueSettings(
            "queue.1",
            lock_duration=timedelta(seconds=90),
            max_delivery_count=3,
            default_message_time_to_live=timedelta(hours=1),
            dead_lettering_on_message_expiration=True,
            duplicate_detection_window=timedelta(seconds=20),
        )
    ]


def topic(*subscriptions: dict[str, Any], **properties: Any) -> str:
    """Return a configuration with one topic and these subscriptions."""
    return config(
        Topics=[{"Name": "t", "Properties": properties, "Subscriptions": [*subscriptions]}]
    )


def with_rule(**properties: Any) -> str:
    """Return a configuration with one rule that has these properties."""
    return topic({"Name": "s", "Rules": [{"Name": "r", "Properties": properties}]})


def test_topics_subscriptions_and_rules_are_read() -> None:
    correlation = {
        "ContentType": "application/text",
        "CorrelationId": "id1",
        "Label": "subject1",
        "MessageId": "msgid1",
        "ReplyTo": "someQueue",
        "ReplyToSessionId": "sessionId",
        "SessionId": "session1",
        "To": "xyz",
    }
    rules = [
        {
            "Name": "system",
            "Properties": {"FilterType": "Correlation", "CorrelationFilter": correlation},
        },
        {
            "Name": "application",
            "Properties": {
                "FilterType": "Correlation",
                "CorrelationFilter": {"Properties": {"a": "x", "b": 1, "c": True}},
            },
        },
        {
            "Name": "sql",
            "Properties": {
                "FilterType": "Sql",
                "SqlFilter": {"SqlExpression": "sys.MessageId = '1' AND a = 'x'"},
                "Action": {"SqlExpression": "SET sys.To = 'Entity'"},
            },
        },
    ]
    properties = {
        "DeadLetteringOnMessageExpiration": True,
        "DefaultMessageTimeToLive": "PT1H",
        "LockDuration": "PT30S",
        "MaxDeliveryCount": 3,
        "ForwardDeadLetteredMessagesTo": "",
        "ForwardTo": "",
        "RequiresSession": False,
    }
    found = parse_config(
        topic(
            {"Name": "one", "Properties": properties, "Rules": rules},
            {"Name": "two"},
            DefaultMessageTimeToLive="PT2H",
            DuplicateDetectionHistoryTimeWindow="PT20S",
            RequiresDuplicateDetection=True,
        )
    )
    assert found.topics == [
        TopicSettings(
            "t",
            default_message_time_to_live=timedelta(hours=2),
            duplicate_detection_window=timedelta(seconds=20),
        )
    ]
    assert found.subscriptions == [
        SubscriptionSettings(
            "t/Subscriptions/one",
            lock_duration=timedelta(seconds=30),
            max_delivery_count=3,
            default_message_time_to_live=timedelta(hours=1),
            dead_lettering_on_message_expiration=True,
            rules=(
                SubscriptionRule("system", CorrelationFilter(correlation)),
                SubscriptionRule(
                    "application", CorrelationFilter({}, {"a": "x", "b": 1, "c": True})
                ),
                SubscriptionRule(
                    "sql",
                    SqlFilter("sys.MessageId = '1' AND a = 'x'"),
                    SqlAction("SET sys.To = 'Entity'"),
                ),
            ),
        ),
        SubscriptionSettings("t/Subscriptions/two", rules=(SubscriptionRule("$Default"),)),
    ]


def rule(**changes: Any) -> dict[str, Any]:
    return {"Name": "reader", "Rights": ["Listen"], "PrimaryKey": "secret", **changes}


def test_policies_of_namespace_and_queue_are_read() -> None:
    queue = {"Name": "q", "AuthorizationRules": [rule(SecondaryKey="other")]}
    everything = rule(Name="all", Rights=["Manage", "Send", "Listen"])
    found = parse_config(config(Queues=[queue], AuthorizationRules=[everything]))
    assert found.rules == (AuthorizationRule("all", ALL_RIGHTS, "secret"),)
    listen = frozenset({AccessRight.LISTEN})
    own = AuthorizationRule("reader", listen, "secret", "other")
    assert found.queues == [QueueSettings("q", authorization_rules=(own,))]
    assert parse_policies(json.dumps({"AuthorizationRules": [everything]})) == found.rules
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ({}, "AuthorizationRules: expected a list"),
        ([rule(Name="")], "Name: expected a string that is not empty"),
        ([rule(PrimaryKey=None)], "PrimaryKey: expected a string that is not empty"),
        ([rule(SecondaryKey="")], "SecondaryKey: expected a string that is not empty"),
        ([rule(Rights="Listen")], "Rights: expected a list"),
        ([rule(Rights=["listen"])], "expected Listen, Send or Manage, found 'listen'"),
        ([rule(Rights=["Manage"])], "requires Listen and Send"),
        ([rule(Key="k")], "Key: a policy has no property with this name"),
        ([rule(), rule()], "two policies have the name 'reader'"),
        ([rule(Name=f"p{at}") for at in range(13)], "expected at most 12, found 13"),
    ],
)
def test_policy_error_names_property_and_reason(rules: Any, complaint: str) -> None:
    queue = {"Name": "q", "AuthorizationRules": rules}
    for text in (config(AuthorizationRules=rules), config(Queues=[queue])):
        with pytest.raises(ConfigError) as raised:
            parse_config(text)
        assert complaint in str(raised.value)
        assert "AuthorizationRules" in str(raised.value)
    with pytest.raises(ConfigError):
        parse_policies(json.dumps({"AuthorizationRules": rules}))


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (rule(), "expected a list, found an object"),
        ("secret", "expected a list, found a string"),
        (["secret"], "expected an object, found a string"),
        ([[rule()]], "expected an object, found a list"),
        ([rule(Rights=rule())], "expected a list, found an object"),
        ([rule(Rights=[rule()])], "expected strings, found an object"),
        (5, "expected a list, found a number"),
        (None, "expected a list, found null"),
        (True, "expected a list, found a boolean"),
    ],
)
def test_policy_error_contains_no_key(rules: Any, found: str) -> None:
    queue = {"Name": "q", "AuthorizationRules": rules}
    for text in (config(AuthorizationRules=rules), config(Queues=[queue])):
        with pytest.raises(ConfigError, match=found) as raised:
            parse_config(text)
        assert "secret" not in str(raised.value)
    for document in ([rule()], "secret"):
        with pytest.raises(ConfigError, match="expected an object, found") as raised:
            parse_policies(json.dumps(document))
        assert "secret" not in str(raised.value)


def test_unknown_property_of_a_policy_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="UserConfig: unknown property"):
        parse_policies('{"UserConfig": {}}')


def test_defaults_are_azures() -> None:
    assert parse_config(config()).queues == [QueueSettings("queue.1")]
    unbounded = config({"DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S"})
    assert parse_config(unbounded).queues == [QueueSettings("queue.1")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "the configuration: expected an object"),
        ("{}", "UserConfig: this property is missing"),
        (
            '{"UserConfig": {"Namespaces": []}}',
            "UserConfig.Namespaces: expected exactly one element, found 0",
        ),
        ('{"UserConfig": {"Namespaces": {}}}', "UserConfig.Namespaces: expected a list"),
        (config(Queues=[{}]), "Queues[0].Name: expected a string that is not empty"),
        (
            config(Queues=[{"Name": "a"}, {"Name": "A"}]),
            "Queues[1].Name: another queue already has the name",
        ),
        (config(Queues=[{"Name": "$a"}]), "is not a valid queue name"),
        (config(Queues=[{"Name": "Health"}]), "Queues[0]: Name: 'Health' is reserved"),
        (
            config(Queues=[{"Name": "a/Subscriptions/b"}]),
            "must not contain the path segment 'subscriptions'",
        ),
        (
            config(Topics=[{"Name": "QUEUE.1"}]),
            "Topics[0].Name: another queue or topic already has the name 'QUEUE.1'",
        ),
        (config(Topics=[{"Name": "$a"}]), "Topics[0]: Name: '$a' is not a valid topic name"),
        (topic(LockDuration="PT1M"), "Properties.LockDuration: a topic has no property with this"),
        (
            topic({"Name": "s"}, {"Name": "S"}),
            "Subscriptions[1].Name: another subscription already has the name 'S'",
        ),
        (
            topic({"Name": "a/b"}),
            "Topics[0].Subscriptions[0]: Name: 'a/b' is not a valid subscription name",
        ),
        (
            topic({"Name": "s", "Properties": {"ForwardTo": "q"}}),
            "Subscriptions[0].Properties.ForwardTo: omit this property, because forwarding is not",
        ),
        (
            topic({"Name": "s", "Properties": {"RequiresSession": True}}),
            "Subscriptions[0]: subscription 't/Subscriptions/s': RequiresSession must be false",
        ),
        (
            topic({"Name": "s", "Properties": {"RequiresDuplicateDetection": True}}),
            "RequiresDuplicateDetection: a subscription has no property with this name",
        ),
        (
            topic({"Name": "s", "Rules": [{"Name": "r"}]}),
            "Subscriptions[0].Rules[0].Properties: this property is missing",
        ),
        (with_rule(), "Rules[0].Properties.FilterType: expected a string that is not empty"),
        (with_rule(FilterType="True"), 'FilterType: expected Correlation or Sql, found "True"'),
        (with_rule(FilterType="Sql"), "Properties.SqlFilter: this property is missing"),
        (
            with_rule(FilterType="Sql", SqlFilter={"SqlExpression": "a="}),
            "Rules[0]: SqlExpression: character 3: expected a property or a constant",
        ),
        (
            with_rule(
                FilterType="Sql",
                SqlFilter={"SqlExpression": "1=1"},
                Action={"SqlExpression": "a = 1"},
            ),
            "Rules[0]: SqlExpression: character 1: expected SET or REMOVE, found 'a'",
        ),
        (
            with_rule(FilterType="Correlation", CorrelationFilter={}),
            "Rules[0]: CorrelationFilter: expected a value for at least one property",
        ),
        (
            with_rule(FilterType="Correlation", CorrelationFilter={"Color": "red"}),
            "CorrelationFilter.Color: a correlation filter has no property with this name",
        ),
        (
            with_rule(FilterType="Correlation", CorrelationFilter={"Properties": {"a": None}}),
            "Properties.a: expected a string, a number or a boolean, found null",
        ),
        (
            with_rule(FilterType="Correlation", CorrelationFilter={"Properties": {"a": 2**65}}),
            "Rules[0]: a whole number in a filter must have at most 64 bits",
        ),
        (with_rule(Filter={}), "Properties.Filter: a rule has no property with this name"),
        (config({"LockDuration": "1 minute"}), "Properties.LockDuration: '1 minute' is not"),
        (
            config({"LockDuration": 60}),
            "Properties.LockDuration: expected a string that is not empty",
        ),
        (
            config({"LockDuration": "PT6M"}),
            "LockDuration must be greater than 0 and at most 5 minutes",
        ),
        (
            config({"MaxDeliveryCount": True}),
            "Properties.MaxDeliveryCount: expected a whole number",
        ),
        (config({"MaxDeliveryCount": 0}), "MaxDeliveryCount must be from 1"),
        (config({"RequiresSession": "no"}), "Properties.RequiresSession: expected true or false"),
        (
            config({"ForwardTo": "other"}),
            "Properties.ForwardTo: omit this property, because forwarding is not supported",
        ),
        (
            config({"LockDurations": "PT1M"}),
            "LockDurations: a queue has no property with this name",
        ),
        (
            config(
                {
                    "RequiresDuplicateDetection": True,
                    "DuplicateDetectionHistoryTimeWindow": "PT1S",
                }
            ),
            "DuplicateDetectionHistoryTimeWindow must be from 20 seconds",
        ),
    ],
)
def test_error_names_the_property(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(text)
    assert complaint in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json cannot be read"):
        load_config(tmp_path / "absent.json")


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_other_json_is_refused(value: Any) -> None:
    for text in (str(value), json.dumps(value), config(Queues=value), config(Topics=value)):
        try:
            parse_config(text)
        except ConfigError:
            continue
        assert value == []


@given(st.timedeltas(timedelta(0), UNBOUNDED))
def test_formatted_duration_is_parsed_back(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


def test_longest_duration_is_written_as_in_dotnet() -> None:
    assert format_duration(UNBOUNDED) == "P10675199DT2H48M5.4775807S"
    assert bounded(parse_duration("P10675199DT2H48M5.4775807S")) is None
    assert bounded(timedelta(days=10675199)) is None  # a client in Python rounds it
    assert bounded(timedelta(days=10675198)) == timedelta(days=10675198)


@pytest.mark.parametrize(
    "text", ["", "P", "PT", "P1", "1D", "P1Y", "P1M", "PT1H2", "-PT1S", "P1D "]
)
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an ISO 8601 duration"):
        parse_duration(text)
