"""Read `Config.json`, the configuration file of Microsoft's Service Bus emulator.

A configuration with an unsupported property is refused. If the emulator ignored the property, the
queue would behave differently from the same queue in Azure, without any error.

The property `AuthorizationRules` of a namespace or a queue is not in Microsoft's format. It lists
shared access policies.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from emulator.servicebus.broker.authorization import (
    AuthorizationRule,
    check_rules,
    read_rights,
)
from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.settings import (
    DEFAULT_DUPLICATE_WINDOW,
    UNBOUNDED,
    QueueSettings,
    check_name,
    parse_duration,
)

T = TypeVar("T")

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


class ConfigError(Exception):
    """The configuration file cannot be read, or its content is invalid.

    The error's message contains the reason and, if a property is invalid, the property's path.
    """


@dataclass(frozen=True, slots=True)
class NamespaceConfig:
    """The queues of a namespace, and the namespace's shared access policies."""

    queues: Sequence[QueueSettings] = ()
    rules: Sequence[AuthorizationRule] = ()


def load_config(path: Path) -> NamespaceConfig:
    """Read a configuration file.

    Raises ConfigError if the file cannot be read or the configuration is invalid.
    """
    return _load(path, parse_config)


def load_policies(path: Path) -> Sequence[AuthorizationRule]:
    """Read a file that contains only policies, as a JSON object with `AuthorizationRules`.

    Raises ConfigError if the file cannot be read or is invalid.
    """
    return _load(path, parse_policies)


def _load(path: Path, parse: Callable[[str], T]) -> T:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str) -> NamespaceConfig:
    """Parse the JSON text of a configuration.

    Raises ConfigError if the configuration is invalid.
    """
    user = _parse(text).part("UserConfig", required=True)
    namespaces = user.parts("Namespaces")
    if len(namespaces) != 1:
        raise ConfigError(
            f"UserConfig.Namespaces: expected exactly one element, found {len(namespaces)}"
        )
    if namespaces[0].parts("Topics"):
        raise ConfigError(f"{namespaces[0].path}.Topics: topics are not supported")
    settings: dict[str, QueueSettings] = {}
    for queue in namespaces[0].parts("Queues"):
        name = queue.text("Name")
        if name.casefold() in settings:
            raise ConfigError(f"{queue.path}.Name: another queue already has the name {name!r}")
        settings[name.casefold()] = _settings(name, queue)
    return NamespaceConfig(list(settings.values()), _rules(namespaces[0]))


def parse_policies(text: str) -> Sequence[AuthorizationRule]:
    """Parse the JSON text of a file that contains only policies.

    Raises ConfigError if the text is invalid.
    """
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
    """Return the name of a value's JSON type. The value may contain keys, which no error shows."""
    if value is None:
        return "null"
    return _TYPE_NAMES.get(type(value), "a number")


def _shown(value: object) -> str:
    return json.dumps(value)[:100]


def _settings(name: str, queue: _JsonObject) -> QueueSettings:
    properties = queue.part("Properties")
    for unknown in sorted(set(properties.values) - _PROPERTIES):
        raise ConfigError(f"{properties.at(unknown)}: a queue has no property with this name")
    for forwarding in ("ForwardTo", "ForwardDeadLetteredMessagesTo"):
        if properties.values.get(forwarding):
            raise ConfigError(f"{properties.at(forwarding)}: forwarding is not supported")
    time_to_live = properties.duration("DefaultMessageTimeToLive", UNBOUNDED)
    window = properties.duration("DuplicateDetectionHistoryTimeWindow", DEFAULT_DUPLICATE_WINDOW)
    detects_duplicates = properties.flag("RequiresDuplicateDetection")
    rules = _rules(queue)
    try:
        check_name(name)
        return QueueSettings(
            name=name,
            lock_duration=properties.duration("LockDuration", timedelta(minutes=1)),
            max_delivery_count=properties.number("MaxDeliveryCount", 10),
            default_message_time_to_live=time_to_live if time_to_live < UNBOUNDED else None,
            dead_lettering_on_message_expiration=properties.flag(
                "DeadLetteringOnMessageExpiration"
            ),
            duplicate_detection_window=window if detects_duplicates else None,
            max_size_bytes=properties.number("MaxSizeInMegabytes", 1024) * 1024 * 1024,
            requires_session=properties.flag("RequiresSession"),
            authorization_rules=rules,
        )
    except ArgumentError as error:
        raise ConfigError(f"{queue.path}: {error}") from error


def _rules(owner: _JsonObject) -> tuple[AuthorizationRule, ...]:
    """Return the shared access policies of a namespace or a queue."""
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
