import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.deliveries import MAX_NOTE_BYTES, DeliveryNote, decode_note, encode_note
from contract.errors import ContractError, MalformedMessage, MessageTooLarge, UnsupportedSchema
from contract.messages import (
    MAX_MESSAGE_BYTES,
    DeliveryMarks,
    Fields,
    InlineBytes,
    InlineJson,
    JobError,
    JobReply,
    JobRequest,
    Payload,
    PayloadRef,
    PayloadUrl,
    ReplyQueue,
    ReplyUrl,
    Stage,
    Timing,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
    error_to_json,
    format_time,
    marks_from_json,
    marks_to_json,
    reply_from_json,
    reply_to_json,
    request_from_json,
    request_to_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
# Times in messages have the precision of a millisecond.
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)
PAYLOADS: st.SearchStrategy[Payload] = st.one_of(
    st.builds(InlineBytes, TEXT, st.binary(max_size=200)),
    st.builds(InlineJson, JSON),
    st.builds(
        PayloadRef, TEXT, TEXT, st.integers(0, 2**40), st.from_regex("[0-9a-f]{64}", fullmatch=True)
    ),
    st.builds(PayloadRef, TEXT, TEXT, st.integers(0, 2**40), st.none(), TEXT),
)
ERRORS = st.builds(JobError, TEXT, TEXT, st.sampled_from(Stage), st.booleans())
JOB_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True)
EXTRA = st.dictionaries(st.from_regex("x_[a-z]{1,10}", fullmatch=True), JSON, max_size=3)
INPUTS = PAYLOADS | st.builds(PayloadUrl, TEXT, st.none() | TEXT)
PAYLOAD_NAMES = st.from_regex("[a-z][a-z0-9_]{0,31}", fullmatch=True)
REQUESTS = st.builds(
    JobRequest,
    job_id=JOB_IDS,
    model=TEXT,
    input=INPUTS,
    created_at=TIMES,
    deadline=TIMES,
    parameters=st.dictionaries(TEXT, JSON, max_size=3),
    reply_to=st.none() | st.builds(ReplyUrl, TEXT) | st.builds(ReplyQueue, TEXT),
    attempt=st.integers(1, 1000),
    extra=EXTRA,
    inputs=st.just({}) | st.dictionaries(PAYLOAD_NAMES, INPUTS, min_size=1, max_size=4),
)
DURATIONS = st.floats(0, 1e9)
NAMES = st.none() | TEXT
MARKS = st.builds(
    DeliveryMarks,
    TIMES,
    st.none() | TIMES,
    NAMES,
    NAMES,
    *[st.none() | DURATIONS] * 6,
)
TIMINGS = st.builds(
    Timing,
    DURATIONS,
    DURATIONS,
    st.integers(1, 4096),
    st.none() | MARKS.map(marks_to_json),
)


def _replies(
    outcomes: st.SearchStrategy[Any], results: st.SearchStrategy[dict[str, Payload]]
) -> st.SearchStrategy[JobReply]:
    return st.builds(
        JobReply,
        job_id=JOB_IDS,
        outcome=outcomes,
        started_at=TIMES,
        finished_at=TIMES,
        timing=TIMINGS,
        attempt=st.integers(1, 1000),
        extra=EXTRA,
        results=results,
    )


