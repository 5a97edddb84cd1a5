"""How both clients follow a job's events."""

import pytest

from loosely import GatewayUnreachable, NotFound, UnexpectedAnswer
from tests.unit.loosely.both_clients import Clock, Make
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    Answer,
    ScriptedGateway,
    answer,
    job_document,
    problem,
    sent_event,
    stream,
)

QUEUED = job_document("queued")
RUNNING = job_document("running")


def test_events_are_taken_up_where_the_stream_broke(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        stream("retry: 100\n\n", sent_event("status", "0.0.0", QUEUED), ": still here\n\n"),
        HANG_UP,
        stream(sent_event("status", "1.0.0", RUNNING), "data: cut off"),
        stream(sent_event("final", "3.0.0", SUCCEEDED)),
    ]
    events = make(gateway.url).events(JOB_ID)

    assert [(event.kind, event.id, event.job.status) for event in events] == [
        ("status", "0.0.0", "queued"),
        ("status", "1.0.0", "running"),
        ("final", "3.0.0", "succeeded"),
    ]
    assert [asked.headers.get("last-event-id") for asked in gateway.asked] == [
        None,
        "0.0.0",
        "0.0.0",
        "1.0.0",
    ]


def test_events_without_a_stream_are_the_same(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        problem(501, "streaming-unavailable", "ask for the job"),
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


def test_nothing_comes_after_the_last_event(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [Answer(204, b"")]
    assert make(gateway.url).events(JOB_ID, after="3.0.0") == []


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (problem(404, "unknown-job", "no such job"), NotFound),
        (answer(200, SUCCEEDED), UnexpectedAnswer),
        (stream("data: nonsense\n\n"), UnexpectedAnswer),
    ],
)
def test_events_of_nothing_are_an_error(
    gateway: ScriptedGateway, make: Make, reply: Answer, kind: type[Exception]
) -> None:
    gateway.answers = [reply]
    with pytest.raises(kind):
        make(gateway.url).events(JOB_ID)


def test_a_stream_that_only_greets_is_given_up(
    gateway: ScriptedGateway, make: Make, clock: Clock
) -> None:
    gateway.answers = [stream("retry: 2000\n\n")]
    with pytest.raises(GatewayUnreachable, match="ended before the job"):
        make(gateway.url).events(JOB_ID)
    assert clock.now < 90
