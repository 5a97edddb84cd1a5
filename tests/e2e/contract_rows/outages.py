"""What is answered while a service behind the gateway is silent: all rows of one at once."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, DONE, JSON, SUBMIT, TEXT, Row, encoded

_ASYNC: Final = {**TEXT, "prefer": "respond-async"}
_AWAY: Final = ("unavailable",)
# Made in 2109, by its name: not over yet, whatever the storage would say of it.
_UPLOAD: Final = "03ffffff-ffff-7000-8000-000000000000"
_REPORT: Final = encoded({"attempt": 1, "sequence": 0, "started_at": "2026-03-01T12:00:00Z"})
_NAMING: Final = encoded({"input": {"upload": _UPLOAD}})
_RETRYABLE: Final = {"retryable": True, "stage": "accept"}

BLOBS: Final = (
    Row(*("not ready", "GET", "/v1/health/ready", 503), members={"status": "not ready"}),
    Row(*("not ready for tensors", "GET", "/v2/health/ready", 503)),
    Row(*("lives", "GET", "/v1/health/live", 200)),
    Row(*("takes what is small", "POST", SUBMIT, 202), sent=_ASYNC, body=b"small"),
    Row(
        *("takes nothing large", "POST", SUBMIT, 503, *_AWAY),
        sent=_ASYNC,
        body=b"x" * 100_000,
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(
        *("cannot keep a key", "POST", SUBMIT, 503, *_AWAY),
        sent={**_ASYNC, "idempotency-key": '"away"'},
        body=b"small",
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(
        *("cannot look at an upload", "POST", SUBMIT, 503, *_AWAY),
        sent=JSON,
        body=_NAMING,
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(*("a job", "GET", "/v1/jobs/{hooked}", 200), members=DONE),
    # Whether it has ended stands in its outcome, which cannot be read.
    Row(*("a job that waits", "GET", "/v1/jobs/{queued}", 503, *_AWAY), headers=AGAIN),
    Row(*("cannot cancel it", "DELETE", "/v1/jobs/{queued}", 503, *_AWAY), headers=AGAIN),
    Row(*("a small result", "GET", "/v1/jobs/{hooked}/result", 200)),
    Row(*("a large result", "GET", "/v1/jobs/{large}/result", 503, *_AWAY), headers=AGAIN),
    Row(*("how far a job is", "GET", "/v1/jobs/{reporting}", 503, *_AWAY), headers=AGAIN),
    Row(*("cannot stop it", "DELETE", "/v1/jobs/{reporting}", 503, *_AWAY), headers=AGAIN),
    Row(*("a reply is wanted", "GET", "{queued_reply}", 503, *_AWAY), caller=None, headers=AGAIN),
    Row(
        *("cannot keep progress", "PUT", "{reporting_progress}", 503, *_AWAY),
        caller=None,
        body=_REPORT,
        headers=AGAIN,
    ),
    Row(*("letters", "GET", "/v1/admin/dead-letters", 503, *_AWAY), headers=AGAIN),
    Row(
        *("a letter", "GET", "/v1/admin/dead-letters/doomed/{letter}", 503, *_AWAY),
        headers=AGAIN,
    ),
)
SERVICE_BUS: Final = (
    Row(*("not ready", "GET", "/v1/health/ready", 503), members={"checks": None}),
    Row(*("not ready for tensors", "GET", "/v2/health/ready", 503)),
    # Sent once the queue is back: its orchestration tries until then.
    Row(*("takes a job", "POST", SUBMIT, 202), sent=_ASYNC, body=b"later", headers=AGAIN),
    Row(
        *("takes a large job", "POST", SUBMIT, 202), sent=_ASYNC, body=b"x" * 100_000, headers=AGAIN
    ),
    Row(*("a job", "GET", "/v1/jobs/{hooked}", 200), members=DONE),
    Row(*("the model", "GET", "/v1/models/noop", 200), members={"queue_length": None}),
    Row(
        *("cannot send a letter", "POST", "/v1/admin/dead-letters/doomed/{letter}/redrive", 503),
        *_AWAY,
        headers=AGAIN,
    ),
)
