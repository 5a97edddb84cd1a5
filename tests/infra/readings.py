"""Find the environment variables that a program reads, and parse ISO 8601 durations."""

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

_GIVEN = {
    "SERVICE_BUS__fullyQualifiedNamespace": "sb.example",
    "PAYLOAD_STORAGE__blobServiceUri": "https://example.invalid",
    "GATEWAY_BASE_URL": "http://127.0.0.1",
    "REPLY_TOKEN_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "REPLY_HOSTS": "example.invalid:443",
}


class SettingsClass(Protocol):
    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> object:
        """Create the settings from environment variables."""


class _Environment(Mapping[str, str]):
    """A mapping of environment variables that records the name of each variable that is read."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.names: set[str] = set()
        self._given = given

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def names_read(settings: type[SettingsClass]) -> set[str]:
    """Return the variables that a program reads, on Azure or with a store in S3."""
    names: set[str] = set()
    for given in (_GIVEN, _GIVEN | {"OBJECT_STORE_URL": "s3://bucket"}):
        environment = _Environment(given)
        settings.from_env(environment)
        names |= environment.names
    return names


def seconds(duration: str) -> int:
    """Convert an ISO 8601 duration of days, hours, minutes and seconds to seconds."""
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", duration)
    assert found, duration
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
