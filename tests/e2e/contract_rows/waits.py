"""What a caller who waits is answered, however the job ends."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, SUBMIT, TEXT, Row, encoded

_WAIT: Final = {**TEXT, "prefer": "wait=20"}
_ENDED: Final = {"content-location": None, "vary": "Prefer"}

WAITS: Final = (
    Row(
        *("its model raises", "POST", SUBMIT, 500, "inference-failed"),
        sent=_WAIT,
        meanwhile="inference-failed",
        headers=_ENDED,
        members={"retryable": True, "stage": "run", "job": None},
    ),
    Row(
        *("its input is bad", "POST", SUBMIT, 422, "invalid-input"),
        sent=_WAIT,
        meanwhile="invalid-input",
        headers=_ENDED,
        members={"stage": "run", "job": None},
    ),
    Row(
        *("it is cancelled", "POST", SUBMIT, 409, "cancelled"),
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
        *("it expires", "POST", f"{SUBMIT}?deadline_seconds=1", 504, "expired"),
        sent=_WAIT,
        body=b"late",
        headers=_ENDED,
        members={"ran": None, "job": None},
    ),
    Row(
        *("its tensors expire", "POST", "/v2/models/noop/infer", 504),
        body=encoded(
            {
                "inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["late"]}],
                "parameters": {"deadline_seconds": 1},
            }
        ),
        members={"error": None, "ran": None},
    ),
    Row(
        *("it would expire", "POST", "/v1/models/tired/jobs", 503, "saturated"),
        sent=_WAIT,
        body=b"x",
        first="/v1/models/tired",
        headers=AGAIN,
    ),
    Row(
        *("nobody comes", "POST", SUBMIT, 202),
        sent={**TEXT, "prefer": "wait=1"},
        body=b"x",
        headers={"location": None, "retry-after": None, "preference-applied": "wait=1"},
    ),
    Row(
        *("its key is known", "POST", SUBMIT, 202),
        sent={**TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"queued",
        headers={"idempotency-replayed": "true", "location": None},
    ),
    Row(
        *("its key is another's", "POST", SUBMIT, 422, "idempotency-mismatch"),
        sent={**TEXT, "prefer": "respond-async", "idempotency-key": '"queued"'},
        body=b"another",
    ),
)
