"""Each row of the contract over real HTTP."""

import pytest

from tests.e2e.contract_rows.checking import check
from tests.e2e.contract_rows.jobs import JOBS
from tests.e2e.contract_rows.row import PICTURE, Row
from tests.e2e.contract_rows.submits import REFUSALS, SUBMITS, UPLOADS
from tests.e2e.contract_rows.surroundings import OTHERS, TENSORS
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]


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
        *(pytest.param(row, id=f"upload-{row.title}") for row in UPLOADS),
        *(pytest.param(row, id=f"job-{row.title}") for row in JOBS),
        *(pytest.param(row, id=f"other-{row.title}") for row in OTHERS),
        *(pytest.param(row, id=f"tensor-{row.title}") for row in TENSORS),
    ],
)
def test_the_contract(system: System, ids: dict[str, str], row: Row) -> None:
    path = row.path.format(**ids)
    check(row, system.http.request(row.method, path, content=row.body, headers=dict(row.sent)))


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