# A failed job has no named results.
REPLIES = _replies(PAYLOADS | ERRORS, st.just({})) | _replies(
    PAYLOADS, st.dictionaries(PAYLOAD_NAMES, PAYLOADS, min_size=1, max_size=4)
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REQUEST = JobRequest(
    job_id="018f",
    model="noop",
    input=InlineBytes("text/plain", b"hello"),
    created_at=NOW,
    deadline=NOW + timedelta(minutes=1),
    reply_to=ReplyUrl("http://127.0.0.1:7071/v1/jobs/018f/reply?token=secret"),
)
REPLY = JobReply("018f", InlineJson({"labels": []}), started_at=NOW, finished_at=NOW)


@given(REQUESTS)
def test_an_encoded_request_is_decoded_unchanged(request: JobRequest) -> None:
    assert decode_request(encode_request(request)) == request


@given(REPLIES)
def test_an_encoded_reply_is_decoded_unchanged(reply: JobReply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


@given(MARKS)
def test_encoded_delivery_step_times_are_decoded_unchanged(marks: DeliveryMarks) -> None:
    assert marks_from_json(Fields(json.loads(json.dumps(marks_to_json(marks))))) == marks


@given(
    st.builds(
        DeliveryNote,
        st.integers(1, 99),
        MARKS,
        st.none() | DURATIONS,
        st.none() | TEXT,
        st.none() | TEXT,
        st.none() | st.just("Traceback"),
    )
)
def test_an_encoded_delivery_note_is_decoded_unchanged(note: DeliveryNote) -> None:
    assert decode_note(encode_note(note)) == note


@pytest.mark.parametrize("character", ["x", "\n", "\U0001f600"])
def test_a_delivery_note_keeps_the_end_of_a_long_traceback(character: str) -> None:
    note = DeliveryNote(1, DeliveryMarks(NOW), traceback=character * 9000 + "ValueError: why")
    data = encode_note(note)
    assert MAX_NOTE_BYTES // 2 < len(data) <= MAX_NOTE_BYTES
    assert (decode_note(data).traceback or "").endswith("ValueError: why")


def test_a_reply_without_delivery_step_times_has_the_same_json_members_as_in_older_versions() -> (
    None
):
    assert list(reply_to_json(REPLY)["timing"]) == ["queued_ms", "inference_ms", "batch_size"]


def test_decoding_and_encoding_a_reply_keeps_unknown_delivery_step_times() -> None:
    value = reply_to_json(REPLY)
    value["timing"]["delivery"] = {"received_at": "later", "new_ms": [1]}
    assert reply_to_json(reply_from_json(value)) == value


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_decoding_random_bytes_or_a_random_json_value_raises_a_contract_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(ContractError):
            decode(data)


@given(st.data())
def test_decoding_a_request_with_any_field_value_succeeds_or_raises_a_contract_error(
    data: st.DataObject,
) -> None:
    """Replace one field of a request by any JSON value. Decoding may raise only a ContractError."""
    document = request_to_json(REQUEST)
    name = data.draw(st.sampled_from(sorted(document)))
    document[name] = data.draw(JSON)
    try:
        decode_request(json.dumps(document).encode())
    except ContractError as error:
        assert str(error)  # noqa: PT017


@given(st.data())
def test_decoding_a_reply_with_any_field_value_succeeds_or_raises_a_contract_error(
    data: st.DataObject,
) -> None:
    """Replace one field or named result of a reply by any JSON value.

    Decoding may raise only a ContractError.
    """
    document = reply_to_json(replace(REPLY, results={"mask": InlineJson(1)}))
    name = data.draw(st.sampled_from([*sorted(document), "results.mask"]))
    place = document["results"] if name == "results.mask" else document
    place[name.rpartition(".")[2]] = data.draw(JSON)
    try:
        decode_reply(json.dumps(document).encode())
    except ContractError as error:
        assert str(error)  # noqa: PT017


def test_an_encoded_request_has_the_json_members_of_schema_version_1() -> None:
    assert json.loads(encode_request(REQUEST)) == {
        "schema": 1,
        "job_id": "018f",
        "model": "noop",
        "input": {"media_type": "text/plain", "base64": "aGVsbG8="},
        "parameters": {},
        "created_at": "2026-01-02T03:04:05.000Z",
        "deadline": "2026-01-02T03:05:05.000Z",
        "reply_to": {"url": "http://127.0.0.1:7071/v1/jobs/018f/reply?token=secret"},
        "attempt": 1,
    }


@pytest.mark.parametrize("version", [3, 0, "1", None, True, 1.5])
def test_a_message_with_an_unknown_schema_version_is_refused(version: object) -> None:
    with pytest.raises(UnsupportedSchema, match="this program reads 1 and 2"):
        request_from_json({**request_to_json(REQUEST), "schema": version})
    with pytest.raises(UnsupportedSchema, match="this program reads 1 and 2"):
        reply_from_json({**reply_to_json(REPLY), "schema": version})


def test_an_encoded_reply_with_named_results_has_schema_version_2() -> None:
    document = json.loads(encode_reply(replace(REPLY, results={"mask": InlineBytes("a/b", b"m")})))
    assert document == {
        **reply_to_json(REPLY),
        "schema": 2,
        "results": {"mask": {"media_type": "a/b", "base64": "bQ=="}},
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"results": None}, "results: the field is missing"),
        ({"results": {}}, "results: expected at least one named result"),
        ({"results": {"Mask": {"json": 1}}}, "names of 1 to 32 lower-case.* found 'Mask'"),
        ({"results": {"../mask": {"json": 1}}}, "names of 1 to 32 lower-case"),
        ({"results": {"mask": {"media_type": "image/png"}}}, "fields base64, json and blob"),
        ({"results": {"mask": {"url": "https://a"}}}, "results.mask.media_type: the field is"),
        (
            {"result": None, "error": error_to_json(JobError("a", "b", Stage.RUN, False))},
            "result: the field is missing, but a reply with named results must have it",
        ),
    ],
)
def test_a_reply_of_schema_version_2_without_valid_named_results_is_refused(
    change: dict[str, object], said: str
) -> None:
    document = {**reply_to_json(REPLY), "schema": 2, "results": {"mask": {"json": 1}}, **change}
    with pytest.raises(MalformedMessage, match=said):
        reply_from_json(document)


