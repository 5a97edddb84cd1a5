"""What workers are answered."""

from typing import Final

from tests.e2e.contract_rows.row import CHALLENGE, JSON, Row, encoded

_REPORT: Final = encoded({"attempt": 1, "sequence": 0, "started_at": "2026-03-01T12:00:00Z"})

REPLIES: Final = (
    Row(*("is it wanted", "GET", "{queued_reply}", 200), caller=None, members={"status": "wanted"}),
    Row(*("is it still", "GET", "{cancelled_reply}", 410, "already-final"), caller=None),
    Row(*("takes it", "POST", "{ready_reply}", 202), caller=None, sent=JSON, body=b"{ready_body}"),
    Row(
        *("too late", "POST", "{cancelled_reply}", 410, "already-final"),
        caller=None,
        sent=JSON,
        body=b"{cancelled_body}",
    ),
    Row(
        *("of another job", "POST", "{queued_reply}", 422, "invalid-input"),
        caller=None,
        sent=JSON,
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
        headers=CHALLENGE,
    ),
    Row(*("to no job", "POST", "/v1/jobs/-/reply", 404, "unknown-job"), caller=None, body=b"{}"),
    Row(
        *("to a job that is gone", "POST", "{gone_reply}", 404, "unknown-job"),
        caller=None,
        body=b"{gone_body}",
    ),
    Row(*("is one gone wanted", "GET", "{gone_reply}", 404, "unknown-job"), caller=None),
)
PROGRESS: Final = (
    Row(*("told", "PUT", "{queued_progress}", 200), caller=None, body=_REPORT),
    Row(
        *("too late", "PUT", "{cancelled_progress}", 410, "already-final"),
        caller=None,
        body=_REPORT,
    ),
    Row(*("of no job", "PUT", "{gone_progress}", 404, "unknown-job"), caller=None, body=_REPORT),
    Row(*("none", "PUT", "{queued_progress}", 422, "invalid-input"), caller=None, body=b"{}"),
    Row(
        *("too long", "PUT", "{queued_progress}", 413, "payload-too-large"),
        caller=None,
        body=bytes(9_000),
        members={"limit_bytes": 8_192},
    ),
    Row(
        *("forged", "PUT", "{queued_progress}x", 401, "unauthenticated"),
        caller=None,
        body=_REPORT,
        headers=CHALLENGE,
    ),
)
