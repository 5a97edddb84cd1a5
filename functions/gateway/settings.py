"""The Function App's settings, read once from the environment: docs/reference/settings.md."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from contract.catalogue import DEFAULT_PATH
from contract.errors import InvalidSetting
from contract.guard import AddressGuard, is_loopback
from contract.messages import INPUT_INLINE_LIMIT_BYTES, MAX_MESSAGE_BYTES
from contract.settings import AzureEndpoint, BrokerEndpoint, S3Endpoint, SettingsReader
from contract.webhook import SETTING_SECRETS, parse_secrets
from gateway.keys import ApiKey, parse_keys
from gateway.rates import Rate, parse_rate

MAX_WAIT_SECONDS: Final = 200
"""The longest time in seconds that a request waits for a job. Azure ends requests after 230 s."""

BODY_MEMORY_BYTES: Final = 128 * 1024**2
"""The default limit for the total size, in bytes, of all large request bodies in one process."""

MAX_STREAMS: Final = 1000
MAX_TENANT_STREAMS: Final = 500
"""The default limits for the open streams in one process, in all and of one tenant."""

DEFAULT_RETENTION_HOURS = 72
DEFAULT_WAIT_SECONDS = 30

_MIN_KEY_BYTES = 32

# A worker fetches up to 64 inputs at the same time, for up to 20 s each. At this rate, one tenant
# cannot occupy all 64 fetches, even if all its servers are slow.
DEFAULT_URL_INPUT_RATE = Rate(30, 30)


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The gateway's settings. The first of `reply_token_keys` signs; all of them verify."""

    broker: BrokerEndpoint
    payload_storage: AzureEndpoint | S3Endpoint
    gateway_base_url: str
    reply_token_keys: tuple[bytes, ...] = field(repr=False)
    catalogue_path: Path = DEFAULT_PATH
    inline_limit_bytes: int = INPUT_INLINE_LIMIT_BYTES
    body_memory_bytes: int = BODY_MEMORY_BYTES
    retention_hours: int = DEFAULT_RETENTION_HOURS
    default_wait_seconds: int = DEFAULT_WAIT_SECONDS
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
    has_shares: bool = True
    stream_redis_url: str | None = field(default=None, repr=False)
    max_streams: int = MAX_STREAMS
    max_tenant_streams: int = MAX_TENANT_STREAMS

    @property
    def is_open(self) -> bool:
        """Whether every caller may use all routes without authentication."""
        return not self.api_keys and not self.trust_principal_header

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "GatewaySettings":
        """Read the settings. Raises InvalidSetting for the first setting that is wrong."""
        reader = SettingsReader(environ)
        return cls(
            broker=reader.broker(),
            payload_storage=reader.payload_storage(),
            gateway_base_url=_base_url(reader),
            reply_token_keys=_reply_token_keys(reader),
            catalogue_path=reader.catalogue_path(),
            inline_limit_bytes=reader.whole(
                "INLINE_LIMIT_BYTES", INPUT_INLINE_LIMIT_BYTES, 0, _MAX_INLINE_LIMIT_BYTES
            ),
            body_memory_bytes=reader.whole(
                "BODY_MEMORY_BYTES", BODY_MEMORY_BYTES, 16 * 1024**2, 999_999_999
            ),
            retention_hours=reader.whole("RETENTION_HOURS", DEFAULT_RETENTION_HOURS, 1, 10_000),
            default_wait_seconds=reader.whole(
                "DEFAULT_WAIT_SECONDS", DEFAULT_WAIT_SECONDS, 0, MAX_WAIT_SECONDS
            ),
            api_keys=_api_keys(reader),
            trust_principal_header=reader.flag("TRUST_PRINCIPAL_HEADER"),
            cors_origins=_origins(reader),
            payload_public_url=_public_url(reader),
            service_bus_admin_url=_admin_url(reader),
            url_input_rate=reader.parse("URL_INPUT_RATE", _url_input_rate),
            refuse_when_saturated=not reader.flag("ACCEPT_WHEN_SATURATED"),
            webhook_secrets=reader.parse(SETTING_SECRETS, parse_secrets),
            guard=reader.guard(),
            trace_exporters=reader.trace_exporters(),
            has_heartbeats=reader.flag("HEARTBEATS", default=True),
            has_minute_sums=reader.flag("MINUTE_SUMS", default=True),
            has_shares=reader.flag("SHARES", default=True),
            stream_redis_url=reader.redis_url(),
            max_streams=reader.whole("MAX_STREAMS", MAX_STREAMS, 1, 100_000),
            max_tenant_streams=reader.whole("MAX_TENANT_STREAMS", MAX_TENANT_STREAMS, 1, 100_000),
        )


