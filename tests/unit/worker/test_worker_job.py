"""Test a received job: the check for its cancellation, its deadline, and its reply."""

from datetime import UTC, datetime, timedelta

import pytest

from contract.messages import InlineBytes, InlineJson, JobRequest, ReplyQueue, ReplyTo, ReplyUrl
from tests.unit.worker.received import locked_message
from worker.brokers.receiver import LockRenewer
from worker.pipeline.receive import ReceivedJob
from worker.telemetry.recording import JobTracing

QUEUED_AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


FROM_A_GATEWAY = ReplyUrl("http://gateway/v1/jobs/job/reply?token=a")


def job(
    delivery_count: int = 0, traceparent: str = "", reply_to: ReplyTo | None = FROM_A_GATEWAY
) -> ReceivedJob:
    properties = {"traceparent": traceparent}
    delivery = locked_message(
        delivery_count=delivery_count, enqueued_at=QUEUED_AT, properties=properties
    )
    request = JobRequest(
        "job",
        "noop",
        InlineBytes("text/plain", b""),
        created_at=QUEUED_AT - timedelta(seconds=1),
        deadline=QUEUED_AT + timedelta(seconds=60),
        reply_to=reply_to,
    )
    lock = LockRenewer().start_renewal(delivery, lambda delivery, timeout_seconds: 1.0, 1.0, 0.0)
    return ReceivedJob(
        request, delivery, lock, JobTracing().start_job_span("noop", "noop", "job", delivery)
    )


@pytest.mark.parametrize(
    ("delivery_count", "waited_seconds", "stale"),
    [(0, 0.1, False), (0, 2.0, False), (0, 2.1, True), (1, 0.1, True)],
)
def test_check_is_due_after_redelivery_or_two_seconds(
    delivery_count: int, waited_seconds: float, stale: bool
) -> None:
    now = QUEUED_AT + timedelta(seconds=waited_seconds)
    assert job(delivery_count).is_stale(now) is stale


@pytest.mark.parametrize("reply_to", [ReplyQueue("answers"), None])
def test_job_without_reply_url_is_never_checked(reply_to: ReplyTo | None) -> None:
    assert not job(delivery_count=1, reply_to=reply_to).is_stale(QUEUED_AT + timedelta(seconds=9))


def test_job_is_expired_from_its_deadline_on() -> None:
    assert not job().is_expired(QUEUED_AT + timedelta(seconds=59.9))
    assert job().is_expired(QUEUED_AT + timedelta(seconds=60))


def test_reply_contains_the_times_and_the_batch_size() -> None:
    finished = job(delivery_count=2)
    finished.record_run(QUEUED_AT + timedelta(seconds=1.5), inference_ms=20.0, batch_size=4)
    reply = finished.make_reply(InlineJson({}))
    assert (reply.job_id, reply.attempt) == ("job", 3)
    assert reply.started_at == QUEUED_AT + timedelta(seconds=1.5)
    assert reply.timing.queued_ms == 1500
    assert (reply.timing.inference_ms, reply.timing.batch_size) == (20.0, 4)


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [(f"00-{'ab' * 16}-{'cd' * 8}-01", "ab" * 16), ("", "-"), ("nonsense", "-")],
)
def test_job_has_the_trace_id_of_its_message(traceparent: str, trace_id: str) -> None:
    assert job(traceparent=traceparent).span.trace_id == trace_id


def test_check_is_due_again_after_two_seconds() -> None:
    asked = job(delivery_count=1)
    asked.checked_at = QUEUED_AT + timedelta(seconds=10)
    assert not asked.is_stale(QUEUED_AT + timedelta(seconds=12))
    assert asked.is_stale(QUEUED_AT + timedelta(seconds=12.1))
