"""Read `Config.json`, the configuration file of Microsoft's Service Bus emulator.

A configuration with an unsupported property is refused. If the emulator ignored the property, a
queue would behave differently from the same queue in Azure, without any error.

The property `AuthorizationRules` of a namespace, queue or topic is not in Microsoft's format. This
property lists shared access policies.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from emulator.servicebus.broker.authorization import (
    AuthorizationRule,
    check_rules,
    read_rights,
)
from emulator.servicebus.broker.durations import UNBOUNDED, bounded, parse_duration
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.property_values import Value
from emulator.servicebus.broker.settings import (
    DEFAULT_DUPLICATE_WINDOW,
    QueueSettings,
    SubscriptionSettings,
    TopicSettings,
    check_name,
    subscription_address,
)
from emulator.servicebus.broker.subscription_rules import (
    CORRELATION_PROPERTIES,
    DEFAULT_RULES,
    CorrelationFilter,
    RuleFilter,
    SqlAction,
    SqlFilter,
    SubscriptionRule,
)

T = TypeVar("T")
Settings = TypeVar("Settings", bound=QueueSettings)

_RULES = "AuthorizationRules"
_RULE_PROPERTIES = {"Name", "Rights", "PrimaryKey", "SecondaryKey"}
_PROPERTIES = {
    "DeadLetteringOnMessageExpiration",
    "DefaultMessageTimeToLive",
    "DuplicateDetectionHistoryTimeWindow",
    "ForwardDeadLetteredMessagesTo",
    "ForwardTo",
    "LockDuration",
    "MaxDeliveryCount",
    "MaxSizeInMegabytes",
    "RequiresDuplicateDetection",
    "RequiresSession",
}
_TOPIC_PROPERTIES = {
    "DefaultMessageTimeToLive",
    "DuplicateDetectionHistoryTimeWindow",
    "MaxSizeInMegabytes",
    "RequiresDuplicateDetection",
}
_SUBSCRIPTION_PROPERTIES = _PROPERTIES - {
    "DuplicateDetectionHistoryTimeWindow",
    "MaxSizeInMegabytes",
    "RequiresDuplicateDetection",
}
_RULE_DETAILS = {"Action", "CorrelationFilter", "FilterType", "SqlFilter"}
_APPLICATION_PROPERTIES = "Properties", "ApplicationProperties"


class ConfigError(Exception):
    """The configuration file cannot be read, or its content is invalid.

    The error's message contains the reason and, if a property is invalid, the property's path.
    """


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """The queues and topics of a namespace, and the namespace's shared access policies."""

    queues: Sequence[QueueSettings] = ()
    topics: Sequence[TopicSettings] = ()
    subscriptions: Sequence[SubscriptionSettings] = ()
    rules: Sequence[AuthorizationRule] = ()


def load_config(path: Path) -> NamespaceConfig:
    """Read a configuration file. Raises ConfigError if it is unreadable or invalid."""
    return _load(path, parse_config)


def load_policies(path: Path) -> Sequence[AuthorizationRule]:
    """Read a JSON file with only `AuthorizationRules`. Raises ConfigError."""
    return _load(path, parse_policies)


def _load(path: Path, parse: Callable[[str], T]) -> T:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str) -> NamespaceConfig:
    """Parse the JSON text of a configuration. Raises ConfigError if it is invalid."""
    user = _parse(text).part("UserConfig", required=True)
    namespaces = user.parts("Namespaces")
    if len(namespaces) != 1:
        raise ConfigError(
            f"UserConfig.Namespaces: expected exactly one element, found {len(namespaces)}"
        )
    names: set[str] = set()
    queues = []
    for queue in namespaces[0].parts("Queues"):
        name = _unused_name(queue, names)
        queues.append(_settings(name, queue, QueueSettings, _PROPERTIES))
    topics, subscriptions = [], []
    for topic in namespaces[0].parts("Topics"):
        name = _unused_name(topic, names)
        topics.append(_settings(name, topic, TopicSettings, _TOPIC_PROPERTIES))
        subscriptions += _subscriptions(name, topic)
    return NamespaceConfig(queues, topics, subscriptions, _rules(namespaces[0]))


