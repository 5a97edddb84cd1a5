"""Test that `Client` and `AsyncClient` yield the events of a job by polling the job."""

import pytest

from loosely import NotFound
from tests.unit.loosely.both_clients import Connect, SleepClock
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    job_document,
    json_response,
    problem_response,
)

QUEUED = job_document("queued")
RUNNING = job_document("running")


def test_each_change_yields_one_event(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        json_response(200, QUEUED),
        json_response(200, QUEUED),
        HANG_UP,
        json_response(200, RUNNING),
        json_response(200, job_document("running", progress={"done": 1})),
        json_response(200, SUCCEEDED),
    ]
    events = connect(gateway.url).iter_events(JOB_ID)

    assert [(event.kind, event.job.status) for event in events] == [
        ("status", "queued"),
        ("status", "running"),
        ("progress", "running"),
        ("final", "succeeded"),
    ]


def test_later_events_are_long_polled(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    gateway.responses = [
        json_response(200, QUEUED),
        json_response(200, RUNNING, retry_after="2"),
        json_response(200, SUCCEEDED),
    ]
    connect(gateway.url).iter_events(JOB_ID)

    assert [request.headers.get("prefer") for request in gateway.requests] == [
        None,
        "wait=1",
        "wait=1",
    ]
    assert clock.slept == [2.0], "the client pauses if the gateway responds at once"


def test_ended_job_yields_only_final_event(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    assert [event.kind for event in connect(gateway.url).iter_events(JOB_ID)] == ["final"]


def test_unknown_job_raises_not_found(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [problem_response(404, "unknown-job", "no such job")]
    with pytest.raises(NotFound):
        connect(gateway.url).iter_events(JOB_ID)
