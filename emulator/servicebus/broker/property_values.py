"""Message properties and their values, which filters compare and actions change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from unicodedata import category
from uuid import UUID

from emulator.servicebus.broker.durations import format_duration, parse_duration
from emulator.servicebus.broker.errors import ArgumentError

Value = bool | int | float | str | UUID | datetime | timedelta
"""The value of a property. A property without a value, and one of another type, is None."""

SYSTEM_PROPERTIES = (
    "ContentType",
    "CorrelationId",
    "Label",
    "MessageId",
    "PartitionKey",
    "ReplyTo",
    "ReplyToSessionId",
    "SessionId",
    "To",
)
"""The system properties that filters can compare."""

_ALIASES = {"subject": "label"}
_UNCHANGEABLE = {"partitionkey", "sessionid"}
_NAMES = {name.casefold(): name for name in SYSTEM_PROPERTIES}


@dataclass(frozen=True, slots=True)
class MessageProperties:
    """The properties of one message. Upper and lower case of names are not distinguished."""

    system: Mapping[str, Value] = field(default_factory=dict)
    """Values by the names in `SYSTEM_PROPERTIES`, in lower case."""
    application: Mapping[str, Value] = field(default_factory=dict)
    """Values by the names of the application properties, in lower case."""

    def system_value(self, name: str) -> Value | None:
        """Return the value of a system property, or None if the message has no such property."""
        key = name.casefold()
        return self.system.get(_ALIASES.get(key, key))

    def application_value(self, name: str) -> Value | None:
        """Return an application property's value, or None if the message has no such property."""
        return self.application.get(name.casefold())

    def with_update(self, update: "PropertyUpdate") -> "MessageProperties":
        """Return a copy of the properties to which the change `update` is applied."""
        before = self.system if update.is_system else self.application
        after = {key: value for key, value in before.items() if key != update.name.casefold()}
        if update.value is not None:
            after[update.name.casefold()] = update.value
        if update.is_system:
            return MessageProperties(after, self.application)
        return MessageProperties(self.system, after)


@dataclass(frozen=True, slots=True)
class PropertyUpdate:
    """A change of one property of a message by the action of a rule."""

    name: str
    value: Value | None
    """The new value. None means that the property has no value."""
    is_system: bool = False
    """Whether it is a system property, with a name in `SYSTEM_PROPERTIES`."""
    is_removed: bool = False


def check_update(name: str) -> None:
    """Raise ArgumentError if actions cannot change the system property `name`."""
    check_system_property(name)
    if name.casefold() in _UNCHANGEABLE:
        raise ArgumentError(f"sys.{name}: actions cannot change this system property")


def system_property_name(name: str) -> str:
    """Return a system property's name as in `SYSTEM_PROPERTIES`; `subject` is `label`."""
    key = name.casefold()
    return _NAMES[_ALIASES.get(key, key)]


def check_system_property(name: str) -> None:
    """Raise ArgumentError if filters cannot compare the system property `name`."""
    key = name.casefold()
    if _ALIASES.get(key, key) not in _NAMES:
        raise ArgumentError(
            f"sys.{name[:100]}: filters cannot use this system property: expected one of "
            f"{', '.join(SYSTEM_PROPERTIES)}"
        )


def compare_values(left: Value | None, right: Value | None) -> bool | None:
    """Return whether two numbers, or values of one type, are equal; None if not comparable."""
    if not can_compare(left, right):
        return None
    return left == right


def can_compare(left: Value | None, right: Value | None) -> bool:
    """Return whether two values have types that can be compared."""
    if left is None or right is None:
        return False
    if is_number(left):
        return is_number(right)
    return type(left) is type(right)


def is_number(value: object) -> bool:
    """Return whether a value is a number. A boolean is not a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_INTEGERS = {
    "byte",
    "int",
    "long",
    "short",
    "unsignedByte",
    "unsignedInt",
    "unsignedLong",
    "unsignedShort",
}
_FLOATS = {"decimal", "double", "float"}
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**64 - 1
_MAX_DIGITS = 20
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def value_text(value: Value) -> tuple[str, str]:
    """Return the name of a value's type in XML Schema, and the value as text of this type."""
    kind, text = "string", str(value)
    match value:
        case bool():
            kind, text = "boolean", text.lower()
        case int():
            kind = "int" if -(2**31) <= value < 2**31 else "long"
        case float():
            kind = "double"
        case datetime():
            kind, text = "dateTime", value.isoformat()
        case timedelta():
            kind, text = "duration", format_duration(value)
        case UUID():
            kind = "guid"
    return kind, text


def value_from_text(kind: str, text: str) -> Value:
    """Convert the result of `value_text` back. Raises ArgumentError if it is none."""
    read = _READERS.get(kind)
    if read is None:
        raise ArgumentError(f"values of the type {kind[:100]!r} are not supported in a filter")
    try:
        return read(text)
    except (ValueError, OverflowError):
        raise ArgumentError(f"{text[:100]!r} is not a value of the type {kind}") from None


def check_value(value: Value) -> None:
    """Raise ArgumentError for control characters or integers of more than 64 bits."""
    if isinstance(value, str) and any(
        category(character) in {"Cc", "Cs"} and character not in "\t\r\n" for character in value
    ):
        raise ArgumentError(f"{value[:100]!r}: a filter cannot contain control characters")
    if isinstance(value, int) and not _MIN_INTEGER <= value <= _MAX_INTEGER:
        raise ArgumentError("a whole number in a filter must have at most 64 bits")


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError from None


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or not _MIN_INTEGER <= int(text) <= _MAX_INTEGER:
        raise ValueError
    return int(text)


_READERS: dict[str, Callable[[str], Value]] = {
    "string": str,
    "boolean": _boolean,
    "dateTime": _time,
    "duration": parse_duration,
    "guid": UUID,
    **dict.fromkeys(_INTEGERS, _integer),
    **dict.fromkeys(_FLOATS, float),
}
