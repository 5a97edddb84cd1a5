"""Test cases of the REST contract: requests while blob storage or Service Bus does not respond."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, DONE, JSON, SUBMIT, TEXT, Row, encoded

_ASYNC: Final = {**TEXT, "prefer": "respond-async"}
_AWAY: Final = ("unavailable",)
# The id contains the time of the upload. This time is in the year 2109, so the upload has not
# expired.
_UPLOAD: Final = "03ffffff-ffff-7000-8000-000000000000"
_REPORT: Final = encoded({"attempt": 1, "sequence": 0, "started_at": "2026-03-01T12:00:00Z"})
_NAMING: Final = encoded({"input": {"upload": _UPLOAD}})
_RETRYABLE: Final = {"retryable": True, "stage": "accept"}

BLOBS: Final = (
    Row(*("readiness", "GET", "/v1/health/ready", 503), members={"status": "not ready"}),
    Row(*("readiness of v2", "GET", "/v2/health/ready", 503)),
    Row(*("liveness", "GET", "/v1/health/live", 200)),
    Row(*("submit a small input", "POST", SUBMIT, 202), sent=_ASYNC, body=b"small"),
    Row(
        *("submit a large input", "POST", SUBMIT, 503, *_AWAY),
        sent=_ASYNC,
        body=b"x" * 100_000,
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(
        *("submit with an idempotency key", "POST", SUBMIT, 503, *_AWAY),
        sent={**_ASYNC, "idempotency-key": '"away"'},
        body=b"small",
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(
        *("submit an upload", "POST", SUBMIT, 503, *_AWAY),
        sent=JSON,
        body=_NAMING,
        headers=AGAIN,
        members=_RETRYABLE,
    ),
    Row(*("a job that succeeded", "GET", "/v1/jobs/{hooked}", 200), members=DONE),
    # The outcome, which says whether the job has ended, cannot be read.
    Row(*("a queued job", "GET", "/v1/jobs/{queued}", 503, *_AWAY), headers=AGAIN),
    Row(*("cancel a queued job", "DELETE", "/v1/jobs/{queued}", 503, *_AWAY), headers=AGAIN),
    Row(*("a small result", "GET", "/v1/jobs/{hooked}/result", 200)),
    Row(*("a large result", "GET", "/v1/jobs/{large}/result", 503, *_AWAY), headers=AGAIN),
    Row(
        *("the link to a large result", "GET", "/v1/jobs/{large}/result?redirect=false"),
        *(503, *_AWAY),
        headers=AGAIN,
    ),
    Row(*("a timeline", "GET", "/v1/jobs/{hooked}/timeline", 503, *_AWAY), headers=AGAIN),
    Row(*("the progress of a job", "GET", "/v1/jobs/{reporting}", 503, *_AWAY), headers=AGAIN),
    Row(*("cancel a running job", "DELETE", "/v1/jobs/{reporting}", 503, *_AWAY), headers=AGAIN),
    Row(
        *("ask whether a reply is wanted", "GET", "{queued_reply}", 503, *_AWAY),
        caller=None,
        headers=AGAIN,
    ),
    Row(
        *("report progress", "PUT", "{reporting_progress}", 503, *_AWAY),
        caller=None,
        body=_REPORT,
        headers=AGAIN,
    ),
    Row(*("dead letters", "GET", "/v1/admin/dead-letters", 503, *_AWAY), headers=AGAIN),
    Row(*("count dead letters", "GET", "/v1/admin/dead-letters/count", 503, *_AWAY), headers=AGAIN),
    Row(
        *("purge all dead letters", "POST", "/v1/admin/dead-letters/actions", 503, *_AWAY),
        sent=JSON,
        body=b'{"action": "purge", "count": 1}',
        headers=AGAIN,
    ),
    Row(
        *("a dead letter", "GET", "/v1/admin/dead-letters/doomed/{letter}", 503, *_AWAY),
        headers=AGAIN,
    ),
)
SERVICE_BUS: Final = (
    Row(*("readiness", "GET", "/v1/health/ready", 503), members={"checks": None}),
    Row(*("readiness of v2", "GET", "/v2/health/ready", 503)),
    # The orchestration repeats the activity until the queue responds again.
    Row(*("submit a small job", "POST", SUBMIT, 202), sent=_ASYNC, body=b"later", headers=AGAIN),
    Row(
        *("submit a large job", "POST", SUBMIT, 202),
        sent=_ASYNC,
        body=b"x" * 100_000,
        headers=AGAIN,
    ),
    Row(*("a job that succeeded", "GET", "/v1/jobs/{hooked}", 200), members=DONE),
    Row(*("a model", "GET", "/v1/models/noop", 200), members={"queue_length": None}),
    Row(
        *("redrive a dead letter", "POST", "/v1/admin/dead-letters/doomed/{letter}/redrive", 503),
        *_AWAY,
        headers=AGAIN,
    ),
)
