"""Test the timeline of a job: the sum of its steps, its deliveries, and differing clocks."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.deliveries import DeliveryNote, encode_note, note_blob
from contract.messages import (
    DeliveryMarks,
    InlineBytes,
    InlineJson,
    JobError,
    JobReply,
    JobRequest,
    Stage,
    Timing,
    format_time,
    marks_to_json,
)
from contract.names import progress_url
from gateway import housekeeping
from gateway.durable import HistoryEvent
from gateway.jobs.model import (
    JobOutcome,
    final_record,
    initial_record,
    write_ticket,
)
from gateway.jobs.timeline import DeliveryEnd, JobEvidence, JobTimeline, build_timeline
from tests.unit.gateway.api_keys import bearer, job_of
from tests.unit.gateway.conftest import (
    STARTED_AT,
    RunningGateway,
    error_body,
    open_gateway,
    write_progress_catalogue,
)
from tests.unit.gateway.webhook_delivery import HOOKS, URL

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOTAL_MS = 100.0
REQUEST = JobRequest(
    "job", "noop", InlineBytes("text/plain", b""), NOW, NOW + timedelta(seconds=60)
)
MARKS = DeliveryMarks(
    NOW + timedelta(milliseconds=20),
    NOW + timedelta(milliseconds=4),
    "worker-1",
    "cpu",
    fetched_ms=1.0,
    decoded_ms=3.5,
    batched_ms=10.0,
    ran_ms=60.0,
    stored_ms=61.0,
    replied_ms=61.5,
)
STARTED = HistoryEvent("ExecutionStarted", "job", NOW + timedelta(milliseconds=9))


def after(ms: float) -> datetime:
    return NOW + timedelta(milliseconds=ms)


def answered(
    marks: DeliveryMarks | None = MARKS,
    attempt: int = 1,
    notes: Sequence[DeliveryNote] = (),
    *,
    sent_ms: float | None = 8.0,
    error: JobError | None = None,
    started: HistoryEvent = STARTED,
) -> JobTimeline:
    """Return the timeline of a job whose reply arrived TOTAL_MS after the job was submitted."""
    ticket = write_ticket(
        REQUEST, "00-aa-bb-00", sent_at=None if sent_ms is None else after(sent_ms)
    )
    timing = Timing(26.0, 50.0, 4, None if marks is None else marks_to_json(marks))
    reply = JobReply("job", error or InlineJson(1), after(30), after(82), timing, attempt)
    outcome = JobOutcome.replied(reply, after(TOTAL_MS))
    record = final_record(initial_record(ticket), outcome)
    evidence = JobEvidence(ticket, record, outcome, (started,), notes)
    return build_timeline(evidence, after(5000))


def check_sum(timeline: Any) -> None:
    """Check that the steps of a timeline add up to its total time, and that no step is negative."""
    durations = [step["duration_ms"] for step in timeline["steps"]]
    assert min(durations) >= 0
    assert sum(durations) == pytest.approx(timeline["total_ms"], abs=0.05)
    assert sum(step["share"] for step in timeline["steps"]) == pytest.approx(
        1.0 if timeline["total_ms"] else 0.0, abs=0.01
    )
    for delivery in timeline["deliveries"]:
        assert delivery["duration_ms"] is None or delivery["duration_ms"] >= 0


def names(timeline: Any) -> list[str]:
    return [str(step["name"]) for step in timeline["steps"]]


def parts(timeline: Any) -> dict[str, float]:
    return {str(step["name"]): step["duration_ms"] for step in timeline["steps"]}


def test_answered_job_has_each_step() -> None:
    timeline = answered()
    assert parts(timeline) == {
        "accepted": 0.0,
        "enqueued": 4.0,
        "started": 0.0,
        "received": 16.0,
        "fetched": 1.0,
        "decoded": 2.5,
        "batched": 6.5,
        "run": 50.0,
        "stored": 1.0,
        "replied": 0.5,
        "final": 18.5,
    }
    check_sum(timeline)
    assert timeline["total_ms"] == TOTAL_MS
    assert timeline["clock_skew"] == []
    assert timeline["trace_id"] == "aa"
    shares = {str(step["name"]): step["share"] for step in timeline["steps"]}
    assert (shares["run"], shares["received"]) == (0.5, 0.16)
    (delivery,) = timeline["deliveries"]
    assert delivery == {
        "number": 1,
        "state": "answered",
        "worker": "worker-1",
        "device": "cpu",
        "batch_size": 4,
        "received_at": format_time(after(20)),
        "ended_at": format_time(after(81.5)),
        "duration_ms": 61.5,
        "reached": "replied",
        "code": None,
        "traceback": None,
        "earliest_at": None,
        "latest_at": None,
    }


def test_start_delays_only_a_job_that_it_sends() -> None:
    (started,) = [step for step in answered()["steps"] if step["name"] == "started"]
    assert (started["is_beside"], started["at"]) == (True, format_time(after(9)))
    timeline = answered(
        DeliveryMarks(after(20), after(12), ran_ms=1.0, replied_ms=2.0), sent_ms=None
    )
    assert names(timeline)[:3] == ["accepted", "started", "enqueued"]
    assert (parts(timeline)["started"], parts(timeline)["enqueued"]) == (9.0, 3.0)


def test_start_after_the_end_is_no_step() -> None:
    late = HistoryEvent("ExecutionStarted", "job", NOW + timedelta(seconds=1))
    timeline = answered(started=late)
    assert names(timeline) == [name for name in names(answered()) if name != "started"]
    assert all(step["at"] <= timeline["steps"][-1]["at"] for step in timeline["steps"])


@pytest.mark.parametrize(("ahead_ms", "moved_ms"), [(3_600_000, 3_599_982), (-500, -484)])
def test_wrong_clock_of_a_worker_is_adjusted(ahead_ms: float, moved_ms: float) -> None:
    skewed = DeliveryMarks(
        after(20 + ahead_ms), after(4), "worker-1", "cpu", ran_ms=60.0, replied_ms=61.5
    )
    timeline = answered(skewed)
    check_sum(timeline)
    (skew,) = timeline["clock_skew"]
    assert (skew["clock"], skew["worker"]) == ("worker", "worker-1")
    assert skew["ahead_ms"] == pytest.approx(moved_ms, abs=1)
    marked = {str(step["name"]) for step in timeline["steps"] if step["is_adjusted"]}
    assert marked == {"received", "run", "replied"}
    assert parts(timeline)["run"] == 60.0, "a duration in the worker does not depend on its clock"


def test_wrong_clock_of_the_broker_is_adjusted() -> None:
    for ahead_ms in (-3000, 3000):
        marks = DeliveryMarks(after(20), after(4 + ahead_ms), ran_ms=60.0, replied_ms=61.0)
        timeline = answered(marks)
        check_sum(timeline)
        (skew,) = timeline["clock_skew"]
        assert skew["clock"] == "broker"
        assert abs(skew["ahead_ms"] - ahead_ms) <= 8
        (enqueued,) = [step for step in timeline["steps"] if step["name"] == "enqueued"]
        assert enqueued["is_adjusted"]


def test_small_clock_difference_is_not_reported() -> None:
    marks = DeliveryMarks(after(3), after(4), ran_ms=95.0, replied_ms=97.5)
    timeline = answered(marks)
    assert timeline["clock_skew"] == []
    assert not any(step["is_adjusted"] for step in timeline["steps"])
    check_sum(timeline)


def test_reply_without_marks_gives_its_durations() -> None:
    timeline = answered(None)
    assert names(timeline) == [
        *("accepted", "enqueued", "started", "batched", "run", "replied", "final")
    ]
    assert parts(timeline)["run"] == 50.0
    (delivery,) = timeline["deliveries"]
    assert (delivery["state"], delivery["worker"]) == ("answered", None)
    assert delivery["received_at"] is None
    check_sum(timeline)


def test_unreported_delivery_is_lost() -> None:
    first, second, third = answered(attempt=3)["deliveries"]
    for lost in (first, second):
        assert (lost["state"], lost["received_at"], lost["reached"]) == ("lost", None, None)
        assert (lost["earliest_at"], lost["latest_at"]) == (
            format_time(after(4)),
            format_time(after(20)),
        )
    assert (third["number"], third["state"]) == (3, "answered")


def test_notes_show_how_deliveries_ended() -> None:
    notes = [
        DeliveryNote(
            1, DeliveryMarks(after(5), after(4), "a", fetched_ms=1), 2.0, "release", "handed-back"
        ),
        DeliveryNote(
            1, DeliveryMarks(after(8), after(4), "b", batched_ms=1), 3.0, "abandon", "not-finished"
        ),
        DeliveryNote(2, DeliveryMarks(after(13), after(4), "c")),
        DeliveryNote(3, MARKS, 62.0, "complete", "succeeded"),
    ]
    timeline = answered(attempt=3, notes=notes)
    check_sum(timeline)
    rows = [
        (row["number"], row["state"], row["worker"], row["reached"], row["code"])
        for row in timeline["deliveries"]
    ]
    assert rows == [
        (1, "returned", "a", "fetched", "handed-back"),
        (1, "abandoned", "b", "batched", "not-finished"),
        (2, "lost", "c", "received", None),
        (3, "answered", "worker-1", "replied", None),
    ]
    received = [
        (step["delivery"], step["duration_ms"])
        for step in timeline["steps"]
        if step["name"] in {"received", "returned"}
    ]
    assert received == [(1, 1.0), (1, 1.0), (1, 1.0), (1, 2.0), (2, 2.0), (3, 7.0)]


def test_redelivery_after_the_answer_adds_no_steps() -> None:
    note = DeliveryNote(
        2, DeliveryMarks(after(50), after(4), "b", batched_ms=2), 900.0, "complete", "succeeded"
    )
    timeline = answered(attempt=1, notes=[note])
    check_sum(timeline)
    assert [row["state"] for row in timeline["deliveries"]] == ["answered", "completed"]
    assert {step["delivery"] for step in timeline["steps"]} == {None, 1}


def test_dead_lettered_job_lists_each_delivery() -> None:
    error = JobError("dead-lettered", "too often", Stage.RUN, retryable=False)
    noted = DeliveryNote(2, DeliveryMarks(after(40), after(4), "b"), 1.0, "abandon", "worker-fault")
    timeline = answered(None, attempt=3, notes=[noted], error=error)
    assert [row["state"] for row in timeline["deliveries"]] == ["lost", "abandoned", "lost"]
    check_sum(timeline)


def test_job_that_expired_in_the_queue_has_no_delivery() -> None:
    error = JobError("expired", "late", Stage.QUEUE, retryable=True)
    timeline = answered(None, error=error)
    assert timeline["deliveries"] == []
    assert names(timeline) == ["accepted", "enqueued", "started", "final"]
    check_sum(timeline)


MS = st.floats(0, 500, allow_nan=False)
CLOCK = st.floats(-1e7, 1e7, allow_nan=False)


@st.composite
def marks_of_any_clock(draw: st.DrawFn) -> DeliveryMarks:
    steps = [draw(st.none() | MS) for _ in range(6)]
    enqueued_at = draw(st.none() | CLOCK.map(after))
    return DeliveryMarks(after(draw(CLOCK)), enqueued_at, "w", "cpu", *steps)


@st.composite
def notes_of_any_clock(draw: st.DrawFn) -> DeliveryNote:
    settlement = draw(
        st.sampled_from([None, "complete", "release", "abandon", "dead-letter", "leave", "new"])
    )
    marks = draw(marks_of_any_clock())
    ended_ms = None if settlement is None else draw(MS)
    return DeliveryNote(draw(st.integers(1, 5)), marks, ended_ms, settlement, None)


@given(
    st.none() | marks_of_any_clock(),
    st.integers(1, 5),
    st.lists(notes_of_any_clock(), max_size=4),
    st.none() | MS,
)
def test_steps_add_up_with_any_clock(
    marks: DeliveryMarks | None, attempt: int, notes: list[DeliveryNote], sent_ms: float | None
) -> None:
    timeline = answered(marks, attempt, notes, sent_ms=sent_ms)
    check_sum(timeline)
    numbers = [row["number"] for row in timeline["deliveries"]]
    assert set(numbers) == set(range(1, max(numbers) + 1))
    assert [row["state"] for row in timeline["deliveries"]].count(DeliveryEnd.ANSWERED) == 1


def test_extreme_reports_have_a_limited_size() -> None:
    end = datetime(9999, 12, 31, tzinfo=UTC)
    extreme = DeliveryMarks(end, datetime(1, 1, 2, tzinfo=UTC), ran_ms=1e300, replied_ms=1e308)
    note = DeliveryNote(10**9 + 1, extreme, 1e308, "complete", "succeeded")
    timeline = answered(extreme, attempt=10**9, notes=[note])
    check_sum(timeline)
    assert len(timeline["deliveries"]) <= 101
    assert {skew["clock"] for skew in timeline["clock_skew"]} == {"broker", "worker"}


async def get(gateway: RunningGateway, job_id: str, **headers: str) -> Any:
    answer = await gateway.http.get(f"/v1/jobs/{job_id}/timeline", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def noted(gateway: RunningGateway, note: DeliveryNote, token: str | None = None) -> str:
    """Write a worker's note about the newest job, with its token or `token`; return the blob."""
    request = gateway.queues.request()
    url = request.reply_url or ""
    if token is not None:
        url = f"{url.partition('token=')[0]}token={token}"
    blob = note_blob(request.job_id, url, note.attempt)
    assert blob is not None
    gateway.blobs.put(blob, encode_note(note))
    return blob


