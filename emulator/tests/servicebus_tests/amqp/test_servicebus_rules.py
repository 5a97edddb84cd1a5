"""Test the management node's operations on rules, and the message properties that rules use."""

import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.clock import WallClock
from emulator.servicebus.accepted_sessions import AcceptedSessions
from emulator.servicebus.amqp.codec import decode, encode
from emulator.servicebus.amqp.errors import DecodeError, MessageFault
from emulator.servicebus.amqp.sections import (
    APPLICATION_PROPERTIES,
    DATA,
    MESSAGE_ANNOTATIONS,
    PROPERTIES,
    encode_section,
    list_items,
    section_value,
    split,
)
from emulator.servicebus.amqp.types import (
    Byte,
    Char,
    Decimal64,
    Described,
    Float,
    Int,
    Symbol,
    Timestamp,
    UInt,
    ULong,
)
from emulator.servicebus.broker.authorization import AccessRight
from emulator.servicebus.broker.broker import Broker
from emulator.servicebus.broker.message import IncomingMessage
from emulator.servicebus.broker.property_values import MessageProperties, PropertyUpdate
from emulator.servicebus.broker.settings import SubscriptionSettings, TopicSettings
from emulator.servicebus.faults import NamespaceFaults
from emulator.servicebus.management import manage
from emulator.servicebus.messages import AmqpMessageFormat, read_message
from emulator.servicebus.request_response import AmqpReply, AmqpRequest
from servicebus_tests.amqp.amqp_peer import QUEUE

FORMAT = AmqpMessageFormat()
BODY = encode_section(DATA, b"body")


async def ask(
    broker: Broker, operation: str, address: str = "t/Subscriptions/s", **body: Any
) -> AmqpReply:
    queue = broker.queue(address)
    request = AmqpRequest(
        {"operation": f"com.microsoft:{operation}"},
        {name.replace("_", "-"): value for name, value in body.items()},
    )
    faults = NamespaceFaults(WallClock())
    return await manage(queue, faults, {AccessRight.LISTEN}, AcceptedSessions(), request)


def outcome(reply: AmqpReply) -> tuple[int, str | None]:
    return reply.properties["statusCode"], reply.properties.get("errorCondition")


@pytest.fixture
async def topics(broker: Broker) -> Broker:
    await broker.create_topic(TopicSettings("t"))
    await broker.create_subscription(SubscriptionSettings("t/Subscriptions/s"))
    return broker


async def test_rules_are_added_listed_and_removed(
    topics: Broker,
) -> None:
    correlation = {
        "correlation-id": "c",
        "label": "l",
        "properties": {
            "n": Int(1),
            "big": ULong(2**64 - 1),
            "at": Timestamp(0),
            "id": UUID(int=1),
        },
    }
    descriptions = {
        "sql": {"sql-filter": {"expression": "a = 1"}},
        "act": {
            "sql-filter": {"expression": "1=1"},
            "sql-rule-action": {"expression": "SET a = 2"},
        },
        "cor": {"correlation-filter": correlation},
    }
    for name, description in descriptions.items():
        reply = await ask(topics, "add-rule", rule_name=name, rule_description=description)
        assert outcome(reply) == (200, None)
    reply = await ask(topics, "enumerate-rules", top=Int(100), skip=Int(0))
    # The reply can be encoded, and clients find each item by its position and its descriptor.
    rules = [each["rule-description"] for each in decode(encode(reply.value))["rules"]]
    assert all(rule.descriptor == 0x13700000004 for rule in rules)
    empty = Described(ULong(0x13700000005), [])
    written = [
        [Described(ULong(0x1370000007), ["1=1"]), empty, "$Default"],
        [Described(ULong(0x1370000006), ["a = 1"]), empty, "sql"],
        [
            Described(ULong(0x1370000006), ["1=1"]),
            Described(ULong(0x13700000006), ["SET a = 2"]),
            "act",
        ],
        [
            Described(
                ULong(0x1370000009),
                ["c", None, None, None, "l", None, None, None, correlation["properties"]],
            ),
            empty,
            "cor",
        ],
    ]
    assert [rule.value for rule in rules] == written
    page = await ask(topics, "enumerate-rules", top=Int(1), skip=Int(2))
    assert [each["rule-description"].value[2] for each in page.value["rules"]] == ["act"]
    assert outcome(await ask(topics, "enumerate-rules", top=Int(9), skip=Int(4))) == (204, None)
    for name in ("$default", "sql", "act"):
        assert outcome(await ask(topics, "remove-rule", rule_name=name)) == (200, None)
    assert [rule.name for rule in topics.subscription("t", "s").rules] == ["cor"]


