"""Small readings of what the checks compare."""

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


class Reader(Protocol):
    """A Settings class."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> object:
        """Read every setting."""


class _Environment(Mapping[str, str]):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return _GIVEN[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_GIVEN)

    def __len__(self) -> int:
        return len(_GIVEN)


def _reads(settings: type[Reader]) -> set[str]:
    environment = _Environment()
    settings.from_env(environment)
    return environment.asked


def gateway_reads(settings: type[Reader]) -> set[str]:
    """The names of all settings that the gateway looks at."""
    return _reads(settings)


def worker_reads(settings: type[Reader]) -> set[str]:
    """The names of all settings that a worker looks at."""
    return _reads(settings)


def seconds(duration: str) -> int:
    """An ISO 8601 duration of days, hours, minutes and seconds."""
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", duration)
    assert found, duration
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
