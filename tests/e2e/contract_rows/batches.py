"""Test cases of the REST contract: batches, their lists and their output."""

from typing import Final

from tests.e2e.contract_rows.row import JSON, Row, encoded

_PATH: Final = "/v1/batches"
_UNKNOWN: Final = "01982f0c-5f0e-8d4a-9a53-0d2c1b3f0000"
_LINE: Final = {"custom_id": "a", "input": {"text": "x"}}

BATCHES: Final = (
    Row(
        *("a batch of items", "POST", _PATH, 202),
        sent=JSON,
        body=encoded({"model": "noop", "items": [_LINE], "label": "contract"}),
        headers={"location": None, "retry-after": None},
        members={"status": None, "counts": None, "label": "contract", "errors": []},
    ),
    Row(
        *("items with the same custom_id", "POST", _PATH, 422, "invalid-batch"),
        sent=JSON,
        body=encoded({"model": "noop", "items": [_LINE, _LINE]}),
        members={"errors": None},
    ),
    Row(
        *("an unknown model", "POST", _PATH, 404, "unknown-model"),
        sent=JSON,
        body=encoded({"model": "nop", "items": [_LINE]}),
    ),
    Row(
        *("neither items nor a file", "POST", _PATH, 400, "malformed-request"),
        sent=JSON,
        body=encoded({"model": "noop"}),
    ),
    Row(
        *("an upload that does not exist", "POST", _PATH, 422, "invalid-input"),
        sent=JSON,
        body=encoded({"model": "noop", "file": {"upload": "x"}}),
    ),
    Row(
        *("an upload link for the file of a batch", "POST", "/v1/uploads", 201),
        sent=JSON,
        body=encoded({"purpose": "batch"}),
        members={"max_bytes": 1024**3},
    ),
    Row(
        *("a batch, long-polled", "GET", f"{_PATH}/{{batch}}", 200),
        sent={"prefer": "wait=20"},
        headers={"preference-applied": "wait=20", "etag": None, "vary": "Prefer"},
        members={"status": "succeeded", "progress": {"fraction": 1.0}},
    ),
    Row(
        *("the results of a batch", "GET", f"{_PATH}/{{batch}}/results", 200),
        headers={"content-type": "application/jsonl", "accept-ranges": "bytes", "etag": None},
    ),
    Row(
        *("a part of the results", "GET", f"{_PATH}/{{batch}}/results", 206),
        sent={"range": "bytes=1-"},
        headers={"content-range": None},
    ),
    Row(
        *("results beyond the end", "GET", f"{_PATH}/{{batch}}/results", 416),
        *("range-not-satisfiable",),
        sent={"range": "bytes=100000-"},
        headers={"content-range": None},
    ),
    Row(*("the errors of a batch", "GET", f"{_PATH}/{{batch}}/errors", 200)),
    Row(*("cancel a batch that succeeded", "DELETE", f"{_PATH}/{{batch}}", 200)),
    Row(*("an unknown batch", "GET", f"{_PATH}/{_UNKNOWN}", 404, "unknown-batch")),
    Row(*("the results of no batch", "GET", f"{_PATH}/x/results", 404, "unknown-batch")),
    Row(*("cancel an unknown batch", "DELETE", f"{_PATH}/{_UNKNOWN}", 404, "unknown-batch")),
    Row(
        *("a list of batches", "GET", f"{_PATH}?model=noop&limit=1", 200),
        headers={"etag": None},
        members={"batches": None, "next_cursor": None},
    ),
    Row(*("a list with a wrong cursor", "GET", f"{_PATH}?cursor=x", 400, "malformed-request")),
)
