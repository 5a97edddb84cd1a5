"""What both clients do, each test run with each of them."""

import pytest

from loosely import (
    AccessDenied,
    GatewayUnreachable,
    IdempotencyMismatch,
    InputRejected,
    InvalidRequest,
    Job,
    JobCancelled,
    JobEnded,
    JobExpired,
    JobFailed,
    NotFound,
    Overloaded,
    Problem,
    RequestRefused,
    Retry,
    UnexpectedAnswer,
    WaitTimedOut,
)
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
)

JPEG = b"\xff\xd8\xff\xe0 picture"
KEY = "lsy_secret"
QUEUED = job_document("queued")
RUNNING = job_document("running")


def test_a_submit_says_all_that_it_was_given(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(202, QUEUED)]
    job = make(gateway.url, api_key=KEY).submit(
        JPEG,
        "classifier",
        parameters={"top": 3},
        deadline_seconds=60,
        webhook_url="https://example.org/",
        priority="low",
        idempotency_key="mine",
    )

    assert job.status == "queued"
    [asked] = gateway.asked
    assert asked.body == JPEG
    assert asked.target == (
        "/v1/models/classifier/jobs?parameters=%7B%22top%22%3A+3%7D&deadline_seconds=60"
        "&webhook_url=https%3A%2F%2Fexample.org%2F&priority=low"
    )
    assert asked.headers["prefer"] == "respond-async"
    assert asked.headers["content-type"] == "image/jpeg"
    assert asked.headers["idempotency-key"] == "mine"
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_each_submit_has_a_key_that_its_repetitions_keep(
    gateway: ScriptedGateway, make: Make, clock: Clock
) -> None:
    gateway.answers = [
        HANG_UP,
        problem(503, "unavailable", "the queue does not answer"),
        Answer(502, b"<html>a proxy"),
        answer(202, QUEUED),
        answer(202, QUEUED),
    ]
    client = make(gateway.url)
    client.submit(JPEG, "classifier")
    client.submit(JPEG, "classifier")

    *first, second = [asked.headers["idempotency-key"] for asked in gateway.asked]
    assert len(first) == 4
    assert len(set(first)) == 1
    assert second not in first
    for slept, widest in zip(clock.slept, (0.25, 0.5, 1.0), strict=True):
        assert widest / 2 <= slept <= widest


def test_retry_after_is_kept(gateway: ScriptedGateway, make: Make, clock: Clock) -> None:
    busy = problem(429, "rate-limited", "5 a second are allowed")
    gateway.answers = [
        Answer(429, busy.body, {**busy.headers, "retry-after": "7"}),
        answer(202, QUEUED),
    ]
    make(gateway.url).submit(JPEG, "classifier")
    assert clock.slept == [7.0]


def test_a_pause_beyond_the_limit_is_not_begun(
    gateway: ScriptedGateway, make: Make, clock: Clock
) -> None:
    busy = problem(503, "saturated", "the queue is long")
    gateway.answers = [Answer(503, busy.body, {**busy.headers, "retry-after": "61"})]
    with pytest.raises(Overloaded) as caught:
        make(gateway.url).submit(JPEG, "classifier")
    assert caught.value.retry_after_seconds == 61
    assert clock.slept == []


def test_a_gateway_that_stays_away_is_given_up(make: Make, clock: Clock) -> None:
    with pytest.raises(GatewayUnreachable):
        make("http://127.0.0.1:9", retry=Retry(total_seconds=20)).get(JOB_ID)
    assert 10 < clock.now <= 20


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed-request", InvalidRequest),
        (401, "unauthenticated", AccessDenied),
        (403, "forbidden", AccessDenied),
        (404, "unknown-model", NotFound),
        (404, "unknown-dead-letter", NotFound),
        (415, "unsupported-media-type", InvalidRequest),
        (422, "idempotency-mismatch", IdempotencyMismatch),
        (500, "internal-error", Problem),
        (418, "teapot-of-the-future", RequestRefused),
    ],
)
def test_a_refusal_is_not_repeated(
    gateway: ScriptedGateway, make: Make, status: int, code: str, kind: type[Problem]
) -> None:
    gateway.answers = [problem(status, code, "no", trace_id="t", retryable=False)]
    with pytest.raises(kind) as caught:
        make(gateway.url).submit(JPEG, "classifier")
    assert len(gateway.asked) == 1
    assert (caught.value.status, caught.value.code) == (status, code)
    assert (caught.value.trace_id, caught.value.retryable, caught.value.job) == ("t", False, None)


@pytest.mark.parametrize(
    ("http_status", "status", "code", "kind"),
    [
        (422, "failed", "invalid-input", InputRejected),
        (500, "failed", "dead-lettered", JobFailed),
        (503, "failed", "unavailable", JobFailed),
        (504, "expired", "expired", JobExpired),
        (409, "cancelled", "cancelled", JobCancelled),
    ],
)
def test_a_job_that_ended_is_not_submitted_again(  # noqa: PLR0917 - the table's columns
    gateway: ScriptedGateway,
    make: Make,
    http_status: int,
    status: str,
    code: str,
    kind: type[JobEnded],
) -> None:
    job = job_document(status, error={"code": code, "message": "no", "retryable": True})
    gateway.answers = [problem(http_status, code, "no", job=job)]
    with pytest.raises(kind):
        make(gateway.url).run(JPEG, "classifier")
    assert len(gateway.asked) == 1

    # The same job, when its end is learnt by asking.
    gateway.answers = [answer(200, job)]
    with pytest.raises(kind) as caught:
        make(gateway.url).wait(JOB_ID)
    assert caught.value.job is not None
    assert caught.value.job.status == status
    assert caught.value.code == code


