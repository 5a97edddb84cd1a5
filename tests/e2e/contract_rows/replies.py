"""Test cases of the REST contract: requests in which a worker sends a job's reply or progress."""

from typing import Final

from tests.e2e.contract_rows.row import CHALLENGE, JSON, Row, encoded

_REPORT: Final = encoded({"attempt": 1, "sequence": 0, "started_at": "2026-03-01T12:00:00Z"})

REPLIES: Final = (
    Row(
        *("ask whether a reply is wanted", "GET", "{queued_reply}", 200),
        caller=None,
        members={"status": "wanted"},
    ),
    Row(
        *("ask about a cancelled job", "GET", "{cancelled_reply}", 410, "already-final"),
        caller=None,
    ),
    Row(*("reply", "POST", "{ready_reply}", 202), caller=None, sent=JSON, body=b"{ready_body}"),
    Row(
        *("reply to a cancelled job", "POST", "{cancelled_reply}", 410, "already-final"),
        caller=None,
        sent=JSON,
        body=b"{cancelled_body}",
    ),
    Row(
        *("reply of another job", "POST", "{queued_reply}", 422, "invalid-input"),
        caller=None,
        sent=JSON,
        body=b"{cancelled_body}",
    ),
    Row(
        *("an empty reply", "POST", "{queued_reply}", 422, "invalid-input"), caller=None, body=b"{}"
    ),
    Row(
        *("a reply over the limit", "POST", "{queued_reply}", 413, "payload-too-large"),
        caller=None,
        body=bytes(200_000),
        members={"limit_bytes": 196_608},
    ),
    Row(
        *("a reply with a wrong token", "POST", "{queued_reply}x", 401, "unauthenticated"),
        caller=None,
        body=b"{}",
        headers=CHALLENGE,
    ),
    Row(
        *("reply to an invalid job id", "POST", "/v1/jobs/-/reply", 404, "unknown-job"),
        caller=None,
        body=b"{}",
    ),
    # Before the reply, whose outcome is recorded.
    Row(*("ask about an unknown job", "GET", "{gone_reply}", 404, "unknown-job"), caller=None),
    Row(
        *("reply to an unknown job", "POST", "{gone_reply}", 404, "unknown-job"),
        caller=None,
        body=b"{gone_body}",
    ),
    Row(*("several replies", "POST", "/v1/replies", 200), caller=None, body=b"a?b\n{}"),
    Row(
        *("half of a reply", "POST", "/v1/replies", 422, "invalid-input"), caller=None, body=b"a?b"
    ),
    Row(
        *("several replies over the limit", "POST", "/v1/replies", 413, "payload-too-large"),
        caller=None,
        body=bytes(600_000),
        members={"limit_bytes": 524_288},
    ),
)
PROGRESS: Final = (
    Row(*("report progress", "PUT", "{queued_progress}", 200), caller=None, body=_REPORT),
    Row(
        *("report on a cancelled job", "PUT", "{cancelled_progress}", 410, "already-final"),
        caller=None,
        body=_REPORT,
    ),
    Row(
        *("report on an unknown job", "PUT", "{gone_progress}", 404, "unknown-job"),
        caller=None,
        body=_REPORT,
    ),
    Row(
        *("an empty report", "PUT", "{queued_progress}", 422, "invalid-input"),
        caller=None,
        body=b"{}",
    ),
    Row(
        *("a report over the limit", "PUT", "{queued_progress}", 413, "payload-too-large"),
        caller=None,
        body=bytes(9_000),
        members={"limit_bytes": 8_192},
    ),
    Row(
        *("a report with a wrong token", "PUT", "{queued_progress}x", 401, "unauthenticated"),
        caller=None,
        body=_REPORT,
        headers=CHALLENGE,
    ),
)
