"""Test that the recorded outcome of a job never changes, even if processes die."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import (
    FailureCode,
    Fields,
    InlineJson,
    JobError,
    JobReply,
    Stage,
    Timing,
    error_from_json,
)
from gateway.durable import RuntimeStatus
from gateway.errors import Unavailable
from gateway.housekeeping import FOLLOWS_WITHIN, recover
from gateway.jobs.lifecycle import EXPIRY_GRACE, OutcomeStore, outcome_blob
from gateway.jobs.model import JobOutcome, JobStatus, outcome_from_json, outcome_to_json
from gateway.jobs.orchestrator import FIRST_CHECK, FIRST_CHECK_WITH_WEBHOOK
from gateway.telemetry import JobCounters
from tests.unit.gateway.conftest import STARTED_AT, RunningGateway, open_gateway

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
async def deaf() -> AsyncIterator[RunningGateway]:
    """Yield a gateway whose external events never reach an orchestration, as after a crash."""
    async with open_gateway() as gateway:
        gateway.durable.discards_events = True
        yield gateway


def recorded(gateway: RunningGateway, job_id: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(gateway.payloads.blobs[outcome_blob(job_id)][1])
    return value


async def test_reply_is_shown_if_its_event_is_lost(deaf: RunningGateway) -> None:
    job_id = await deaf.accept()
    assert (await deaf.reply()).status_code == 202
    job = await deaf.job(job_id)
    assert (job["status"], job["result"]) == ("succeeded", {"n": 1})
    assert (await deaf.http.get(f"/v1/jobs/{job_id}/result")).json() == {"n": 1}
    assert deaf.durable.runs[job_id].status == RuntimeStatus.RUNNING


async def test_first_check_finds_a_reply_without_event(deaf: RunningGateway) -> None:
    job_id = await deaf.accept(deadline_seconds=60)
    await deaf.reply()
    told = await deaf.job(job_id)
    await deaf.durable.advance(FIRST_CHECK.total_seconds())
    run = deaf.durable.runs[job_id]
    assert (run.status, run.output["status"]) == (RuntimeStatus.COMPLETED, "succeeded")
    assert await deaf.job(job_id) == told


async def test_first_check_starts_the_webhook() -> None:
    async with open_gateway(webhook_secrets=(b"k" * 32,)) as gateway:
        gateway.durable.discards_events = True
        job_id = await gateway.accept(webhook_url="https://93.184.216.34/hook")
        await gateway.reply()
        assert f"webhook-{job_id}" not in gateway.durable.runs
        await gateway.durable.advance(FIRST_CHECK_WITH_WEBHOOK.total_seconds())
        assert f"webhook-{job_id}" in gateway.durable.runs


async def test_cancellation_is_shown_if_its_event_is_lost(deaf: RunningGateway) -> None:
    job_id = await deaf.accept()
    assert (await deaf.http.delete(f"/v1/jobs/{job_id}")).status_code == 202
    assert (await deaf.job(job_id))["status"] == "cancelled"
    again = await deaf.http.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    # The next worker's check gets 410, because the job has ended.
    url = deaf.queues.request().reply_url or ""
    assert (await deaf.http.get(url)).status_code == 410
    assert (await deaf.reply()).status_code == 410
    await deaf.durable.advance(FIRST_CHECK.total_seconds())
    assert deaf.durable.runs[job_id].output["status"] == "cancelled"


async def test_replied_job_is_not_cancelled(deaf: RunningGateway) -> None:
    job_id = await deaf.accept()
    await deaf.reply()
    answer = await deaf.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")


async def test_replied_job_does_not_expire(deaf: RunningGateway) -> None:
    job_id = await deaf.accept(deadline_seconds=5)
    await deaf.reply()
    await deaf.durable.advance(5)
    assert deaf.durable.runs[job_id].output["status"] == "succeeded"
    assert (await deaf.job(job_id))["status"] == "succeeded"


async def test_reply_to_an_expired_job_is_refused(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(deadline_seconds=5)
    await gateway.durable.advance(5)
    assert recorded(gateway, job_id)["status"] == "expired"
    assert (await gateway.reply()).status_code == 410
    assert (await gateway.job(job_id))["status"] == "expired"


async def test_outcome_survives_a_death_before_the_event(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    outcome = JobOutcome.cancelled(gateway.clock())
    # The gateway has only done the first step of `Jobs.finish`.
    await gateway.services.outcomes.record(job_id, outcome, "noop")
    assert (await gateway.job(job_id))["status"] == "cancelled"
    # The worker's repeated request raises the event.
    assert (await gateway.reply()).status_code == 410
    assert gateway.durable.runs[job_id].output["status"] == "cancelled"


async def test_reply_is_accepted_without_durable_functions(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.durable.is_down = True
    assert (await gateway.reply()).status_code == 202
    gateway.durable.is_down = False
    assert (await gateway.job(job_id))["status"] == "succeeded"


async def test_reply_is_refused_without_blob_storage(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    gateway.payloads.is_down = True
    assert (await gateway.reply()).status_code == 503
    gateway.payloads.is_down = False
    assert (await gateway.job(job_id))["status"] == "queued"
    assert (await gateway.reply()).status_code == 202


async def test_read_of_an_overdue_job_records_its_expiry(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(deadline_seconds=10)
    gateway.clock.now += timedelta(seconds=10)
    assert (await gateway.job(job_id))["status"] == "queued"
    gateway.clock.now += EXPIRY_GRACE
    assert (await gateway.job(job_id))["status"] == "expired"
    assert (await gateway.reply()).status_code == 410


@pytest.mark.parametrize(
    ("ended_as", "status"),
    [
        (RuntimeStatus.TERMINATED, "cancelled"),
        (RuntimeStatus.FAILED, "failed"),
    ],
)
async def test_reply_to_a_broken_orchestration_is_refused(
    gateway: RunningGateway, ended_as: RuntimeStatus, status: str
) -> None:
    job_id = await gateway.accept()
    gateway.durable.runs[job_id].status = ended_as
    told = await gateway.job(job_id)
    assert told["status"] == status
    assert (await gateway.reply()).status_code == 410
    assert await gateway.job(job_id) == told


@pytest.mark.parametrize("ended_as", [RuntimeStatus.TERMINATED, RuntimeStatus.FAILED])
async def test_outcome_beats_the_end_of_the_orchestration(
    deaf: RunningGateway, ended_as: RuntimeStatus
) -> None:
    job_id = await deaf.accept()
    await deaf.reply()
    deaf.durable.runs[job_id].status = ended_as
    assert (await deaf.job(job_id))["status"] == "succeeded"
    listed = (await deaf.http.get("/v1/jobs", params={"status": "succeeded"})).json()["jobs"]
    assert [job["id"] for job in listed] == [job_id]


async def test_list_shows_recorded_outcomes(deaf: RunningGateway) -> None:
    first, second = await deaf.accept(), await deaf.accept()
    await deaf.http.delete(f"/v1/jobs/{first}")
    listed = (await deaf.http.get("/v1/jobs")).json()["jobs"]
    assert {job["id"]: job["status"] for job in listed} == {first: "cancelled", second: "queued"}
    queued = (await deaf.http.get("/v1/jobs", params={"status": "queued"})).json()["jobs"]
    assert [job["id"] for job in queued] == [second]


async def recovered(gateway: RunningGateway) -> int:
    services = gateway.services
    return await recover(gateway.durable, services.jobs, services.clock(), services.retention)


async def test_recovery_terminates_stuck_orchestrations() -> None:
    async with open_gateway(webhook_secrets=(b"k" * 32,)) as gateway:
        gateway.clock.now = datetime.now(UTC)  # job ids contain the real time
        gateway.durable.discards_events = True
        hooked = await gateway.accept(
            webhook_url="https://93.184.216.34/hook", deadline_seconds=900
        )
        await gateway.reply()
        stuck = await gateway.accept(deadline_seconds=30)
        queued = await gateway.accept(deadline_seconds=900)
        # The timers never fire, as if the task hub had lost them.
        for run in gateway.durable.runs.values():
            run.timers.clear()
        assert await recovered(gateway) == 0
        gateway.clock.now += FOLLOWS_WITHIN + timedelta(seconds=1)
        assert await recovered(gateway) == 1
        assert f"webhook-{hooked}" in gateway.durable.runs
        assert gateway.durable.runs[hooked].status == RuntimeStatus.TERMINATED
        assert (await gateway.job(hooked))["status"] == "succeeded"
        # The second job expires now, and its orchestration has the same time before recovery.
        assert (await gateway.job(stuck))["status"] == "expired"
        assert (await gateway.job(queued))["status"] == "queued"
        gateway.clock.now += FOLLOWS_WITHIN + timedelta(seconds=1)
        assert await recovered(gateway) == 1
        assert gateway.durable.runs[stuck].status == RuntimeStatus.TERMINATED
        assert (await gateway.job(queued))["status"] == "expired"


async def test_only_the_first_outcome_is_recorded(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    jobs = gateway.services.jobs
    reply = JobReply(job_id, InlineJson(1), NOW, NOW, Timing(1, 2, 3))
    first = await jobs.finish(gateway.durable, job_id, JobOutcome.replied(reply, NOW), "noop")
    second = await jobs.finish(gateway.durable, job_id, JobOutcome.cancelled(NOW), "noop")
    assert first == second
    assert (await gateway.job(job_id))["status"] == "succeeded"


async def test_expiry_is_recorded_when_the_storage_is_back(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(deadline_seconds=5)
    gateway.payloads.is_down = True
    await gateway.durable.advance(25)
    assert gateway.durable.runs[job_id].status == RuntimeStatus.RUNNING
    gateway.payloads.is_down = False
    await gateway.durable.advance(10)
    assert gateway.durable.runs[job_id].output["status"] == "expired"


ERRORS = st.builds(
    JobError,
    code=st.sampled_from(sorted(FailureCode)),
    message=st.text(min_size=1, alphabet=st.characters(codec="utf-8", exclude_characters="\0")),
    stage=st.sampled_from(list(Stage)),
    retryable=st.booleans(),
)
REPLIES = st.builds(
    JobReply,
    job_id=st.just("01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"),
    outcome=st.builds(InlineJson, st.dictionaries(st.text(max_size=3), st.integers())) | ERRORS,
    started_at=st.just(NOW),
    finished_at=st.just(NOW),
    timing=st.builds(Timing, st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)),
    attempt=st.integers(1, 9),
)
MOMENTS = st.integers(0, 10**9).map(
    lambda ms: NOW + timedelta(milliseconds=ms, microseconds=ms % 7)
)
OUTCOMES = (
    st.builds(JobOutcome.replied, REPLIES, MOMENTS)
    | st.builds(JobOutcome.cancelled, MOMENTS, st.none() | st.just(STARTED_AT))
    | st.builds(JobOutcome.expired, MOMENTS)
    | st.builds(JobOutcome.failed, ERRORS, MOMENTS)
)


@given(OUTCOMES)
def test_encoded_outcome_is_decoded_unchanged(outcome: JobOutcome) -> None:
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome
    assert outcome.status.is_final
    assert outcome.status in JobStatus


async def test_deleted_first_outcome_raises_unavailable(gateway: RunningGateway) -> None:
    class Racing(OutcomeStore):
        async def find(self, job_id: str) -> JobOutcome | None:
            return None

    store = Racing(gateway.blobs, JobCounters(gateway.clock))
    await store.record("a", JobOutcome.expired(NOW), "noop")
    with pytest.raises(Unavailable):
        await store.record("a", JobOutcome.cancelled(NOW), "noop")


def test_expired_outcome_has_an_error_code() -> None:
    error = error_from_json(Fields(outcome_to_json(JobOutcome.expired(NOW))["error"]))
    assert error.code == FailureCode.EXPIRED