def test_run_waits_through_lost_connections_and_restarts(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [
        answer(202, QUEUED, retry_after="1"),
        HANG_UP,
        Answer(503, b"starting"),
        answer(200, RUNNING, retry_after="1"),
        HANG_UP,
        answer(200, SUCCEEDED),
    ]
    job = make(gateway.url).run(JPEG, "classifier")

    assert job.result["labels"][0]["label"] == "Egyptian cat"
    assert [asked.method for asked in gateway.asked] == ["POST", *["GET"] * 5]
    assert {asked.headers["prefer"] for asked in gateway.asked} == {"wait=60"}


def test_a_gateway_that_does_not_wait_is_not_hurried(
    gateway: ScriptedGateway, make: Make, clock: Clock
) -> None:
    gateway.answers = [
        answer(200, QUEUED, retry_after="2"),
        answer(200, QUEUED),
        answer(200, SUCCEEDED),
    ]
    make(gateway.url).wait(JOB_ID)
    assert clock.slept == [2.0, 1.0]


def test_a_caller_who_has_waited_enough_learns_which_job_goes_on(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [answer(202, QUEUED), answer(200, QUEUED, retry_after="4")]
    with pytest.raises(WaitTimedOut, match="has not ended after 10 s") as caught:
        make(gateway.url).run(JPEG, "classifier", wait_seconds=10)
    assert caught.value.job_id == JOB_ID
    assert isinstance(caught.value, TimeoutError)


def test_a_caller_who_has_waited_enough_does_not_wait_for_an_absent_gateway(
    make: Make, clock: Clock
) -> None:
    with pytest.raises(GatewayUnreachable):
        make("http://127.0.0.1:9").run(JPEG, "classifier", wait_seconds=5)
    assert clock.now <= 5


def test_whoever_gives_up_on_a_gateway_learns_which_job_goes_on(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [answer(202, QUEUED), Answer(502, b"a proxy")]
    with pytest.raises(UnexpectedAnswer) as caught:
        make(gateway.url).run(JPEG, "classifier")
    assert caught.value.__notes__ == [f"job {JOB_ID} continues"]


def test_an_upload_slot_with_headers_that_cannot_be_sent_is_refused(
    gateway: ScriptedGateway, make: Make
) -> None:
    slot = {"upload": "ref-1", "url": f"{gateway.url}/slot", "headers": {"x": "\u00fc"}}
    gateway.answers = [answer(201, slot)]
    with pytest.raises(UnexpectedAnswer, match="not an upload slot"):
        make(gateway.url).upload(JPEG, "classifier")


def test_a_job_is_cancelled(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(202, job_document("cancelling"))]
    assert make(gateway.url).cancel(JOB_ID).status == "cancelling"
    assert gateway.asked[0].method == "DELETE"


def test_jobs_come_over_all_pages(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        answer(200, {"jobs": [SUCCEEDED, RUNNING], "next_cursor": "a"}),
        answer(200, {"jobs": [], "next_cursor": "b"}),
        answer(200, {"jobs": [QUEUED], "next_cursor": None}),
    ]
    jobs = make(gateway.url).jobs(model="classifier")
    assert [job.status for job in jobs] == ["succeeded", "running", "queued"]
    assert [asked.target for asked in gateway.asked] == [
        "/v1/jobs?model=classifier",
        "/v1/jobs?model=classifier&cursor=a",
        "/v1/jobs?model=classifier&cursor=b",
    ]


def test_models_keep_what_is_not_known_here(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(200, {"models": [{"name": "noop", "novel": 1}, "odd"]})]
    [model] = make(gateway.url).models()
    assert (model.name, model.document["novel"]) == ("noop", 1)


def test_the_key_of_the_environment_is_used_and_never_shown(
    gateway: ScriptedGateway, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOSELY_API_KEY", KEY)
    gateway.answers = [problem(401, "unauthenticated", "the key is not known")]
    face = make(gateway.url)
    with pytest.raises(AccessDenied) as caught:
        face.get(JOB_ID)
    assert gateway.asked[0].headers["authorization"] == f"Bearer {KEY}"
    shown = repr(face.client) + repr(vars(face.client)) + repr(caught.value) + str(caught.value)
    assert KEY not in shown


@pytest.mark.parametrize("key", ["a\nb", "schl\u00fcssel", " "])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(make: Make, key: str) -> None:
    with pytest.raises(ValueError, match="the API key") as caught:
        make("http://127.0.0.1:9", api_key=key)
    assert key.strip() in {"", *()} or key not in str(caught.value)


def test_a_wait_that_no_gateway_takes_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="from 0 to 200"):
        make("http://127.0.0.1:9").submit(JPEG, "classifier", wait_seconds=201)


def test_a_job_shows_what_it_knows(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        answer(
            200,
            job_document("queued", queue={"position": 3, "eta_seconds": 1.5, "phase": "x"}, new=1),
        )
    ]
    job = make(gateway.url).get(JOB_ID)
    assert isinstance(job, Job)
    assert job.created_at is not None
    assert job.created_at.tzinfo is not None
    assert (job.place.position, job.place.eta_seconds, job.place.phase) == (3, 1.5, "x")
    assert job.document["new"] == 1
    assert job.finished_at is None
