"""Test that two tenants cannot see each other's jobs, and that keys are not logged."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.keys import make_key
from tests.e2e.system import System, running

pytestmark = [pytest.mark.e2e, pytest.mark.torch, pytest.mark.timeout(180)]

UNKNOWN_JOB = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"
KEYS = {
    "acme": make_key("acme-app", "acme"),
    "bolt": make_key("bolt-app", "bolt"),
    "bolt-admin": make_key("bolt-admin", "bolt", ["jobs:read", "jobs:write", "admin"]),
}
WRONG_KEY = "lsy_" + "wrong" * 8


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {
        "API_KEYS": json.dumps([entry for _, entry in KEYS.values()]),
        "WORKER_MODELS": "noop",
        "LOG_LEVEL": "debug",
    }
    data = tmp_path_factory.mktemp("tenants") / "data"
    with running(data, environment=environment) as system:
        yield system


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name][0]}"}


def submit(system: System, name: str, **headers: str) -> httpx.Response:
    return system.submit("noop", b"x", **bearer(name), **headers)


def job_routes(system: System) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, Any]] = system.http.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, operations in paths.items()
        for method in operations
        if "{job_id}" in path
    ]


def visible_response(
    system: System, name: str, method: str, path: str, job_id: str
) -> tuple[Any, ...]:
    """Send a request about a job as the caller `name`, and return the response."""
    answer = system.http.request(
        method, path.replace("{job_id}", job_id), headers=bearer(name), json={}
    )
    random = {"date", "traceresponse", "ratelimit"}
    headers = {key: value for key, value in answer.headers.items() if key not in random}
    body = answer.text
    if "trace_id" in body:
        body = json.dumps({**answer.json(), "trace_id": None})
    return answer.status_code, headers, body.replace(job_id, "ID")


@pytest.mark.parametrize("name", ["bolt", "bolt-admin"])
def test_another_tenants_job_is_unknown(closed: System, name: str) -> None:
    ended = submit(closed, "acme", prefer="wait=60")
    assert (ended.status_code, ended.json()["status"]) == (200, "succeeded")
    job_id = ended.json()["id"]
    routes = job_routes(closed)
    assert len(routes) >= 5
    for method, path in [*routes, ("HEAD", "/v1/jobs/{job_id}")]:
        known = visible_response(closed, name, method, path, job_id)
        assert known == visible_response(closed, name, method, path, UNKNOWN_JOB), (method, path)
        assert known[0] == expected_refusal(name, path), (method, path)
    owner = closed.http.get(f"/v1/jobs/{job_id}", headers=bearer("acme"))
    assert owner.json()["status"] == "succeeded"


def expected_refusal(name: str, path: str) -> int:
    if path.endswith(("/reply", "/progress", "/children")):
        return 401
    return 403 if path.startswith("/v1/admin/") and name == "bolt" else 404


def test_list_has_only_the_tenants_jobs(closed: System) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = {
            name: [
                answer.json()["id"]
                for answer in pool.map(
                    lambda _, name=name: submit(closed, name, prefer="respond-async"), range(13)
                )
            ]
            for name in ("acme", "bolt")
        }
    for name, ids in made.items():
        found: list[str] = []
        path = "/v1/jobs?limit=5"
        while path:
            answer = closed.http.get(path, headers=bearer(name))
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert len(page["jobs"]) <= 5
            found += [job["id"] for job in page["jobs"]]
            path = page["links"]["next"]
        assert found == sorted(set(found), reverse=True)
        assert set(ids) <= set(found)
        other = "bolt" if name == "acme" else "acme"
        assert not set(made[other]) & set(found)
    succeeded = closed.http.get("/v1/jobs?status=succeeded&limit=1", headers=bearer("acme"))
    (job,) = succeeded.json()["jobs"]
    assert closed.http.get(job["links"]["self"], headers=bearer("acme")).json() == job


def test_api_keys_are_not_stored_or_logged(closed: System) -> None:
    # Include refused and invalid requests.
    assert closed.http.get("/v1/jobs", headers={"x-api-key": WRONG_KEY}).status_code == 401
    assert closed.http.get("/v1/jobs?limit=x", headers=bearer("bolt")).status_code == 400
    job = submit(closed, "bolt", prefer="wait=60").json()
    keys = [WRONG_KEY, *(key for key, _ in KEYS.values())]
    files = [path for path in closed.data.parent.rglob("*") if path.is_file()]
    logs = [path for path in files if path.name.endswith((".log", ".out"))]
    assert len(logs) >= 5
    assert any(holds(path, job["id"]) for path in logs)
    assert [(path.name, key) for path in files for key in keys if holds(path, key)] == []


def holds(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()
