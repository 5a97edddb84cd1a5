"""The documents under /v1/ops: queues, workers, failures, series and who may read them."""

import json
from datetime import timedelta
from typing import Any

import pytest

from contract.heartbeats import Heartbeat, ModelBeat, ModelState, encode_heartbeat
from contract.names import heartbeat_blob
from gateway.http.keys import make_key, parse_keys
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway

pytestmark = pytest.mark.filterwarnings("ignore:azure.functions df_loads:DeprecationWarning")


def beat(gateway: RunningGateway, worker: str = "pod-7", **changes: Any) -> None:
    """Write the heartbeat of a worker that serves noop."""
    given: dict[str, Any] = {
        "worker": worker,
        "version": "1",
        "started_at": gateway.clock() - timedelta(seconds=30),
        "interval_seconds": 5.0,
        "models": (ModelBeat("noop", ModelState.LOADED, load_seconds=0.5),),
    }
    gateway.blobs.put(heartbeat_blob(worker), encode_heartbeat(Heartbeat(**{**given, **changes})))


async def overview(gateway: RunningGateway) -> dict[str, Any]:
    answer = await gateway.http.get("/v1/ops/overview")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def queue_in(document: dict[str, Any], model: str = "noop") -> dict[str, Any]:
    (found,) = [queue for queue in document["queues"] if queue["model"] == model]
    return dict(found)


async def test_the_overview_shows_counts_rates_and_failures_of_a_model(
    gateway: RunningGateway,
) -> None:
    beat(gateway)
    for _ in range(3):
        await gateway.accept()
        await gateway.reply()
    await gateway.accept()
    await gateway.reply(error=error_body("inference-failed"))
    gateway.clock.now += timedelta(seconds=2)
    gateway.queues.lengths = {"noop": 7, "noop-low": 2}
    gateway.queues.others = {"noop": (1, 0)}
    gateway.queues.enqueued_at = {"noop": gateway.clock() - timedelta(seconds=9)}
    shown = await overview(gateway)
    queue = queue_in(shown)
    assert queue["waiting"] == {"normal": 7, "low": 2, "scheduled": 1, "dead": 0}
    assert queue["oldest_age_seconds"] == 9
    assert queue["in_per_minute"] == queue["out_per_minute"] > 0
    assert queue["run_seconds"]["p50"] == pytest.approx(0.0215, rel=0.2)
    assert queue["wait_seconds"]["p95"] == pytest.approx(0.004, rel=0.3)
    assert queue["reason"]["code"] == "busy"
    assert shown["failures"] == [
        {
            "model": "noop",
            "code": "inference-failed",
            "count": 1,
            "last_at": "2026-03-01T12:00:00.000Z",
        }
    ]


async def test_the_overview_shows_the_state_of_each_worker(gateway: RunningGateway) -> None:
    beat(
        gateway,
        device="L4",
        total_bytes=100,
        used_bytes=60,
        models=(ModelBeat("noop", ModelState.LOADED, None, None, 0.5, 2, 4, 40),),
    )
    beat(gateway, "pod-8", is_draining=True)
    gateway.clock.now += timedelta(seconds=5)
    first, second = (await overview(gateway))["workers"]
    assert first == {
        "id": "pod-7",
        "version": "1",
        "state": "ready",
        "started_at": "2026-03-01T11:59:30.000Z",
        "seen_at": "2026-03-01T12:00:00.000Z",
        "silent_seconds": 5.0,
        "devices": [
            {
                "name": "L4",
                "total_bytes": 100,
                "used_bytes": 60,
                "models": [{"name": "noop", "bytes": 40}],
            }
        ],
        "models": [
            {
                "name": "noop",
                "state": "loaded",
                "reason": None,
                "load_seconds": 0.5,
                "in_flight": 2,
                "batch_size": 4,
            }
        ],
    }
    assert second["state"] == "draining"
    gateway.clock.now += timedelta(seconds=10)
    assert {worker["state"] for worker in (await overview(gateway))["workers"]} == {"silent"}
    gateway.clock.now += timedelta(minutes=10)
    assert (await overview(gateway))["workers"] == []


async def test_the_overview_says_what_its_caller_may_do() -> None:
    key, entry = make_key("night shift", "acme", ["ops:read", "jobs:read"])
    async with open_gateway(api_keys=parse_keys(json.dumps([entry]))) as gateway:
        headers = {"authorization": f"Bearer {key}"}
        answer = await gateway.http.get("/v1/ops/overview", headers=headers)
    assert answer.json()["caller"] == {
        "name": "night shift",
        "tenant": "acme",
        "scopes": ["jobs:read", "ops:read"],
    }


async def test_a_caller_without_a_key_may_do_everything_on_an_open_gateway(
    gateway: RunningGateway,
) -> None:
    caller = (await overview(gateway))["caller"]
    assert (caller["name"], caller["tenant"]) == ("", "")
    assert set(caller["scopes"]) == {"admin", "jobs:read", "jobs:write", "ops:read"}
