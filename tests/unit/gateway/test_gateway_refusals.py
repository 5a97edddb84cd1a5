"""Test that a refused request creates no job, and gets a problem document with a code."""

import json
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract.messages import InlineBytes
from tests.unit.gateway.conftest import RunningGateway, open_gateway

JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x10\x00\x20\x03" + b"\0" * 20
LARGE = {"parameters": json.dumps({"a": "x" * 17_000})}
URLENCODED = "application/x-www-form-urlencoded"
UNSUPPORTED, MALFORMED, INVALID = "unsupported-media-type", "malformed-request", "invalid-input"
FOUND = "the content is image/png, but the media type of the request is image/jpeg"
ACCEPTED = {"accepted": ["image/jpeg", "image/png", "image/webp"]}
HUGE_PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 30_000, 30_000) + b"\0" * 9


@dataclass
class Case:
    name: str
    status: int
    code: str
    content: bytes = b"x"
    media_type: str = "application/octet-stream"
    model: str = "noop"
    query: dict[str, Any] = field(default_factory=dict)
    detail: str = ""
    members: dict[str, Any] = field(default_factory=dict)


def envelope(name: str, value: object, detail: str, status: int = 400, code: str = "") -> Case:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    code = code or MALFORMED
    return Case(name, status, code, content, "application/json", detail=detail)


