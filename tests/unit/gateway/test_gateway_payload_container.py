"""Test the container of payloads: its signed links, and when it uses an HTTP proxy."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest
from azure.storage.blob import UserDelegationKey

from contract.settings import AzureEndpoint
from gateway.storage.azure import AzureLinks, PayloadContainer
from tests.unit.gateway.memory import ManualClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Account:
    """A storage account that issues user delegation keys, and records their validity in `keys`."""

    account_name = "store"
    url = "https://store.blob.core.windows.net/"
    credential = object()

    def __init__(self) -> None:
        self.keys: list[tuple[datetime, datetime]] = []

    async def get_user_delegation_key(self, start: datetime, expiry: datetime) -> Any:
        self.keys.append((start, expiry))
        key = cast(Any, UserDelegationKey)()
        key.signed_oid = key.signed_tid = "00000000-0000-0000-0000-000000000000"
        key.signed_start, key.signed_expiry = start.isoformat(), expiry.isoformat()
        key.signed_service, key.signed_version, key.value = "b", "2022-11-02", "a2V5"
        return key


class Opened(PayloadContainer):
    """The payload container of an `Account`. The container already exists."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(AzureEndpoint(address="unused"), clock=clock)
        self.account = Account()

    @property
    def service(self) -> Any:
        return self.account

    async def ensure(self, *, is_missing: bool = False) -> None:
        pass


async def test_link_is_signed_with_a_delegation_key() -> None:
    links = AzureLinks(Opened(ManualClock()), None)
    url = httpx.URL(await links.to_write("uploads/a", NOON + timedelta(hours=6)))
    assert (url.host, url.path) == ("store.blob.core.windows.net", "/payloads/uploads/a")
    assert url.params["sp"] == "c"
    assert url.params["spr"] == "https"
    assert url.params["sr"] == "b"
    assert "skoid" in url.params


async def test_delegation_key_is_used_until_it_expires() -> None:
    clock = ManualClock()
    opened = Opened(clock)
    made = AzureLinks(opened, None)
    soon = NOON + timedelta(hours=6)
    await asyncio.gather(*(made.to_write(f"uploads/{n}", soon) for n in range(5)))
    assert len(opened.account.keys) == 1
    start, expiry = opened.account.keys[0]
    # A link must not be valid for longer than its key.
    assert start < NOON
    assert soon < expiry
    clock.now += timedelta(hours=23)
    await made.to_read("results/a", "text/plain", "a.txt", clock.now + timedelta(hours=2))
    assert len(opened.account.keys) == 2


async def test_link_has_the_public_url() -> None:
    made = AzureLinks(Opened(ManualClock()), "https://files.example.com")
    url = await made.to_read("results/a", "image/png", "a.png", NOON + timedelta(hours=1))
    assert url.startswith("https://files.example.com/payloads/results/a?")
    assert httpx.URL(url).params["rscd"] == 'attachment; filename="a.png"'


LOCAL = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=bm9uZQ==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1;"
)
AZURE = (
    "DefaultEndpointsProtocol=https;AccountName=store;AccountKey=bm9uZQ==;"
    "EndpointSuffix=core.windows.net"
)


@pytest.mark.parametrize(
    ("connection_string", "environment", "is_used"),
    [
        pytest.param(LOCAL, {}, False, id="no-proxy"),
        pytest.param(LOCAL, {"NO_PROXY": "127.0.0.1"}, False, id="only-exceptions"),
        pytest.param(
            LOCAL,
            {"HTTP_PROXY": "http://proxy.test:3128", "NO_PROXY": "127.0.0.1,localhost"},
            False,
            id="the-storage-is-an-exception",
        ),
        pytest.param(AZURE, {"HTTP_PROXY": "http://proxy.test:3128"}, False, id="other-scheme"),
        pytest.param(AZURE, {"HTTPS_PROXY": "http://proxy.test:3128"}, True, id="proxy"),
    ],
)
async def test_proxy_is_used_if_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch,
    connection_string: str,
    environment: dict[str, str],
    is_used: bool,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    container = PayloadContainer(AzureEndpoint(connection_string=connection_string))
    async with container.session as session:
        assert session.trust_env is is_used
    await container.service.close()
