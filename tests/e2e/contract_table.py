"""The REST contract as data: a request, and what its answer must be.

`{job}` in a path is a job that succeeded, `{failed}` one that failed, `{unknown}` an id that no
job has. A header's value of None means: it must be there; so does a member's.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PICTURE: Final = (Path(__file__).parents[2] / "examples" / "chelsea.jpg").read_bytes()
_SUBMIT: Final = "/v1/models/noop/jobs"
_CLASSIFY: Final = "/v1/models/classifier/jobs"


@dataclass(frozen=True, slots=True)
class Row:
    """`code` is the problem's.

    `caller` is whose key goes along where keys are wanted, `first` a path that is looked at before,
    `paused` a part that is silent, `meanwhile` what becomes of the job while the caller waits: it
    is cancelled, dead-lettered, or fails with this code.
    """

    title: str
    method: str
    path: str
    status: int
    code: str | None = None
    sent: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    is_oip_error: bool = False
    caller: str | None = "owner"
    first: str | None = None
    paused: str | None = None
    meanwhile: str | None = None


def _typed(media_type: str, **others: str) -> dict[str, str]:
    fields = {name.replace("_", "-"): value for name, value in others.items()}
    return {"content-type": media_type, **fields}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_BYTES: Final = _typed("application/octet-stream")
_JSON: Final = _typed("application/json")
_DONE: Final = {"status": "succeeded"}
_TENSOR: Final = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["hello"]}

SUBMITS: Final = (
    Row(
        *("waits by default", "POST", _SUBMIT, 200),
        sent=_BYTES,
        body=b"x",
        headers={"content-location": None, "vary": "Prefer", "traceresponse": None},
        members=_DONE,
    ),
    Row(
        *("waits as long as it may", "POST", _SUBMIT, 200),
        sent=_typed("text/plain", prefer="wait=500"),
        body=b"x",
        headers={"preference-applied": "wait=200"},
        members=_DONE,
    ),
    Row(
        *("does not wait", "POST", _SUBMIT, 202),
        sent={**_BYTES, "prefer": "respond-async"},
        body=b"x",
        headers={
            "location": None,
            "retry-after": None,
            "preference-applied": "respond-async",
        },
    ),
    Row(
        *("waits not at all", "POST", _SUBMIT, 202),
        sent={**_BYTES, "prefer": "wait=0"},
        body=b"x",
        headers={"location": None, "retry-after": None, "preference-applied": "wait=0"},
    ),
    Row(
        *("takes JSON with base64", "POST", _SUBMIT, 200),
        sent=_JSON,
        body=_json({"input": {"base64": "aGVsbG8="}, "parameters": {}, "deadline_seconds": 60}),
        members=_DONE,
    ),
    Row(
        *("takes JSON with a text", "POST", _SUBMIT, 200),
        sent=_JSON,
        body=_json({"input": {"text": "hello"}}),
        members=_DONE,
    ),
    Row(
        *("takes JSON with JSON", "POST", _SUBMIT, 200),
        sent=_JSON,
        body=_json({"input": {"json": {"a": [1]}}}),
        members=_DONE,
    ),
    Row(
        *("takes a form", "POST", _SUBMIT, 200),
        sent=_typed("multipart/form-data; boundary=b"),
        body=b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        b"x\r\n--b--\r\n",
        members=_DONE,
    ),
    Row(*("takes a picture", "POST", _CLASSIFY, 200), sent=_typed("image/jpeg"), body=PICTURE),
    Row(
        *("knows what a picture is", "POST", _CLASSIFY, 200),
        sent=_BYTES,
        body=PICTURE,
        members=_DONE,
    ),
)
REFUSALS: Final = (
    Row(*("no JSON", "POST", _SUBMIT, 400, "malformed-request"), sent=_JSON, body=b"{", headers={}),
    Row(
        *("no form", "POST", _SUBMIT, 400, "malformed-request"), sent=_typed("multipart/form-data")
    ),
    Row(
        *("an unknown option", "POST", f"{_SUBMIT}?dedline_seconds=1", 400, "malformed-request"),
        sent=_BYTES,
        body=b"x",
    ),
    Row(
        *("an unknown member", "POST", _SUBMIT, 400, "malformed-request"),
        sent=_JSON,
        body=_json({"input": {"text": "x"}, "dedline": 1}),
    ),
    Row(
        *("no deadline", "POST", f"{_SUBMIT}?deadline_seconds=0", 400, "malformed-request"),
        sent=_BYTES,
        body=b"x",
    ),
    Row(
        *("an unknown model", "POST", "/v1/models/nop/jobs", 404, "unknown-model"),
        sent=_BYTES,
        body=b"x",
        members={"nearest": ["noop"]},
    ),
    Row(
        *("too large a picture", "POST", _CLASSIFY, 413, "payload-too-large"),
        sent=_typed("image/jpeg"),
        body=b"\xff\xd8\xff" + bytes(11_000_000),
        members={"limit_bytes": 10_485_760},
    ),
    Row(
        *("another media type", "POST", _CLASSIFY, 415, "unsupported-media-type"),
        sent=_typed("text/plain"),
        body=b"x",
        headers={"accept-post": None},
        members={"accepted": ["image/jpeg", "image/png", "image/webp"]},
    ),
    Row(
        *("bytes of another type", "POST", _CLASSIFY, 415, "unsupported-media-type"),
        sent=_typed("image/png"),
        body=PICTURE,
    ),
    Row(*("nothing", "POST", _SUBMIT, 422, "invalid-input"), sent=_BYTES, body=b""),
    Row(
        *("half a picture", "POST", _CLASSIFY, 422, "invalid-input"),
        sent=_typed("image/jpeg"),
        body=PICTURE[: len(PICTURE) // 2],
        headers={"content-location": None},
        members={"stage": "run", "retryable": False, "job": None},
    ),
)
FEATURES: Final = (
    Row(
        *("a key that is none", "POST", _SUBMIT, 400, "malformed-request"),
        sent={**_BYTES, "idempotency-key": "a, b"},
        body=b"x",
    ),
    Row(
        *("a slot", "POST", "/v1/uploads", 201),
        sent=_JSON,
        body=_json({"model": "noop", "media_type": "text/plain"}),
        headers={"cache-control": "no-store"},
        members={"upload": None, "url": None, "method": "PUT"},
    ),
    Row(
        *("a slot of no model", "POST", "/v1/uploads", 404, "unknown-model"),
        sent=_JSON,
        body=_json({"model": "nop", "media_type": "text/plain"}),
    ),
    Row(
        *("a slot of no type", "POST", "/v1/uploads", 415, "unsupported-media-type"),
        sent=_JSON,
        body=_json({"model": "classifier", "media_type": "text/plain"}),
    ),
    Row(*("no slot", "POST", "/v1/uploads", 400, "malformed-request"), sent=_JSON, body=b"{}"),
    Row(
        *("no upload", "POST", _SUBMIT, 422, "invalid-input"),
        sent=_JSON,
        body=_json({"input": {"upload": "x"}}),
    ),
    Row(
        *("a private webhook", "POST", f"{_SUBMIT}?webhook_url=https://127.0.0.1/x", 422),
        *("invalid-input",),
        sent=_BYTES,
        body=b"x",
    ),
    Row(
        *("a private URL", "POST", _SUBMIT, 422, "invalid-input"),
        sent=_JSON,
        body=_json({"input": {"url": "https://127.0.0.1/x"}}),
    ),
    Row(*("no webhook", "GET", "/v1/jobs/{job}/webhook", 404)),
    Row(*("dead letters", "GET", "/v1/admin/dead-letters?model=noop", 200)),
    Row(
        *("all dead letters", "DELETE", "/v1/admin/dead-letters", 400, "malformed-request"),
    ),
    Row(*("options", "OPTIONS", "/v1/jobs/{job}", 204), headers={"allow": None}),
    Row(*("a head", "HEAD", "/v1/models", 200), headers={"content-type": "application/json"}),
)
JOBS: Final = (
    Row(
        *("a job", "GET", "/v1/jobs/{job}", 200),
        headers={"etag": None, "vary": "Prefer", "cache-control": "private, no-cache"},
        members=_DONE,
    ),
    Row(*("a job that failed", "GET", "/v1/jobs/{failed}", 200), members={"status": "failed"}),
    Row(
        *("a job that the caller has", "GET", "/v1/jobs/{job}", 304),
        sent={"if-none-match": "*"},
        headers={"etag": None},
    ),
    Row(
        *("a job, long-polled", "GET", "/v1/jobs/{job}", 200),
        sent={"prefer": "wait=5"},
        headers={"preference-applied": "wait=5"},
    ),
    Row(*("a job's head", "HEAD", "/v1/jobs/{job}", 200), headers={"etag": None}),
    Row(*("no such job", "GET", "/v1/jobs/{unknown}", 404, "unknown-job")),
    Row(*("no id", "GET", "/v1/jobs/x", 404, "unknown-job")),
    Row(*("an unknown option", "GET", "/v1/jobs/{job}?x=1", 400, "malformed-request")),
    Row(
        *("a result", "GET", "/v1/jobs/{job}/result", 200),
        headers={"content-type": "application/json", "x-content-type-options": "nosniff"},
    ),
    Row(*("no result", "GET", "/v1/jobs/{failed}/result", 409, "no-result")),
    Row(*("no job's result", "GET", "/v1/jobs/{unknown}/result", 404, "unknown-job")),
    Row(*("cancels too late", "DELETE", "/v1/jobs/{job}", 200), members=_DONE),
    Row(*("cancels nothing", "DELETE", "/v1/jobs/{unknown}", 404, "unknown-job")),
    Row(*("lists", "GET", "/v1/jobs?model=noop&status=succeeded&limit=1", 200)),
    Row(*("lists too many", "GET", "/v1/jobs?limit=1000", 400, "malformed-request")),
    Row(*("no events here", "GET", "/v1/jobs/{job}/events", 501, "streaming-unavailable")),
    Row(*("no job's events", "GET", "/v1/jobs/{unknown}/events", 404, "unknown-job")),
    Row(
        *("no method", "PUT", "/v1/jobs/{job}", 405, "method-not-allowed"), headers={"allow": None}
    ),
    Row(
        *("a forged reply", "POST", "/v1/jobs/{job}/reply?expires=4102444800&token=x", 401),
        *("unauthenticated",),
        sent=_JSON,
        body=b"{}",
    ),
    Row(*("a forged question", "GET", "/v1/jobs/{job}/reply", 401, "unauthenticated")),
)
OTHERS: Final = (
    Row(*("the models", "GET", "/v1/models", 200)),
    Row(*("a model", "GET", "/v1/models/noop", 200), members={"name": "noop"}),
    Row(*("no model", "GET", "/v1/models/nop", 404, "unknown-model")),
    Row(*("lives", "GET", "/v1/health/live", 200), members={"status": "live"}),
    Row(*("is ready", "GET", "/v1/health/ready", 200), members={"status": "ready"}),
    Row(*("the document", "GET", "/openapi.json", 200), members={"openapi": "3.1.0"}),
    Row(*("its page", "GET", "/docs", 200), headers={"content-security-policy": None}),
    Row(*("the problems", "GET", "/docs/problems", 200)),
    Row(*("the front page", "GET", "/", 200)),
    Row(*("nothing", "GET", "/nothing", 404, "not-found")),
    Row(*("the server", "GET", "/v2", 200), members={"name": "loosely"}),
    Row(*("lives, too", "GET", "/v2/health/live", 200), members={"live": True}),
    Row(*("is ready, too", "GET", "/v2/health/ready", 200), members={"ready": True}),
    Row(*("tensors", "GET", "/v2/models/classifier", 200), members={"versions": ["1"]}),
    Row(*("tensors of 1", "GET", "/v2/models/classifier/versions/1", 200)),
    Row(*("no tensors", "GET", "/v2/models/clasifier", 404), is_oip_error=True),
    Row(*("no version 2", "GET", "/v2/models/noop/versions/2", 404), is_oip_error=True),
    Row(*("a ready model", "GET", "/v2/models/noop/ready", 200), members={"ready": True}),
    Row(*("a ready version", "GET", "/v2/models/noop/versions/1/ready", 200)),
    Row(
        *("infers", "POST", "/v2/models/noop/infer", 200),
        body=_json({"id": "7", "inputs": [_TENSOR]}),
        members={"id": "7", "model_name": "noop", "model_version": "1"},
    ),
    Row(
        *("infers with 1", "POST", "/v2/models/noop/versions/1/infer", 200),
        body=_json({"inputs": [_TENSOR]}),
    ),
    Row(*("infers nothing", "POST", "/v2/models/noop/infer", 400), body=b"{}", is_oip_error=True),
    Row(
        *("infers no picture", "POST", "/v2/models/classifier/infer", 415),
        body=_json({"inputs": [{**_TENSOR, "data": ["aGVsbG8="]}]}),
        is_oip_error=True,
    ),
)

# The rest wants a system with keys and without a worker, in whose place the test ends jobs.
# {queued} waits for good, {mute} until its row cancels it, {ready} until its row brings its reply;
# {cancelled}, {raised}, {dead}, {large} and {hooked} have ended so. {…_reply} is a reply URL.
_TEXT: Final = _typed("text/plain")
_WAIT: Final = {**_TEXT, "prefer": "wait=20"}
_CHALLENGE: Final = {"www-authenticate": None}
_AGAIN: Final = {"retry-after": None}
_ENDED: Final = {"content-location": None, "vary": "Prefer"}

KEYS: Final = (
    Row(
        *("no key", "GET", "/v1/jobs", 401, "unauthenticated"),
        caller=None,
        headers=_CHALLENGE,
    ),
    Row(
        *("no key to submit", "POST", _SUBMIT, 401, "unauthenticated"),
        caller=None,
        sent=_TEXT,
        body=b"x",
        headers=_CHALLENGE,
    ),
    Row(
        *("a wrong key", "GET", "/v1/models", 401, "unauthenticated"),
        caller=None,
        sent={"x-api-key": "lsy_wrong"},
        headers=_CHALLENGE,
    ),
    Row(*("no key to live", "GET", "/v1/health/live", 200), caller=None),
    Row(*("no key to read", "GET", "/openapi.json", 200), caller=None),
    Row(
        *("may not submit", "POST", _SUBMIT, 403, "forbidden"),
        caller="reader",
        sent=_TEXT,
        body=b"x",
    ),
    Row(*("may not cancel", "DELETE", "/v1/jobs/{queued}", 403, "forbidden"), caller="reader"),
    Row(*("no operator", "GET", "/v1/admin/dead-letters", 403, "forbidden"), caller="reader"),
    Row(*("a colleague's job", "GET", "/v1/jobs/{queued}", 200), caller="reader"),
    Row(*("a stranger's job", "GET", "/v1/jobs/{queued}", 404, "unknown-job"), caller="stranger"),
    Row(
        *("a stranger cancels", "DELETE", "/v1/jobs/{queued}", 404, "unknown-job"),
        caller="stranger",
    ),
    Row(
        *("within the rate", "GET", "/v1/models", 200),
        caller="brisk",
        headers={"ratelimit": None, "ratelimit-policy": None},
    ),
    Row(
        *("over the rate", "GET", "/v1/models", 429, "rate-limited"),
        caller="slow",
        first="/v1/models",
        headers={**_AGAIN, "ratelimit": None, "ratelimit-policy": None},
    ),
)
WAITS: Final = (
    Row(
        *("its model raises", "POST", _SUBMIT, 500, "inference-failed"),
        sent=_WAIT,
        meanwhile="inference-failed",
        headers=_ENDED,
        members={"retryable": True, "stage": "run", "job": None},
    ),
    Row(
        *("its input is bad", "POST", _SUBMIT, 422, "invalid-input"),
        sent=_WAIT,
        meanwhile="invalid-input",
        headers=_ENDED,
        members={"stage": "run", "job": None},
    ),
    Row(
        *("it is cancelled", "POST", _SUBMIT, 409, "cancelled"),
        sent=_WAIT,
        meanwhile="cancel",
        headers=_ENDED,
        members={"job": None},
    ),
    Row(
        *("it is given up", "POST", "/v1/models/doomed/jobs", 500, "dead-lettered"),
        sent=_WAIT,
        meanwhile="dead-letter",
        headers=_ENDED,
        members={"retryable": False, "job": None},
    ),
    Row(
        *("it expires", "POST", f"{_SUBMIT}?deadline_seconds=1", 504, "expired"),
        sent=_WAIT,
        body=b"late",
        headers=_ENDED,
        members={"ran": None, "job": None},
    ),
    Row(
        *("it would expire", "POST", "/v1/models/tired/jobs", 503, "saturated"),
        sent=_WAIT,
        body=b"x",
        first="/v1/models/tired",
        headers=_AGAIN,
    ),
    Row(
        *("nobody comes", "POST", _SUBMIT, 202),
        sent={**_TEXT, "prefer": "wait=1"},
        body=b"x",
        headers={"location": None, "retry-after": None, "preference-applied": "wait=1"},
    ),
    Row(
        *("its key is known", "POST", _SUBMIT, 202),
        sent={**_TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"queued",
        headers={"idempotency-replayed": "true", "location": None},
    ),
    Row(
        *("its key is another's", "POST", _SUBMIT, 422, "idempotency-mismatch"),
        sent={**_TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"another",
    ),
)
ENDINGS: Final = (
    Row(*("waits", "GET", "/v1/jobs/{queued}", 200), members={"status": "queued"}, headers=_AGAIN),
    Row(
        *("not yet", "GET", "/v1/jobs/{queued}/result", 202),
        headers={"location": None, "retry-after": None},
    ),
    Row(
        *("cancels", "DELETE", "/v1/jobs/{mute}", 202),
        headers={"location": None, "retry-after": None},
        members={"status": "cancelling"},
    ),
    Row(*("raised", "GET", "/v1/jobs/{raised}", 200), members={"status": "failed"}),
    Row(*("raised, no result", "GET", "/v1/jobs/{raised}/result", 409, "no-result")),
    Row(*("given up", "GET", "/v1/jobs/{dead}", 200), members={"status": "failed"}),
    Row(*("cancelled", "GET", "/v1/jobs/{cancelled}", 200), members={"status": "cancelled"}),
    Row(*("cancelled, no result", "GET", "/v1/jobs/{cancelled}/result", 409, "no-result")),
    Row(*("cancels again", "DELETE", "/v1/jobs/{cancelled}", 200), members={"status": "cancelled"}),
    Row(*("large", "GET", "/v1/jobs/{large}", 200), members={**_DONE, "result": None}),
    Row(
        *("large, its result", "GET", "/v1/jobs/{large}/result", 303),
        headers={"location": None, "cache-control": "no-store"},
    ),
    Row(
        *("a webhook", "GET", "/v1/jobs/{hooked}/webhook", 200),
        members={"state": None, "attempts": None, "next_attempt_at": None},
    ),
    Row(*("no events of it", "GET", "/v1/jobs/{queued}/events", 501, "streaming-unavailable")),
    Row(
        *("a producer's schema", "GET", "/schemas/job-request.json", 200),
        headers={"content-type": "application/schema+json"},
        members={"$schema": None},
    ),
)
REPLIES: Final = (
    Row(*("is it wanted", "GET", "{queued_reply}", 200), caller=None, members={"status": "wanted"}),
    Row(*("is it still", "GET", "{cancelled_reply}", 410, "already-final"), caller=None),
    Row(*("takes it", "POST", "{ready_reply}", 202), caller=None, sent=_JSON, body=b"{ready_body}"),
    Row(
        *("too late", "POST", "{cancelled_reply}", 410, "already-final"),
        caller=None,
        sent=_JSON,
        body=b"{cancelled_body}",
    ),
    Row(
        *("of another job", "POST", "{queued_reply}", 422, "invalid-input"),
        caller=None,
        sent=_JSON,
        body=b"{cancelled_body}",
    ),
    Row(*("none", "POST", "{queued_reply}", 422, "invalid-input"), caller=None, body=b"{}"),
    Row(
        *("too long", "POST", "{queued_reply}", 413, "payload-too-large"),
        caller=None,
        body=bytes(200_000),
        members={"limit_bytes": 196_608},
    ),
    Row(
        *("forged", "POST", "{queued_reply}x", 401, "unauthenticated"),
        caller=None,
        body=b"{}",
        headers=_CHALLENGE,
    ),
    Row(*("to no job", "POST", "/v1/jobs/-/reply", 404, "unknown-job"), caller=None, body=b"{}"),
)
OUTAGES: Final = (
    Row(
        *("no queue", "GET", "/v1/health/ready", 503), paused="servicebus", members={"checks": None}
    ),
)
