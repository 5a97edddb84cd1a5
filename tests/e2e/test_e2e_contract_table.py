"""Each row of the contract over real HTTP."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from gateway.access.keys import make
from tests.e2e import by_hand
from tests.e2e.contract_table import (
    ENDINGS,
    FEATURES,
    JOBS,
    KEYS,
    OTHERS,
    OUTAGES,
    PICTURE,
    REFUSALS,
    REPLIES,
    SUBMITS,
    WAITS,
    Row,
)
from tests.e2e.system import System, running

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

API_KEYS = {
    "owner": make("owner", "acme", ["jobs:read", "jobs:write", "admin"]),
    "reader": make("reader", "acme", ["jobs:read"]),
    "stranger": make("stranger", "bolt"),
    "brisk": make("brisk", "bolt", rate_text="100/60"),
    "slow": make("slow", "bolt", rate_text="1/600"),
}
MODEL = """
[{name}]
task = "test"
description = "For tests."
implementation = "worker.models.noop"
queue = "{name}"
media_types = ["application/octet-stream", "text/plain"]
max_input_bytes = 1_000_000
deadline_seconds = 120
max_deadline_seconds = 120
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 30
max_delivery_count = 3
"""


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
    check(row, system.http.request(row.method, path, content=row.body, headers=dict(row.sent)))


def check(row: Row, answer: httpx.Response) -> None:
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


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with keys and without a worker."""
    folder = tmp_path_factory.mktemp("contract")
    catalogue = folder / "models.toml"
    catalogue.write_text("".join(MODEL.format(name=name) for name in ("noop", "tired", "doomed")))
    environment = {
        "API_KEYS": json.dumps([entry for _, entry in API_KEYS.values()]),
        "WEBHOOK_SECRETS": "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "GUARD_ALLOW": "127.0.0.1",
    }
    with running(folder / "data", catalogue, ("worker",), environment=environment) as system:
        yield system


def key_of(caller: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {API_KEYS[caller][0]}"} if caller else {}


@pytest.fixture(scope="module")
def named(idle: System) -> dict[str, str]:
    """The jobs of the idle system, their reply URLs, and replies for them."""
    requests: dict[str, dict[str, Any]] = {}

    def accept(name: str, model: str = "noop", query: str = "") -> None:
        path = f"/v1/models/{model}/jobs{query}"
        headers = {**key_of("owner"), "content-type": "text/plain", "prefer": "respond-async"}
        headers["idempotency-key"] = f'"{name}"'
        answer = idle.http.post(path, content=name, headers=headers)
        assert answer.status_code == 202, answer.text
        requests[name] = by_hand.queued(idle, model, name)

    for name in ("queued", "mute", "ready", "cancelled", "raised", "large"):
        accept(name)
    accept("hooked", query=f"?webhook_url={idle.url}/nobody")
    accept("dead", "doomed")
    accept("slow", "tired")
    names = {name: request["job_id"] for name, request in requests.items()}
    cancelled = idle.http.delete(f"/v1/jobs/{names['cancelled']}", headers=key_of("owner"))
    assert cancelled.status_code == 202
    by_hand.reply(requests["raised"], by_hand.failure("inference-failed"))
    by_hand.reply(requests["large"], by_hand.large_result(idle, names["large"]))
    by_hand.reply(requests["hooked"], by_hand.DONE)
    by_hand.reply(requests["slow"], by_hand.DONE, held_seconds=1000)
    by_hand.dead_letter(idle, "doomed")
    for name in ("cancelled", "raised", "large", "hooked", "dead", "slow"):
        headers = {**key_of("owner"), "prefer": "wait=20"}
        job = idle.http.get(f"/v1/jobs/{names[name]}", headers=headers).json()
        assert job["finished_at"], job
    urls = {f"{name}_reply": request["reply_to"]["url"] for name, request in requests.items()}
    bodies = {
        f"{name}_body": json.dumps(by_hand.reply_body(job_id, by_hand.DONE))
        for name, job_id in names.items()
    }
    return {**names, **urls, **bodies}


@pytest.mark.parametrize(
    "row",
    [
        *(pytest.param(row, id=f"key-{row.title}") for row in KEYS),
        *(pytest.param(row, id=f"wait-{row.title}") for row in WAITS),
        *(pytest.param(row, id=f"end-{row.title}") for row in ENDINGS),
        *(pytest.param(row, id=f"reply-{row.title}") for row in REPLIES),
        *(pytest.param(row, id=f"outage-{row.title}") for row in OUTAGES),
    ],
)
def test_the_contract_where_nobody_works(idle: System, named: dict[str, str], row: Row) -> None:
    headers = {**key_of(row.caller), **row.sent}
    if row.first is not None:
        assert idle.http.get(row.first, headers=headers).status_code == 200
    with idle.paused(row.paused) if row.paused else nullcontext(), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(
            idle.http.request,
            *(row.method, row.path.format(**named)),
            content=body_of(row, named),
            headers=headers,
        )
        if row.meanwhile is not None:
            end(idle, row)
        answer = asked.result()
    check(row, answer)


def body_of(row: Row, named: dict[str, str]) -> bytes | None:
    if row.meanwhile is not None:
        return row.title.encode()
    if row.body is not None and row.body.endswith(b"_body}"):
        return row.body.decode().format(**named).encode()
    return row.body


def end(system: System, row: Row) -> None:
    """End the job whose caller waits."""
    request = by_hand.queued(system, row.path.split("/")[3], row.title)
    match row.meanwhile:
        case "cancel":
            system.http.delete(f"/v1/jobs/{request['job_id']}", headers=key_of("owner"))
        case "dead-letter":
            by_hand.dead_letter(system, request["model"])
        case code:
            by_hand.reply(request, by_hand.failure(str(code)))


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
