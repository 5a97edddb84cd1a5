"""Check the REST contract over HTTP against a whole system."""

import json
from typing import Any

import pytest

from tests.e2e.contract_rows.checking import check
from tests.e2e.contract_rows.jobs import JOBS
from tests.e2e.contract_rows.row import PICTURE, Row
from tests.e2e.contract_rows.submits import REFUSALS, SUBMITS, UPLOADS
from tests.e2e.contract_rows.surroundings import OTHERS, TENSORS
from tests.e2e.system import System

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

TENSOR = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}


@pytest.fixture(scope="module")
def ids(system: System) -> dict[str, str]:
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
def test_each_request_gets_the_documented_response(
    system: System, ids: dict[str, str], row: Row
) -> None:
    path = row.path.format(**ids)
    check(row, system.http.request(row.method, path, content=row.body, headers=dict(row.sent)))


def test_each_path_of_the_root_document_exists(system: System) -> None:
    for path in system.http.get("/").json().values():
        if str(path).startswith("/"):
            assert system.http.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/models/noop/jobs", {"input": {"json": 1}}, 200),
        ("/v1/uploads", {"model": "noop", "media_type": "text/plain"}, 201),
        ("/v2/models/noop/infer", TENSOR, 200),
    ],
)
def test_body_without_content_length_is_accepted(
    system: System, path: str, body: dict[str, Any], status: int
) -> None:
    pieces = iter([json.dumps(body).encode()])
    answer = system.http.post(path, content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
