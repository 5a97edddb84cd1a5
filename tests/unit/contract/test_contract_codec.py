import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
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
    Stage,
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
from tests.unit.contract.message_strategies import (
    JSON,
    MARKS,
    NOTES,
    NOW,
    REPLIES,
    REPLY,
    REQUEST,
    REQUESTS,
)


@given(request=REQUESTS, content=st.binary(), repeats=st.sampled_from([1, 5000]))
def test_request_with_bytes_is_the_json_of_its_fields(
    request: JobRequest, content: bytes, repeats: int
) -> None:
    request = replace(request, input=InlineBytes('image/"jpeg"', content[:20] * repeats))
    fields = request_to_json(request)
    text = json.dumps(fields, separators=(",", ":")).encode()
    if len(text) <= MAX_MESSAGE_BYTES:
        assert encode_request(request) == text
    else:
        with pytest.raises(MessageTooLarge):
            encode_request(request)


@pytest.mark.parametrize(
    ("messages", "encode", "decode"),
    [
        (REQUESTS, encode_request, decode_request),
        (REPLIES, encode_reply, decode_reply),
        (NOTES, encode_note, decode_note),
        (
            MARKS,
            lambda marks: json.dumps(marks_to_json(marks)),
            lambda text: marks_from_json(Fields(json.loads(text))),
        ),
    ],
)
@given(data=st.data())
def test_message_is_decoded_unchanged(
    messages: st.SearchStrategy[Any],
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any],
    data: st.DataObject,
) -> None:
    message = data.draw(messages)
    assert decode(encode(message)) == message


@pytest.mark.parametrize("character", ["x", "\n", "\U0001f600"])
def test_note_keeps_the_end_of_a_long_traceback(character: str) -> None:
    note = DeliveryNote(1, DeliveryMarks(NOW), traceback=character * 9000 + "ValueError: why")
    data = encode_note(note)
    assert MAX_NOTE_BYTES // 2 < len(data) <= MAX_NOTE_BYTES
    assert (decode_note(data).traceback or "").endswith("ValueError: why")


def test_timing_without_marks_is_as_in_older_versions() -> None:
    assert list(reply_to_json(REPLY)["timing"]) == ["queued_ms", "inference_ms", "batch_size"]


def test_unknown_marks_are_kept() -> None:
    value = reply_to_json(REPLY)
    value["timing"]["delivery"] = {"received_at": "later", "new_ms": [1]}
    assert reply_to_json(reply_from_json(value)) == value


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_random_bytes_raise_a_contract_error(data: bytes) -> None:
    for decode in (decode_request, decode_reply):
        with pytest.raises(ContractError):
            decode(data)


@given(st.data())
def test_any_field_value_is_decoded_or_refused(data: st.DataObject) -> None:
    """Replace one field or named result by any JSON value. Only a ContractError may follow."""
    request = request_to_json(REQUEST)
    request[data.draw(st.sampled_from(sorted(request)))] = data.draw(JSON)
    reply = reply_to_json(replace(REPLY, results={"mask": InlineJson(1)}))
    name = data.draw(st.sampled_from([*sorted(reply), "results.mask"]))
    place = reply["results"] if name == "results.mask" else reply
    place[name.rpartition(".")[2]] = data.draw(JSON)
    for decode, document in ((decode_request, request), (decode_reply, reply)):
        try:
            decode(json.dumps(document).encode())
        except ContractError as error:
            assert str(error)  # noqa: PT017


def test_request_has_the_fields_of_schema_version_1() -> None:
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
def test_unknown_schema_version_is_refused(version: object) -> None:
    with pytest.raises(UnsupportedSchema, match="this program reads 1 and 2"):
        request_from_json({**request_to_json(REQUEST), "schema": version})
    with pytest.raises(UnsupportedSchema, match="this program reads 1 and 2"):
        reply_from_json({**reply_to_json(REPLY), "schema": version})


