"""Test cases of the REST contract: requests for ended jobs and for lists of jobs."""

from typing import Final

from tests.e2e.contract_rows.row import DONE, JSON, Row

JOBS: Final = (
    Row(
        *("a job that succeeded", "GET", "/v1/jobs/{job}", 200),
        headers={"etag": None, "vary": "Prefer", "cache-control": "private, no-cache"},
        members=DONE,
    ),
    Row(*("a job that failed", "GET", "/v1/jobs/{failed}", 200), members={"status": "failed"}),
    Row(
        *("a job that has not changed", "GET", "/v1/jobs/{job}", 304),
        sent={"if-none-match": "*"},
        headers={"etag": None},
    ),
    Row(
        *("a job, long-polled", "GET", "/v1/jobs/{job}", 200),
        sent={"prefer": "wait=5"},
        headers={"preference-applied": "wait=5"},
    ),
    Row(*("the headers of a job", "HEAD", "/v1/jobs/{job}", 200), headers={"etag": None}),
    Row(*("an unknown job", "GET", "/v1/jobs/{unknown}", 404, "unknown-job")),
    Row(*("an invalid job id", "GET", "/v1/jobs/x", 404, "unknown-job")),
    Row(*("an unknown option", "GET", "/v1/jobs/{job}?x=1", 400, "malformed-request")),
    Row(
        *("a result", "GET", "/v1/jobs/{job}/result", 200),
        headers={"content-type": "application/json", "x-content-type-options": "nosniff"},
    ),
    Row(
        *("a result that has not changed", "GET", "/v1/jobs/{job}/result", 304),
        sent={"if-none-match": "*"},
        headers={"etag": None},
    ),
    Row(
        *("a result with a wrong option", "GET", "/v1/jobs/{job}/result?redirect=no", 400),
        code="malformed-request",
    ),
    Row(
        *("a named result that the job does not have", "GET", "/v1/jobs/{job}/result/mask", 404),
        code="unknown-result",
    ),
    Row(*("the result of a failed job", "GET", "/v1/jobs/{failed}/result", 409, "no-result")),
    Row(*("the result of an unknown job", "GET", "/v1/jobs/{unknown}/result", 404, "unknown-job")),
    Row(
        *("the timeline of a job", "GET", "/v1/jobs/{job}/timeline", 200),
        headers={"etag": None, "cache-control": "private, no-cache"},
        members={**DONE, "attempt": 1, "webhook": None, "total_ms": None, "steps": None},
    ),
    Row(
        *("the timeline of a failed job", "GET", "/v1/jobs/{failed}/timeline", 200),
        members={"status": "failed", "steps": None, "deliveries": None, "trace_id": None},
    ),
    Row(
        *("a timeline that has not changed", "GET", "/v1/jobs/{job}/timeline", 304),
        sent={"if-none-match": "*"},
        headers={"etag": None},
    ),
    Row(
        *("the timeline of an unknown job", "GET", "/v1/jobs/{unknown}/timeline", 404),
        "unknown-job",
    ),
    Row(
        *("a timeline with an option", "GET", "/v1/jobs/{job}/timeline?x=1", 400),
        "malformed-request",
    ),
    Row(*("cancel a job that succeeded", "DELETE", "/v1/jobs/{job}", 200), members=DONE),
    Row(*("cancel an unknown job", "DELETE", "/v1/jobs/{unknown}", 404, "unknown-job")),
    Row(*("a list of jobs", "GET", "/v1/jobs?model=noop&status=succeeded&limit=1", 200)),
    Row(
        *("a search by label and time", "GET"),
        *("/v1/jobs?label=order*&code=invalid-input&created_after=2026-03-01T12:00:00Z", 200),
        members={"jobs": [], "searched_back_to": None, "next_cursor": None},
        headers={"etag": None},
    ),
    Row(
        *("a search by id", "GET", "/v1/jobs?id={job}", 200),
        members={"next_cursor": None, "links": {"next": None}},
    ),
    Row(
        *("a search by an invalid time", "GET", "/v1/jobs?created_before=now", 400),
        *("malformed-request",),
    ),
    Row(*("a search by a short id", "GET", "/v1/jobs?id=01*", 400, "malformed-request")),
    Row(*("a list with too high a limit", "GET", "/v1/jobs?limit=1000", 400, "malformed-request")),
    Row(
        *("an unknown method", "PUT", "/v1/jobs/{job}", 405, "method-not-allowed"),
        headers={"allow": None},
    ),
    Row(
        *("a forged reply", "POST", "/v1/jobs/{job}/reply?expires=4102444800&token=x", 401),
        *("unauthenticated",),
        sent=JSON,
        body=b"{}",
    ),
    Row(
        *("ask about a reply with no token", "GET", "/v1/jobs/{job}/reply", 401, "unauthenticated")
    ),
    Row(*("the deliveries of a job without a webhook", "GET", "/v1/jobs/{job}/webhook", 404)),
)
