"""Compare a response of the gateway with the response that a test case (`Row`) expects."""

from typing import Any

import httpx

from tests.e2e.contract_rows.row import Row

_PROBLEM = {
    "type",
    "title",
    "status",
    "detail",
    "instance",
    "code",
    "retryable",
    "stage",
    "attempt",
    "trace_id",
}


def check(row: Row, answer: httpx.Response) -> None:
    assert answer.status_code == row.status, f"{row.title}: {answer.text}"
    for name, value in row.headers.items():
        assert name in answer.headers, dict(answer.headers)
        assert value is None or answer.headers[name] == value
    if row.code is not None:
        _check_problem(row, answer.headers["content-type"], answer.json())
    if row.is_oip_error:
        assert list(answer.json()) == ["error"]
    for name, value in row.members.items():
        assert name in answer.json()
        assert value is None or answer.json()[name] == value


def _check_problem(row: Row, content_type: str, document: dict[str, Any]) -> None:
    assert content_type == "application/problem+json"
    assert set(document) >= _PROBLEM
    assert (document["code"], document["status"]) == (row.code, row.status)
    assert document["type"] == f"/docs/problems#{row.code}"
