"""Test cases of the REST contract: requests that submit a job and wait until it ends."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, SUBMIT, TEXT, Row, encoded

_WAIT: Final = {**TEXT, "prefer": "wait=20"}
_ENDED: Final = {"content-location": None, "vary": "Prefer"}

WAITS: Final = (
    Row(
        *("the model fails", "POST", SUBMIT, 500, "inference-failed"),
        sent=_WAIT,
        meanwhile="inference-failed",
        headers=_ENDED,
        members={"retryable": True, "stage": "run", "job": None},
    ),
    Row(
        *("the input is invalid", "POST", SUBMIT, 422, "invalid-input"),
        sent=_WAIT,
        meanwhile="invalid-input",
        headers=_ENDED,
        members={"stage": "run", "job": None},
    ),
    Row(
        *("the job is cancelled", "POST", SUBMIT, 409, "cancelled"),
        sent=_WAIT,
        meanwhile="cancel",
        headers=_ENDED,
        members={"job": None},
    ),
    Row(
        *("the job is dead-lettered", "POST", "/v1/models/doomed/jobs", 500, "dead-lettered"),
        sent=_WAIT,
        meanwhile="dead-letter",
        headers=_ENDED,
        members={"retryable": False, "job": None},
    ),
    Row(
        *("the job expires", "POST", f"{SUBMIT}?deadline_seconds=1", 504, "expired"),
        sent=_WAIT,
        body=b"late",
        headers=_ENDED,
        members={"ran": None, "job": None},
    ),
    Row(
        *("the inference expires", "POST", "/v2/models/noop/infer", 504),
        body=encoded(
            {
                "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["late"]}],
                "parameters": {"deadline_seconds": 1},
            }
        ),
        members={"error": None, "ran": None},
    ),
    Row(
        *("the queue is saturated", "POST", "/v1/models/tired/jobs", 503, "saturated"),
        sent=_WAIT,
        body=b"x",
        first="/v1/models/tired",
        headers=AGAIN,
    ),
    Row(
        *("the wait ends first", "POST", SUBMIT, 202),
        sent={**TEXT, "prefer": "wait=1"},
        body=b"x",
        headers={"location": None, "retry-after": None, "preference-applied": "wait=1"},
    ),
    Row(
        *("the idempotency key is known", "POST", SUBMIT, 202),
        sent={**TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"queued",
        headers={"idempotency-replayed": "true", "location": None},
    ),
    Row(
        *("the idempotency key has another payload", "POST", SUBMIT, 422, "idempotency-mismatch"),
        sent={**TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"another",
    ),
)
