"""API keys of several callers, and their requests."""

import json
from typing import TYPE_CHECKING, Any

import httpx

from gateway.keys import make_key, parse_keys

if TYPE_CHECKING:
    from tests.unit.gateway.conftest import RunningGateway

KEYS = {
    "a": make_key("a", "acme"),
    "a2": make_key("a2", "acme", rate_text="3/60"),
    "b": make_key("b", "bolt"),
    "reader": make_key("reader", "acme", ["jobs:read"]),
    "writer": make_key("writer", "acme", ["jobs:write"]),
    "watcher": make_key("watcher", "ops", ["ops:read"]),
    "acme-watcher": make_key("acme-watcher", "acme", ["jobs:read", "ops:read"]),
    "admin": make_key("admin", "ops", ["admin"]),
    "acme-admin": make_key("acme-admin", "acme", ["jobs:read", "jobs:write", "admin"]),
}
SETTING = parse_keys(json.dumps([entry for _, entry in KEYS.values()]))


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name][0]}"}


async def ask(
    gateway: "RunningGateway", name: str, path: str, method: str = "GET", **options: Any
) -> httpx.Response:
    return await gateway.http.request(method, path, headers=bearer(name), **options)


async def submit_as(
    gateway: "RunningGateway", name: str, label: str | None = None, **headers: str
) -> httpx.Response:
    return await gateway.submit(
        content=b"x",
        params={} if label is None else {"label": label},
        headers={**bearer(name), "content-type": "application/octet-stream", **headers},
    )


async def job_of(gateway: "RunningGateway", name: str, label: str = "same") -> str:
    answer = await submit_as(gateway, name, label)
    assert answer.status_code == 202, answer.text
    assert "tenant" not in answer.json()
    return str(answer.json()["id"])
