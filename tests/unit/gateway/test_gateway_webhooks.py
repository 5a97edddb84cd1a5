"""Test webhooks: how a request sets the URL, and when and how often the gateway calls this URL."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from contract.names import webhook_instance
from contract.webhook import format_secrets, parse_secrets, tenant_secrets
from gateway.durable import RuntimeStatus
from gateway.webhooks.activities import ATTEMPT_SECONDS, FIRST_ATTEMPT_SECONDS, start_delivery
from gateway.webhooks.orchestrator import (
    LONGEST_SECONDS,
    NO_PLACE,
    next_attempt_at,
    retry_pause_seconds,
)
from gateway.webhooks.sender import WebhookResponse
from gateway.webhooks.shares import AttemptShares
from tests.unit.gateway.api_keys import SETTING, bearer
from tests.unit.gateway.conftest import RunningGateway, error_body, open_gateway
from tests.unit.gateway.webhook_delivery import (
    HOOKS,
    SECRET,
    URL,
    Delivery,
    deliver,
    receiver,
    tried,
)


@pytest.fixture
async def hooked() -> AsyncIterator[RunningGateway]:
    async with open_gateway(**HOOKS) as gateway:
        yield gateway


async def test_ended_job_is_delivered_once(hooked: RunningGateway) -> None:
    job_id = await hooked.accept(webhook_url=URL)
    assert webhook_instance(job_id) not in hooked.durable.runs
    await hooked.reply()
    run = hooked.durable.runs[webhook_instance(job_id)]
    await start_delivery(job_id, hooked.durable)
    assert hooked.durable.runs[webhook_instance(job_id)] is run
    job = await hooked.job(job_id)
    assert job["status"] == "succeeded"

    hooked.clock.now = datetime.now(UTC)
    outcome = await deliver(hooked, job_id)
    assert (outcome["state"], outcome["status"], outcome["error"]) == ("delivered", 200, None)
    ((url, headers, body),) = receiver(hooked).posts
    assert url == URL
    assert Webhook(SECRET).verify(body, dict(headers)) == job
    assert headers["webhook-id"] == f"job_{job_id}"


async def test_each_tenant_signs_with_its_own_secrets() -> None:
    tenants = {"acme": "a", "bolt": "b"}
    async with open_gateway(**HOOKS, api_keys=SETTING) as gateway:
        for tenant, key in tenants.items():
            hook = {"input": {"text": "x"}, "webhook": {"url": URL}}
            answer = await gateway.submit(json=hook, headers=bearer(key))
            assert answer.status_code == 202, answer.text
            await gateway.reply()
            gateway.clock.now = datetime.now(UTC)
            await deliver(gateway, answer.json()["id"])
            _, headers, body = receiver(gateway).posts[-1]
            for other in tenants:
                (secret,) = format_secrets(tenant_secrets(parse_secrets(SECRET), other)).split(",")
                if other == tenant:
                    Webhook(secret).verify(body, dict(headers))
                else:
                    with pytest.raises(WebhookVerificationError):
                        Webhook(secret).verify(body, dict(headers))
            with pytest.raises(WebhookVerificationError):
                Webhook(SECRET).verify(body, dict(headers))


@pytest.mark.parametrize("end", ["cancel", "expire", "fail"])
async def test_job_without_a_result_is_delivered(hooked: RunningGateway, end: str) -> None:
    job_id = await hooked.accept(webhook_url=URL)
    if end == "cancel":
        await hooked.http.delete(f"/v1/jobs/{job_id}")
    elif end == "expire":
        await hooked.durable.advance(60)
    else:
        await hooked.reply(error=error_body("inference-failed"))
    assert hooked.durable.runs[job_id].status is RuntimeStatus.COMPLETED
    assert webhook_instance(job_id) in hooked.durable.runs


async def test_job_without_a_webhook_starts_no_delivery(hooked: RunningGateway) -> None:
    job_id = await hooked.accept()
    await hooked.reply()
    assert list(hooked.durable.runs) == [job_id]
    assert (await hooked.http.get(f"/v1/jobs/{job_id}/webhook")).status_code == 404


@pytest.mark.parametrize(
    ("answer", "state", "error"),
    [
        (WebhookResponse(204, None), "delivered", None),
        (WebhookResponse(410, None), "stopped", None),
        (WebhookResponse(500, None), "pending", None),
        (WebhookResponse(302, None), "pending", None),
        ("timeout", "pending", "timeout"),
    ],
)
async def test_response_decides_the_state(
    hooked: RunningGateway, answer: WebhookResponse | str, state: str, error: str | None
) -> None:
    job_id = await hooked.accept(webhook_url=URL)
    await hooked.reply()
    receiver(hooked).answers = [answer]
    outcome = await deliver(hooked, job_id)
    assert (outcome["state"], outcome["error"]) == (state, error)


async def test_delivery_of_an_unknown_job_fails(hooked: RunningGateway) -> None:
    outcome = await deliver(hooked, "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e")
    assert (outcome["state"], outcome["error"]) == ("failed", "unknown-job")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/", "must begin with https"),
        ("https://10.0.0.1/", "public internet"),
        ("https://[::ffff:127.0.0.1]/x", "public internet"),
        ("https://2130706433/", "four decimal numbers"),
        ("https://localhost/", "public internet"),
        ("https://nowhere.invalid/", "cannot be found"),
        ("nonsense", "must begin with https"),
    ],
)
@pytest.mark.parametrize("place", ["query", "envelope", "input"])
async def test_forbidden_url_is_refused(
    gateway: RunningGateway, url: str, said: str, place: str
) -> None:
    path = "/v1/models/noop/jobs"
    async with open_gateway(webhook_secrets=parse_secrets(SECRET)) as guarded:
        if place == "query":
            answer = await guarded.http.post(path, content=b"x", params={"webhook_url": url})
        else:
            webhook = {"input": {"text": "x"}, "webhook": {"url": url}}
            envelope = {"input": {"url": url}} if place == "input" else webhook
            answer = await guarded.http.post(path, json=envelope)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert said in answer.json()["detail"]
    assert not guarded.durable.runs


async def test_input_url_is_passed_on_unchanged(hooked: RunningGateway) -> None:
    source = {"url": URL, "media_type": "image/PNG"}
    answer = await hooked.http.post(
        "/v1/models/noop/jobs", json={"input": source}, headers={"prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    sent = hooked.queues.request().input
    assert (getattr(sent, "url", None), sent.media_type) == (URL, "image/png")
    refused = await hooked.http.post(
        "/v1/models/noop/jobs", json={"input": {"url": URL, "media_type": "audio/wav"}}
    )
    assert refused.status_code == 415


def without_a_place(retry_after: float) -> dict[str, Any]:
    return {**tried("pending", None, retry_after=retry_after), "error": NO_PLACE}


DELIVERED = tried("delivered", 200)


@pytest.mark.parametrize(
    ("outcomes", "state", "statuses"),
    [
        ([tried("pending", 500), tried("pending", None), DELIVERED], "delivered", [500, None, 200]),
        ([tried("stopped", 410)], "stopped", [410]),
        ([without_a_place(7), without_a_place(7), DELIVERED], "delivered", [200]),
        ([without_a_place(40_000)] * 3, "failed", [None]),
    ],
)
def test_delivery_is_repeated_until_it_succeeds(
    outcomes: list[dict[str, Any]], state: str, statuses: list[int | None]
) -> None:
    answer = Delivery(*outcomes).play()
    log = answer["output"]
    assert (log["state"], [each["status"] for each in log["attempts"]]) == (state, statuses)
    assert log["next_attempt_at"] is None
    assert answer["customStatus"] == log


def test_delivery_fails_after_one_day() -> None:
    delivery = Delivery(*[tried("pending", 503)] * 100)
    begun = delivery.now
    log = delivery.play()["output"]
    assert log["state"] == "failed"
    assert timedelta(hours=22) < delivery.now - begun <= timedelta(hours=24)
    assert 25 < len(log["attempts"]) < 45


def test_next_attempt_waits_for_retry_after() -> None:
    delivery = Delivery(without_a_place(7), tried("pending", 429, retry_after=600))
    begun = delivery.now
    shown = delivery.play()["customStatus"]
    assert delivery.now - begun == timedelta(seconds=7 + 600)
    assert shown["state"] == "pending"
    assert shown["next_attempt_at"] == "2026-03-01T12:10:07.000Z"


async def test_only_the_first_attempt_has_a_short_time(hooked: RunningGateway) -> None:
    job_id = await hooked.accept(webhook_url=URL)
    await hooked.reply()
    await deliver(hooked, job_id)
    run = hooked.durable.runs[webhook_instance(job_id)]
    run.custom_status = {"state": "pending", "attempts": [{}], "next_attempt_at": None}
    await deliver(hooked, job_id)
    assert receiver(hooked).seconds == [FIRST_ATTEMPT_SECONDS, ATTEMPT_SECONDS]


async def test_hanging_receiver_does_not_delay_others(hooked: RunningGateway) -> None:
    receiver(hooked).may_answer.clear()
    jobs = []
    for _ in range(30):
        jobs.append(await hooked.accept(webhook_url=URL))
        await hooked.reply()
    hanging = [asyncio.create_task(deliver(hooked, job_id)) for job_id in jobs]
    await asyncio.wait(hanging, return_when=asyncio.FIRST_COMPLETED)
    refused = [task.result() for task in hanging if task.done()]
    assert {outcome["error"] for outcome in refused} == {NO_PLACE}
    pauses = [outcome["retry_after_seconds"] for outcome in refused]
    assert pauses == sorted(set(pauses)), "each refused attempt gets a time of its own"
    other = await hooked.accept(webhook_url=URL.replace(":9", ":8"))
    await hooked.reply()
    another = asyncio.create_task(deliver(hooked, other))
    while receiver(hooked).posts[-1][0] == URL:
        assert not another.done()
        await asyncio.sleep(0)
    receiver(hooked).may_answer.set()
    outcomes = await asyncio.gather(another, *hanging)
    assert [outcome["state"] for outcome in outcomes].count("delivered") == 1 + 30 - len(refused)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.booleans())))
def test_quiet_tenant_finds_a_place(steps: list[tuple[str, str, bool]]) -> None:
    shares = AttemptShares(limit=12)
    running: list[tuple[str, str]] = []
    for tenant, name, ends in steps:
        if ends and running:
            shares.end(*running.pop(), 1.0)
        elif shares.start(tenant, name, 0.0) is None:
            running.append((tenant, name))
        assert len(running) < 12
        assert shares.start("quiet", "x", 0.0) is None
        shares.end("quiet", "x", 1.0)


def test_refused_attempts_come_again_one_by_one() -> None:
    shares = AttemptShares(limit=12)
    started = 0
    while shares.start("a", "x", 0.0) is None:
        started += 1
    assert started == 4
    for _ in range(40):
        shares.end("a", "x", 5.0)
        assert shares.start("a", "x", 0.0) is None
    pauses = [shares.start("a", "x", 100.0) or 0.0 for _ in range(4)]
    assert pauses == pytest.approx([1.25, 2.5, 3.75, 5.0], rel=0.01)


def test_wake_event_ends_the_wait() -> None:
    delivery = Delivery(tried("pending", 500), tried("delivered", 200))
    begun = delivery.now
    assert delivery.play(wake="wake-1")["output"]["state"] == "delivered"
    assert delivery.now == begun


@given(st.text(max_size=50), st.integers(1, 10_000))
def test_pauses_are_bounded_and_deterministic(instance_id: str, failures: int) -> None:
    pause = retry_pause_seconds(instance_id, failures)
    assert pause == retry_pause_seconds(instance_id, failures)
    assert 1.5 <= pause <= LONGEST_SECONDS * 1.25


def test_no_attempt_is_planned_after_the_window() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert next_attempt_at("x", 1, now, now + timedelta(seconds=1), None) is None
    assert next_attempt_at("x", 1, now, now + timedelta(hours=1), 3601) is None


async def test_redelivery_keeps_the_earlier_attempts(hooked: RunningGateway) -> None:
    job_id = await hooked.accept(webhook_url=URL)
    log_path = f"/v1/jobs/{job_id}/webhook"
    redeliver = f"/v1/admin{log_path.removeprefix('/v1')}/redeliver"
    empty: dict[str, Any] = {"state": "pending", "attempts": [], "next_attempt_at": None}
    assert (await hooked.http.get(log_path)).json() == empty
    early = await hooked.http.post(redeliver)
    assert (early.status_code, early.json()["code"]) == (409, "not-final")
    await hooked.reply()
    assert (await hooked.http.get(log_path)).json() == empty

    run = hooked.durable.runs[webhook_instance(job_id)]
    attempt = {"at": "2026-03-01T12:00:00.000Z", "status": 500, "error": None}
    run.custom_status = {"state": "pending", "attempts": [attempt], "next_attempt_at": None}
    assert (await hooked.http.get(log_path)).json()["attempts"] == [attempt]
    assert (await hooked.http.post(redeliver)).status_code == 202
    assert run.events == ["wake-1"]

    run.status, run.output = RuntimeStatus.COMPLETED, {**run.custom_status, "state": "failed"}
    assert (await hooked.http.get(log_path)).json()["state"] == "failed"
    again = await hooked.http.post(redeliver)
    assert (again.status_code, again.json()["attempts"]) == (202, [attempt])
    restarted = hooked.durable.runs[webhook_instance(job_id)]
    assert json.loads(restarted.input) == {"job_id": job_id, "attempts": [attempt]}
