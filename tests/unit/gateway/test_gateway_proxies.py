"""Test that requests for small blobs use an HTTP proxy only if the environment names one."""

import pytest

from contract.settings import AzureEndpoint
from gateway.storage.blobs import PayloadContainer

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
