"""Test how `Client` and `AsyncClient` submit jobs, wait for them, list them and read responses."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    Problem,
    RequestRefused,
    Retry,
    UnexpectedAnswer,
    Upload,
    WaitTimedOut,
)
from loosely.client.errors import read_problem
from loosely.client.requests import HttpRequest
from loosely.client.responses import HttpResponse
from loosely.client.transport import MAX_CONNECTIONS, AsyncTransport
from tests.unit.loosely.both_clients import Connect, SleepClock
from tests.unit.loosely.scripted_gateway import (
    HANG_UP,
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
    timeline_document,
)

JPEG = b"\xff\xd8\xff\xe0 picture"
KEY = "lsy_secret"
QUEUED = job_document("queued")
RUNNING = job_document("running")
ONCE = Retry(total_seconds=0)


def test_submit_sends_input_and_options(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    job = connect(gateway.url, api_key=KEY).submit(
        JPEG,
        "classifier",
        parameters={"top": 3},
        deadline_seconds=60,
        webhook_url="https://example.org/",
        priority="low",
        wait_seconds=7,
        idempotency_key="mine",
    )
    [request] = gateway.requests
    assert (request.method, request.body) == ("POST", JPEG)
    assert request.target == (
        "/v1/models/classifier/jobs?parameters=%7B%22top%22%3A+3%7D&deadline_seconds=60"
        "&webhook_url=https%3A%2F%2Fexample.org%2F&priority=low"
    )
    assert request.headers["prefer"] == "wait=7"
    assert request.headers["content-type"] == "image/jpeg"
    assert request.headers["idempotency-key"] == "mine"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("loosely/")
    assert job.is_final
    assert job.id == JOB_ID
    assert job.result["labels"][0]["label"] == "Egyptian cat"
    assert json.loads(job.body) == SUCCEEDED


@pytest.mark.parametrize("is_file", [False, True])
def test_json_input_is_sent_unchanged(
    gateway: ScriptedGateway, connect: Connect, tmp_path: Path, *, is_file: bool
) -> None:
    gateway.responses = [json_response(202, QUEUED)]
    content = b'\xef\xbb\xbf{"numbers": [1e400, 12345678901234567890, "\xc3\xa4"]}'
    file = tmp_path / "input.json"
    file.write_bytes(content)
    source = file if is_file else content
    connect(gateway.url).submit(source, "m", media_type="application/json; charset=utf-8")
    # The numbers are sent as they were written.
    assert gateway.requests[0].body == b'{"input": {"json": ' + content[3:] + b"}}"


@pytest.mark.parametrize("content", [b"", b'{"a": ', b'1}, "priority": "low"', b"\xff\xfe1\x00"])
def test_invalid_json_input_is_refused(
    gateway: ScriptedGateway, connect: Connect, content: bytes
) -> None:
    with pytest.raises(ValueError, match="the input is not JSON"):
        connect(gateway.url).submit(content, "m", media_type="application/json")
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("cat.jpg", r"pass text.encode\(\) .* or pathlib.Path"),
        ({"numbers": [1]}, r"pass json.dumps\(source\).encode\(\) and media_type"),
        (None, r"source is a NoneType: expected bytes"),
    ],
)
def test_other_value_as_input_is_refused(
    gateway: ScriptedGateway, connect: Connect, value: Any, advice: str
) -> None:
    with pytest.raises(TypeError, match=advice):
        connect(gateway.url).submit(value, "m")
    assert gateway.requests == []


def test_repeated_submit_keeps_idempotency_key(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    gateway.responses = [
        HANG_UP,
        problem_response(503, "unavailable", "the queue does not answer"),
        ScriptedResponse(502, b"<html>a proxy"),
        json_response(202, QUEUED),
        json_response(202, QUEUED),
    ]
    client = connect(gateway.url)
    client.submit(JPEG, "classifier")
    client.submit(JPEG, "classifier")

    *first, second = [request.headers["idempotency-key"] for request in gateway.requests]
    assert len(first) == 4
    assert len(set(first)) == 1
    assert second not in first
    for slept, widest in zip(clock.slept, (0.25, 0.5, 1.0), strict=True):
        assert widest / 2 <= slept <= widest


def test_retry_after_is_waited_for(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    busy = problem_response(429, "rate-limited", "5 a second are allowed")
    gateway.responses = [
        ScriptedResponse(429, busy.body, {**busy.headers, "retry-after": "7"}),
        json_response(202, QUEUED),
    ]
    connect(gateway.url).submit(JPEG, "classifier")
    assert clock.slept == [7.0]


def test_retries_end_at_limit(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    gateway.responses = [HANG_UP]
    with pytest.raises(GatewayUnreachable):
        connect(gateway.url, retry=Retry(total_seconds=20)).get(JOB_ID)
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
def test_refused_request_is_not_repeated(
    gateway: ScriptedGateway, connect: Connect, status: int, code: str, kind: type[Problem]
) -> None:
    gateway.responses = [problem_response(status, code, "no", trace_id="t", retryable=False)]
    with pytest.raises(kind) as caught:
        connect(gateway.url).submit(JPEG, "classifier")
    assert len(gateway.requests) == 1
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
def test_final_status_determines_exception(  # noqa: PLR0917 - the table's columns
    gateway: ScriptedGateway,
    connect: Connect,
    http_status: int,
    status: str,
    code: str,
    kind: type[JobEnded],
) -> None:
    job = job_document(status, error={"code": code, "message": "no", "retryable": True})
    gateway.responses = [problem_response(http_status, code, "no", job=job, attempt=2)]
    with pytest.raises(kind) as caught:
        connect(gateway.url).run(JPEG, "classifier")
    assert len(gateway.requests) == 1
    assert caught.value.attempt == 2

    # The exception is the same if the client polls a job that has ended.
    gateway.responses = [json_response(200, job)]
    with pytest.raises(kind) as caught:
        connect(gateway.url).wait(JOB_ID)
    assert caught.value.job is not None
    assert caught.value.job.status == status
    assert caught.value.code == code


def test_run_survives_lost_connections(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        json_response(202, QUEUED, retry_after="1"),
        HANG_UP,
        ScriptedResponse(503, b"starting"),
        json_response(200, RUNNING, retry_after="1"),
        HANG_UP,
        json_response(200, SUCCEEDED),
    ]
    job = connect(gateway.url).run(JPEG, "classifier")

    assert job.result["labels"][0]["label"] == "Egyptian cat"
    assert [request.method for request in gateway.requests] == ["POST", *["GET"] * 5]
    assert {request.headers["prefer"] for request in gateway.requests} == {"wait=60"}


def test_wait_pauses_between_immediate_polls(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    gateway.responses = [
        json_response(200, QUEUED, retry_after="2"),
        json_response(200, QUEUED),
        json_response(200, SUCCEEDED),
    ]
    connect(gateway.url).wait(JOB_ID)
    assert clock.slept == [2.0, 1.0]


def test_timeout_of_run_has_job_id(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(202, QUEUED), json_response(200, QUEUED, retry_after="4")]
    with pytest.raises(WaitTimedOut, match="has not ended after 10 s") as caught:
        connect(gateway.url).run(JPEG, "classifier", wait_seconds=10)
    assert caught.value.job_id == JOB_ID
    assert isinstance(caught.value, TimeoutError)


def test_error_of_wait_has_job_id(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(202, QUEUED), ScriptedResponse(502, b"a proxy")]
    with pytest.raises(UnexpectedAnswer) as caught:
        connect(gateway.url).run(JPEG, "classifier")
    assert caught.value.job_id == JOB_ID
    assert JOB_ID in str(caught.value)


def test_wait_survives_restarts_a_minute_apart(
    gateway: ScriptedGateway, connect: Connect, clock: SleepClock
) -> None:
    def advance() -> None:
        clock.now += 50  # the gateway waits for the job, until it is restarted

    gateway.on_request = advance
    gateway.responses = [*[HANG_UP] * 4, json_response(200, SUCCEEDED)]
    assert connect(gateway.url).run(JPEG, "classifier").status == "succeeded"
    assert clock.now > 200


def test_lost_submit_error_has_idempotency_key(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [HANG_UP]
    with pytest.raises(GatewayUnreachable) as caught:
        connect(gateway.url).submit(JPEG, "classifier")
    assert caught.value.idempotency_key == gateway.requests[0].headers["idempotency-key"]
    assert f"submit it again with the key {caught.value.idempotency_key}" in str(caught.value)


@pytest.mark.parametrize(("options", "limit_seconds"), [({}, 5), ({"wait_seconds": 2}, 2)])
def test_wrong_url_is_reported_within_seconds(
    connect: Connect, clock: SleepClock, options: dict[str, Any], limit_seconds: int
) -> None:
    with pytest.raises(GatewayUnreachable) as caught:
        connect("http://127.0.0.1:9").run(JPEG, "classifier", **options)
    assert clock.now <= limit_seconds
    assert not caught.value.is_sent
    assert caught.value.idempotency_key is None


def test_async_requests_are_bounded() -> None:
    pool_timeouts: set[float | None] = set()
    open_now = most_open = 0
    is_full, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal open_now, most_open
        pool_timeouts.add(request.extensions["timeout"]["pool"])
        open_now += 1
        most_open = max(most_open, open_now)
        if open_now == MAX_CONNECTIONS:
            is_full.set()
        await may_answer.wait()
        open_now -= 1
        return httpx.Response(200)

    async def send_all() -> list[HttpResponse]:
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
        transport = AsyncTransport(http, asyncio.sleep)
        request = HttpRequest("GET", "http://gateway", "http://gateway", timeout_seconds=1)
        sends = [asyncio.create_task(transport.send(request)) for _ in range(2000)]
        await is_full.wait()
        with pytest.raises(GatewayUnreachable, match="all 100 connections of this client"):
            await transport.send(replace(request, queue_seconds=0))
        may_answer.set()
        return await asyncio.gather(*sends)

    assert {response.status for response in asyncio.run(send_all())} == {200}
    assert most_open == MAX_CONNECTIONS
    assert pool_timeouts == {None}


def test_upload_with_invalid_headers_is_unexpected(
    gateway: ScriptedGateway, connect: Connect
) -> None:
    slot = {"upload": "ref-1", "url": f"{gateway.url}/slot", "headers": {"x": "\u00fc"}}
    gateway.responses = [json_response(201, slot)]
    with pytest.raises(UnexpectedAnswer, match="not an upload target"):
        connect(gateway.url).upload(JPEG, "classifier")


def test_timeline_has_steps_and_deliveries(connect: Connect, gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, timeline_document())]
    timeline = connect(gateway.url).timeline(JOB_ID)
    assert (timeline.job_id, timeline.model, timeline.status) == (JOB_ID, "classifier", "succeeded")
    assert sum(step.duration_ms for step in timeline.steps) == timeline.total_ms == 4000
    received = timeline.steps[2]
    assert (received.name, received.share, received.delivery) == ("received", 0.499, 2)
    assert (received.is_adjusted, received.is_beside) == (True, False)
    lost, answered = timeline.deliveries
    assert (lost.number, lost.state, lost.worker) == (1, "lost", None)
    assert (answered.worker, answered.batch_size, answered.duration_ms) == ("gpu-7", 4, 1980.0)
    assert timeline.clock_skew[0]["ahead_ms"] == -350.0
    assert timeline.webhook is not None
    assert timeline.trace_id == "ab" * 16
    assert gateway.requests[0].target == f"/v1/jobs/{JOB_ID}/timeline"


def test_jobs_yields_all_pages(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        json_response(200, {"jobs": [SUCCEEDED, RUNNING], "next_cursor": "a"}),
        json_response(200, {"jobs": [], "next_cursor": "b"}),
        json_response(200, {"jobs": [QUEUED], "next_cursor": None}),
    ]
    jobs = connect(gateway.url).jobs(model="classifier")
    assert [job.status for job in jobs] == ["succeeded", "running", "queued"]
    assert [request.target for request in gateway.requests] == [
        "/v1/jobs?model=classifier",
        "/v1/jobs?model=classifier&cursor=a",
        "/v1/jobs?model=classifier&cursor=b",
    ]


def test_find_jobs_returns_one_page(gateway: ScriptedGateway, connect: Connect) -> None:
    page = {
        "jobs": [{**SUCCEEDED, "label": "order 1", "tenant": "acme"}],
        "next_cursor": "a",
        "searched_back_to": "2026-03-01T11:00:00.000Z",
    }
    gateway.responses = [json_response(200, page)]
    after = datetime(2026, 3, 1, 12, tzinfo=UTC)
    found = connect(gateway.url).find_jobs(model="m", created_after=after, limit=5)
    assert [(job.label, job.tenant) for job in found.jobs] == [("order 1", "acme")]
    assert found.next_cursor == "a"
    assert found.searched_back_to == datetime(2026, 3, 1, 11, tzinfo=UTC)
    query = "model=m&created_after=2026-03-01T12%3A00%3A00%2B00%3A00&limit=5"
    assert gateway.requests[0].target == f"/v1/jobs?{query}"


def test_time_without_zone_is_refused(gateway: ScriptedGateway, connect: Connect) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        connect(gateway.url).find_jobs(created_after=datetime(2026, 3, 1))  # noqa: DTZ001
    assert gateway.requests == []


def test_label_is_sent_in_query_or_body(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(202, {**QUEUED, "label": "a b"})] * 2
    client = connect(gateway.url)
    assert client.submit(b"x", "classifier", media_type="text/plain", label="a b").label == "a b"
    client.submit(Upload("id", "image/png", 1), "classifier", label="a b")
    in_query, in_body = gateway.requests
    assert parse_qs(urlsplit(in_query.target).query) == {"label": ["a b"]}
    assert json.loads(in_body.body)["label"] == "a b"


def test_unknown_members_of_model_are_kept(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(200, {"models": [{"name": "noop", "novel": 1}, "odd"]})]
    [model] = connect(gateway.url).models()
    assert (model.name, model.document["novel"]) == ("noop", 1)


def test_api_key_of_environment_is_never_shown(
    gateway: ScriptedGateway, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOSELY_API_KEY", KEY)
    gateway.responses = [problem_response(401, "unauthenticated", "the key is not known")]
    client = connect(gateway.url)
    with pytest.raises(AccessDenied) as caught:
        client.get(JOB_ID)
    assert gateway.requests[0].headers["authorization"] == f"Bearer {KEY}"
    shown = repr(client.client) + repr(vars(client.client)) + repr(caught.value) + str(caught.value)
    assert KEY not in shown


@pytest.mark.parametrize("key", [" ", "a\nb", "schl\u00fcssel"])
def test_unsendable_api_key_is_refused_unshown(connect: Connect, key: str) -> None:
    with pytest.raises(ValueError, match=r"^the API key (contains|is blank)") as caught:
        connect("http://127.0.0.1:9", api_key=key)
    assert key == " " or key not in str(caught.value)


def test_too_long_wait_is_refused(connect: Connect) -> None:
    with pytest.raises(ValueError, match="expected 0 to 200"):
        connect("http://127.0.0.1:9").submit(JPEG, "classifier", wait_seconds=201)


def test_attributes_are_those_of_document(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        json_response(
            200,
            job_document("queued", queue={"position": 3, "eta_seconds": 1.5, "phase": "x"}, new=1),
        )
    ]
    job = connect(gateway.url).get(JOB_ID)
    assert isinstance(job, Job)
    assert job.created_at is not None
    assert job.created_at.tzinfo is not None
    assert (job.place.position, job.place.eta_seconds, job.place.phase) == (3, 1.5, "x")
    assert job.document["new"] == 1
    assert job.finished_at is None


def test_job_id_is_escaped_in_path(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [problem_response(404, "unknown-job", "no such job")]
    with pytest.raises(RequestRefused):
        connect(gateway.url, retry=ONCE).get("../models?x=/#y")

    assert gateway.requests[0].target == "/v1/jobs/..%2Fmodels%3Fx%3D%2F%23y"


def test_refusal_has_members_of_problem(gateway: ScriptedGateway, connect: Connect) -> None:
    members = {"retryable": True, "stage": "accept"}
    refusal = problem_response(429, "rate-limited", "5 a second are allowed", **members)
    gateway.responses = [ScriptedResponse(429, refusal.body, {"retry-after": "2"})]
    with pytest.raises(RequestRefused) as caught:
        connect(gateway.url, retry=ONCE).submit(b"x", "classifier")
    error = caught.value
    assert str(error) == "rate-limited: 5 a second are allowed"
    assert (error.status, error.code, error.stage) == (429, "rate-limited", "accept")
    assert error.retryable
    assert error.retry_after_seconds == 2.0
    assert error.job is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (ScriptedResponse(200, b"<html>hello</html>"), "not a job"),
        (ScriptedResponse(200, b'{"id": "x"}'), "not a job"),
        (ScriptedResponse(404, b"not found"), "without a problem document"),
        (ScriptedResponse(500, b'["a list"]'), "without a problem document"),
        (ScriptedResponse(500, b"[" * 100_000), "without a problem document"),
        (ScriptedResponse(301, b"", {"location": "/elsewhere"}), "without a problem document"),
    ],
)
def test_foreign_response_is_unexpected(
    gateway: ScriptedGateway, connect: Connect, reply: ScriptedResponse, reason: str
) -> None:
    gateway.responses = [reply]
    with pytest.raises(UnexpectedAnswer, match=reason):
        connect(gateway.url, retry=ONCE).get(JOB_ID)


WITHOUT_RESULT = {**job_document("succeeded"), "result": None}


@pytest.mark.parametrize(
    ("responses", "result"),
    [
        pytest.param(
            [
                ScriptedResponse(303, b"", {"location": "/x?rsct=application/json&sig=secret"}),
                ScriptedResponse(200, b'{"big": 1}', {"content-type": "application/json"}),
            ],
            {"big": 1},
            id="large-json",
        ),
        pytest.param(
            [ScriptedResponse(303, b"", {"location": "/x?rsct=image/png&sig=secret"})],
            None,
            id="large-picture",
        ),
        pytest.param(
            [ScriptedResponse(200, b"null", {"content-type": "application/json"})], None, id="null"
        ),
        pytest.param(
            [ScriptedResponse(200, b"\x89PNG", {"content-type": "image/png"})], None, id="picture"
        ),
        pytest.param(
            [problem_response(404, "unknown-job", "there is no such job")],
            None,
            id="deleted",
        ),
    ],
)
def test_wait_fetches_large_result_only_if_json(
    gateway: ScriptedGateway, connect: Connect, responses: list[ScriptedResponse], result: Any
) -> None:
    gateway.responses = [json_response(200, WITHOUT_RESULT), *responses]
    assert connect(gateway.url, retry=ONCE).wait(JOB_ID).result == result
    assert len(gateway.requests) == 1 + len(responses)


def test_failed_fetch_hides_blob_url(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        ScriptedResponse(303, b"", {"location": "/blobs/x?sig=secret"}),
        ScriptedResponse(403, b"expired"),
    ]
    with pytest.raises(UnexpectedAnswer) as caught:
        connect(gateway.url, retry=ONCE).result(JOB_ID)
    assert "secret" not in str(caught.value)


def test_redirect_without_url_is_unexpected(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [ScriptedResponse(303, b"", {"location": "http://h:99999/"})]
    with pytest.raises(UnexpectedAnswer, match="not a URL"):
        connect(gateway.url, retry=ONCE).result(JOB_ID)


@pytest.mark.parametrize(
    "url", ["", "localhost:7071", "ftp://host/", "http://", "http://h:99999", "http://[::"]
)
def test_invalid_gateway_url_is_refused(connect: Connect, url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        connect(url)


@given(st.binary())
def test_any_bytes_can_be_read_as_problem(body: bytes) -> None:
    assert read_problem(500, body, None) is None or isinstance(
        read_problem(500, body, None), Problem
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["id", "model", "status", "code", "job"]), inner)
        ),
    )
)
def test_any_json_can_be_read_as_job(document: object) -> None:
    body = json.dumps(document).encode()
    job = Job.from_document(json.loads(body), body)
    assert job is None or isinstance(job.status, str)
    read_problem(500, body, None)


class TestEvents:
    def test_each_change_yields_one_event(self, gateway: ScriptedGateway, connect: Connect) -> None:
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
        self, gateway: ScriptedGateway, connect: Connect, clock: SleepClock
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

    def test_ended_job_yields_only_final_event(
        self, gateway: ScriptedGateway, connect: Connect
    ) -> None:
        gateway.responses = [json_response(200, SUCCEEDED)]
        assert [event.kind for event in connect(gateway.url).iter_events(JOB_ID)] == ["final"]

    def test_unknown_job_raises_not_found(self, gateway: ScriptedGateway, connect: Connect) -> None:
        gateway.responses = [problem_response(404, "unknown-job", "no such job")]
        with pytest.raises(NotFound):
            connect(gateway.url).iter_events(JOB_ID)
