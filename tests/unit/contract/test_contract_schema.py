"""Test that the published JSON Schema of a request agrees with its encoder and decoder."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from contract.messages import (
    JOB_REQUEST_SCHEMA,
    JobRequest,
    encode_request,
    request_from_json,
    request_to_json,
)
from tests.unit.contract.message_strategies import JSON, REQUEST, REQUESTS

SCHEMA = json.loads(JOB_REQUEST_SCHEMA.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def test_schema_is_a_valid_json_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@given(REQUESTS)
def test_encoded_requests_are_valid(request: JobRequest) -> None:
    VALIDATOR.validate(json.loads(encode_request(request)))


@given(st.data())
def test_valid_requests_can_be_decoded(data: st.DataObject) -> None:
    document = request_to_json(data.draw(REQUESTS))
    name = data.draw(st.sampled_from(sorted(document)))
    if data.draw(st.booleans()):
        del document[name]
    else:
        document[name] = data.draw(JSON)
    if VALIDATOR.is_valid(document):
        request_from_json(document)


def test_whole_number_may_be_a_float() -> None:
    document = {**request_to_json(REQUEST), "attempt": 2.0}
    assert VALIDATOR.is_valid(document)
    assert request_from_json(document).attempt == 2


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 3},
        {"schema": 2},
        {"schema": 2, "inputs": {}},
        {"schema": 2, "inputs": {"Mask": {"json": 1}}},
        {"schema": 2, "inputs": {"mask": {}}},
        {"job_id": "a/b"},
        {"input": {}},
        {"input": {"media_type": "text/plain", "base64": "%"}},
        {"deadline": "2026-01-02T03:05:05"},
        {"reply_to": {"queue": "a", "url": "b"}},
        {"reply_to": {}},
        {"attempt": 0},
    ],
)
def test_requests_that_the_codec_refuses_are_invalid(change: dict[str, object]) -> None:
    assert not VALIDATOR.is_valid({**request_to_json(REQUEST), **change})
