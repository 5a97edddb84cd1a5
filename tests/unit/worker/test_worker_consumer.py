"""Test how the outcome of a job determines the settlement of its message."""

import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from contract.messages import (
    InlineJson,
    ReplyQueue,
    ReplyUrl,
)
from contract.names import delivery_notes
from tests.unit.worker.recorded_jobs import RecordedJobs
from tests.unit.worker.servers import answering, http
from worker.errors import (
    DeviceLost,
    Expired,
    HandedBack,
    InferenceFailed,
    NotFinished,
    NotWaitedFor,
    PayloadsUnavailable,
    ReplyForbidden,
    Settlement,
    WorkerError,
    WorkerFault,
)
from worker.objects.port import ObjectsUnavailable
from worker.pipeline.deliveries import MAX_WAITING_COUNT, DeliveryNotes
from worker.processes.history import DeliveryHistory
from worker.processes.shutdown import EXIT_DEVICE_LOST
from worker.telemetry.recording import SUCCEEDED


def run_out_of_memory() -> None:
    raise MemoryError


def exit_thread() -> None:
    raise SystemExit


@pytest.fixture
def jobs() -> RecordedJobs:
    return RecordedJobs()


@pytest.mark.parametrize("error", [PayloadsUnavailable(""), WorkerFault(""), NotFinished("")])
def test_temporary_failure_is_abandoned_after_a_delay(
    jobs: RecordedJobs, error: WorkerError
) -> None:
    for failed_count in (0, 1, 9):
        # Deliveries that do not count against the job do not make the delay longer.
        job = jobs.job(delivery_count=20, history=DeliveryHistory(failed_count))
        jobs.consumer.end_job(job, error)
    assert jobs.settlements == [Settlement.ABANDON] * 3
    delays = [request.delay_seconds for request in jobs.settled]
    assert 0.5 <= delays[0] <= 1.0 < delays[1] <= 4.0 < delays[2] <= 60.0


@pytest.mark.parametrize(
    ("error", "ran_alone", "history"),
    [
        (PayloadsUnavailable(""), True, DeliveryHistory(2, waiting_count=5)),
        (NotFinished(""), True, None),
        (DeviceLost(""), True, DeliveryHistory(2, waiting_count=5, running_count=1)),
        (DeviceLost(""), False, DeliveryHistory(1, waiting_count=5, running_count=1)),
    ],
)
def test_abandoned_message_says_whether_it_counts(
    jobs: RecordedJobs, error: WorkerError, *, ran_alone: bool, history: DeliveryHistory | None
) -> None:
    job = jobs.job(history=DeliveryHistory(failed_count=1, waiting_count=5))
    job.ran_alone = ran_alone
    jobs.consumer.end_job(job, error)
    assert [request.history for request in jobs.settled] == [history]


def test_other_settlements_have_no_delay(jobs: RecordedJobs) -> None:
    jobs.consumer.end_job(jobs.job(), HandedBack(""))
    jobs.consumer.end_job(jobs.job(), ReplyForbidden("why"))
    jobs.consumer.settle.refuse_message(jobs.job().delivery, WorkerFault(""))
    assert jobs.settlements == [Settlement.RELEASE, Settlement.DEAD_LETTER, Settlement.ABANDON]
    assert {request.delay_seconds for request in jobs.settled} == {0.0}
    assert (jobs.settled[1].reason, jobs.settled[1].description) == ("reply-forbidden", "why")


def test_message_is_settled_once(jobs: RecordedJobs) -> None:
    # A reply to this URL would be refused.
    job = jobs.job(reply_to=ReplyUrl("https://elsewhere.test/"))
    jobs.consumer.end_job(job, NotFinished(""))
    jobs.consumer.reply_and_settle(job, InlineJson(1))
    jobs.consumer.end_job(job, HandedBack(""))
    assert jobs.settlements == [Settlement.ABANDON]


def test_shutdown_releases_jobs_that_have_not_started(jobs: RecordedJobs) -> None:
    waiting, running, failing = (jobs.job() for _ in range(3))
    assert jobs.in_flight.start_job(running)
    jobs.consumer.end_job(failing, InferenceFailed("sent to the caller"))
    assert jobs.in_flight.withdraw_jobs() == [waiting]
    assert not jobs.in_flight.start_job(waiting)
    assert jobs.in_flight.withdraw_jobs() == []


