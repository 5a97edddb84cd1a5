"""The settings of the Function App, read once from its environment variables."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from contract.catalogue import DEFAULT_PATH
from contract.guard import AddressGuard
from contract.messages import INPUT_INLINE_LIMIT_BYTES, MAX_MESSAGE_BYTES
from contract.names import SETTING_CATALOGUE, SETTING_PAYLOAD_STORAGE, SETTING_SERVICE_BUS
from contract.webhook import SETTING_SECRETS, parse_secrets
from gateway.errors import InvalidSetting
from gateway.http.keys import ApiKey, parse_keys
from gateway.http.rates import Rate, parse_rate

MAX_WAIT_SECONDS: Final = 200
"""The longest time in seconds that a request waits for a job. Azure ends requests after 230 s."""

BODY_MEMORY_BYTES: Final = 128 * 1024**2
"""The default limit for the total size, in bytes, of all large request bodies in one process."""

_MIN_KEY_BYTES = 32


T = TypeVar("T")


# A worker fetches up to 64 inputs at the same time, for up to 20 s each. At this rate, one tenant
# cannot occupy all 64 fetches, even if all its servers are slow.
DEFAULT_URL_INPUT_RATE = Rate(30, 30)


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """The endpoint of an Azure service.

    Either `connection_string` or `address` is set. For an address, the gateway authenticates with
    its Azure identity.
    """

    connection_string: str | None = field(default=None, repr=False)
    address: str | None = None


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway's settings.

    The gateway signs new reply tokens with the first of `reply_token_keys`. It accepts reply tokens
    that are signed with any of these keys.
    """

    service_bus: ServiceEndpoint
    payload_storage: ServiceEndpoint
    gateway_base_url: str
    reply_token_keys: tuple[bytes, ...] = field(repr=False)
    catalogue_path: Path = DEFAULT_PATH
    inline_limit_bytes: int = INPUT_INLINE_LIMIT_BYTES
    body_memory_bytes: int = BODY_MEMORY_BYTES
    retention_hours: int = 72
    default_wait_seconds: int = 30
    payload_public_url: str | None = None
    api_keys: tuple[ApiKey, ...] = field(default=(), repr=False)
    trust_principal_header: bool = False
    cors_origins: tuple[str, ...] = ()
    service_bus_admin_url: str | None = None
    refuse_when_saturated: bool = True
    url_input_rate: Rate = DEFAULT_URL_INPUT_RATE
    webhook_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    guard: AddressGuard = field(default_factory=AddressGuard)
    trace_exporters: tuple[str, ...] = ()
    has_heartbeats: bool = True
    has_minute_sums: bool = True

    @property
    def is_open(self) -> bool:
        """Whether every caller may use all routes without authentication."""
        return not self.api_keys and not self.trust_principal_header

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "GatewaySettings":
        """Read the settings. Raises InvalidSetting for the first setting that is wrong."""
        return cls(
            service_bus=_endpoint(environ, SETTING_SERVICE_BUS, "fullyQualifiedNamespace"),
            payload_storage=_endpoint(environ, SETTING_PAYLOAD_STORAGE, "blobServiceUri"),
            gateway_base_url=_base_url(environ, "GATEWAY_BASE_URL"),
            reply_token_keys=_keys(environ, "REPLY_TOKEN_KEYS"),
            catalogue_path=Path(environ.get(SETTING_CATALOGUE) or DEFAULT_PATH),
            inline_limit_bytes=_integer(
                environ, "INLINE_LIMIT_BYTES", INPUT_INLINE_LIMIT_BYTES, 0, _MAX_INLINE_LIMIT_BYTES
            ),
            body_memory_bytes=_integer(
                environ, "BODY_MEMORY_BYTES", BODY_MEMORY_BYTES, 16 * 1024**2, 999_999_999
            ),
            retention_hours=_integer(environ, "RETENTION_HOURS", 72, 1, 10_000),
            default_wait_seconds=_integer(environ, "DEFAULT_WAIT_SECONDS", 30, 0, MAX_WAIT_SECONDS),
            api_keys=_api_keys(environ, "API_KEYS"),
            trust_principal_header=_flag(environ, "TRUST_PRINCIPAL_HEADER"),
            cors_origins=_origins(environ, "CORS_ORIGINS"),
            payload_public_url=_public_url(environ, "PAYLOAD_PUBLIC_URL"),
            service_bus_admin_url=_admin_url(environ, "SERVICE_BUS_ADMIN_URL"),
            url_input_rate=_read(environ, "URL_INPUT_RATE", _url_input_rate),
            refuse_when_saturated=not _flag(environ, "ACCEPT_WHEN_SATURATED"),
            webhook_secrets=_read(environ, SETTING_SECRETS, parse_secrets),
            guard=_read(environ, "GUARD_ALLOW", AddressGuard),
            trace_exporters=_exporters(environ),
            has_heartbeats=_flag(environ, "HEARTBEATS", default=True),
            has_minute_sums=_flag(environ, "MINUTE_SUMS", default=True),
        )