def test_a_results_field_in_a_reply_of_schema_version_1_is_kept_as_an_unknown_field() -> None:
    document = {**reply_to_json(REPLY), "results": {"mask": {"json": 1}}}
    reply = reply_from_json(document)
    assert (reply.results, reply_to_json(reply)) == ({}, document)


def test_an_encoded_request_with_named_inputs_has_schema_version_2() -> None:
    document = json.loads(encode_request(replace(REQUEST, inputs={"mask": InlineJson([1])})))
    assert document == {
        **request_to_json(REQUEST),
        "schema": 2,
        "inputs": {"mask": {"media_type": "application/json", "json": [1]}},
    }


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "inputs: the field is missing"),
        ({}, "inputs: expected at least one named input"),
        ({"Mask": {"json": 1}}, "names of 1 to 32 lower-case letters.* found 'Mask'"),
        ({"mask": {"media_type": "image/png"}}, "fields base64, json and blob"),
        ({"mask": {"url": 1}}, "inputs.mask.url: expected a string, found a number"),
    ],
)
def test_a_request_of_schema_version_2_without_valid_named_inputs_is_refused(
    inputs: object, said: str
) -> None:
    with pytest.raises(MalformedMessage, match=said):
        request_from_json({**request_to_json(REQUEST), "schema": 2, "inputs": inputs})


def test_an_inputs_field_in_a_request_of_schema_version_1_is_kept_as_an_unknown_field() -> None:
    document = {**request_to_json(REQUEST), "inputs": {"mask": {"json": 1}}}
    request = request_from_json(document)
    assert (request.inputs, request_to_json(request)) == ({}, document)


def recorded_codec() -> ModuleType:
    """Load the module messages-of-schema-1.txt, the last codec before schema version 2.

    This codec can read only messages of schema version 1.
    """
    module = ModuleType("messages_of_schema_1")
    module.__file__ = str(Path(__file__).with_name("messages-of-schema-1.txt"))
    # The module must be importable by its name, because dataclasses look up its annotations.
    sys.modules[module.__name__] = module
    exec(Path(module.__file__).read_text(encoding="utf-8"), vars(module))
    return module


OLD = recorded_codec()


@given(REQUESTS)
def test_an_older_codec_refuses_a_request_only_if_the_request_has_schema_version_2(
    request: JobRequest,
) -> None:
    data = encode_request(request)
    if request.inputs:
        with pytest.raises(UnsupportedSchema, match="has schema version 2, but this program"):
            OLD.decode_request(data)
    else:
        assert OLD.encode_request(OLD.decode_request(data)) == data


@given(REQUESTS)
def test_a_request_from_an_older_codec_is_byte_for_byte_equal_after_decoding_and_encoding(
    request: JobRequest,
) -> None:
    old = OLD.decode_request(encode_request(replace(request, inputs={})))
    data = OLD.encode_request(old)
    assert encode_request(decode_request(data)) == data


