"""Test the JSON documents for operators under /v1/ops: their content, and who may read them."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from contract.heartbeats import ModelHeartbeat, ModelState
from contract.messages import encode_request, format_time
from contract.names import HEARTBEATS, SUMS, heartbeat_blob
from contract.queues import names
from gateway import housekeeping
from gateway.brokers.port import MessageCounts
from gateway.operations.sums import encode_sums
from gateway.queues import estimates
from gateway.telemetry import JobCounters
from tests.unit.gateway.api_keys import ask, job_of
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway
from tests.unit.gateway.dead_letters import give_up
from tests.unit.gateway.workers import beat

OBSERVABILITY = (Path(__file__).parents[3] / "docs/reference/observability.md").read_text("utf-8")


async def overview(gateway: RunningGateway) -> Any:
    return await gateway.get("/v1/ops/overview")


def queue_in(document: dict[str, Any], model: str = "noop") -> dict[str, Any]:
    (found,) = [queue for queue in document["queues"] if queue["model"] == model]
    return dict(found)


async def test_overview_shows_counts_rates_and_failures(gateway: RunningGateway) -> None:
    beat(gateway)
    for _ in range(3):
        await gateway.accept()
        await gateway.reply()
    await gateway.accept()
    await gateway.reply(error=error_body("inference-failed"))
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.lengths = {"noop": 7, "noop-low": 2}
    gateway.queues.others = {"noop": (1, 0)}
    gateway.queues.enqueued_at = {"noop": gateway.clock() - timedelta(seconds=9)}
    shown = await overview(gateway)
    queue = queue_in(shown)
    assert queue["waiting"] == {"normal": 7, "low": 2, "held": 0, "scheduled": 1, "dead": 0}
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


async def test_replaced_worker_is_shown_with_its_death(gateway: RunningGateway) -> None:
    beat(gateway, "pod-7")
    beat(gateway, "pod-8", replaced="pod-7", death="exited with code 1")
    alive, dead = (await overview(gateway))["workers"]
    assert (dead["state"], dead["death"]) == ("silent", "exited with code 1")
    assert (alive["state"], alive["death"]) == ("ready", None)


async def test_rate_of_the_first_minute_is_not_diluted(gateway: RunningGateway) -> None:
    for _ in range(3):
        await gateway.accept()
    gateway.clock.now += timedelta(seconds=2)
    assert queue_in(await overview(gateway))["in_per_minute"] == 3


async def test_verdict_says_since_when_the_broker_is_silent(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    await overview(gateway)
    gateway.clock.now += timedelta(seconds=30)
    verdicts = (await overview(gateway))["verdicts"]
    assert verdicts[0]["severity"] == "critical"
    assert verdicts[0]["text"].startswith(
        "The broker does not answer since 2026-03-01T12:00:00.000Z"
    )
    assert "queue-unknown" not in [each["code"] for each in verdicts]
    gateway.queues.is_down = False
    gateway.clock.now += timedelta(seconds=30)
    assert "service-unavailable" not in [
        each["code"] for each in (await overview(gateway))["verdicts"]
    ]


async def test_verdict_says_why_the_broker_stores_no_messages(gateway: RunningGateway) -> None:
    gateway.queues.refusal = "it has too little memory"
    critical = (await overview(gateway))["verdicts"][0]
    assert (critical["severity"], critical["code"]) == ("critical", "service-unavailable")
    assert critical["text"] == "The broker stores no new messages: it has too little memory."
    gateway.queues.refusal = None
    gateway.clock.now += timedelta(seconds=30)
    assert "service-unavailable" not in [
        each["code"] for each in (await overview(gateway))["verdicts"]
    ]


async def test_waiting_jobs_are_counted_if_the_broker_does_not_show_the_oldest(
    gateway: RunningGateway,
) -> None:
    gateway.queues.lengths["classifier"] = 7
    operations = gateway.services.operations
    unseen = dict.fromkeys(names(gateway.services.catalogue))
    await operations.record_waiting(unseen)
    assert gateway.services.counters.totals["classifier"].waiting == 0
    gateway.queues.can_see_oldest = False
    gateway.clock.now += timedelta(seconds=30)
    await operations.record_waiting(unseen)
    assert gateway.services.counters.totals["classifier"].waiting == 7


async def test_routes_answer_while_services_hang(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.accept()
    monkeypatch.setattr(estimates, "COUNT_TIMEOUT_SECONDS", 0.2)
    # The services that do not hang must answer in this time, on a busy machine too.
    monkeypatch.setattr("gateway.operations.overview.SOURCE_SECONDS", 0.5)
    gateway.queues.is_hanging = True
    async with asyncio.timeout(10):
        assert (await gateway.http.get("/metrics")).status_code == 200
        assert (await overview(gateway))["verdicts"][0]["code"] == "service-unavailable"
        # The counts work, but no link for peeks can be opened.
        gateway.clock.now += timedelta(seconds=30)
        monkeypatch.setattr(gateway.queues, "count", count_one)
        assert (await overview(gateway))["queues"][0]["oldest_age_seconds"] is None
        gateway.payloads.is_hanging = True
        gateway.clock.now += timedelta(seconds=30)
        assert "blob storage" in (await overview(gateway))["verdicts"][0]["text"]
    gateway.payloads.is_hanging = False


async def count_one(queue: str) -> MessageCounts:
    return MessageCounts(1)


async def test_overview_shows_each_worker(gateway: RunningGateway) -> None:
    beat(
        gateway,
        device="L4",
        total_bytes=100,
        used_bytes=60,
        models=(
            ModelHeartbeat(
                *("noop", ModelState.LOADED, None, None, 0.5, 2, 4, 40, 3, 16, 1, "warming up")
            ),
        ),
    )
    beat(gateway, "pod-8", is_draining=True)
    gateway.clock.now += timedelta(seconds=5)
    first, second = (await overview(gateway))["workers"]
    assert first.pop("death") is None
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
                "concurrent_jobs": 3,
                "max_concurrent_jobs": 16,
                "streams": 1,
                "loading": "warming up",
            }
        ],
    }
    assert second["state"] == "draining"
    gateway.clock.now += timedelta(seconds=10)
    assert {worker["state"] for worker in (await overview(gateway))["workers"]} == {"silent"}
    gateway.clock.now += timedelta(minutes=10)
    assert (await overview(gateway))["workers"] == []


async def test_series_has_a_value_for_each_minute(gateway: RunningGateway) -> None:
    await gateway.accept()
    await gateway.reply()
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.lengths = {"noop": 3}
    await overview(gateway)
    gateway.clock.now += timedelta(minutes=2)
    await gateway.accept()
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.lengths = {"noop": 0}
    await overview(gateway)
    gateway.clock.now += timedelta(minutes=1)
    shown = await gateway.get("/v1/ops/series", minutes=5)
    assert (shown["start"], shown["step_seconds"]) == ("2026-03-01T11:59:00.000Z", 60)
    assert list(shown["models"]) == list(gateway.services.catalogue)
    noop = shown["models"]["noop"]
    assert noop["accepted"] == [0, 1, 0, 1, 0]
    assert noop["succeeded"] == [0, 1, 0, 0, 0]
    assert noop["failed"] == [0] * 5
    assert noop["waiting"] == [None, 3, None, 0, 0]
    assert noop["run_p95_seconds"] == [None, pytest.approx(0.0215, rel=0.3), None, None, None]
    whole = await gateway.get("/v1/ops/series")
    assert {len(numbers) for numbers in whole["models"]["noop"].values()} == {60}


async def test_repeated_outcome_is_counted_once(gateway: RunningGateway) -> None:
    succeeded, cancelled, expired, failed = [await gateway.accept() for _ in range(4)]
    requests = [gateway.queues.request(number) for number in range(4)]
    for _ in range(2):  # a worker repeats a reply whose response was lost
        await gateway.reply(requests[0])
        await gateway.http.delete(f"/v1/jobs/{cancelled}")
        await gateway.reply(requests[3], error=error_body("boom"))
    gateway.clock.now += timedelta(hours=2)
    await gateway.job(expired)
    sums = gateway.services.counters.totals["noop"]
    assert (sums.accepted, sums.succeeded, sums.cancelled) == (4, 1, 1)
    assert (sums.expired, dict(sums.failed)) == (1, {"boom": 1})
    jobs = [await gateway.job(each) for each in (succeeded, failed)]
    assert [job["status"] for job in jobs] == ["succeeded", "failed"]


async def test_dead_letter_counts_until_its_redrive(gateway: RunningGateway) -> None:
    await gateway.accept()
    request = gateway.queues.request()
    await give_up(gateway, encode_request(request), request.job_id)
    shown = await overview(gateway)
    assert queue_in(shown)["waiting"]["dead"] == 1
    assert "dead-letters" in [each["code"] for each in shown["verdicts"]]
    assert shown["failures"][0]["code"] == "dead-lettered"
    letter = f"/v1/admin/dead-letters/noop/{request.job_id}"
    assert (await gateway.http.post(f"{letter}/redrive")).status_code == 202
    gateway.clock.now += timedelta(seconds=16)
    assert queue_in(await overview(gateway))["waiting"]["dead"] == 0
    assert gateway.services.counters.totals["noop"].accepted == 2


async def test_locked_messages_do_not_wait(gateway: RunningGateway) -> None:
    beat(gateway, models=(ModelHeartbeat("noop", ModelState.LOADED, in_flight=5),))
    gateway.queues.lengths = {"noop": 4, "noop-low": 3}
    gateway.queues.enqueued_at = {"noop": gateway.clock()}
    waiting = queue_in(await overview(gateway))["waiting"]
    assert (waiting["normal"], waiting["low"]) == (0, 2)
    gateway.clock.now += timedelta(seconds=30)  # the worker is silent, its locks have expired
    waiting = queue_in(await overview(gateway))["waiting"]
    assert (waiting["normal"], waiting["low"]) == (4, 3)


async def test_empty_queue_has_no_age_and_no_reason(gateway: RunningGateway) -> None:
    gateway.queues.enqueued_at = {"noop": gateway.clock()}
    queue = queue_in(await overview(gateway))
    assert (queue["oldest_age_seconds"], queue["reason"]) == (None, None)


async def test_overview_is_returned_while_services_are_down(gateway: RunningGateway) -> None:
    gateway.queues.is_down = gateway.payloads.is_down = True
    shown = await overview(gateway)
    first = shown["verdicts"][0]
    assert (first["severity"], first["code"]) == ("critical", "service-unavailable")
    queue = queue_in(shown)
    unknown = dict.fromkeys(("normal", "low", "scheduled", "dead"))
    assert queue["waiting"] == {**unknown, "held": 0}
    assert queue["reason"] is None


async def test_simultaneous_requests_read_queues_once(gateway: RunningGateway) -> None:
    await asyncio.gather(*(overview(gateway) for _ in range(5)))
    first = gateway.queues.look_count
    await overview(gateway)
    assert gateway.queues.look_count == first == 2 * len(gateway.services.catalogue)


async def test_waiting_jobs_are_recorded_if_a_queue_has_some(gateway: RunningGateway) -> None:
    operations, sums = gateway.services.operations, gateway.services.counters
    await operations.record_waiting(dict.fromkeys(names(gateway.services.catalogue)))
    assert sums.change_count == 0
    assert gateway.queues.look_count == 0
    gateway.queues.lengths = {"noop": 6, "noop-low": 1}
    beat(gateway, models=(ModelHeartbeat("noop", ModelState.LOADED, in_flight=2),))
    oldest = {**dict.fromkeys(names(gateway.services.catalogue)), "noop": gateway.clock()}
    await operations.record_waiting(oldest)
    (noop,) = (await gateway.get("/v1/ops/series", minutes=1))["models"]["noop"]["waiting"]
    assert noop == 5


async def test_overview_shows_what_is_turned_off() -> None:
    async with open_gateway(has_heartbeats=False, has_minute_sums=False) as gateway:
        beat(gateway)
        await gateway.accept()
        shown = await overview(gateway)
        assert shown["workers"] == []
        assert [shown["sources"][name]["enabled"] for name in ("heartbeats", "sums")] == [False] * 2
        assert shown["verdicts"][0]["code"] == "heartbeats-off"
        assert (await gateway.http.get("/metrics")).status_code == 200
        assert [name for name in gateway.payloads.blobs if name.startswith(SUMS)] == []


async def test_housekeeping_deletes_old_heartbeats_and_sums(gateway: RunningGateway) -> None:
    beat(gateway, "old")
    await gateway.accept()
    await gateway.services.operations.sums.write()
    gateway.clock.now += timedelta(minutes=11)
    beat(gateway, "new")
    await housekeeping.run(gateway.durable, gateway.services)
    kept = [name for name in gateway.payloads.blobs if name.startswith((HEARTBEATS, SUMS))]
    assert [name.partition("/")[0] for name in sorted(kept)] == ["heartbeats", "sums"]
    assert heartbeat_blob("new") in kept
    gateway.clock.now += timedelta(hours=2)
    await housekeeping.run(gateway.durable, gateway.services)
    assert not any(name.startswith((HEARTBEATS, SUMS)) for name in gateway.payloads.blobs)


async def test_metrics_have_counters_of_all_processes(gateway: RunningGateway) -> None:
    await gateway.accept()
    await gateway.reply()
    other = JobCounters(gateway.clock)
    other.record_accepted("noop")
    other.record_end("noop", "failed", "boom", None)
    gateway.blobs.put(f"{SUMS}other", encode_sums(other, gateway.clock()))
    beat(gateway)
    gateway.clock.now += timedelta(seconds=6)
    gateway.queues.lengths = {"noop": 7}
    gateway.queues.enqueued_at = {"noop": gateway.clock() - timedelta(seconds=9)}
    answer = await gateway.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    own = ("process", gateway.services.operations.sums.process)
    noop, there = ("model", "noop"), ("process", "other")
    assert found["loosely_gateway_jobs_accepted_total", noop, own] == 1
    assert found["loosely_gateway_jobs_accepted_total", noop, there] == 1
    ended = "loosely_gateway_jobs_ended_total"
    assert found[ended, ("code", "boom"), noop, there, ("status", "failed")] == 1
    assert found[ended, ("code", ""), noop, own, ("status", "succeeded")] == 1
    assert found["loosely_gateway_inference_seconds_count", noop, own] == 1
    assert found["loosely_gateway_inference_seconds_sum", noop, own] == pytest.approx(0.0215)
    assert found["loosely_gateway_queue_wait_seconds_bucket", ("le", "0.004"), noop, own] == 1
    assert found["loosely_gateway_queue_messages", noop, ("state", "normal")] == 7
    assert found["loosely_gateway_queue_oldest_age_seconds", noop] == 9
    assert found["loosely_gateway_workers", ("state", "ready")] == 1
    # The counters were written before they were shown, so no other instance shows less.
    assert f"{SUMS}{own[1]}" in gateway.payloads.blobs


async def test_chunks_are_counted_at_the_end(gateway: RunningGateway) -> None:
    marks = {"received_at": format_time(gateway.clock()), "first_chunk_ms": 40, "chunks": 12}
    for delivery in (marks, {**marks, "chunks": -1}, {**marks, "first_chunk_ms": None}):
        await gateway.accept()
        timing = {"queued_ms": 20, "inference_ms": 90, "delivery": delivery}
        await gateway.reply(result={"json": 1}, timing=timing)
    text = (await gateway.http.get("/metrics")).text
    found = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == "noop"
    }
    assert found["loosely_gateway_chunks_total"] == 12
    assert found["loosely_gateway_first_chunk_seconds_count"] == 1
    assert found["loosely_gateway_first_chunk_seconds_sum"] == pytest.approx(0.06)


async def test_metrics_need_the_counts_of_all_processes(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    answer = await gateway.http.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_every_metric_is_documented(gateway: RunningGateway) -> None:
    text = (await gateway.http.get("/metrics")).text
    shown = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    listed = set(re.findall(r"^\| `(loosely_gateway_\w+)` \|", OBSERVABILITY, re.MULTILINE))
    assert shown == listed


@pytest.mark.parametrize("path", ["/v1/ops/overview", "/v1/ops/series", "/metrics"])
async def test_only_operators_read_the_routes(closed: RunningGateway, path: str) -> None:
    for name, status in (("a", 403), ("watcher", 200), ("admin", 200), ("acme-admin", 200)):
        assert (await ask(closed, name, path)).status_code == status, (name, path)
    assert (await closed.http.get(path)).status_code == 401


async def test_only_admins_cancel_jobs_of_other_tenants(
    closed: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await job_of(closed, "b")
    path = f"/v1/jobs/{job_id}"
    for name, tenant, status in (
        *(("a", None, 404), ("a", "bolt", 403), ("a", "*", 403), ("watcher", "bolt", 403)),
        *(("admin", None, 403), ("admin", "acme", 404), ("acme-admin", None, 404)),
    ):
        params = {} if tenant is None else {"tenant": tenant}
        answer = await ask(closed, name, path, "DELETE", params=params)
        assert answer.status_code == status, (name, tenant, answer.text)
    with caplog.at_level("INFO"):
        answer = await ask(closed, "admin", path, "DELETE", params={"tenant": "bolt"})
    assert (answer.status_code, answer.json()["tenant"]) == (202, "bolt")
    assert f"caller 'admin' cancelled the job {job_id} of the tenant 'bolt'" in caplog.messages
    shown = await ask(closed, "b", path)
    assert shown.json()["status"] == "cancelled"
    again = await ask(closed, "admin", path, "DELETE", params={"tenant": "*"})
    assert (again.status_code, again.json()["result"]) == (200, None)


async def test_callers_own_cancellation_is_not_logged(
    closed: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = await job_of(closed, "b")
    with caplog.at_level("INFO"):
        answer = await ask(closed, "b", f"/v1/jobs/{job_id}", "DELETE")
    assert answer.status_code == 202
    assert "tenant" not in answer.json()
    assert not any("cancelled the job" in message for message in caplog.messages)


async def test_overview_shows_the_caller(closed: RunningGateway) -> None:
    answer = await ask(closed, "acme-watcher", "/v1/ops/overview")
    assert answer.json()["caller"] == {
        "name": "acme-watcher",
        "tenant": "acme",
        "scopes": ["jobs:read", "ops:read"],
    }


async def test_caller_without_api_keys_has_all_scopes(gateway: RunningGateway) -> None:
    caller = (await overview(gateway))["caller"]
    assert (caller["name"], caller["tenant"]) == ("", "")
    assert set(caller["scopes"]) == {"admin", "jobs:read", "jobs:write", "ops:read"}
