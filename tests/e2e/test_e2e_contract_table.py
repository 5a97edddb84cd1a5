"""Each row of the contract over real HTTP."""

from typing import Any

import pytest

from tests.e2e.contract_table import FEATURES, JOBS, OTHERS, PICTURE, REFUSALS, SUBMITS, Row
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

PROBLEM = {
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


@pytest.fixture(scope="module")
def ids(system: System) -> dict[str, str]:
    """The jobs that the paths name."""
    failed = system.submit("classifier", PICTURE[:1000], "image/jpeg")
    return {
        "job": system.submit("noop", b"x").json()["id"],
        "failed": failed.json()["job"]["id"],
        "unknown": "018f0000-0000-7000-8000-000000000000",
    }


@pytest.mark.parametrize(
    "row",
    [
        *(pytest.param(row, id=f"submit-{row.title}") for row in SUBMITS),
        *(pytest.param(row, id=f"refuse-{row.title}") for row in REFUSALS),
        *(pytest.param(row, id=f"feature-{row.title}") for row in FEATURES),
        *(pytest.param(row, id=f"job-{row.title}") for row in JOBS),
        *(pytest.param(row, id=f"other-{row.title}") for row in OTHERS),
    ],
)
def test_the_contract(system: System, ids: dict[str, str], row: Row) -> None:
    path = row.path.format(**ids)
    answer = system.http.request(row.method, path, content=row.body, headers=dict(row.sent))
    assert answer.status_code == row.status, answer.text
    for name, value in row.headers.items():
        assert name in answer.headers, dict(answer.headers)
        assert value is None or answer.headers[name] == value
    if row.code is not None:
        check_problem(row, answer.headers["content-type"], answer.json())
    if row.is_oip_error:
        assert list(answer.json()) == ["error"]
    for name, value in row.members.items():
        assert name in answer.json()
        assert value is None or answer.json()[name] == value


def check_problem(row: Row, content_type: str, document: dict[str, Any]) -> None:
    assert content_type == "application/problem+json"
    assert set(document) >= PROBLEM
    assert (document["code"], document["status"]) == (row.code, row.status)
    assert document["type"] == f"/docs/problems#{row.code}"


def test_one_key_is_one_job(system: System) -> None:
    headers = {"idempotency_key": '"contract-table"'}
    first = system.submit("noop", b"x", **headers)
    again = system.submit("noop", b"x", **headers)
    assert again.json()["id"] == first.json()["id"]
    other = system.submit("noop", b"y", **headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


def test_a_cancelled_job(system: System) -> None:
    """What its own row could not show: DELETE before the end, and what a job is after it."""
    answer = system.submit("classifier", PICTURE, "image/jpeg", prefer="respond-async")
    path = answer.headers["location"]
    cancelled = system.http.delete(path)
    assert cancelled.status_code in {200, 202}
    assert system.http.delete(path).status_code in {200, 202}
    job = system.final(answer.json()["id"])
    assert job["status"] in {"cancelled", "succeeded"}
    if job["status"] == "cancelled":
        result = system.http.get(f"{path}/result")
        assert (result.status_code, result.json()["code"]) == (409, "no-result")


def test_the_document_at_the_root_names_addresses_that_answer(system: System) -> None:
    for path in system.http.get("/").json().values():
        if str(path).startswith("/"):
            assert system.http.get(path).status_code == 200