@pytest.mark.parametrize(
    ("operation", "body", "expected"),
    [
        (
            "add-rule",
            {"rule_name": "$Default", "rule_description": {"sql-filter": {"expression": "1=1"}}},
            (409, "com.microsoft:entity-already-exists"),
        ),
        ("remove-rule", {"rule_name": "absent"}, (404, "amqp:not-found")),
        ("remove-rule", {}, (400, "com.microsoft:argument-error")),
        ("add-rule", {"rule_name": "x"}, (400, "com.microsoft:argument-error")),
        (
            "add-rule",
            {"rule_name": "x", "rule_description": {}},
            (400, "com.microsoft:argument-error"),
        ),
        (
            "add-rule",
            {"rule_name": "x", "rule_description": {"sql-filter": {"expression": "a ="}}},
            (400, "com.microsoft:argument-error"),
        ),
        (
            "add-rule",
            {"rule_name": "x", "rule_description": {"sql-filter": {}}},
            (400, "com.microsoft:argument-error"),
        ),
        (
            "add-rule",
            {
                "rule_name": "x",
                "rule_description": {"correlation-filter": {"properties": {"a": [1]}}},
            },
            (400, "com.microsoft:argument-error"),
        ),
        ("enumerate-rules", {"top": 0, "skip": 0}, (400, "com.microsoft:argument-error")),
        ("enumerate-rules", {"top": "x"}, (400, "com.microsoft:argument-error")),
        ("enumerate-rules", {"top": 1, "skip": True}, (400, "com.microsoft:argument-error")),
        ("enumerate-rules", {"top": True, "skip": 0}, (400, "com.microsoft:argument-error")),
    ],
)
async def test_invalid_operation_is_refused(
    topics: Broker, operation: str, body: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert outcome(await ask(topics, operation, **body)) == expected
    assert len(topics.subscription("t", "s").rules) == 1


async def test_only_subscriptions_have_rules(
    topics: Broker,
) -> None:
    for address in ("t", QUEUE, "t/Subscriptions/s/$DeadLetterQueue"):
        reply = await ask(topics, "enumerate-rules", address, top=Int(1), skip=Int(0))
        assert outcome(reply) == (400, "amqp:not-allowed")
    assert outcome(await ask(topics, "peek-message", "t")) == (400, "amqp:not-allowed")


def message(
    properties: list[Any] | None = None,
    application: dict[Any, Any] | None = None,
    annotations: dict[Any, Any] | None = None,
) -> IncomingMessage:
    sections = b""
    if annotations is not None:
        sections += encode_section(MESSAGE_ANNOTATIONS, annotations)
    if properties is not None:
        sections += encode_section(PROPERTIES, properties)
    if application is not None:
        sections += encode_section(APPLICATION_PROPERTIES, application)
    return read_message(sections + BODY)


def test_filters_use_system_and_application_properties() -> None:
    names = "id", "user", "to", "label", "reply", "correlation", Symbol("text/plain")
    fields = [*names, None, None, None, "session", UInt(1), "reply-session"]
    application = {
        "Text": "x",
        "int": Int(-1),
        "byte": Byte(2),
        "long": ULong(2**64 - 1),
        "float": Float(0.5),
        "double": 2.5,
        "flag": True,
        "id": UUID(int=1),
        "at": Timestamp(0),
        "char": Char("c"),
        "symbol": Symbol("s"),
        "null": None,
        "decimal": Decimal64(b"\0" * 8),
        "late": Timestamp(2**62),
    }
    found = FORMAT.read_properties(
        message(fields, application, {Symbol("x-opt-partition-key"): "part"})
    )
    assert found.system == {
        "messageid": "id",
        "to": "to",
        "label": "label",
        "replyto": "reply",
        "correlationid": "correlation",
        "contenttype": "text/plain",
        "sessionid": "session",
        "replytosessionid": "reply-session",
        "partitionkey": "part",
    }
    assert found.application == {
        "text": "x",
        "int": -1,
        "byte": 2,
        "long": 2**64 - 1,
        "float": 0.5,
        "double": 2.5,
        "flag": True,
        "id": UUID(int=1),
        "at": datetime(1970, 1, 1, tzinfo=UTC),
        "char": "c",
        "symbol": "s",
    }
    assert {type(value) for value in found.application.values()} == {
        str,
        int,
        float,
        bool,
        UUID,
        datetime,
    }
    assert FORMAT.read_properties(message()).application == {}
    numbers = FORMAT.read_properties(message([ULong(7), None, None, None, None, UUID(int=2)]))
    assert numbers.system == {"messageid": "7", "correlationid": str(UUID(int=2))}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=9),
    st.uuids(),
    st.datetimes(timezones=st.just(UTC)).map(lambda at: at.replace(microsecond=0)),
)
UPDATES = st.one_of(
    st.builds(PropertyUpdate, st.sampled_from(["a", "B", "c", "d"]), VALUES),
    st.builds(
        PropertyUpdate, st.sampled_from(["a", "B"]), st.none(), st.just(False), st.just(True)
    ),
    st.builds(
        PropertyUpdate,
        st.sampled_from(["To", "Label", "ContentType", "ReplyToSessionId"]),
        st.none() | st.text(max_size=9),
        st.just(True),
    ),
)


