"""How both clients follow a job's events: by asking for the job again and again."""

import pytest

from loosely import NotFound
from tests.unit.loosely.both_clients import Clock, Make
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    answer,
    job_document,
    problem,
)

QUEUED = job_document("queued")
RUNNING = job_document("running")


def test_each_change_of_status_or_progress_is_one_event(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [
        answer(200, QUEUED),
        answer(200, QUEUED),
        HANG_UP,
        answer(200, RUNNING),
        answer(200, job_document("running", progress={"done": 1})),
        answer(200, SUCCEEDED),
    ]
    events = make(gateway.url).events(JOB_ID)

    assert [(event.kind, event.job.status) for event in events] == [
        ("status", "queued"),
        ("status", "running"),
        ("progress", "running"),
        ("final", "succeeded"),
    ]


def test_the_first_event_comes_at_once_and_later_ones_by_long_polling(
    gateway: ScriptedGateway, make: Make, clock: Clock
) -> None:
    gateway.answers = [
        answer(200, QUEUED),
        answer(200, RUNNING, retry_after="2"),
        answer(200, SUCCEEDED),
    ]
    make(gateway.url).events(JOB_ID)

    assert [asked.headers.get("prefer") for asked in gateway.asked] == [None, "wait=5", "wait=5"]
    assert clock.slept == [2.0], "a gateway that answers at once is not asked at once again"


def test_a_job_that_has_ended_is_one_final_event(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(200, SUCCEEDED)]
    assert [event.kind for event in make(gateway.url).events(JOB_ID)] == ["final"]


def test_events_of_an_unknown_job_are_refused(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [problem(404, "unknown-job", "no such job")]
    with pytest.raises(NotFound):
        make(gateway.url).events(JOB_ID)
