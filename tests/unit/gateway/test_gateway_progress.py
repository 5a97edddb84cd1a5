"""Test progress reports: authorisation, order, and the cancellation of a running job."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.catalogue import Catalogue
from contract.names import progress_url
from gateway.errors import Unavailable
from gateway.jobs.progress import NO_PROGRESS, ProgressReport, ProgressState, ProgressStore
from tests.unit.gateway.conftest import (
    STARTED_AT,
    RunningGateway,
    open_gateway,
    write_progress_catalogue,
)
from tests.unit.gateway.memory import ManualClock, MemoryBlobs, MemoryPayloads
from tests.unit.gateway.webhook_delivery import HOOKS, URL, deliver, receiver


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway that sends webhooks, and whose model noop reports progress."""
    async with open_gateway(catalogue_path=write_progress_catalogue(tmp_path), **HOOKS) as opened:
        yield opened


async def tell(
    gateway: RunningGateway, sequence: int, number: int = -1, **more: Any
) -> httpx.Response:
    url = progress_url(gateway.queues.request(number).reply_url or "") or ""
    report = {"attempt": 1, "sequence": sequence, "started_at": STARTED_AT, **more}
    return await gateway.http.put(url, json=report)


async def test_reported_job_is_running(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    job = await gateway.job(job_id)
    assert (job["status"], job["started_at"], job["progress"]) == ("queued", None, None)
    assert (await tell(gateway, 0)).status_code == 200
    job = await gateway.job(job_id)
    assert (job["status"], job["started_at"]) == ("running", STARTED_AT)
    assert job["progress"] == {"fraction": None, "message": None}
    await tell(gateway, 1, fraction=0.5, message="half")
    assert (await gateway.job(job_id))["progress"] == {"fraction": 0.5, "message": "half"}
    await gateway.reply()
    job = await gateway.job(job_id)
    assert (job["status"], job["progress"]) == ("succeeded", None)


async def test_outdated_report_is_ignored(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 5, fraction=0.9)
    assert (await tell(gateway, 4, fraction=0.1)).status_code == 200
    assert (await gateway.job(job_id))["progress"]["fraction"] == 0.9
    await gateway.reply()
    final = await gateway.job(job_id)
    answer = await tell(gateway, 6, fraction=1)
    assert (answer.status_code, answer.json()["code"]) == (410, "already-final")
    assert await gateway.job(job_id) == final


async def test_second_delivery_replaces_the_progress(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 7, fraction=0.9)
    await tell(gateway, 0, attempt=2)
    await tell(gateway, 8, fraction=1)
    job = await gateway.job(job_id)
    assert (job["status"], job["attempt"]) == ("running", 2)
    assert job["progress"] == {"fraction": None, "message": None}


async def test_report_without_the_token_is_refused(gateway: RunningGateway) -> None:
    await gateway.accept()
    other = await gateway.accept()
    report = {"attempt": 1, "sequence": 0, "started_at": STARTED_AT}
    query = (gateway.queues.request(0).reply_url or "").partition("?")[2]
    for wrong in ("", f"?{query}"):
        answer = await gateway.http.put(f"/v1/jobs/{other}/progress{wrong}", json=report)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    gateway.durable.runs.clear()
    assert (await tell(gateway, 0)).status_code == 404
    assert (await tell(gateway, 0, stopped=True)).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 0},
        {"sequence": -1},
        {"sequence": "1"},
        {"started_at": "soon"},
        {"fraction": 1.5},
        {"fraction": "half"},
        {"message": 1},
        {"message": "x" * 501},
        {"stopped": "yes"},
    ],
)
async def test_malformed_field_is_refused(gateway: RunningGateway, change: dict[str, Any]) -> None:
    job_id = await gateway.accept()
    answer = await tell(gateway, **{"sequence": 0, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert (await gateway.job(job_id))["status"] == "queued"


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 422), (b"[]", 422), (b"\xff", 422), (b'"' + b"x" * 9000, 413)]
)
async def test_malformed_body_is_refused(gateway: RunningGateway, body: bytes, status: int) -> None:
    await gateway.accept()
    url = progress_url(gateway.queues.request().reply_url or "") or ""
    assert (await gateway.http.put(url, content=body)).status_code == status


