"""Test the routes that show tenants, and change their weights and limits."""

from typing import Any

import pytest

from gateway.keys import owner_of
from tests.unit.gateway.api_keys import ask, submit_as
from tests.unit.gateway.conftest import RunningGateway

PATH = "/v1/admin/tenants"
ALL = {"weight": 1, "max_queued": None, "max_running": None, "gpu_seconds_a_day": None}


async def put(gateway: RunningGateway, tenant: str, value: Any, name: str = "admin") -> Any:
    return await ask(gateway, name, f"{PATH}/{tenant}", "PUT", json=value)


async def test_a_change_is_shown_and_audited(closed: RunningGateway) -> None:
    await put(closed, "*", {"max_queued": 100})
    changed = await put(closed, "acme", {"weight": 2, "max_running": None})
    assert changed.status_code == 200
    assert changed.json()["given"] == {"weight": 2, "max_running": None}
    assert changed.json()["settings"] == {**ALL, "weight": 2, "max_queued": 100}
    assert (await ask(closed, "watcher", f"{PATH}/acme")).json() == changed.json()
    assert (await ask(closed, "admin", f"{PATH}/acme", "DELETE")).status_code == 204
    shown = (await ask(closed, "watcher", f"{PATH}/acme")).json()
    assert (shown["given"], shown["settings"]) == (None, {**ALL, "max_queued": 100})
    changes = (await ask(closed, "watcher", f"{PATH}/audit?limit=2")).json()["changes"]
    assert {each["by"] for each in changes} == {"admin"}
    assert {each["after"] is None for each in changes} == {True, False}


async def test_tenants_with_jobs_are_listed(closed: RunningGateway) -> None:
    await put(closed, "zeta", {"weight": 2})
    await submit_as(closed, "b", prefer="respond-async")
    closed.services.limits.usage.record(owner_of("bolt"), "noop", 1.25)
    listed = (await ask(closed, "watcher", PATH)).json()["tenants"]
    assert [each["tenant"] for each in listed] == ["bolt", "zeta"]
    assert listed[0]["gpu_seconds_day"] == 1.25
    assert listed[0]["models"]["noop"]["gpu_seconds_hour"] == 1.25


async def test_a_gateway_without_keys_has_one(gateway: RunningGateway) -> None:
    changed = await gateway.http.put(f"{PATH}/~", json={"max_queued": 0})
    assert changed.json()["tenant"] == ""
    refused = await gateway.submit(
        content=b"x", headers={"content-type": "application/octet-stream"}
    )
    assert refused.json()["code"] == "queue-limit"


@pytest.mark.parametrize(
    ("tenant", "value", "said"),
    [
        ("acme", {"weight": 0}, "weight: expected a number from 0.01 to 1000"),
        ("acme", {"size": 1}, "expected an object with only these members"),
        ("acme", [1], "expected an object"),
        ("a" * 65, {}, "tenant: expected 1 to 64 printable characters"),
    ],
)
async def test_wrong_requests_are_refused(
    closed: RunningGateway, tenant: str, value: Any, said: str
) -> None:
    refused = await put(closed, tenant, value)
    assert (refused.status_code, refused.json()["code"]) == (400, "malformed-request")
    assert said in refused.json()["detail"]


@pytest.mark.parametrize("name", ["a", "watcher"])
async def test_only_admins_change_tenants(closed: RunningGateway, name: str) -> None:
    assert (await put(closed, "acme", {"weight": 2}, name)).status_code == 403
    assert (await ask(closed, name, f"{PATH}/acme", "DELETE")).status_code == 403
