"""Callers with and without keys, scopes and rates."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, CHALLENGE, SUBMIT, TEXT, Row

KEYS: Final = (
    Row(
        *("no key", "GET", "/v1/jobs", 401, "unauthenticated"),
        caller=None,
        headers=CHALLENGE,
    ),
    Row(
        *("no key to submit", "POST", SUBMIT, 401, "unauthenticated"),
        caller=None,
        sent=TEXT,
        body=b"x",
        headers=CHALLENGE,
    ),
    Row(
        *("a wrong key", "GET", "/v1/models", 401, "unauthenticated"),
        caller=None,
        sent={"x-api-key": "lsy_wrong"},
        headers=CHALLENGE,
    ),
    Row(*("no key to live", "GET", "/v1/health/live", 200), caller=None),
    Row(*("no key to read", "GET", "/openapi.json", 200), caller=None),
    Row(
        *("may not submit", "POST", SUBMIT, 403, "forbidden"),
        caller="reader",
        sent=TEXT,
        body=b"x",
    ),
    Row(*("may not cancel", "DELETE", "/v1/jobs/{queued}", 403, "forbidden"), caller="reader"),
    Row(*("no operator", "GET", "/v1/admin/dead-letters", 403, "forbidden"), caller="reader"),
    Row(*("a colleague's job", "GET", "/v1/jobs/{queued}", 200), caller="reader"),
    Row(*("a stranger's job", "GET", "/v1/jobs/{queued}", 404, "unknown-job"), caller="stranger"),
    Row(
        *("a stranger cancels", "DELETE", "/v1/jobs/{queued}", 404, "unknown-job"),
        caller="stranger",
    ),
    Row(
        *("within the rate", "GET", "/v1/models", 200),
        caller="brisk",
        headers={"ratelimit": None, "ratelimit-policy": None},
    ),
    Row(
        *("over the rate", "GET", "/v1/models", 429, "rate-limited"),
        caller="slow",
        first="/v1/models",
        headers={**AGAIN, "ratelimit": None, "ratelimit-policy": None},
    ),
)
