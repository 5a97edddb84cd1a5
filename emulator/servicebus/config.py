"""Read `Config.json`, the configuration file of Microsoft's Service Bus emulator.

A configuration with an unsupported property is refused. If the emulator ignored the property, the
queue would behave differently from the same queue in Azure, without any error.
"""

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.broker.settings import (
    DEFAULT_DUPLICATE_WINDOW,
    UNBOUNDED,
    QueueSettings,
    parse_duration,
)

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


def load_config(path: Path) -> list[QueueSettings]:
    """Read a configuration file and return the settings of its queues.

    Raises ConfigError if the file cannot be read or the configuration is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        return parse_config(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str) -> list[QueueSettings]:
    """Parse the JSON text of a configuration and return the settings of its queues.

    Raises ConfigError if the configuration is invalid.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration is not valid JSON: {error}") from error
    user = _JsonObject(document, "").part("UserConfig", required=True)
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
    return list(settings.values())


class _JsonObject:
    """A JSON object in the configuration.

    `path` is the position of the object, for example `UserConfig.Namespaces[0]`. Error messages
    contain the path.
    """

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(
                f"{path or 'the configuration'}: expected an object, found {_shown(value)}"
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
            raise ConfigError(f"{self.at(name)}: expected a list, found {_shown(values)}")
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
    try:
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
        )
    except ArgumentError as error:
        raise ConfigError(f"{queue.path}: {error}") from error