def test_named_results_have_schema_version_2() -> None:
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
def test_invalid_named_results_are_refused(change: dict[str, object], said: str) -> None:
    document = {**reply_to_json(REPLY), "schema": 2, "results": {"mask": {"json": 1}}, **change}
    with pytest.raises(MalformedMessage, match=said):
        reply_from_json(document)


def test_named_inputs_have_schema_version_2() -> None:
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
def test_invalid_named_inputs_are_refused(inputs: object, said: str) -> None:
    with pytest.raises(MalformedMessage, match=said):
        request_from_json({**request_to_json(REQUEST), "schema": 2, "inputs": inputs})


def test_names_of_schema_version_1_are_unknown_fields() -> None:
    document = {**request_to_json(REQUEST), "inputs": {"mask": {"json": 1}}}
    request = request_from_json(document)
    assert (request.inputs, request_to_json(request)) == ({}, document)
    document = {**reply_to_json(REPLY), "results": {"mask": {"json": 1}}}
    reply = reply_from_json(document)
    assert (reply.results, reply_to_json(reply)) == ({}, document)


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


@settings(max_examples=40)
@given(REQUESTS, REPLIES)
def test_older_codec_refuses_only_schema_version_2(request: JobRequest, reply: JobReply) -> None:
    for data, is_new, decode, encode in (
        (encode_request(request), request.inputs, OLD.decode_request, OLD.encode_request),
        (encode_reply(reply), reply.results, OLD.decode_reply, OLD.encode_reply),
    ):
        if is_new:
            with pytest.raises(UnsupportedSchema, match="has schema version 2, but this program"):
                decode(data)
        else:
            assert encode(decode(data)) == data


@settings(max_examples=40)
@given(REQUESTS, REPLIES)
def test_older_message_is_encoded_byte_for_byte(request: JobRequest, reply: JobReply) -> None:
    old_request = OLD.decode_request(encode_request(replace(request, inputs={})))
    old_reply = OLD.decode_reply(encode_reply(replace(reply, results={})))
    data = OLD.encode_request(old_request)
    assert encode_request(decode_request(data)) == data
    data = OLD.encode_reply(old_reply)
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
def test_error_names_the_invalid_field(change: dict[str, object], said: str) -> None:
    with pytest.raises(MalformedMessage, match=said):
        request_from_json({**request_to_json(REQUEST), **change})


@pytest.mark.parametrize("outcomes", [{}, {"result": {"json": 1}, "error": {}}])
def test_reply_has_either_result_or_error(outcomes: dict[str, object]) -> None:
    document = reply_to_json(REPLY)
    del document["result"]
    with pytest.raises(MalformedMessage, match="exactly one"):
        reply_from_json({**document, **outcomes})


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_nan_and_infinity_are_refused(constant: bytes) -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        decode_reply(constant)


def test_unpaired_surrogate_is_decoded_unchanged() -> None:
    request = replace(REQUEST, parameters={"text": "\ud800"})
    assert decode_request(encode_request(request)) == request


def test_deeply_nested_json_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="not JSON"):
        decode_request(b"[" * 100_000)


@pytest.mark.parametrize("decode", [decode_request, decode_reply])
def test_large_message_is_refused_before_parsing(decode: Callable[[bytes], object]) -> None:
    with pytest.raises(MessageTooLarge):
        decode(b" " * (MAX_MESSAGE_BYTES + 1))


def test_large_message_should_refer_to_a_blob() -> None:
    large = replace(REQUEST, input=InlineBytes("text/plain", b"x" * MAX_MESSAGE_BYTES))
    with pytest.raises(MessageTooLarge, match="send a reference"):
        encode_request(large)


def test_times_are_encoded_in_utc() -> None:
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(east) == "2026-01-01T00:00:00.000Z"


def test_repr_omits_reply_url_and_payload() -> None:
    assert "secret" not in repr(REQUEST)
    assert "hello" not in repr(REQUEST)