def test_lost_lock_leaves_the_message_and_caches_the_reply(jobs: RecordedJobs) -> None:
    job = jobs.job()
    jobs.now += 100.0
    jobs.reply_and_settle(job)
    assert jobs.settlements == [Settlement.LEAVE]
    cached = jobs.cache.find_reply(job.delivery)
    assert cached is not None
    assert not cached.is_delivered
    jobs.consumer.reply_again(jobs.job(delivery_count=1), cached)
    assert jobs.settlements == [Settlement.LEAVE, Settlement.COMPLETE]


def test_delivered_reply_is_not_sent_again(jobs: RecordedJobs) -> None:
    first = jobs.job()
    jobs.reply_and_settle(first)
    cached = jobs.cache.find_reply(first.delivery)
    assert cached is not None
    assert cached.is_delivered
    # A reply to this URL would be refused.
    jobs.consumer.reply_again(jobs.job(1, ReplyUrl("https://elsewhere.test/")), cached)
    assert jobs.settlements == [Settlement.COMPLETE] * 2
    undelivered = replace(cached, is_delivered=False)
    jobs.consumer.reply_again(jobs.job(2, ReplyUrl("https://elsewhere.test/")), undelivered)
    assert jobs.settlements[2] == Settlement.DEAD_LETTER


def test_lost_device_abandons_and_shuts_down(jobs: RecordedJobs) -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    jobs.consumer.fail_job(jobs.job(), error, InferenceFailed)
    assert jobs.settlements == [Settlement.ABANDON]
    assert jobs.shutdown.is_requested
    assert jobs.shutdown.exit_code == EXIT_DEVICE_LOST


def test_note_keeps_the_traceback(jobs: RecordedJobs) -> None:
    job = jobs.job(reply_to=FROM_A_GATEWAY)
    jobs.consumer.fail_job(job, KeyError("why"), WorkerFault)
    (note,) = jobs.notes()
    assert note.settlement == "abandon"
    assert note.traceback == "KeyError: 'why'\n"


def test_only_the_models_out_of_memory_fails_the_job(jobs: RecordedJobs) -> None:
    failed = jobs.job()
    with jobs.consumer.ending_on_error(failed, InferenceFailed):
        run_out_of_memory()
    assert jobs.has_settled.wait(10)
    cached = jobs.cache.find_reply(failed.delivery)
    assert cached is not None
    assert cached.code == "out-of-memory"
    with jobs.consumer.ending_on_error(jobs.job()):
        run_out_of_memory()
    assert jobs.settlements[1] is Settlement.ABANDON, (
        "if the worker's own code runs out of memory, the input is not at fault"
    )


def test_system_exit_ends_the_job_and_not_the_thread(jobs: RecordedJobs) -> None:
    with jobs.consumer.ending_on_error(jobs.job()):
        exit_thread()
    assert jobs.settlements == [Settlement.ABANDON]


@pytest.mark.parametrize(
    ("deadline_seconds", "code"), [(60.0, SUCCEEDED), (0.0, "expired")], ids=["in-time", "late"]
)
def test_only_a_refused_late_result_is_expired(deadline_seconds: float, code: str) -> None:
    with answering(http(b"", status="410 Gone")) as url:
        gateway = urlsplit(url).netloc
        # A program that looks for its own server may connect before the worker does.
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)).close()
        jobs = RecordedJobs(gateway=gateway)
        reply_to = ReplyUrl(f"http://{gateway}/v1/jobs/job/reply?queue=noop&expires=1&token=secret")
        job = jobs.job(reply_to=reply_to, deadline_seconds=deadline_seconds)
        job.record_run(datetime.now(UTC), 1.0, 1)
        jobs.reply_and_settle(job)
    assert jobs.settlements == [Settlement.COMPLETE]
    notes = [(note.settlement, note.code) for note in jobs.notes()]
    # The reply describes the run only if the gateway accepts the reply.
    assert notes == ([] if code == SUCCEEDED else [("complete", code)])
    cached = jobs.cache.find_reply(job.delivery)
    assert cached is not None
    assert cached.is_delivered


FROM_A_GATEWAY = ReplyUrl("http://127.0.0.1:1/v1/jobs/job/reply?queue=noop&expires=1&token=secret")


def test_settlement_without_a_reply_is_noted(jobs: RecordedJobs) -> None:
    errors = [HandedBack(""), NotFinished(""), PayloadsUnavailable(""), ReplyForbidden("why")]
    for number, error in enumerate(errors):
        job = jobs.job(number, FROM_A_GATEWAY)
        job.mark_step("fetched_ms")
        jobs.consumer.end_job(job, error)
    notes = jobs.notes()
    assert [(note.attempt, note.settlement, note.code) for note in notes] == [
        (1, "release", "handed-back"),
        (2, "abandon", "not-finished"),
        (3, "abandon", "payloads-away"),
        (4, "dead-letter", "reply-forbidden"),
    ]
    for note in notes:
        assert note.ended_ms is not None
        assert note.marks.fetched_ms is not None
        assert 0 <= note.marks.fetched_ms <= note.ended_ms