@given(
    st.lists(UPDATES),
    st.lists(st.none() | st.text(max_size=3), max_size=4),
    st.dictionaries(
        st.sampled_from(["A", "b", "e"]),
        VALUES.filter(lambda value: not isinstance(value, datetime)),
    ),
)
def test_action_updates_properties_and_keeps_the_body(
    updates: list[PropertyUpdate], fields: list[Any], application: dict[str, Any]
) -> None:
    encoded = {
        name: ULong(value) if type(value) is int and value >= 2**63 else value
        for name, value in application.items()
    }
    before = message([None, None, *fields], encoded)
    expected: MessageProperties = FORMAT.read_properties(before)
    for update in updates:
        expected = expected.with_update(update)
    after = FORMAT.update_properties(before, updates)
    assert FORMAT.read_properties(after) == expected
    sections = split(after.bare)
    assert sections.body == (BODY,)
    assert len(list_items(sections.properties)) == 13
    names = [name.casefold() for name in section_value(sections.application_properties)]
    assert len(set(names)) == len(names)
    assert (after.header, after.annotations) == (before.header, before.annotations)


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        (PropertyUpdate("COLOR", "new"), {"color": "new", "size": 1}),
        (PropertyUpdate("COLOR", None, is_removed=True), {"size": 1}),
    ],
)
def test_action_ignores_the_case_of_names(update: PropertyUpdate, expected: dict[str, Any]) -> None:
    before = message(application={"Color": "one", "color": "two", "size": 1})
    after = split(FORMAT.update_properties(before, [update]).bare)
    assert section_value(after.application_properties) == expected


def test_malformed_properties_raise_no_error() -> None:
    chance = random.Random(7)
    valid = message(["id", None, "to"], {"a": 1, "b": "text"}).bare
    for _ in range(3000):
        damaged = bytearray(valid)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            accepted = read_message(bytes(damaged))
        except (DecodeError, MessageFault):
            continue  # the message is refused when it is sent
        found = FORMAT.read_properties(accepted)
        FORMAT.update_properties(accepted, [PropertyUpdate("a", 2)])
        assert isinstance(found, MessageProperties)
