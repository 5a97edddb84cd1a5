"""Test what shared access signatures permit, and that unsigned requests are refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.blob import generate_account_sas, generate_blob_sas, generate_container_sas

from blobs_tests.sdk.blob_servers import ACCOUNT, KEY, Server
from blobs_tests.sdk.both_clients import code_of, connect

HOUR = timedelta(hours=1)
Signed = Callable[..., Any]


@pytest.fixture
async def blob(container: Any) -> Any:
    client = container.get_blob_client("folder/a blob")
    await client.upload_blob(b"content")
    return client


def blob_sas(blob: Any, permission: str, **more: Any) -> str:
    more.setdefault("expiry", datetime.now(UTC) + HOUR)
    more.setdefault("account_key", KEY)
    return generate_blob_sas(
        ACCOUNT, blob.container_name, blob.blob_name, permission=permission, **more
    )


async def refusal(attempt: Any) -> HttpResponseError:
    with pytest.raises(HttpResponseError) as refused:
        await attempt
    return refused.value


async def test_read_sas_permits_only_reading(server: Server, sdk: str, blob: Any) -> None:
    async with connect(sdk, server.url, blob_sas(blob, "r")) as service:
        reader = service.get_blob_client(blob.container_name, blob.blob_name)
        assert await (await reader.download_blob()).readall() == b"content"
        assert (await reader.get_blob_properties()).size == 7
        for attempt in (
            reader.upload_blob(b"x", overwrite=True),
            reader.delete_blob(),
            reader.set_blob_metadata({"a": "1"}),
        ):
            refused = await refusal(attempt)
            assert refused.status_code == 403
            assert code_of(refused) == "AuthorizationPermissionMismatch"


async def test_sas_of_one_blob_permits_no_other(server: Server, sdk: str, blob: Any) -> None:
    async with connect(sdk, server.url, blob_sas(blob, "r")) as service:
        other = service.get_blob_client(blob.container_name, "another")
        assert (await refusal(other.download_blob())).status_code == 403


async def test_write_sas_permits_overwriting_but_not_reading(
    server: Server, sdk: str, blob: Any
) -> None:
    async with connect(sdk, server.url, blob_sas(blob, "w")) as service:
        writer = service.get_blob_client(blob.container_name, blob.blob_name)
        await writer.upload_blob(b"second", overwrite=True)
        await writer.stage_block("AAAA", b"third")
        assert (await refusal(writer.download_blob())).status_code == 403
    assert await (await blob.download_blob()).readall() == b"second"


async def test_create_sas_permits_no_overwriting(server: Server, sdk: str, container: Any) -> None:
    blob = container.get_blob_client("new")
    async with connect(sdk, server.url, blob_sas(blob, "c")) as service:
        creator = service.get_blob_client(blob.container_name, blob.blob_name)
        await creator.upload_blob(b"first")
        assert (await refusal(creator.upload_blob(b"second"))).status_code in {403, 409}
    assert await (await blob.download_blob()).readall() == b"first"


async def test_sas_headers_replace_those_of_the_blob(server: Server, sdk: str, blob: Any) -> None:
    sas = blob_sas(blob, "r", content_type="text/x-test", content_disposition="attachment")
    async with connect(sdk, server.url, sas) as service:
        reader = service.get_blob_client(blob.container_name, blob.blob_name)
        settings = (await reader.download_blob()).properties.content_settings
        assert settings.content_type == "text/x-test"
        assert settings.content_disposition == "attachment"


@pytest.mark.parametrize(
    "more",
    [
        {"expiry": datetime.now(UTC) - HOUR},
        {"start": datetime.now(UTC) + HOUR},
        {"account_key": base64.b64encode(bytes(64)).decode()},
        {"protocol": "https"},
        pytest.param(
            {"ip": "10.0.0.1"},
            marks=pytest.mark.azurite_differs(
                "Azurite does not check the address range of a signature"
            ),
        ),
    ],
)
async def test_sas_outside_its_period_key_protocol_or_ip_fails(
    server: Server, sdk: str, blob: Any, more: dict[str, Any]
) -> None:
    async with connect(sdk, server.url, blob_sas(blob, "r", **more)) as service:
        reader = service.get_blob_client(blob.container_name, blob.blob_name)
        assert (await refusal(reader.download_blob())).status_code == 403


async def test_sas_within_its_period_protocol_and_ip_works(
    server: Server, sdk: str, blob: Any
) -> None:
    now = datetime.now(UTC)
    sas = blob_sas(blob, "r", start=now - HOUR, ip="127.0.0.1", protocol="https,http")
    async with connect(sdk, server.url, sas) as service:
        reader = service.get_blob_client(blob.container_name, blob.blob_name)
        assert await (await reader.download_blob()).readall() == b"content"


async def test_permissions_added_after_signing_are_refused(
    server: Server, sdk: str, blob: Any
) -> None:
    widened = blob_sas(blob, "r").replace("sp=r", "sp=rwd")
    async with connect(sdk, server.url, widened) as service:
        client = service.get_blob_client(blob.container_name, blob.blob_name)
        refused = await refusal(client.delete_blob())
        assert code_of(refused) in {"AuthenticationFailed", "AuthorizationFailure"}


async def test_container_sas_permits_listing(server: Server, sdk: str, blob: Any) -> None:
    sas = generate_container_sas(
        ACCOUNT,
        blob.container_name,
        account_key=KEY,
        permission="rl",
        expiry=datetime.now(UTC) + HOUR,
    )
    async with connect(sdk, server.url, sas) as service:
        container = service.get_container_client(blob.container_name)
        assert [item.name async for item in container.list_blobs()] == [blob.blob_name]
        download = await container.download_blob(blob.blob_name)
        assert await download.readall() == b"content"
        assert (await refusal(container.upload_blob("x", b""))).status_code == 403
        assert (await refusal(container.delete_container())).status_code == 403


async def test_blob_sas_does_not_permit_listing(server: Server, sdk: str, blob: Any) -> None:
    async with connect(sdk, server.url, blob_sas(blob, "r")) as service:
        container = service.get_container_client(blob.container_name)
        with pytest.raises(HttpResponseError) as refused:
            _ = [item async for item in container.list_blobs()]
        assert refused.value.status_code == 403


@pytest.mark.parametrize(
    ("resources", "permission"), [("sco", "rwdlac"), ("sc", "rwdlac"), ("sco", "l")]
)
async def test_account_sas_needs_object_and_read_permission(
    server: Server, sdk: str, blob: Any, resources: str, permission: str
) -> None:
    sas = generate_account_sas(ACCOUNT, KEY, resources, permission, datetime.now(UTC) + HOUR)
    async with connect(sdk, server.url, sas) as service:
        names = [item.name async for item in service.list_containers(blob.container_name)]
        assert names == [blob.container_name]
        reader = service.get_blob_client(blob.container_name, blob.blob_name)
        if "o" in resources and "r" in permission:
            assert await (await reader.download_blob()).readall() == b"content"
        else:
            assert (await refusal(reader.download_blob())).status_code == 403


async def test_wrong_account_key_is_refused(server: Server, sdk: str, container: Any) -> None:
    wrong = {"account_name": ACCOUNT, "account_key": base64.b64encode(bytes(64)).decode()}
    async with connect(sdk, server.url, wrong) as service:
        blob = service.get_blob_client(container.container_name, "blob")
        with pytest.raises((ClientAuthenticationError, HttpResponseError)) as refused:
            await blob.upload_blob(b"x")
        assert refused.value.status_code == 403


async def test_anonymous_request_is_refused(server: Server, sdk: str, blob: Any) -> None:
    async with connect(sdk, server.url) as service:
        stranger = service.get_blob_client(blob.container_name, blob.blob_name)
        for attempt in (stranger.download_blob(), stranger.upload_blob(b"x", overwrite=True)):
            assert (await refusal(attempt)).status_code in {401, 403}
    assert await (await blob.download_blob()).readall() == b"content"
