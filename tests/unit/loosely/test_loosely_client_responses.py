import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loosely import Job, Problem, RequestRefused, Retry, UnexpectedAnswer
from loosely.client.errors import read_problem
from tests.unit.loosely.both_clients import Connect
from tests.unit.loosely.scripted_gateway import (
    JOB_ID,
    ScriptedGateway,
    ScriptedResponse,
    job_document,
    json_response,
    problem_response,
)

ONCE = Retry(total_seconds=0)


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
    job = Job.from_body(body)
    assert job is None or isinstance(job.status, str)
    read_problem(500, body, None)
