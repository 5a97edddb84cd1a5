"""Test the routes for models, health and documentation, and the responses to internal errors."""

import json
from typing import Any

import httpx
import pytest

from gateway.http.app import create_app
from gateway.http.routes.health import FRESH_SECONDS
from tests.unit.gateway.conftest import RunningGateway


async def test_models_route_lists_all_models(gateway: RunningGateway) -> None:
    answer = await gateway.http.get("/v1/models")
    models = answer.json()["models"]
    assert [model["name"] for model in models] == list(gateway.services.catalogue)
    one = await gateway.http.get("/v1/models/classifier")
    assert one.json() == models[0]
    assert (models[0]["version"], models[0]["versions"]) == ("1", {"1": 100})
    assert (await gateway.job(await gateway.accept(model="noop:1")))["version"] == "1"
    assert one.json()["limits"] == {
        "input_bytes": 4_194_304,
        "upload_bytes": 10_485_760,
        "pixels": 50_000_000,
        "deadline_seconds": 3600,
    }
    unknown = await gateway.http.get("/v1/models/noob")
    assert (unknown.status_code, unknown.json()["nearest"]) == (404, ["noop"])


async def test_live_although_all_services_are_down(gateway: RunningGateway) -> None:
    gateway.durable.is_down = gateway.queues.is_down = gateway.payloads.is_down = True
    assert (await gateway.http.get("/v1/health/live")).json() == {"status": "live"}


@pytest.mark.parametrize("part", ["durable", "queues", "payloads"])
async def test_ready_only_if_all_services_respond(gateway: RunningGateway, part: str) -> None:
    getattr(gateway, part).is_down = True
    answer = await gateway.http.get("/v1/health/ready")
    assert answer.status_code == 503
    name = {"queues": "queue", "payloads": "blobs"}.get(part, part)
    checks = answer.json()["checks"]
    assert [check for check in checks if checks[check] != "ok"] == [name]
    assert "switched off" not in answer.text


async def test_services_are_checked_once_a_second(gateway: RunningGateway) -> None:
    for _ in range(5):
        answer = await gateway.http.get("/v1/health/ready")
        assert answer.json() == {
            "status": "ready",
            "checks": {"durable": "ok", "queue": "ok", "blobs": "ok"},
        }
    assert gateway.durable.check_count == 1
    assert FRESH_SECONDS == 1


async def test_unexpected_error_shows_no_internal_details(gateway: RunningGateway) -> None:
    class Broken:
        async def status(self, job_id: str) -> None:
            raise RuntimeError("the secret is 42")

    api = create_app(gateway.services)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await api({**scope, "durable": Broken()}, receive, send)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://g.test") as http:
        answer = await http.get("/v1/jobs/018f0000-0000-7000-8000-000000000000")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal-error")
    assert "42" not in json.dumps({**answer.json(), "trace_id": None})
    assert "RuntimeError" not in answer.text
