"""Read the settings of a program from its environment variables."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from contract.catalogue import DEFAULT_PATH
from contract.errors import InvalidSetting
from contract.guard import AddressGuard
from contract.names import SETTING_SERVICE_BUS

T = TypeVar("T")

_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_BUCKET_URL = re.compile("s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])")
_SERVER_URL = re.compile("https?://[^/@?#]+")
_BROKER_URL = re.compile("(amqp|redis)s?://[^/]")
_SHIFTS = {"B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}


@dataclass(frozen=True, slots=True)
class AzureEndpoint:
    """How to connect to an Azure service. Exactly one of the attributes is set.

    With an address, which is a host name or a URL, a program uses its managed identity.
    """

    connection_string: str | None = field(default=None, repr=False)
    address: str | None = None


@dataclass(frozen=True, slots=True)
class S3Endpoint:
    """A bucket in S3, or in another store with its API at `url`. AWS_* have the credentials."""

    bucket: str
    url: str | None = None


class BrokerKind(StrEnum):
    """A broker for which there are adapters."""

    SERVICE_BUS = "servicebus"
    RABBITMQ = "rabbitmq"
    REDIS = "redis"


@dataclass(frozen=True, slots=True)
class BrokerEndpoint:
    """How to connect to the broker: to a Service Bus namespace, or with the URL of another broker.

    The URL may contain a password.
    """

    kind: BrokerKind
    service_bus: AzureEndpoint | None = None
    url: str = field(default="", repr=False)


class SettingsReader:
    """Read and check environment variables.

    An empty variable counts as missing. Each method raises InvalidSetting for a value that is
    wrong, or missing without a default. The error's text names the variable.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str, default: str = "") -> str:
        """Return the value of a variable."""
        return self._environ.get(name) or default

    def names(self, name: str) -> tuple[str, ...]:
        """Return the parts of a value between its commas, without empty parts."""
        return tuple(part for text in self.text(name).split(",") if (part := text.strip()))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return whether the value is `true`, in upper or lower case."""
        text = self.text(name).strip().lower() or str(default).lower()
        if text not in {"true", "false"}:
            raise InvalidSetting(f"{name}: expected true or false")
        return text == "true"

    def choice(self, name: str, default: str, *others: str) -> str:
        """Return the value in lower case, which is `default` or one of the others."""
        text = self.text(name, default).lower()
        if text not in (default, *others):
            known = " or ".join((default, *others))
            raise InvalidSetting(f"{name}: expected {known}, found {text!r}")
        return text

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, which has at most nine digits."""
        text = self.text(name).strip() or str(default)
        # int() also accepts underscores, signs and the digits of every script.
        if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
            raise InvalidSetting(
                f"{name}: expected a whole number from {low} to {high}, found {text[:40]!r}"
            )
        return int(text)

    def seconds(self, name: str, default: float) -> float:
        """Return a number of seconds, which is at most one day."""
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 24 * 3600:
            raise InvalidSetting(
                f"{name}: expected a number of seconds from 0 to 86400, found {text!r}"
            )
        return value

    def size(self, name: str) -> int | None:
        """Return a size such as `8GiB` in bytes; None if the variable is missing."""
        if not (text := self.text(name).strip()):
            return None
        found = _SIZE.fullmatch(text)
        if found is None or not int(found[1]):
            raise InvalidSetting(f"{name}: expected a size such as 8GiB or 512MiB, found {text!r}")
        return int(found[1]) << _SHIFTS[found[2]]

    def parse(self, name: str, parse: Callable[[str], T]) -> T:
        """Return `parse` of the value. A ValueError of `parse` becomes InvalidSetting."""
        try:
            return parse(self.text(name))
        except ValueError as error:
            raise InvalidSetting(f"{name}: {error}") from None

    def service_bus(self) -> AzureEndpoint:
        """Return the endpoint of the Service Bus namespace."""
        return self._endpoint(SETTING_SERVICE_BUS, "fullyQualifiedNamespace")

    def broker(self) -> BrokerEndpoint:
        """Return the endpoint of the broker: BROKER_URL, or the Service Bus namespace."""
        name = "BROKER_URL"
        url = self.text(name).strip()
        if not url:
            return BrokerEndpoint(BrokerKind.SERVICE_BUS, service_bus=self.service_bus())
        found = _BROKER_URL.match(url)
        if found is None:
            # The value is not in the message, because it may contain a password.
            raise InvalidSetting(
                f"{name}: expected a URL such as amqps://USER:PASSWORD@HOST:5671/VHOST or "
                "rediss://:PASSWORD@HOST:PORT, or nothing to use Service Bus"
            )
        kind = BrokerKind.RABBITMQ if found[1] == "amqp" else BrokerKind.REDIS
        return BrokerEndpoint(kind, url=url)

    def payload_storage(self) -> AzureEndpoint | S3Endpoint:
        """Return the endpoint of the store for payloads: OBJECT_STORE_URL, or the account."""
        name = "OBJECT_STORE_URL"
        text = self.text(name).strip().rstrip("/")
        if not text:
            return self._endpoint("PAYLOAD_STORAGE", "blobServiceUri")
        found = _BUCKET_URL.fullmatch(text)
        if found is None:
            raise InvalidSetting(
                f"{name}: expected s3://BUCKET, or nothing to use the storage account"
            )
        name = "OBJECT_STORE_ENDPOINT"
        url = self.text(name).strip().rstrip("/")
        if url and not _SERVER_URL.fullmatch(url):
            raise InvalidSetting(
                f"{name}: expected a URL such as https://HOST:PORT, or nothing for AWS"
            )
        return S3Endpoint(found[1], url or None)

    def has_payload_storage(self) -> bool:
        """Return whether a variable names the storage account for payloads."""
        names = ("OBJECT_STORE_URL", "PAYLOAD_STORAGE", "PAYLOAD_STORAGE__blobServiceUri")
        return any(map(self.text, names))

    def _endpoint(self, name: str, address_key: str) -> AzureEndpoint:
        # With two underscores, the bindings of Functions connect by an identity.
        connection_string, address = self.text(name), self.text(f"{name}__{address_key}")
        if connection_string and "=" not in connection_string:
            raise InvalidSetting(f"{name}: expected a connection string (Key=Value;…)")
        if connection_string:
            return AzureEndpoint(connection_string=connection_string)
        if address:
            return AzureEndpoint(address=address)
        raise InvalidSetting(
            f"{name}: the setting is missing; set it to a connection string, or set "
            f"{name}__{address_key} to use a managed identity"
        )

    def redis_url(self) -> str | None:
        """Return the URL of the Redis that stores streams; None if append blobs store them."""
        name = "STREAM_REDIS_URL"
        url = self.text(name).strip()
        if url and not re.match("rediss?://[^/]", url):
            # The value is not in the message, because it may contain a password.
            raise InvalidSetting(
                f"{name}: expected a URL such as rediss://:PASSWORD@HOST:PORT, or nothing"
            )
        return url or None

    def catalogue_path(self) -> Path:
        """Return the path of the catalogue file."""
        return Path(self.text("MODEL_CATALOGUE") or DEFAULT_PATH)

    def guard(self) -> AddressGuard:
        """Return the check of callers' URLs."""
        return self.parse("GUARD_ALLOW", AddressGuard)

    def trace_exporters(self) -> tuple[str, ...]:
        """Return the trace exporters. OpenTelemetry reads the other OTEL_* variables itself."""
        if self.text("OTEL_SDK_DISABLED").lower() == "true":
            return ()
        return tuple(name for name in self.names("OTEL_TRACES_EXPORTER") if name != "none")