def test_lost_lock_is_noted(jobs: RecordedJobs) -> None:
    job = jobs.job(reply_to=FROM_A_GATEWAY)
    jobs.now += 100.0
    jobs.consumer.end_job(job, PayloadsUnavailable(""))
    (note,) = jobs.notes()
    assert (note.settlement, note.code) == ("leave", "lock-lost")


def test_note_of_a_redelivery_is_replaced_at_its_end(jobs: RecordedJobs) -> None:
    job = jobs.job(2, FROM_A_GATEWAY)
    jobs.consumer.notes.note_so_far(job)
    (begun,) = jobs.notes()
    assert (begun.attempt, begun.settlement, begun.ended_ms) == (3, None, None)
    jobs.consumer.end_job(job, NotWaitedFor("cancelled"))
    (ended,) = jobs.notes()
    assert (ended.attempt, ended.settlement, ended.code) == (3, "complete", "not-waited-for")
    assert ended.marks == begun.marks


@pytest.mark.parametrize(
    "error", [NotWaitedFor("cancelled"), Expired("late")], ids=["cancelled", "expired"]
)
def test_first_delivery_that_did_not_run_is_not_noted(
    jobs: RecordedJobs, error: WorkerError
) -> None:
    jobs.consumer.end_job(jobs.job(reply_to=FROM_A_GATEWAY), error)
    assert jobs.settlements == [Settlement.COMPLETE]
    assert jobs.notes() == []


def test_message_of_a_producer_is_not_noted(jobs: RecordedJobs) -> None:
    for reply_to in (None, ReplyQueue("answers"), ReplyUrl("http://gateway/v1/jobs/job/reply")):
        jobs.consumer.end_job(jobs.job(3, reply_to), NotFinished(""))
    assert len(jobs.settlements) == 3
    assert jobs.notes() == []


def test_blob_name_hides_the_reply_token(jobs: RecordedJobs) -> None:
    jobs.consumer.end_job(jobs.job(reply_to=FROM_A_GATEWAY), NotFinished(""))
    jobs.consumer.notes.wait(10)
    (name,) = jobs.blobs.blobs
    assert name.startswith(delivery_notes("job", "secret"))
    assert not name.startswith(delivery_notes("job", "another"))
    assert "secret" not in name


def test_message_is_settled_without_its_note(jobs: RecordedJobs) -> None:
    jobs.blobs.failure = ObjectsUnavailable("the storage is away")
    jobs.consumer.end_job(jobs.job(reply_to=FROM_A_GATEWAY), NotFinished(""))
    assert jobs.settlements == [Settlement.ABANDON]
    assert jobs.notes() == []
    jobs.blobs.failure = None
    jobs.consumer.end_job(jobs.job(reply_to=FROM_A_GATEWAY), NotFinished(""))
    assert len(jobs.notes()) == 1


def test_notes_are_dropped_while_too_many_wait(jobs: RecordedJobs) -> None:
    answers = threading.Event()
    write = jobs.blobs.write

    def wait_and_write(blob: str, data: bytes, media_type: str) -> None:
        answers.wait(30)
        write(blob, data, media_type)

    store = cast(Any, SimpleNamespace(write=wait_and_write))
    notes = DeliveryNotes(store)
    for _ in range(MAX_WAITING_COUNT + 5):
        notes.note_end(jobs.job(reply_to=FROM_A_GATEWAY), Settlement.ABANDON, "not-finished")
    answers.set()
    notes.wait(30)
    assert len(jobs.blobs.blobs) == MAX_WAITING_COUNT


def test_replies_of_low_jobs_do_not_delay_others(jobs: RecordedJobs) -> None:
    unreachable = ReplyUrl("http://127.0.0.1:1/v1/jobs/job/reply?token=t")
    for number in range(40):
        low = jobs.job(reply_to=unreachable, sequence_number=number, queue="noop-low")
        jobs.consumer.end_job(low, InferenceFailed("the worker repeats this reply"))
    normal = jobs.job(sequence_number=40)
    jobs.consumer.end_job(normal, InferenceFailed("nobody gets this"))
    assert jobs.has_settled.wait(10)
    jobs.now = 100.0  # the locks are lost, which ends the repeats
    assert jobs.settled[0].delivery is normal.delivery