# The orchestration does not wait for the second cancel event; the SDK drops it with a warning.
@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion:UserWarning")
async def test_job_is_cancelling_until_it_has_stopped(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 0, fraction=0.3)
    answer = await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    job = await gateway.job(job_id)
    assert (job["status"], job["progress"]["fraction"]) == ("cancelling", 0.3)
    assert (await gateway.http.delete(f"/v1/jobs/{job_id}")).status_code == 202
    assert (await tell(gateway, 1, fraction=0.4)).status_code == 410
    assert (await gateway.job(job_id))["progress"]["fraction"] == 0.3
    await gateway.durable.advance(1)
    assert (await tell(gateway, 2, stopped=True)).status_code == 200
    job = await gateway.job(job_id)
    assert (job["status"], job["started_at"]) == ("cancelled", STARTED_AT)
    again = await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert (again.status_code, again.json()) == (200, job)
    assert (await tell(gateway, 3, stopped=True)).status_code == 200


# The SDK warns about an event that the orchestration does not wait for.
@pytest.mark.filterwarnings("ignore:Potential duplicate Task completion:UserWarning")
async def test_stop_order_outlives_a_lost_event(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 0)
    # This is the state after a gateway was killed before it raised the event.
    await gateway.services.progress.update(job_id, lambda known: known.with_stop_order())
    assert (await tell(gateway, 1)).status_code == 410
    assert (await tell(gateway, 2, stopped=True)).status_code == 200
    job = await gateway.job(job_id)
    assert (job["status"], job["started_at"]) == ("cancelled", STARTED_AT)


async def test_silent_worker_has_30_seconds_to_stop(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 0)
    await gateway.http.delete(f"/v1/jobs/{job_id}")
    await gateway.durable.advance(29)
    assert (await gateway.job(job_id))["status"] == "cancelling"
    await gateway.durable.advance(1)
    assert (await gateway.job(job_id))["status"] == "cancelled"


async def test_reply_during_the_cancellation_is_recorded(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 0)
    await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert (await gateway.reply(result={"json": "done"})).status_code == 202
    await gateway.durable.advance(30)
    job = await gateway.job(job_id)
    assert (job["status"], job["result"]) == ("succeeded", "done")


