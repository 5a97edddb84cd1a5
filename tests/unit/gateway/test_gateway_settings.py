"""Test the gateway's settings: default values, and errors that name the invalid variable."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from contract.errors import InvalidSetting
from contract.settings import AzureEndpoint, S3Endpoint
from gateway.keys import make_key
from gateway.rates import Rate
from gateway.settings import GatewaySettings
from tests.unit.gateway.conftest import ENVIRON

KEY = ENVIRON["REPLY_TOKEN_KEYS"]


def test_optional_settings_have_defaults() -> None:
    settings = GatewaySettings.from_env(ENVIRON)
    assert settings.gateway_base_url == "http://127.0.0.1:7071"
    assert settings.reply_token_keys == (bytes(32),)
    assert settings.inline_limit_bytes == 64 * 1024
    assert settings.retention_hours == 72
    assert settings.default_wait_seconds == 30
    assert settings.catalogue_path.name == "models.toml"


def test_settings_are_read_from_the_environment() -> None:
    other = base64.b64encode(b"k" * 40).decode()
    settings = GatewaySettings.from_env(
        {
            "SERVICE_BUS__fullyQualifiedNamespace": "ns.servicebus.windows.net",
            "PAYLOAD_STORAGE__blobServiceUri": "https://a.blob.core.windows.net",
            "GATEWAY_BASE_URL": "https://host/base",
            "REPLY_TOKEN_KEYS": f"{other}, {KEY}",
            "MODEL_CATALOGUE": "/etc/models.toml",
            "INLINE_LIMIT_BYTES": "0",
            "RETENTION_HOURS": "1",
            "DEFAULT_WAIT_SECONDS": "200",
            "API_KEYS": json.dumps([make_key("ci", "acme", rate_text="10/60")[1]]),
            "TRUST_PRINCIPAL_HEADER": "True",
            "CORS_ORIGINS": "https://a.example, http://localhost:3000",
        }
    )
    assert settings.broker.service_bus == AzureEndpoint(address="ns.servicebus.windows.net")
    assert settings.payload_storage == AzureEndpoint(address="https://a.blob.core.windows.net")
    assert settings.reply_token_keys == (b"k" * 40, bytes(32))
    assert settings.catalogue_path == Path("/etc/models.toml")
    assert settings.inline_limit_bytes == 0
    (key,) = settings.api_keys
    assert key.caller.rate == Rate(10, 60)
    assert settings.trust_principal_header
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:7071", "http://127.8.9.1", "http://[::1]:80", "https://localhost"]
)
def test_open_gateway_is_allowed_on_loopback(url: str) -> None:
    assert GatewaySettings.from_env({**ENVIRON, "GATEWAY_BASE_URL": url}).is_open


@pytest.mark.parametrize("url", ["http://10.0.0.1", "https://host", "http://127.0.0.1.host"])
def test_open_gateway_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^API_KEYS: the setting is missing"):
        GatewaySettings.from_env({**ENVIRON, "GATEWAY_BASE_URL": url})
    trusting = {**ENVIRON, "GATEWAY_BASE_URL": url, "TRUST_PRINCIPAL_HEADER": "true"}
    assert not GatewaySettings.from_env(trusting).is_open


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVICE_BUS", ""),
        ("SERVICE_BUS", "ns.servicebus.windows.net"),
        ("PAYLOAD_STORAGE", ""),
        ("GATEWAY_BASE_URL", ""),
        ("GATEWAY_BASE_URL", "localhost:7071"),
        ("GATEWAY_BASE_URL", "http://"),
        ("GATEWAY_BASE_URL", "https://host/?a=b"),
        ("PAYLOAD_PUBLIC_URL", "files.example.com"),
        ("PAYLOAD_PUBLIC_URL", "https://host/?sig=x"),
        ("SERVICE_BUS_ADMIN_URL", "http://host/path"),
        ("REPLY_TOKEN_KEYS", ""),
        ("REPLY_TOKEN_KEYS", "no base64!"),
        ("REPLY_TOKEN_KEYS", base64.b64encode(bytes(31)).decode()),
        ("REPLY_TOKEN_KEYS", f"{KEY},c2hvcnQ="),
        ("INLINE_LIMIT_BYTES", "24k"),
        ("INLINE_LIMIT_BYTES", "98305"),
        ("INLINE_LIMIT_BYTES", "-1"),
        ("RETENTION_HOURS", "0"),
        ("RETENTION_HOURS", "1_000"),
        ("RETENTION_HOURS", "9" * 5000),
        ("DEFAULT_WAIT_SECONDS", "201"),
        ("DEFAULT_WAIT_SECONDS", "\u0663"),
        ("API_KEYS", "secret"),
        ("API_KEYS", '{"name": "ci"}'),
        ("API_KEYS", '["secret"]'),
        ("TRUST_PRINCIPAL_HEADER", "1"),
        ("WEBHOOK_SECRETS", "secret"),
        ("CORS_ORIGINS", "a.example"),
        ("CORS_ORIGINS", "https://a.example/"),
    ],
)
def test_error_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{variable}: ") as caught:
        GatewaySettings.from_env({**ENVIRON, variable: value})
    assert KEY not in str(caught.value)


def test_repr_contains_no_secrets() -> None:
    settings: Any = GatewaySettings.from_env(ENVIRON)
    shown = repr(settings)
    assert "hidden" not in shown
    assert repr(bytes(32)) not in shown


def test_bucket_replaces_the_storage_account() -> None:
    environ = {**ENVIRON, "PAYLOAD_STORAGE": "", "OBJECT_STORE_URL": "s3://payloads"}
    assert GatewaySettings.from_env(environ).payload_storage == S3Endpoint("payloads")
    environ["OBJECT_STORE_ENDPOINT"] = "http://minio:9000/"
    expected = S3Endpoint("payloads", "http://minio:9000")
    assert GatewaySettings.from_env(environ).payload_storage == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OBJECT_STORE_URL", "https://payloads"),
        ("OBJECT_STORE_URL", "s3://payloads/folder"),
        ("OBJECT_STORE_ENDPOINT", "minio:9000"),
        ("OBJECT_STORE_ENDPOINT", "https://user:secret@minio"),
    ],
    ids=["scheme", "folder", "host", "password"],
)
def test_wrong_bucket_is_refused(name: str, value: str) -> None:
    environ = {**ENVIRON, "OBJECT_STORE_URL": "s3://payloads", name: value}
    with pytest.raises(InvalidSetting, match=f"^{name}: expected") as raised:
        GatewaySettings.from_env(environ)
    assert "secret" not in str(raised.value)
