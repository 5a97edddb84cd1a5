"""Rows of the REST contract: requests for queued, failed and cancelled jobs."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, DONE, Row

ENDINGS: Final = (
    Row(
        *("a queued job", "GET", "/v1/jobs/{queued}", 200),
        members={"status": "queued"},
        headers=AGAIN,
    ),
    Row(
        *("the result of a queued job", "GET", "/v1/jobs/{queued}/result", 202),
        headers={"location": None, "retry-after": None},
    ),
    Row(
        *("cancel a queued job", "DELETE", "/v1/jobs/{mute}", 202),
        headers={"location": None, "retry-after": None},
        members={"status": "cancelling"},
    ),
    Row(
        *("a job whose model failed", "GET", "/v1/jobs/{raised}", 200), members={"status": "failed"}
    ),
    Row(
        *(
            "the result of a job whose model failed",
            "GET",
            "/v1/jobs/{raised}/result",
            409,
            "no-result",
        )
    ),
    Row(*("a dead-lettered job", "GET", "/v1/jobs/{dead}", 200), members={"status": "failed"}),
    Row(*("a cancelled job", "GET", "/v1/jobs/{cancelled}", 200), members={"status": "cancelled"}),
    Row(*("the result of a cancelled job", "GET", "/v1/jobs/{cancelled}/result", 409, "no-result")),
    Row(
        *("cancel a cancelled job", "DELETE", "/v1/jobs/{cancelled}", 200),
        members={"status": "cancelled"},
    ),
    Row(
        *("a job with a large result", "GET", "/v1/jobs/{large}", 200),
        members={**DONE, "result": None},
    ),
    Row(
        *("a large result", "GET", "/v1/jobs/{large}/result", 303),
        headers={"location": None, "cache-control": "no-store"},
    ),
    Row(
        *("the deliveries of a webhook", "GET", "/v1/jobs/{hooked}/webhook", 200),
        members={"state": None, "attempts": None, "next_attempt_at": None},
    ),
    Row(
        *("the schema of a request", "GET", "/schemas/job-request.json", 200),
        headers={"content-type": "application/schema+json"},
        members={"$schema": None},
    ),
)