async def test_unstarted_job_is_cancelled_at_once(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await gateway.http.delete(f"/v1/jobs/{job_id}")
    assert (await gateway.job(job_id))["status"] == "cancelled"
    assert (await tell(gateway, 0)).status_code == 410, "a cancelled job must not reach the device"


async def test_expired_job_shows_when_it_started(gateway: RunningGateway) -> None:
    ran, waited = (
        await gateway.accept(deadline_seconds=10),
        await gateway.accept(deadline_seconds=10),
    )
    await tell(gateway, 0, number=0)
    await gateway.durable.advance(10)
    for job_id, started_at in ((ran, STARTED_AT), (waited, None)):
        job = await gateway.job(job_id)
        assert (job["status"], job["started_at"]) == ("expired", started_at)


async def test_webhook_of_an_expired_job_has_its_start(gateway: RunningGateway) -> None:
    job_id = await gateway.accept(deadline_seconds=10, webhook_url=URL)
    await tell(gateway, 0)
    await gateway.durable.advance(10)
    await deliver(gateway, job_id)
    ((_, _, body),) = receiver(gateway).posts
    told = json.loads(body)
    assert (told["status"], told["started_at"]) == ("expired", STARTED_AT)
    assert told == await gateway.job(job_id)


async def test_report_ends_the_cold_start(gateway: RunningGateway) -> None:
    await gateway.accept()
    waiting = await gateway.accept()
    gateway.clock.now += timedelta(seconds=40)
    assert (await gateway.job(waiting))["queue"]["phase"] == "cold_starting"
    await tell(gateway, 0, number=0)
    assert (await gateway.job(waiting))["queue"]["phase"] == "queued"


async def expired_while_waiting(gateway: RunningGateway, *, starts: bool) -> Any:
    submitting, _ = await gateway.begin(params={"deadline_seconds": 10})
    if starts:
        await tell(gateway, 0)
    await gateway.durable.advance(10)
    answer = await submitting
    assert (answer.status_code, answer.json()["code"]) == (504, "expired")
    return answer.json()["ran"]


async def test_expiry_problem_says_whether_the_job_ran(gateway: RunningGateway) -> None:
    assert await expired_while_waiting(gateway, starts=True) is True
    assert await expired_while_waiting(gateway, starts=False) is False
    async with open_gateway() as silent:
        assert await expired_while_waiting(silent, starts=False) is None


async def test_queued_job_needs_the_blob_storage() -> None:
    async with open_gateway() as gateway:
        job_id = await gateway.accept()
        gateway.payloads.is_down = True
        for answer in (
            await gateway.http.get(f"/v1/jobs/{job_id}"),
            await gateway.http.delete(f"/v1/jobs/{job_id}"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        gateway.payloads.is_down = False
        assert (await gateway.job(job_id))["status"] == "queued"


async def test_running_job_needs_the_blob_storage(gateway: RunningGateway) -> None:
    job_id = await gateway.accept()
    await tell(gateway, 0)
    gateway.payloads.is_down = True
    for answer in (
        await gateway.http.get(f"/v1/jobs/{job_id}"),
        await gateway.http.delete(f"/v1/jobs/{job_id}"),
        await tell(gateway, 1),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"]


async def test_expired_job_needs_no_blob_storage(gateway: RunningGateway) -> None:
    gateway.payloads.is_down = True
    accepted = await gateway.accept(deadline_seconds=10)
    gateway.payloads.is_down = False
    await gateway.durable.advance(10)
    gateway.payloads.is_down = True
    assert (await gateway.job(accepted))["status"] == "expired"
    answer = await gateway.http.delete(f"/v1/jobs/{accepted}")
    assert (answer.status_code, answer.json()["status"]) == (200, "expired")


@pytest.mark.parametrize(
    ("reply_url", "expected"),
    [
        ("https://g/v1/jobs/1/reply?a=1&b=2", "https://g/v1/jobs/1/progress?a=1&b=2"),
        ("https://g/v1/jobs/1/reply", None),
        ("https://g/answers?reply", None),
        ("reply?", None),
        ("", None),
    ],
)
def test_progress_url_is_derived_from_the_reply_url(reply_url: str, expected: str | None) -> None:
    assert progress_url(reply_url) == expected


REPORTS = st.builds(
    ProgressReport,
    attempt=st.integers(1, 3),
    sequence=st.integers(0, 5),
    started_at=st.just(STARTED_AT),
    fraction=st.none() | st.floats(0, 1),
    message=st.none() | st.text(max_size=5),
)


@given(st.lists(REPORTS | st.none(), max_size=12))
def test_cancelled_job_keeps_its_newest_report(moves: list[ProgressReport | None]) -> None:
    known = NO_PROGRESS  # None in `moves` is a cancellation
    for move in moves:
        before = known
        known = known.with_stop_order() if move is None else known.with_report(move)
        assert known.cancelling >= before.cancelling
        if before.report is not None:
            assert known.report is not None
            assert known.report.order >= before.report.order
        if before.cancelling:
            assert known == before
    told = moves[: moves.index(None)] if None in moves else moves
    places = [report.order for report in told if report is not None]
    assert (known.report.order if known.report else None) == max(places, default=None)


@given(st.lists(REPORTS, min_size=1, max_size=4), st.randoms())
def test_newest_of_simultaneous_reports_is_stored(
    reports: list[ProgressReport], random: Any
) -> None:
    asyncio.run(_meet(reports, random))


async def _meet(reports: list[ProgressReport], random: Any) -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(MemoryPayloads(), clock)
    read = blobs.read

    async def read_slowly(blob: str) -> Any:
        found = await read(blob)
        for _ in range(random.randrange(4)):
            await asyncio.sleep(0)
        return found

    blobs.read = read_slowly  # type: ignore[method-assign]  # reads take a random time
    store = ProgressStore(blobs, Catalogue.load())

    async def tell_it(report: ProgressReport) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await store.update("job", lambda old: old.with_report(report))
                return

    await asyncio.gather(*(tell_it(report) for report in reports))
    known = await store.read("job")
    assert known.report is not None
    assert known.report.order == max(report.order for report in reports)


async def test_too_many_write_conflicts_raise_unavailable(gateway: RunningGateway) -> None:
    store = gateway.services.progress

    def rivalled(old: ProgressState) -> ProgressState:
        gateway.blobs.put("progress/x", json.dumps({"report": None, "cancelling": False}).encode())
        return old.with_stop_order()

    with pytest.raises(Unavailable, match="could not be updated: other processes changed it"):
        await store.update("x", rivalled)
