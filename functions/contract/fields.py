"""Typed access to the fields of a decoded JSON object: each refusal names the field."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from contract.errors import MalformedMessage

T = TypeVar("T")

# JSON as Python holds it. A recursive alias would need each reader to narrow at each level.
Json = Any


class Fields:
    """One JSON object of a message. `path` is where it stands, for error texts."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise MalformedMessage(f"{path or 'message'}: expected an object, found {_kind(value)}")
        self._values: Mapping[str, Json] = value
        self._path = path

    def text(self, name: str) -> str:
        """A non-empty string."""
        value = self._required(name, str)
        if not value:
            raise MalformedMessage(f"{self._at(name)}: must not be empty")
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise MalformedMessage(f"{self._at(name)}: is not Unicode text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A string, or None where absent or null."""
        return None if self._values.get(name) is None else self.text(name)

    def integer(self, name: str, minimum: int = 0) -> int:
        """A whole number not under `minimum`."""
        value = self._required(name, int)
        if isinstance(value, bool) or value < minimum:
            raise MalformedMessage(f"{self._at(name)}: expected a whole number from {minimum}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number that is not negative."""
        if default is not None and self._values.get(name) is None:
            return default
        value = self._required(name, (int, float))
        # A NaN fails this comparison too.
        if isinstance(value, bool) or not 0 <= value < float("inf"):
            raise MalformedMessage(f"{self._at(name)}: expected a number from 0")
        return float(value)

    def boolean(self, name: str) -> bool:
        """True or false."""
        return self._required(name, bool)

    def time(self, name: str) -> datetime:
        """An RFC 3339 time with an offset; returned in UTC."""
        text = self.text(name)
        try:
            value = datetime.fromisoformat(text)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            raise MalformedMessage(f"{self._at(name)}: expected an RFC 3339 time with an offset")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise MalformedMessage(f"{self._at(name)}: the time is out of range") from None

    def mapping(self, name: str) -> dict[str, Json]:
        """An object with text keys; empty where absent or null."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise MalformedMessage(f"{self._at(name)}: expected an object, found {_kind(value)}")
        return dict(value)

    def child(self, name: str) -> "Fields":
        """The object under `name`."""
        return Fields(self._required(name, Mapping), self._at(name))

    def optional_child(self, name: str) -> "Fields | None":
        """The object under `name`, or None where absent or null."""
        return None if self._values.get(name) is None else self.child(name)

    def has(self, name: str) -> bool:
        """Whether the field is present, be it null."""
        return name in self._values

    def raw(self, name: str) -> Json:
        """The value as it is; the field must be present."""
        if name not in self._values:
            raise MalformedMessage(f"{self._at(name)}: is missing")
        return self._values[name]

    def others(self, known: frozenset[str]) -> dict[str, Json]:
        """The fields that this version does not know: kept, so that a newer peer loses nothing."""
        return {name: value for name, value in self._values.items() if name not in known}

    def _required(self, name: str, expected: type[T] | tuple[type[T], ...]) -> T:
        value = self._values.get(name)
        if value is None:
            raise MalformedMessage(f"{self._at(name)}: is missing")
        if not isinstance(value, expected):
            raise MalformedMessage(f"{self._at(name)}: found {_kind(value)}")
        return value

    def _at(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "another type")