@given(REPLIES)
def test_an_older_codec_refuses_a_reply_only_if_the_reply_has_schema_version_2(
    reply: JobReply,
) -> None:
    data = encode_reply(reply)
    if reply.results:
        with pytest.raises(UnsupportedSchema, match="has schema version 2, but this program"):
            OLD.decode_reply(data)
    else:
        assert OLD.encode_reply(OLD.decode_reply(data)) == data


@given(REPLIES)
def test_a_reply_from_an_older_codec_is_byte_for_byte_equal_after_decoding_and_encoding(
    reply: JobReply,
) -> None:
    old = OLD.decode_reply(encode_reply(replace(reply, results={})))
    data = OLD.encode_reply(old)
    assert encode_reply(decode_reply(data)) == data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"job_id": "a/b"}, "job_id"),
        ({"job_id": ""}, "job_id: the text must not be empty"),
        ({"model": None}, "model: the field is missing"),
        ({"model": "\ud800"}, "model: the text is not valid Unicode"),
        ({"model": 7}, "model: expected a string, found a number"),
        ({"input": {"media_type": "text/plain"}}, "fields base64, json and blob"),
        ({"input": {"media_type": "text/plain", "base64": "%"}}, "base64"),
        ({"input": []}, "input: expected an object, found a list"),
        ({"deadline": "2026-01-02T03:05:05"}, "deadline: expected an RFC 3339 time"),
        ({"deadline": "0001-01-01T00:00:00+23:59"}, "deadline: the time is out of range"),
        ({"attempt": 0}, "attempt: expected a whole number of at least 1"),
        ({"attempt": True}, "attempt: expected a whole number of at least 1"),
        ({"reply_to": {"url": ""}}, "reply_to.url: the text must not be empty"),
        ({"reply_to": {"queue": None}}, "reply_to.queue: the field is missing"),
        ({"reply_to": {"webhook": 1}}, "reply_to.url: the field is missing"),
        ({"input": {"url": 1}}, "input.url: expected a string, found a number"),
        ({"parameters": [1]}, "parameters: expected an object"),
    ],
)
def test_the_error_for_an_invalid_field_names_the_field(
    change: dict[str, object], said: str
) -> None:
    with pytest.raises(MalformedMessage, match=said):
        request_from_json({**request_to_json(REQUEST), **change})


@pytest.mark.parametrize("outcomes", [{}, {"result": {"json": 1}, "error": {}}])
def test_a_reply_that_has_both_a_result_and_an_error_or_neither_is_refused(
    outcomes: dict[str, object],
) -> None:
    document = reply_to_json(REPLY)
    del document["result"]
    with pytest.raises(MalformedMessage, match="exactly one"):
        reply_from_json({**document, **outcomes})


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_message_containing_nan_or_infinity_is_refused(constant: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        decode_reply(constant)


def test_an_unpaired_surrogate_in_a_value_is_decoded_unchanged() -> None:
    request = replace(REQUEST, parameters={"text": "\ud800"})
    assert decode_request(encode_request(request)) == request


def test_decoding_deeply_nested_json_raises_malformed_message() -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        decode_request(b"[" * 100_000)


@pytest.mark.parametrize("decode", [decode_request, decode_reply])
def test_a_message_over_the_size_limit_is_refused_before_parsing(
    decode: Callable[[bytes], object],
) -> None:
    with pytest.raises(MessageTooLarge):
        decode(b" " * (MAX_MESSAGE_BYTES + 1))


def test_the_error_for_a_message_over_the_size_limit_recommends_blob_storage() -> None:
    large = replace(REQUEST, input=InlineBytes("text/plain", b"x" * MAX_MESSAGE_BYTES))
    with pytest.raises(MessageTooLarge, match="send a reference"):
        encode_request(large)


def test_the_times_in_a_message_are_encoded_in_utc() -> None:
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == "2026-01-01T00:00:00.000Z"


def test_the_repr_of_a_request_omits_the_reply_url_and_the_payload() -> None:
    assert "secret" not in repr(REQUEST)
    assert "hello" not in repr(REQUEST)
