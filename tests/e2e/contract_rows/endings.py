"""Test cases of the REST contract: requests that concern queued, failed and cancelled jobs."""

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
        *("the link to a large result", "GET", "/v1/jobs/{large}/result?redirect=false", 200),
        headers={"location": None, "cache-control": "no-store"},
        members={"url": None, "media_type": None, "size_bytes": None, "expires_at": None},
    ),
    Row(
        *("the deliveries of a webhook", "GET", "/v1/jobs/{hooked}/webhook", 200),
        members={"state": None, "attempts": None, "next_attempt_at": None},
    ),
    Row(
        *("the timeline of a queued job", "GET", "/v1/jobs/{queued}/timeline", 200),
        members={"status": "queued", "final_at": None, "deliveries": []},
    ),
    Row(
        *("the timeline of a cancelled job", "GET", "/v1/jobs/{cancelled}/timeline", 200),
        members={"status": "cancelled", "final_at": None, "deliveries": []},
    ),
    Row(
        *("the timeline of a dead-lettered job", "GET", "/v1/jobs/{dead}/timeline", 200),
        members={"status": "failed", "deliveries": None},
    ),
    Row(
        *("the timeline of a job with a webhook", "GET", "/v1/jobs/{hooked}/timeline", 200),
        members={**DONE, "webhook": None, "steps": None},
    ),
    Row(
        *("the schema of a request", "GET", "/schemas/job-request.json", 200),
        headers={"content-type": "application/schema+json"},
        members={"$schema": None},
    ),
)