def _url_input_rate(text: str) -> Rate:
    return parse_rate(text) if text else DEFAULT_URL_INPUT_RATE


# Base64 adds a third to the size, and the message also contains parameters and properties.
_MAX_INLINE_LIMIT_BYTES = MAX_MESSAGE_BYTES // 2


def _endpoint(environ: Mapping[str, str], name: str, address_key: str) -> ServiceEndpoint:
    # With two underscores, the bindings of Functions connect by an identity.
    connection_string = environ.get(name)
    address = environ.get(f"{name}__{address_key}")
    if connection_string:
        if "=" not in connection_string:
            raise InvalidSetting(name, "expected a connection string (Key=Value;…)")
        return ServiceEndpoint(connection_string=connection_string)
    if address:
        return ServiceEndpoint(address=address)
    raise InvalidSetting(
        name, f"the setting is missing; set it to a connection string, or set {name}__{address_key}"
    )


def _base_url(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").rstrip("/")
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise InvalidSetting(name, "expected the gateway's own URL, for example https://host")
    return value


def _public_url(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name, "").rstrip("/")
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.netloc or parts.query):
        raise InvalidSetting(
            name, "expected the blob endpoint's public URL, for example https://host"
        )
    return value or None


def _admin_url(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name, "").rstrip("/")
    parts = urlsplit(value)
    is_origin = parts.scheme in {"http", "https"} and parts.netloc and not parts.path
    if value and (not is_origin or parts.query or parts.fragment):
        raise InvalidSetting(
            name, "expected the management API's URL, for example http://host:port"
        )
    return value or None


def _keys(environ: Mapping[str, str], name: str) -> tuple[bytes, ...]:
    texts = [text.strip() for text in environ.get(name, "").split(",") if text.strip()]
    if not texts:
        raise InvalidSetting(
            name, "the setting is missing; create a key with: openssl rand -base64 32"
        )
    try:
        keys = tuple(base64.b64decode(text, validate=True) for text in texts)
    except (binascii.Error, ValueError):
        raise InvalidSetting(
            name, "expected one or more keys in base64, separated by commas"
        ) from None
    if any(len(key) < _MIN_KEY_BYTES for key in keys):
        raise InvalidSetting(
            name, f"each key must have at least {_MIN_KEY_BYTES} bytes after base64 decoding"
        )
    return keys


def _api_keys(environ: Mapping[str, str], name: str) -> tuple[ApiKey, ...]:
    text = environ.get(name, "").strip()
    try:
        keys = parse_keys(text) if text else ()
    except ValueError as error:
        raise InvalidSetting(name, str(error)) from None
    host = urlsplit(environ.get("GATEWAY_BASE_URL", "")).hostname or ""
    if not keys and not _flag(environ, "TRUST_PRINCIPAL_HEADER") and not _is_loopback(host):
        raise InvalidSetting(
            name,
            f"the setting is missing, and {host[:100]} is not a loopback address, so everybody "
            "could use the gateway; create keys with `loosely keys new`, or set "
            "TRUST_PRINCIPAL_HEADER",
        )
    return keys


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _read(environ: Mapping[str, str], name: str, reader: Callable[[str], T]) -> T:
    try:
        return reader(environ.get(name, ""))
    except ValueError as error:
        raise InvalidSetting(name, str(error)) from None


def _flag(environ: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    text = environ.get(name, "").strip().lower()
    if text not in {"", "true", "false"}:
        raise InvalidSetting(name, "expected true or false")
    return text == "true" if text else default


def _origins(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    origins = tuple(text.strip() for text in environ.get(name, "").split(",") if text.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if origin not in {"*", f"{parts.scheme}://{parts.netloc}"}:
            raise InvalidSetting(
                name,
                "expected * or origins such as https://host:port, separated by commas",
            )
    return origins


def _exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names in OTEL_TRACES_EXPORTER; no names if OTEL_SDK_DISABLED is true."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return ()
    names = (text.strip() for text in environ.get("OTEL_TRACES_EXPORTER", "").split(","))
    return tuple(name for name in names if name and name != "none")


def _integer(environ: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    # int() also accepts underscores, signs and the digits of every script.
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidSetting(name, f"expected a whole number from {low} to {high}")
    return int(text)