def _url_input_rate(text: str) -> Rate:
    return parse_rate(text) if text else DEFAULT_URL_INPUT_RATE


# Base64 adds a third to the size, and the message also contains parameters and properties.
_MAX_INLINE_LIMIT_BYTES = MAX_MESSAGE_BYTES // 2


def _url(reader: SettingsReader, name: str, expected: str, *, may_have_path: bool = True) -> str:
    """Read an http(s) URL without query and fragment; an empty string if it is not set."""
    value = reader.text(name).rstrip("/")
    parts = urlsplit(value)
    is_http = parts.scheme in {"http", "https"} and bool(parts.netloc)
    is_short = not parts.query and not parts.fragment and (may_have_path or not parts.path)
    if value and not (is_http and is_short):
        raise InvalidSetting(f"{name}: expected {expected}")
    return value


def _base_url(reader: SettingsReader) -> str:
    expected = "the gateway's own URL, for example https://host"
    value = _url(reader, "GATEWAY_BASE_URL", expected)
    if not value:
        raise InvalidSetting(f"GATEWAY_BASE_URL: expected {expected}")
    return value


def _public_url(reader: SettingsReader) -> str | None:
    expected = "the blob endpoint's public URL, for example https://host"
    return _url(reader, "PAYLOAD_PUBLIC_URL", expected) or None


def _admin_url(reader: SettingsReader) -> str | None:
    expected = "the management API's URL, for example http://host:port"
    return _url(reader, "SERVICE_BUS_ADMIN_URL", expected, may_have_path=False) or None


def _reply_token_keys(reader: SettingsReader) -> tuple[bytes, ...]:
    name = "REPLY_TOKEN_KEYS"
    texts = reader.names(name)
    if not texts:
        raise InvalidSetting(
            f"{name}: the setting is missing; create a key with: openssl rand -base64 32"
        )
    try:
        keys = tuple(base64.b64decode(text, validate=True) for text in texts)
    except (binascii.Error, ValueError):
        raise InvalidSetting(
            f"{name}: expected one or more keys in base64, separated by commas"
        ) from None
    if any(len(key) < _MIN_KEY_BYTES for key in keys):
        raise InvalidSetting(
            f"{name}: each key must have at least {_MIN_KEY_BYTES} bytes after base64 decoding"
        )
    return keys


def _api_keys(reader: SettingsReader) -> tuple[ApiKey, ...]:
    keys = reader.parse("API_KEYS", lambda text: parse_keys(text) if text.strip() else ())
    host = urlsplit(reader.text("GATEWAY_BASE_URL")).hostname or ""
    if not keys and not reader.flag("TRUST_PRINCIPAL_HEADER") and not is_loopback(host):
        raise InvalidSetting(
            f"API_KEYS: the setting is missing, and {host[:100]} is not a loopback address, so "
            "everybody could use the gateway; create keys with `loosely keys new`, or set "
            "TRUST_PRINCIPAL_HEADER"
        )
    return keys


def _origins(reader: SettingsReader) -> tuple[str, ...]:
    origins = reader.names("CORS_ORIGINS")
    for origin in origins:
        parts = urlsplit(origin)
        if origin not in {"*", f"{parts.scheme}://{parts.netloc}"}:
            raise InvalidSetting(
                "CORS_ORIGINS: expected * or origins such as https://host:port, separated by commas"
            )
    return origins