def _unused_name(entity: "_JsonObject", names: set[str]) -> str:
    """Return an entity's name, and add it to `names`. Raises ConfigError if it is there."""
    name = entity.text("Name")
    if name.casefold() in names:
        kind = entity.kind
        raise ConfigError(f"{entity.path}.Name: another {kind} already has the name {name!r}")
    names.add(name.casefold())
    return name


def _subscriptions(topic_name: str, topic: "_JsonObject") -> list[SubscriptionSettings]:
    names: set[str] = set()
    found = []
    for subscription in topic.parts("Subscriptions"):
        name = subscription_address(topic_name, _unused_name(subscription, names))
        rules = _subscription_rules(subscription)
        found.append(
            _settings(
                name, subscription, SubscriptionSettings, _SUBSCRIPTION_PROPERTIES, rules=rules
            )
        )
    return found


def _subscription_rules(subscription: "_JsonObject") -> tuple[SubscriptionRule, ...]:
    names: set[str] = set()
    rules = []
    for rule in subscription.parts("Rules"):
        name = _unused_name(rule, names)
        properties = rule.part("Properties", required=True)
        for unknown in sorted(set(properties.values) - _RULE_DETAILS):
            raise ConfigError(f"{properties.at(unknown)}: a rule has no property with this name")
        try:
            rules.append(SubscriptionRule(name, _filter(properties), _action(properties)))
        except ArgumentError as error:
            raise ConfigError(f"{rule.path}: {error}") from error
    return tuple(rules) or DEFAULT_RULES


def _action(properties: "_JsonObject") -> SqlAction | None:
    action = properties.part("Action")
    return SqlAction(action.text("SqlExpression")) if action.values else None


def _filter(properties: "_JsonObject") -> RuleFilter:
    kind = properties.text("FilterType")
    if kind == "Sql":
        return SqlFilter(properties.part("SqlFilter", required=True).text("SqlExpression"))
    if kind != "Correlation":
        raise ConfigError(
            f"{properties.at('FilterType')}: expected Correlation or Sql, found {_shown(kind)}"
        )
    correlation = properties.part("CorrelationFilter", required=True)
    known = {*CORRELATION_PROPERTIES, *_APPLICATION_PROPERTIES}
    for unknown in sorted(set(correlation.values) - known):
        raise ConfigError(
            f"{correlation.at(unknown)}: a correlation filter has no property with this name"
        )
    system = {
        name: correlation.text(name)
        for name in sorted(CORRELATION_PROPERTIES)
        if correlation.values.get(name)
    }
    application: dict[str, Value] = {}
    for part in map(correlation.part, _APPLICATION_PROPERTIES):
        for name, value in part.values.items():
            if not isinstance(value, str | int | float):
                raise ConfigError(
                    f"{part.at(name)}: expected a string, a number or a boolean, found "
                    f"{_type_name(value)}"
                )
            application[name] = value
    return CorrelationFilter(system, application)


def parse_policies(text: str) -> Sequence[AuthorizationRule]:
    """Parse the JSON text of a file with only policies. Raises ConfigError if it is invalid."""
    document = _parse(text)
    for unknown in sorted(set(document.values) - {_RULES}):
        raise ConfigError(f"{unknown}: unknown property; expected {_RULES}")
    return _rules(document)


def _parse(text: str) -> "_JsonObject":
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration is not valid JSON: {error}") from error
    return _JsonObject(document, "")


