"""Test cases of the REST contract: requests that submit a job, accepted or refused."""

import struct
import zlib
from typing import Final

from tests.e2e.contract_rows.row import (
    BYTES,
    CLASSIFY,
    DONE,
    JSON,
    PICTURE,
    SUBMIT,
    Row,
    encoded,
    typed,
)

# A picture of a few dozen bytes whose header claims 30,000 by 30,000 pixels.
_HEADER: Final = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
HUGE_PNG: Final = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + _HEADER + struct.pack(">I", zlib.crc32(_HEADER))


SUBMITS: Final = (
    Row(
        *("waits by default", "POST", SUBMIT, 200),
        sent=BYTES,
        body=b"x",
        headers={"content-location": None, "vary": "Prefer", "traceresponse": None},
        members=DONE,
    ),
    Row(
        *("waits for the maximum", "POST", SUBMIT, 200),
        sent=typed("text/plain", prefer="wait=500"),
        body=b"x",
        headers={"preference-applied": "wait=200"},
        members=DONE,
    ),
    Row(
        *("does not wait", "POST", SUBMIT, 202),
        sent={**BYTES, "prefer": "respond-async"},
        body=b"x",
        headers={
            "location": None,
            "retry-after": None,
            "preference-applied": "respond-async",
        },
    ),
    Row(
        *("waits for zero seconds", "POST", SUBMIT, 202),
        sent={**BYTES, "prefer": "wait=0"},
        body=b"x",
        headers={"location": None, "retry-after": None, "preference-applied": "wait=0"},
    ),
    Row(
        *("JSON with base64", "POST", SUBMIT, 200),
        sent=JSON,
        body=encoded({"input": {"base64": "aGVsbG8="}, "parameters": {}, "deadline_seconds": 60}),
        members=DONE,
    ),
    Row(
        *("a label in the query", "POST", f"{SUBMIT}?label=order%201", 200),
        sent=BYTES,
        body=b"x",
        members={"label": "order 1"},
    ),
    Row(
        *("a label in a header", "POST", SUBMIT, 200),
        sent={**BYTES, "loosely-label": "order 2"},
        body=b"x",
        members={"label": "order 2"},
    ),
    Row(
        *("a label in JSON", "POST", SUBMIT, 200),
        sent=JSON,
        body=encoded({"input": {"text": "x"}, "label": "Zürich"}),
        members={"label": "Zürich"},
    ),
    Row(
        *("low priority", "POST", f"{SUBMIT}?priority=low", 200),
        sent=BYTES,
        body=b"x",
        members=DONE,
    ),
    Row(
        *("JSON with a text", "POST", SUBMIT, 200),
        sent=JSON,
        body=encoded({"input": {"text": "hello"}, "priority": "low"}),
        members=DONE,
    ),
    Row(
        *("JSON with a JSON value", "POST", SUBMIT, 200),
        sent=JSON,
        body=encoded({"input": {"json": {"a": [1]}}}),
        members=DONE,
    ),
    Row(
        *("a form", "POST", SUBMIT, 200),
        sent=typed("multipart/form-data; boundary=b"),
        body=b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        b"x\r\n--b--\r\n",
        members=DONE,
    ),
    Row(*("a picture", "POST", CLASSIFY, 200), sent=typed("image/jpeg"), body=PICTURE),
    Row(
        *("a picture without its type", "POST", CLASSIFY, 200),
        sent=BYTES,
        body=PICTURE,
        members=DONE,
    ),
)
REFUSALS: Final = (
    *(
        Row(title, "POST", f"{SUBMIT}?{query}", 400, "malformed-request", sent=BYTES, body=b"x")
        for title, query in (
            ("an unknown option", "dedline_seconds=1"),
            ("an invalid deadline", "deadline_seconds=0"),
            ("a label with a line break", "label=a%0Ab"),
            ("an unknown priority", "priority=high"),
        )
    ),
    Row(
        *("invalid JSON", "POST", SUBMIT, 400, "malformed-request"),
        sent=JSON,
        body=b"{",
        headers={},
    ),
    Row(
        *("an invalid form", "POST", SUBMIT, 400, "malformed-request"),
        sent=typed("multipart/form-data"),
    ),
    Row(
        *("an unknown member", "POST", SUBMIT, 400, "malformed-request"),
        sent=JSON,
        body=encoded({"input": {"text": "x"}, "dedline": 1}),
    ),
    Row(
        *("an unknown model", "POST", "/v1/models/nop/jobs", 404, "unknown-model"),
        sent=BYTES,
        body=b"x",
        members={"nearest": ["noop"]},
    ),
    Row(
        *("a picture over the size limit", "POST", CLASSIFY, 413, "payload-too-large"),
        sent=typed("image/jpeg"),
        body=b"\xff\xd8\xff" + bytes(5_000_000),
        members={"limit_bytes": 4_194_304},
    ),
    Row(
        *("another media type", "POST", CLASSIFY, 415, "unsupported-media-type"),
        sent=typed("text/plain"),
        body=b"x",
        headers={"accept-post": None},
        members={"accepted": ["image/jpeg", "image/png", "image/webp"]},
    ),
    Row(
        *("bytes of another type", "POST", CLASSIFY, 415, "unsupported-media-type"),
        sent=typed("image/png"),
        body=PICTURE,
    ),
    Row(
        *("a picture with too many pixels", "POST", CLASSIFY, 422, "invalid-input"),
        sent=typed("image/png"),
        body=HUGE_PNG,
        members={"limit_pixels": 50_000_000},
    ),
    Row(*("an empty body", "POST", SUBMIT, 422, "invalid-input"), sent=BYTES, body=b""),
    Row(
        *("a truncated picture", "POST", CLASSIFY, 422, "invalid-input"),
        sent=typed("image/jpeg"),
        body=PICTURE[: len(PICTURE) // 2],
        headers={"content-location": None},
        members={"stage": "run", "retryable": False, "job": None},
    ),
    Row(
        *("an invalid idempotency key", "POST", SUBMIT, 400, "malformed-request"),
        sent={**BYTES, "idempotency-key": "a, b"},
        body=b"x",
    ),
    Row(
        *("an unknown upload", "POST", SUBMIT, 422, "invalid-input"),
        sent=JSON,
        body=encoded({"input": {"upload": "x"}}),
    ),
    Row(
        *("a private webhook", "POST", f"{SUBMIT}?webhook_url=https://127.0.0.1/x", 422),
        *("invalid-input",),
        sent=BYTES,
        body=b"x",
    ),
    Row(
        *("a private URL", "POST", SUBMIT, 422, "invalid-input"),
        sent=JSON,
        body=encoded({"input": {"url": "https://127.0.0.1/x"}}),
    ),
)
UPLOADS: Final = (
    Row(
        *("an upload link", "POST", "/v1/uploads", 201),
        sent=JSON,
        body=encoded({"model": "noop", "media_type": "text/plain"}),
        headers={"cache-control": "no-store"},
        members={"upload": None, "url": None, "method": "PUT"},
    ),
    Row(
        *("an upload link for an unknown model", "POST", "/v1/uploads", 404, "unknown-model"),
        sent=JSON,
        body=encoded({"model": "nop", "media_type": "text/plain"}),
    ),
    Row(
        *(
            "an upload link for another media type",
            "POST",
            "/v1/uploads",
            415,
            "unsupported-media-type",
        ),
        sent=JSON,
        body=encoded({"model": "classifier", "media_type": "text/plain"}),
    ),
    Row(
        *("an upload link without a model", "POST", "/v1/uploads", 400, "malformed-request"),
        sent=JSON,
        body=b"{}",
    ),
)