CASES = [
    Case("unknown model", 404, "unknown-model", model="nop", detail="noop"),
    Case("unaccepted media type", 415, UNSUPPORTED, media_type="audio/wav"),
    Case("text for pictures", 415, UNSUPPORTED, b"x", "text/plain", "classifier", members=ACCEPTED),
    Case("URL-encoded form", 415, UNSUPPORTED, media_type=URLENCODED, detail="no Content-Type"),
    Case("text as a picture", 415, UNSUPPORTED, b"just words", "image/jpeg", "classifier"),
    Case("a picture as text", 415, UNSUPPORTED, JPEG, "text/plain"),
    Case(
        "PNG as JPEG", 415, UNSUPPORTED, HUGE_PNG, "image/jpeg", "classifier",
        detail=FOUND, members={"found": "image/png"},
    ),
    Case("bytes of an unknown type", 415, UNSUPPORTED, b"zzz", model="classifier"),
    Case("empty body", 422, INVALID, b"", "image/jpeg", "classifier", detail="empty"),
    Case("no frame header", 422, INVALID, JPEG[:6], "image/jpeg", "classifier"),
    Case("too many pixels", 422, INVALID, HUGE_PNG, "image/png", "classifier", detail="pixels"),
    Case("too large", 413, "payload-too-large", b"\0" * (4_194_304 + 1), detail="4194304"),
    Case("deadline of 0", 400, MALFORMED, query={"deadline_seconds": "0"}),
    Case("deadline over the limit", 400, MALFORMED, query={"deadline_seconds": "3601"}),
    Case("deadline that is no number", 400, MALFORMED, query={"deadline_seconds": "soon"}),
    Case("deadline of a thousand digits", 400, MALFORMED, query={"deadline_seconds": "9" * 1000}),
    Case("parameters that are a list", 400, MALFORMED, query={"parameters": "[]"}),
    Case("parameters that are not JSON", 400, MALFORMED, query={"parameters": "{"}),
    Case("parameters with NaN", 400, MALFORMED, query={"parameters": '{"a": NaN}'}),
    Case("parameters with 1e999", 400, MALFORMED, query={"parameters": '{"a": 1e999}'}),
    Case("large parameters", 400, MALFORMED, query=LARGE),
    Case("unknown query parameter", 400, MALFORMED, query={"wait": "5"}, detail="deadline_seconds"),
    Case("an option twice", 400, MALFORMED, query={"priority": ["low", "normal"]}, detail="once"),
    Case("form without boundary", 400, MALFORMED, b"x", "multipart/form-data"),
    Case("webhook without secrets", 422, INVALID, query={"webhook_url": "https://8.8.8.8/"}),
    envelope("webhook that is a list", {"input": {"text": "x"}, "webhook": []}, "webhook"),
    envelope("webhook that is a URL", {"input": {"text": "x"}, "webhook": "https://a"}, "webhook"),
    envelope("webhook without URL", {"input": {"text": "x"}, "webhook": {}}, "webhook"),
    envelope(
        "webhook with an unknown member",
        {"input": {"text": "x"}, "webhook": {"url": "https://a", "x": 1}},
        "webhook",
    ),
    envelope("malformed JSON", b"{", "not JSON"),
    envelope("JSON in another encoding", '{"input": {"text": "é"}}'.encode("latin-1"), "not JSON"),
    envelope("deeply nested JSON", b"[" * 100_000, "not JSON"),
    envelope("JSON without input", {}, "input"),
    envelope("JSON that is a list", [], "input"),
    envelope("unknown member", {"input": {"text": "a"}, "priorty": "low"}, "priorty"),
    envelope(
        "webhook_url in JSON",
        {"input": {"text": "a"}, "webhook_url": "https://a.example"},
        "the members are deadline_seconds, input, inputs, label, parameters, priority, stream, "
        "webhook; "
        'in a JSON body, the webhook is {"webhook": {"url": …}}',
    ),
    envelope("unknown member of input", {"input": {"text": "a", "charset": "x"}}, "input.charset"),
    envelope("input without content", {"input": {"media_type": "text/plain"}}, "exactly one"),
    envelope("input with two contents", {"input": {"text": "a", "json": 1}}, "exactly one"),
    envelope("text that is a number", {"input": {"text": 1}}, "input.text"),
    envelope("wrong base64", {"input": {"base64": "*"}}, "input.base64"),
    envelope("base64 with a non-ASCII character", {"input": {"base64": "é"}}, "input.base64"),
    envelope("unpaired surrogate", b'{"input": {"text": "\\ud800"}}', "input.text"),
    envelope("unpaired surrogate in JSON", b'{"input": {"json": "\\ud800"}}', "input.json"),
    envelope("numeric media type", {"input": {"text": "a", "media_type": 1}}, "media_type"),
    envelope("fractional deadline", {"input": {"text": "a"}, "deadline_seconds": 1.5}, "whole"),
    envelope("boolean deadline", {"input": {"text": "a"}, "deadline_seconds": True}, "whole"),
    envelope("parameters that are a number", {"input": {"text": "a"}, "parameters": 1}, "object"),
    envelope("empty text", {"input": {"text": ""}}, "empty", 422, INVALID),
    envelope(
        "base64 that is announced as JSON and is not",
        {"input": {"base64": "e3s=", "media_type": "application/json"}},
        "the content is not application/json",
        415,
        UNSUPPORTED,
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_invalid_submission_starts_no_job(gateway: RunningGateway, case: Case) -> None:
    answer = await gateway.http.post(
        f"/v1/models/{case.model}/jobs",
        content=case.content,
        params=case.query,
        headers={"content-type": case.media_type},
    )
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (case.status, case.code)
    assert problem["status"] == case.status
    assert problem["type"] == f"/docs/problems#{case.code}"
    assert problem["instance"] == f"/v1/models/{case.model}/jobs"
    assert problem["stage"] == "accept"
    assert problem["retryable"] is False
    assert len(problem["trace_id"]) == 32
    assert case.detail in problem["detail"]
    assert problem.items() >= case.members.items()
    assert not gateway.durable.runs
    assert not gateway.payloads.blobs


@pytest.mark.parametrize("where", ["input", "parameters", "file"])
async def test_json_is_accepted_to_a_depth_of_250(gateway: RunningGateway, where: str) -> None:
    # Python's own limit of nesting depends on the depth of the stack.
    for depth in (250, 300, *range(900, 1000, 1)):
        nested = "[" * depth + "]" * depth
        if where == "file":
            sent: dict[str, Any] = {"files": {"file": ("a", nested, "application/json")}}
        else:
            json_text = nested if where == "input" else "1"
            parameters = f'{{"a": {nested}}}' if where == "parameters" else "{}"
            text = f'{{"input": {{"json": {json_text}}}, "parameters": {parameters}}}'
            sent = {"content": text, "headers": {"content-type": "application/json"}}
        answer = await gateway.submit(**sent)
        wanted = {202} if depth == 250 else {400, 415}
        assert answer.status_code in wanted, (depth, answer.text)


@pytest.mark.parametrize("path", ["/v1/models/noop/jobs", "/v2/models/noop/infer"])
async def test_compressed_body_is_refused(gateway: RunningGateway, path: str) -> None:
    for coding in ("gzip", "identity, br"):
        answer = await gateway.http.post(path, content=b"x", headers={"content-encoding": coding})
        assert answer.status_code == 415
        assert answer.headers["accept-encoding"] == "identity"
    headers = {"content-encoding": "Identity", "prefer": "respond-async"}
    answer = await gateway.http.post(path, content=b"x", headers=headers)
    assert answer.status_code != 415


@pytest.mark.parametrize(
    "files",
    [
        [("other", ("a", b"x", "text/plain"))],
        [("file", ("a", b"x", "text/plain")), ("file", ("b", b"x", "text/plain"))],
        [("file", ("a", b"x", "text/plain")), ("parameters", ("b", b"{}", "text/plain"))],
        [("file", ("a", b"x", "text/plain"))] * 20,
        [("file", ("a", b"x", "text/plain")), *[("priority", (None, "low"))] * 2],
    ],
)
async def test_invalid_form_is_refused(gateway: RunningGateway, files: Any) -> None:
    answer = await gateway.http.post("/v1/models/noop/jobs", files=files)
    assert (answer.status_code, answer.json()["code"]) == (400, MALFORMED)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/models/noop/jobs", "OPTIONS, POST"),
        ("PUT", "/v1/jobs/018f0000-0000-7000-8000-000000000000", "DELETE, GET, HEAD, OPTIONS"),
        (
            "DELETE",
            "/v1/jobs/018f0000-0000-7000-8000-000000000000/reply",
            "GET, HEAD, OPTIONS, POST",
        ),
        ("POST", "/v1/health/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_unsupported_method_lists_the_supported(
    gateway: RunningGateway, method: str, path: str, allowed: str
) -> None:
    answer = await gateway.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == allowed


NOBODY = "018f0000-0000-7000-8000-000000000000"
LETTERS = "/v1/admin/dead-letters"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/v1/jobs/", 404, "not-found"),
        ("GET", "/v1/models/", 404, "not-found"),
        ("GET", "/favicon.ico", 404, "not-found"),
        ("GET", "/v2/../v1/x", 404, "not-found"),
        ("GET", f"/v1/jobs/{NOBODY}?wait=10", 400, MALFORMED),
        ("DELETE", f"/v1/jobs/{NOBODY}", 404, "unknown-job"),
        ("GET", f"/v1/jobs/{NOBODY}/webhook", 404, "unknown-job"),
        ("GET", "/v1/jobs/webhook-x/webhook", 404, "unknown-job"),
        ("POST", f"/v1/admin/jobs/{NOBODY}/webhook/redeliver", 404, "unknown-job"),
        ("POST", "/v1/admin/jobs/webhook-x/webhook/redeliver", 404, "unknown-job"),
        ("GET", f"{LETTERS}?limit=0", 400, MALFORMED),
        ("GET", f"{LETTERS}?limit=101", 400, MALFORMED),
        ("GET", f"{LETTERS}?limit=x", 400, MALFORMED),
        ("GET", f"{LETTERS}?cursor=../x", 400, MALFORMED),
        ("GET", f"{LETTERS}?since=x", 400, MALFORMED),
        ("GET", f"{LETTERS}?model=nope", 404, "unknown-model"),
        ("GET", "/v1/ops/series?minutes=0", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=61", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=-1", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=x", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=1.5", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=", 400, MALFORMED),
        ("GET", "/v1/ops/series?minutes=999999999", 400, MALFORMED),
    ],
)
async def test_invalid_path_or_query_is_refused(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    answer = await gateway.http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "input": st.fixed_dictionaries(
            {},
            optional={
                "base64": json_values,
                "text": json_values,
                "json": json_values,
                "media_type": json_values,
            },
        ),
        "parameters": json_values,
        "deadline_seconds": json_values,
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=300) | envelopes.map(lambda value: json.dumps(value).encode()),
    media_type=st.sampled_from(
        [
            "application/json",
            "multipart/form-data; boundary=x",
            "multipart/form-data; boundary=",
            "image/png",
            "text/plain",
            "",
        ]
    ),
    model=st.sampled_from(["noop", "classifier"]),
)
async def test_any_body_gets_a_documented_status(
    gateway: RunningGateway, body: bytes, media_type: str, model: str
) -> None:
    answer = await gateway.submit(model, content=body, headers={"content-type": media_type})
    assert answer.status_code in {202, 400, 413, 415, 422}


