"""Check that the worker works with the settings that infra/compose.yaml gives to its container."""

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from contract.errors import InvalidSetting
from contract.settings import AzureEndpoint
from gateway.reply_tokens import ReplyTokens
from gateway.settings import GatewaySettings
from tests.infra.deployment import ROOT
from worker.errors import ReplyForbidden
from worker.replies import GatewayClient
from worker.settings import WorkerSettings

JOB_ID = "019a0000-0000-7000-8000-000000000000"
DEADLINE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "infra/compose.yaml").read_text("utf-8"))
    return dict(found["services"])


@pytest.fixture(scope="module")
def settings(services: dict[str, Any]) -> WorkerSettings:
    return WorkerSettings.from_env(services["worker"]["environment"])


@pytest.fixture(scope="module")
def gateway_url() -> str:
    """Return the GATEWAY_BASE_URL of local-development.md for a worker in a container."""
    text = (ROOT / "docs/how-to/local-development.md").read_text("utf-8")
    [url] = re.findall(r"set\s+`GATEWAY_BASE_URL`\s+to\s+`(\S+)`", text)
    return str(url)


def reply_url(gateway_url: str) -> str:
    return ReplyTokens([bytes(32)], gateway_url).url(JOB_ID, DEADLINE, "classifier", "")


def test_documented_gateway_url_is_accepted(settings: WorkerSettings, gateway_url: str) -> None:
    GatewayClient(settings.reply_hosts).check_reply_url(reply_url(gateway_url))


def test_reply_urls_of_others_are_refused(settings: WorkerSettings, gateway_url: str) -> None:
    client = GatewayClient(settings.reply_hosts)
    name = urlsplit(gateway_url).hostname
    for other in (f"http://{name}:7072", f"http://{name}", "http://example.com:7071"):
        with pytest.raises(ReplyForbidden):
            client.check_reply_url(reply_url(other))


def test_gateways_host_name_is_resolved(services: dict[str, Any], gateway_url: str) -> None:
    names = {each.partition(":")[0] for each in services["worker"]["extra_hosts"]}
    assert urlsplit(gateway_url).hostname in names


def test_worker_connects_to_services_of_the_file(
    services: dict[str, Any], settings: WorkerSettings
) -> None:
    assert settings.broker.service_bus is not None
    assert settings.broker.service_bus.connection_string is not None
    assert isinstance(settings.payload_storage, AzureEndpoint)
    assert settings.payload_storage.connection_string is not None
    [bus] = re.findall(r"Endpoint=sb://([\w-]+)", settings.broker.service_bus.connection_string)
    [blobs] = re.findall(
        r"BlobEndpoint=http://([\w-]+)", settings.payload_storage.connection_string
    )
    assert {bus, blobs} <= set(services["worker"]["depends_on"]) <= services.keys()


def test_reachable_gateway_needs_api_keys(gateway_url: str) -> None:
    """Check that the gateway needs API keys, because each container on the machine can reach it."""
    environment = {
        "SERVICE_BUS__fullyQualifiedNamespace": "localhost",
        "PAYLOAD_STORAGE__blobServiceUri": "http://localhost:10000",
        "REPLY_TOKEN_KEYS": "A" * 44,
        "GATEWAY_BASE_URL": gateway_url,
    }
    with pytest.raises(InvalidSetting, match="API_KEYS"):
        GatewaySettings.from_env(environment)


def test_plain_http_needs_its_own_entry() -> None:
    plain, tls = reply_url("http://gateway.example:80"), reply_url("https://gateway.example:80")
    with pytest.raises(ReplyForbidden, match="lists with http://"):
        GatewayClient(frozenset({"gateway.example:80"})).check_reply_url(plain)
    GatewayClient(frozenset({"gateway.example:80"})).check_reply_url(tls)
    GatewayClient(frozenset({"http://gateway.example:80"})).check_reply_url(plain)
