"""Jobs that have ended, looked at and listed."""

from typing import Final

from tests.e2e.contract_rows.row import DONE, JSON, Row

JOBS: Final = (
    Row(
        *("a job", "GET", "/v1/jobs/{job}", 200),
        headers={"etag": None, "vary": "Prefer", "cache-control": "private, no-cache"},
        members=DONE,
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
    Row(*("cancels too late", "DELETE", "/v1/jobs/{job}", 200), members=DONE),
    Row(*("cancels nothing", "DELETE", "/v1/jobs/{unknown}", 404, "unknown-job")),
    Row(*("lists", "GET", "/v1/jobs?model=noop&status=succeeded&limit=1", 200)),
    Row(*("lists too many", "GET", "/v1/jobs?limit=1000", 400, "malformed-request")),
    Row(
        *("no method", "PUT", "/v1/jobs/{job}", 405, "method-not-allowed"), headers={"allow": None}
    ),
    Row(
        *("a forged reply", "POST", "/v1/jobs/{job}/reply?expires=4102444800&token=x", 401),
        *("unauthenticated",),
        sent=JSON,
        body=b"{}",
    ),
    Row(*("a forged question", "GET", "/v1/jobs/{job}/reply", 401, "unauthenticated")),
    Row(*("no webhook", "GET", "/v1/jobs/{job}/webhook", 404)),
)