class _JsonObject:
    """A JSON object in the configuration.

    `path` is the position of the object, for example `UserConfig.Namespaces[0]`. Error messages
    contain the path.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(
                f"{path or 'the configuration'}: expected an object, found {_type_name(value)}"
            )
        self.values: Mapping[str, Any] = value
        self.path = path

    @property
    def kind(self) -> str:
        """The kind of thing that the object describes, such as `queue` for an item of `Queues`."""
        plural = self.path.rpartition(".")[2].partition("[")[0]
        return "queue or topic" if plural == "Topics" else plural.lower().removesuffix("s")

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def part(self, name: str, *, required: bool = False) -> "_JsonObject":
        if required and name not in self.values:
            raise ConfigError(f"{self.at(name)}: this property is missing")
        return _JsonObject(self.values.get(name, {}), self.at(name))

    def parts(self, name: str) -> list["_JsonObject"]:
        values = self.values.get(name, [])
        if not isinstance(values, list):
            raise ConfigError(f"{self.at(name)}: expected a list, found {_type_name(values)}")
        return [_JsonObject(value, f"{self.at(name)}[{at}]") for at, value in enumerate(values)]

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{self.at(name)}: expected a string that is not empty")
        return value

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.at(name)}: expected true or false, found {_shown(value)}")
        return value

    def number(self, name: str, default: int) -> int:
        value = self.values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"{self.at(name)}: expected a whole number, found {_shown(value)}")
        return value

    def duration(self, name: str, default: timedelta) -> timedelta:
        if name not in self.values:
            return default
        try:
            return parse_duration(self.text(name))
        except ValueError as error:
            raise ConfigError(f"{self.at(name)}: {error}") from error


_TYPE_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}


def _type_name(value: object) -> str:
    """Return the JSON type of a value that an error must not show: it may be a secret key."""
    if value is None:
        return "null"
    return _TYPE_NAMES.get(type(value), "a number")


def _shown(value: object) -> str:
    return json.dumps(value)[:100]


def _settings(
    name: str,
    entity: _JsonObject,
    kind: type[Settings],
    known: Collection[str],
    **further: Any,
) -> Settings:
    """Return the settings of a queue, topic or subscription from its description."""
    properties = entity.part("Properties")
    for unknown in sorted(set(properties.values) - set(known)):
        raise ConfigError(f"{properties.at(unknown)}: a {kind.KIND} has no property with this name")
    for forwarding in ("ForwardTo", "ForwardDeadLetteredMessagesTo"):
        if properties.values.get(forwarding):
            raise ConfigError(
                f"{properties.at(forwarding)}: omit this property, because forwarding is not "
                "supported"
            )
    time_to_live = bounded(properties.duration("DefaultMessageTimeToLive", UNBOUNDED))
    window = properties.duration("DuplicateDetectionHistoryTimeWindow", DEFAULT_DUPLICATE_WINDOW)
    detects_duplicates = properties.flag("RequiresDuplicateDetection")
    rules = () if kind is SubscriptionSettings else _rules(entity)
    try:
        if kind is not SubscriptionSettings:
            check_name(name)
        return kind(
            name=name,
            lock_duration=properties.duration("LockDuration", timedelta(minutes=1)),
            max_delivery_count=properties.number("MaxDeliveryCount", 10),
            default_message_time_to_live=time_to_live,
            dead_lettering_on_message_expiration=properties.flag(
                "DeadLetteringOnMessageExpiration"
            ),
            duplicate_detection_window=window if detects_duplicates else None,
            max_size_bytes=properties.number("MaxSizeInMegabytes", 1024) * 1024 * 1024,
            requires_session=properties.flag("RequiresSession"),
            authorization_rules=rules,
            **further,
        )
    except ArgumentError as error:
        raise ConfigError(f"{entity.path}: {error}") from error


def _rules(owner: _JsonObject) -> tuple[AuthorizationRule, ...]:
    """Return the shared access policies of a namespace, a queue or a topic."""
    rules = []
    for each in owner.parts(_RULES):
        for unknown in sorted(set(each.values) - _RULE_PROPERTIES):
            raise ConfigError(f"{each.at(unknown)}: a policy has no property with this name")
        rights = each.values.get("Rights", [])
        if not isinstance(rights, list):
            raise ConfigError(f"{each.at('Rights')}: expected a list, found {_type_name(rights)}")
        for right in rights:
            if not isinstance(right, str):
                raise ConfigError(
                    f"{each.at('Rights')}: expected strings, found {_type_name(right)}"
                )
        has_second = "SecondaryKey" in each.values
        try:
            rules.append(
                AuthorizationRule(
                    each.text("Name"),
                    read_rights(rights),
                    each.text("PrimaryKey"),
                    each.text("SecondaryKey") if has_second else "",
                )
            )
        except ArgumentError as error:
            raise ConfigError(f"{each.path}: {error}") from error
    try:
        check_rules(rules)
    except ArgumentError as error:
        raise ConfigError(f"{owner.at(_RULES)}: {error}") from error
    return tuple(rules)