ONE_TYPE = """
[table]
implementation = "worker.models.noop"
description = "One media type."
media_types = ["text/csv"]

[values]
implementation = "worker.models.noop"
description = "JSON only."
media_types = ["application/json"]
"""


@pytest.fixture
async def one_type(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    path = tmp_path / "models.toml"
    path.write_text(ONE_TYPE)
    async with open_gateway(catalogue_path=path) as opened:
        yield opened


async def test_only_media_type_need_not_be_named(one_type: RunningGateway) -> None:
    url, asynchronous = "/v1/models/table/jobs", {"prefer": "respond-async"}
    in_json = {"input": {"base64": "YSxi"}}
    requests: tuple[dict[str, Any], ...] = (
        {"content": b"a,b"},
        {"content": b"a,b", "headers": {"content-type": URLENCODED}},
        {"files": {"file": ("a.xyz", b"a,b", "application/octet-stream")}},
        {"json": in_json},
    )
    for sent in requests:
        headers = asynchronous | sent.pop("headers", {})
        answer = await one_type.http.post(url, headers=headers, **sent)
        assert answer.status_code == 202, answer.text
        assert one_type.queues.request().input == InlineBytes("text/csv", b"a,b")
    for media_type in (None, "application/octet-stream"):
        asked = {"model": "table", "media_type": media_type}
        slot = await one_type.http.post("/v1/uploads", json=asked)
        assert slot.json()["headers"]["content-type"] == "text/csv"

    # A body that is not announced as JSON could be the input, or contain it.
    body = b'{"input": {"json": 1}}'
    answer = await one_type.http.post("/v1/models/values/jobs", content=body, headers=asynchronous)
    assert answer.status_code == 415
    in_json = {"input": {"base64": "MTI="}}
    answer = await one_type.http.post("/v1/models/values/jobs", json=in_json, headers=asynchronous)
    assert answer.status_code == 202


async def test_one_of_several_media_types_must_be_named(gateway: RunningGateway) -> None:
    answer = await gateway.http.post("/v1/uploads", json={"model": "classifier"})
    assert (answer.status_code, answer.json()["code"]) == (415, UNSUPPORTED)
    assert "expected one of image/jpeg, image/png, image/webp" in answer.json()["detail"]
