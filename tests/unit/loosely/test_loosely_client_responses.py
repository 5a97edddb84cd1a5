import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely import (
    GatewayUnreachable,
    Job,
    JobEnded,
    Problem,
    RequestRefused,
    Result,
    Retry,
    UnexpectedAnswer,
)
from loosely.client.errors import read_problem
from tests.unit.loosely.both_clients import Make
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    SUCCEEDED,
    Answer,
    ScriptedGateway,
    answer,
    job_document,
    problem,
)

ONCE = Retry(total_seconds=0)
JPEG = b"\xff\xd8\xff\xe0 picture"


def nobody_listens() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_submit_sends_the_bytes_with_their_type_and_the_wait(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [answer(200, SUCCEEDED)]
    client = make(gateway.url, retry=ONCE)
    job = client.submit(JPEG, "classifier", wait_seconds=7, deadline_seconds=60)

    [asked] = gateway.asked
    assert (asked.method, asked.target) == (
        "POST",
        "/v1/models/classifier/jobs?deadline_seconds=60",
    )
    assert asked.body == JPEG
    assert asked.headers["content-type"] == "image/jpeg"
    assert asked.headers["prefer"] == "wait=7"
    assert asked.headers["user-agent"].startswith("loosely/")
    assert job.is_final
    assert job.id == JOB_ID
    assert job.result["labels"][0]["label"] == "Egyptian cat"
    assert json.loads(job.body) == SUCCEEDED


def test_no_wait_asks_for_an_answer_at_once(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(202, job_document("queued"), retry_after="3")]
    client = make(gateway.url, retry=ONCE)
    job = client.submit(JPEG, "classifier", wait_seconds=0)

    assert gateway.asked[0].headers["prefer"] == "respond-async"
    assert not job.is_final
    assert job.retry_after_seconds == 3.0


def test_names_cannot_leave_their_place_in_the_path(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [problem(404, "unknown-job", "no such job")]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(RequestRefused):
        client.get("../models?x=/#y")

    assert gateway.asked[0].target == "/v1/jobs/..%2Fmodels%3Fx%3D%2F%23y"


def test_a_refusal_carries_what_the_problem_says(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        Answer(
            429,
            json.dumps(
                {
                    "code": "rate-limited",
                    "title": "Too many requests",
                    "detail": "5 a second are allowed",
                    "retryable": True,
                    "stage": "accept",
                    "trace_id": "t",
                }
            ).encode(),
            {"content-type": "application/problem+json", "retry-after": "2"},
        )
    ]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(RequestRefused) as caught:
        client.submit(JPEG, "classifier")

    error = caught.value
    assert str(error) == "rate-limited: 5 a second are allowed"
    assert (error.status, error.code, error.stage) == (429, "rate-limited", "accept")
    assert error.retryable
    assert error.retry_after_seconds == 2.0
    assert error.job is None


def test_a_job_that_failed_within_the_wait_comes_with_the_problem(
    gateway: ScriptedGateway, make: Make
) -> None:
    failed = job_document("failed", error={"code": "inference-failed"})
    gateway.answers = [problem(500, "inference-failed", "out of memory", job=failed, attempt=2)]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(JobEnded) as caught:
        client.submit(JPEG, "classifier")

    assert caught.value.job is not None
    assert caught.value.job.status == "failed"
    assert caught.value.attempt == 2


def test_no_answer_is_told_from_a_refusal(make: Make) -> None:
    url = nobody_listens()
    client = make(url, retry=ONCE)
    with pytest.raises(GatewayUnreachable, match="cannot be reached") as caught:
        client.submit(JPEG, "classifier")
    assert caught.value.url == url


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Answer(200, b"<html>hello</html>"), "not a job"),
        (Answer(200, b'{"id": "x"}'), "not a job"),
        (Answer(404, b"not found"), "without a problem document"),
        (Answer(500, b'["a list"]'), "without a problem document"),
        (Answer(500, b"[" * 100_000), "without a problem document"),
        (Answer(301, b"", {"location": "/elsewhere"}), "without a problem document"),
    ],
)
def test_another_server_is_not_mistaken_for_a_gateway(
    gateway: ScriptedGateway, make: Make, reply: Answer, reason: str
) -> None:
    gateway.answers = [reply]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer, match=reason):
        client.get(JOB_ID)


def test_a_result_comes_in_its_own_type(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [Answer(200, b"\x89PNG mask", {"content-type": "image/png"})]
    client = make(gateway.url, retry=ONCE)
    result = client.result(JOB_ID)

    assert result == Result(b"\x89PNG mask", "image/png")
    assert gateway.asked[0].target == f"/v1/jobs/{JOB_ID}/result"


def test_no_result_yet_is_the_job(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [answer(202, job_document("running"), retry_after="1")]
    client = make(gateway.url, retry=ONCE)
    result = client.result(JOB_ID)

    assert isinstance(result, Job)
    assert result.status == "running"


def test_a_large_result_is_fetched_from_where_it_lies(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        Answer(303, b"", {"location": "/blobs/x?sig=secret"}),
        Answer(200, b"large", {"content-type": "image/png"}),
    ]
    client = make(gateway.url, retry=ONCE)
    assert client.result(JOB_ID) == Result(b"large", "image/png")
    assert gateway.asked[1].target == "/blobs/x?sig=secret"


def test_a_link_that_leads_nowhere_is_not_shown(gateway: ScriptedGateway, make: Make) -> None:
    gateway.answers = [
        Answer(303, b"", {"location": "/blobs/x?sig=secret"}),
        Answer(403, b"expired"),
    ]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer) as caught:
        client.result(JOB_ID)
    assert "secret" not in str(caught.value)


def test_a_redirect_to_nowhere_is_an_unexpected_answer(
    gateway: ScriptedGateway, make: Make
) -> None:
    gateway.answers = [Answer(303, b"", {"location": "http://h:99999/"})]
    client = make(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer, match="not a URL"):
        client.result(JOB_ID)


@pytest.mark.parametrize(
    "url", ["", "localhost:7071", "ftp://host/", "http://", "http://h:99999", "http://[::"]
)
def test_a_url_that_is_none_is_refused(make: Make, url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        make(url)


@given(st.binary())
def test_any_bytes_are_a_problem_or_none(body: bytes) -> None:
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
def test_any_json_is_read_or_refused(document: object) -> None:
    body = json.dumps(document).encode()
    job = Job.from_body(body)
    assert job is None or isinstance(job.status, str)
    read_problem(500, body, None)
