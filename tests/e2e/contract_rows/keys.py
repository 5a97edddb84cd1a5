"""Test cases of the REST contract: requests with different API keys, scopes and rate limits."""

from typing import Final

from tests.e2e.contract_rows.row import AGAIN, CHALLENGE, JSON, SUBMIT, TEXT, Row

_FORBIDDEN: Final = (
    ("cancel without the scope", "reader", "DELETE", "/v1/jobs/{queued}"),
    ("dead letters without the scope", "reader", "GET", "/v1/admin/dead-letters"),
    ("the jobs of all tenants without the scope", "reader", "GET", "/v1/jobs?tenant=*"),
    ("a result of another tenant for an operator", "watcher", "GET", "/v1/jobs/{raised}/result"),
    ("cancel as an operator who only reads", "watcher", "DELETE", "/v1/jobs/{queued}"),
    ("count dead letters without the scope", "reader", "GET", "/v1/admin/dead-letters/count"),
    ("the state of the system without the scope", "reader", "GET", "/v1/ops/overview"),
    ("the last hour without the scope", "reader", "GET", "/v1/ops/series"),
    ("metrics without the scope", "reader", "GET", "/metrics"),
    (
        "cancel a job of another tenant without the scope",
        "watcher",
        "DELETE",
        "/v1/jobs/{queued}?tenant=acme",
    ),
)
KEYS: Final = (
    *(
        Row(title, method, path, 403, "forbidden", caller=caller)
        for title, caller, method, path in _FORBIDDEN
    ),
    Row(
        *("list without a key", "GET", "/v1/jobs", 401, "unauthenticated"),
        caller=None,
        headers=CHALLENGE,
    ),
    Row(
        *("submit without a key", "POST", SUBMIT, 401, "unauthenticated"),
        caller=None,
        sent=TEXT,
        body=b"x",
        headers=CHALLENGE,
    ),
    Row(
        *("an unknown key", "GET", "/v1/models", 401, "unauthenticated"),
        caller=None,
        sent={"x-api-key": "lsy_wrong"},
        headers=CHALLENGE,
    ),
    Row(*("liveness without a key", "GET", "/v1/health/live", 200), caller=None),
    Row(*("the OpenAPI document without a key", "GET", "/openapi.json", 200), caller=None),
    Row(
        *("submit without the scope", "POST", SUBMIT, 403, "forbidden"),
        caller="reader",
        sent=TEXT,
        body=b"x",
    ),
    Row(
        *("the jobs of all tenants", "GET", "/v1/jobs?id={queued}", 200),
        caller="watcher",
        members={"jobs": None, "next_cursor": None},
    ),
    Row(
        *("a job of another tenant for an operator", "GET", "/v1/jobs/{raised}", 200),
        caller="watcher",
        members={"tenant": "acme", "status": "failed", "result": None},
    ),
    Row(
        *("dead letters for an operator who only reads", "GET", "/v1/admin/dead-letters", 200),
        caller="watcher",
        members={"dead_letters": None},
    ),
    Row(
        *("purge as an operator who only reads", "POST", "/v1/admin/dead-letters/actions", 403),
        *("forbidden",),
        caller="watcher",
        sent=JSON,
        body=b'{"action": "purge", "count": 0}',
    ),
    Row(
        *("the state of the system without a key", "GET", "/v1/ops/overview", 401),
        *("unauthenticated",),
        caller=None,
        headers=CHALLENGE,
    ),
    Row(
        *("the state of the system for an operator", "GET", "/v1/ops/overview", 200),
        caller="watcher",
        members={"verdicts": None, "queues": None, "workers": None, "failures": None},
    ),
    Row(
        *("the last hour for an operator", "GET", "/v1/ops/series?minutes=5", 200),
        caller="watcher",
        members={"step_seconds": 60, "models": None},
    ),
    Row(*("metrics for an operator", "GET", "/metrics", 200), caller="watcher"),
    Row(*("a job of the same tenant", "GET", "/v1/jobs/{queued}", 200), caller="reader"),
    Row(
        *("a job of another tenant", "GET", "/v1/jobs/{queued}", 404, "unknown-job"),
        caller="stranger",
    ),
    Row(*("a timeline of the tenant", "GET", "/v1/jobs/{queued}/timeline", 200), caller="reader"),
    Row(
        *("a timeline of another tenant", "GET", "/v1/jobs/{queued}/timeline", 404, "unknown-job"),
        caller="stranger",
    ),
    Row(
        *("a timeline without a key", "GET", "/v1/jobs/{queued}/timeline", 401),
        "unauthenticated",
        caller=None,
        headers=CHALLENGE,
    ),
    Row(
        *("cancel a job of another tenant", "DELETE", "/v1/jobs/{queued}", 404, "unknown-job"),
        caller="stranger",
    ),
    Row(
        *("within the rate limit", "GET", "/v1/models", 200),
        caller="brisk",
        headers={"ratelimit": None, "ratelimit-policy": None},
    ),
    Row(
        *("over the rate limit", "GET", "/v1/models", 429, "rate-limited"),
        caller="slow",
        first="/v1/models",
        headers={**AGAIN, "ratelimit": None, "ratelimit-policy": None},
    ),
)