async def test_queued_job_ends_now(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.durable.advance(2.0)
    timeline = await get(gateway, job_id)
    assert names(timeline) == ["accepted", "enqueued", "started", "now"]
    assert (timeline["total_ms"], timeline["final_at"]) == (2000.0, None)
    assert (timeline["deliveries"], timeline["webhook"]) == ([], None)
    check_sum(timeline)


def test_first_chunk_is_a_step() -> None:
    timeline = answered(replace(MARKS, first_chunk_ms=25.0, chunks=3))
    assert parts(timeline).items() >= {"batched": 6.5, "first_chunk": 15.0, "run": 35.0}.items()
    check_sum(timeline)


async def test_marks_are_shown_only_in_the_timeline(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    enqueued_at = gateway.clock()
    await gateway.durable.advance(1.0)
    delivery = {
        "received_at": format_time(gateway.clock() - timedelta(milliseconds=100)),
        "enqueued_at": format_time(enqueued_at),
        "worker": "gpu-7-12",
        "device": "NVIDIA H100",
        "fetched_ms": 1.5,
        "batched_ms": 20,
        "ran_ms": 60.0,
        "replied_ms": 61,
        "from a later version": [1],
    }
    timing = {"queued_ms": 4, "inference_ms": 40, "batch_size": 2, "delivery": delivery}
    accepted = await gateway.reply(result={"json": 1}, timing=timing)
    assert accepted.status_code == 202
    timeline = await get(gateway, job_id)
    steps = {"received": 900.0, "fetched": 1.5, "batched": 18.5, "run": 40.0, "final": 39.0}
    assert parts(timeline).items() >= steps.items()
    (row,) = timeline["deliveries"]
    assert (row["worker"], row["device"], row["batch_size"]) == ("gpu-7-12", "NVIDIA H100", 2)
    job = await gateway.job(job_id)
    assert set(job["timing"]) == {"queued_ms", "inference_ms", "batch_size", "total_ms"}
    assert job["timing"]["total_ms"] == timeline["total_ms"]
    check_sum(timeline)


@pytest.mark.parametrize(
    "delivery", [{"received_at": "noon"}, {"x": 1}, {"received_at": STARTED_AT, "ran_ms": -1}]
)
async def test_malformed_marks_are_ignored(gateway: RunningGateway, delivery: Any) -> None:
    job_id = await gateway.accept()
    timing = {"inference_ms": 5, "delivery": delivery}
    assert (await gateway.reply(result={"json": 1}, timing=timing)).status_code == 202
    timeline = await get(gateway, job_id)
    assert [row["state"] for row in timeline["deliveries"]] == ["answered"]
    check_sum(timeline)


async def test_delivery_is_running_until_the_reply(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.durable.advance(8.0)
    received_at = gateway.clock()
    marks = DeliveryMarks(received_at, NOW, "worker-2")
    noted(gateway, DeliveryNote(2, marks))
    await gateway.durable.advance(1.0)
    timeline = await get(gateway, job_id)
    assert [row["state"] for row in timeline["deliveries"]] == ["lost", "running"]
    assert parts(timeline)["received"] == 8000.0
    check_sum(timeline)
    delivery = {"received_at": format_time(received_at), "worker": "worker-2", "replied_ms": 999}
    await gateway.reply(result={"json": 1}, attempt=2, timing={"delivery": delivery})
    timeline = await get(gateway, job_id)
    assert [row["state"] for row in timeline["deliveries"]] == ["lost", "answered"]
    check_sum(timeline)


async def test_only_an_operator_sees_the_traceback(closed: RunningGateway) -> None:
    job_id = await job_of(closed, "a")
    marks = DeliveryMarks(closed.clock(), worker="w", ran_ms=1.0, replied_ms=2.0)
    noted(closed, DeliveryNote(1, marks, traceback="ValueError: why"))
    timing = {"delivery": marks_to_json(marks)}
    await closed.reply(error=error_body("inference-failed"), timing=timing)
    for name, traceback in (("a", None), ("watcher", "ValueError: why")):
        (row,) = (await get(closed, job_id, **bearer(name)))["deliveries"]
        assert (row["state"], row["traceback"]) == ("answered", traceback)


async def test_forged_note_is_ignored(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    note = DeliveryNote(3, DeliveryMarks(gateway.clock()), 1.0, "abandon", "forged")
    noted(gateway, note, token="a-producer-has-none")
    assert (await get(gateway, job_id))["deliveries"] == []
    noted(gateway, note)
    assert len((await get(gateway, job_id))["deliveries"]) == 3


async def test_damaged_note_is_ignored(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    for data in (b"{", b"[]", b"{}", b'{"attempt": 1}', b" " * 5000):
        blob = noted(gateway, DeliveryNote(2, DeliveryMarks(gateway.clock())))
        gateway.blobs.put(blob, data)
    assert (await get(gateway, job_id))["deliveries"] == []


async def test_last_50_notes_are_used(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    for number in range(1, 61):
        marks = DeliveryMarks(gateway.clock(), worker=f"w{number}")
        noted(gateway, DeliveryNote(number, marks, 0.0, "abandon", "worker-fault"))
    rows = (await get(gateway, job_id))["deliveries"]
    assert [row["number"] for row in rows] == list(range(1, 61))
    assert [row["number"] for row in rows if row["state"] == "lost"] == list(range(1, 11))


async def test_cancelled_and_expired_jobs_end_with_final(gateway: RunningGateway) -> None:
    cancelled = await gateway.accept()
    await gateway.durable.advance(1.0)
    await gateway.http.delete(f"/v1/jobs/{cancelled}")
    expired = await gateway.accept(deadline_seconds=5)
    await gateway.durable.advance(20.0)
    for job_id, status, total_ms in ((cancelled, "cancelled", 1000), (expired, "expired", 5000)):
        timeline = await get(gateway, job_id)
        assert (timeline["status"], timeline["total_ms"]) == (status, total_ms)
        assert names(timeline) == ["accepted", "enqueued", "started", "final"]
        check_sum(timeline)


async def test_start_precedes_the_message_that_it_sends(gateway: RunningGateway) -> None:
    gateway.queues.is_down = True
    job_id = await gateway.accept()
    await gateway.durable.advance(3.0)
    assert names(await get(gateway, job_id)) == ["accepted", "started", "now"]
    gateway.queues.is_down = False
    await gateway.durable.advance(2.0)
    timeline = await get(gateway, job_id)
    assert names(timeline) == ["accepted", "started", "enqueued", "now"]
    assert 3000 <= parts(timeline)["enqueued"] <= 4000
    check_sum(timeline)


async def test_first_progress_report_adds_a_step(tmp_path: Path) -> None:
    async with open_gateway(catalogue_path=write_progress_catalogue(tmp_path)) as gateway:
        job_id = await gateway.accept()
        await gateway.durable.advance(2.0)
        url = progress_url(gateway.queues.request().reply_url or "") or ""
        report = {"attempt": 2, "sequence": 0, "started_at": STARTED_AT}
        assert (await gateway.http.put(url, json=report)).status_code == 200
        timeline = await get(gateway, job_id)
        assert names(timeline) == ["accepted", "enqueued", "started", "batched", "now"]
        assert parts(timeline)["batched"] == 1000.0
        assert [row["state"] for row in timeline["deliveries"]] == ["lost", "running"]
        check_sum(timeline)


async def test_webhook_attempts_are_listed() -> None:
    async with open_gateway(**HOOKS) as gateway:
        job_id = await gateway.accept(webhook_url=URL)
        assert (await get(gateway, job_id))["webhook"]["attempts"] == []
        await gateway.reply()
        run = gateway.durable.runs[f"webhook-{job_id}"]
        attempt = {"at": STARTED_AT, "status": 503, "error": None}
        run.custom_status = {"state": "pending", "attempts": [attempt], "next_attempt_at": None}
        assert (await get(gateway, job_id))["webhook"]["attempts"] == [attempt]


async def test_ended_job_needs_neither_history_nor_blob(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.reply()
    whole = await get(gateway, job_id)
    for name in [name for name in gateway.payloads.blobs if name.startswith("outcomes/")]:
        await gateway.blobs.delete(name)
    gateway.durable.runs[job_id].history.clear()
    bare = await get(gateway, job_id)
    assert names(bare) == [name for name in names(whole) if name != "started"]
    assert [row["state"] for row in bare["deliveries"]] == ["answered"]
    check_sum(bare)


async def test_housekeeping_deletes_old_notes(gateway: RunningGateway) -> None:
    await gateway.accept()
    blob = noted(gateway, DeliveryNote(2, DeliveryMarks(gateway.clock())))
    await housekeeping.run(gateway.durable, gateway.services)
    assert blob in gateway.payloads.blobs
    gateway.clock.now += timedelta(days=30)
    await housekeeping.run(gateway.durable, gateway.services)
    assert blob not in gateway.payloads.blobs
