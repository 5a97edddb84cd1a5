import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely import Job, JobEnded, Problem, RequestRefused, Result, Retry, UnexpectedAnswer
from loosely.client.errors import read_problem
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    SUCCEEDED,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

ONCE = Retry(total_seconds=0)
JPEG = b"\xff\xd8\xff\xe0 picture"


def test_submit_sends_input_type_and_wait(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(200, SUCCEEDED)]
    client = connect(gateway.url, retry=ONCE)
    job = client.submit(JPEG, "classifier", wait_seconds=7, deadline_seconds=60)

    [request] = gateway.requests
    assert (request.method, request.target) == (
        "POST",
        "/v1/models/classifier/jobs?deadline_seconds=60",
    )
    assert request.body == JPEG
    assert request.headers["content-type"] == "image/jpeg"
    assert request.headers["prefer"] == "wait=7"
    assert request.headers["user-agent"].startswith("loosely/")
    assert job.is_final
    assert job.id == JOB_ID
    assert job.result["labels"][0]["label"] == "Egyptian cat"
    assert json.loads(job.body) == SUCCEEDED


def test_job_id_is_escaped_in_path(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [problem_response(404, "unknown-job", "no such job")]
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(RequestRefused):
        client.get("../models?x=/#y")

    assert gateway.requests[0].target == "/v1/jobs/..%2Fmodels%3Fx%3D%2F%23y"


def test_refusal_has_members_of_problem(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        ScriptedResponse(
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
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(RequestRefused) as caught:
        client.submit(JPEG, "classifier")

    error = caught.value
    assert str(error) == "rate-limited: 5 a second are allowed"
    assert (error.status, error.code, error.stage) == (429, "rate-limited", "accept")
    assert error.retryable
    assert error.retry_after_seconds == 2.0
    assert error.job is None


def test_failure_contains_job(gateway: ScriptedGateway, connect: Connect) -> None:
    failed = job_document("failed", error={"code": "inference-failed"})
    gateway.responses = [
        problem_response(500, "inference-failed", "out of memory", job=failed, attempt=2)
    ]
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(JobEnded) as caught:
        client.submit(JPEG, "classifier")

    assert caught.value.job is not None
    assert caught.value.job.status == "failed"
    assert caught.value.attempt == 2


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
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer, match=reason):
        client.get(JOB_ID)


def test_result_has_media_type_of_response(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [ScriptedResponse(200, b"\x89PNG mask", {"content-type": "image/png"})]
    client = connect(gateway.url, retry=ONCE)
    result = client.result(JOB_ID)

    assert result == Result(b"\x89PNG mask", "image/png")
    assert gateway.requests[0].target == f"/v1/jobs/{JOB_ID}/result"


def test_result_of_running_job_is_job(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [json_response(202, job_document("running"), retry_after="1")]
    client = connect(gateway.url, retry=ONCE)
    result = client.result(JOB_ID)

    assert isinstance(result, Job)
    assert result.status == "running"


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
    client = connect(gateway.url, retry=ONCE)
    assert client.wait(JOB_ID).result == result
    assert len(gateway.requests) == 1 + len(responses)


def test_failed_fetch_hides_blob_url(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [
        ScriptedResponse(303, b"", {"location": "/blobs/x?sig=secret"}),
        ScriptedResponse(403, b"expired"),
    ]
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer) as caught:
        client.result(JOB_ID)
    assert "secret" not in str(caught.value)


def test_redirect_without_url_is_unexpected(gateway: ScriptedGateway, connect: Connect) -> None:
    gateway.responses = [ScriptedResponse(303, b"", {"location": "http://h:99999/"})]
    client = connect(gateway.url, retry=ONCE)
    with pytest.raises(UnexpectedAnswer, match="not a URL"):
        client.result(JOB_ID)


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
    job = Job.from_body(body)
    assert job is None or isinstance(job.status, str)
    read_problem(500, body, None)
