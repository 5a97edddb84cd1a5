"""Jobs that wait, and those that have ended in all other ways."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, DONE, Row

ENDINGS: Final = (
    Row(*("waits", "GET", "/v1/jobs/{queued}", 200), members={"status": "queued"}, headers=AGAIN),
    Row(
        *("not yet", "GET", "/v1/jobs/{queued}/result", 202),
        headers={"location": None, "retry-after": None},
    ),
    Row(
        *("cancels", "DELETE", "/v1/jobs/{mute}", 202),
        headers={"location": None, "retry-after": None},
        members={"status": "cancelling"},
    ),
    Row(*("raised", "GET", "/v1/jobs/{raised}", 200), members={"status": "failed"}),
    Row(*("raised, no result", "GET", "/v1/jobs/{raised}/result", 409, "no-result")),
    Row(*("given up", "GET", "/v1/jobs/{dead}", 200), members={"status": "failed"}),
    Row(*("cancelled", "GET", "/v1/jobs/{cancelled}", 200), members={"status": "cancelled"}),
    Row(*("cancelled, no result", "GET", "/v1/jobs/{cancelled}/result", 409, "no-result")),
    Row(*("cancels again", "DELETE", "/v1/jobs/{cancelled}", 200), members={"status": "cancelled"}),
    Row(*("large", "GET", "/v1/jobs/{large}", 200), members={**DONE, "result": None}),
    Row(
        *("large, its result", "GET", "/v1/jobs/{large}/result", 303),
        headers={"location": None, "cache-control": "no-store"},
    ),
    Row(
        *("a webhook", "GET", "/v1/jobs/{hooked}/webhook", 200),
        members={"state": None, "attempts": None, "next_attempt_at": None},
    ),
    Row(
        *("a producer's schema", "GET", "/schemas/job-request.json", 200),
        headers={"content-type": "application/schema+json"},
        members={"$schema": None},
    ),
)
