"""Check the REST contract on a system without a worker. The tests act as the worker."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from contract.names import progress_url
from gateway.keys import make_key
from gateway.reply_tokens import ReplyTokens
from loosely.local.data_directory import reply_token_key
from tests.e2e import by_hand
from tests.e2e.contract_rows.checking import check
from tests.e2e.contract_rows.endings import ENDINGS
from tests.e2e.contract_rows.keys import KEYS
from tests.e2e.contract_rows.outages import BLOBS, SERVICE_BUS
from tests.e2e.contract_rows.replies import PROGRESS, REPLIES
from tests.e2e.contract_rows.row import Row
from tests.e2e.contract_rows.waits import WAITS
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SOON_SECONDS = 20
"""The time limit for responses in an outage: the storage's 5 s, and more on a busy machine."""

API_KEYS = {
    "owner": make_key("owner", "acme", ["jobs:read", "jobs:write", "admin"]),
    "reader": make_key("reader", "acme", ["jobs:read"]),
    "watcher": make_key("watcher", "ops", ["ops:read"]),
    "stranger": make_key("stranger", "bolt"),
    "brisk": make_key("brisk", "bolt", rate_text="100/60"),
    "slow": make_key("slow", "bolt", rate_text="1/600"),
}
MODEL = """
[{name}]
description = "For tests."
implementation = "worker.models.noop"
media_types = ["application/octet-stream", "text/plain"]
deadline_seconds = 120
max_batch_size = 1
max_wait_ms = 0
lock_seconds = 30
"""
MODELS = ("noop", "tired", "doomed", "steps")  # the last reports its progress
GONE = "018f0000-0000-7000-8000-000000000000"


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    data = tmp_path_factory.mktemp("contract") / "data"
    catalogue = "".join(MODEL.format(name=name) for name in MODELS) + "reports_progress = true\n"
    environment = {
        "API_KEYS": json.dumps([entry for _, entry in API_KEYS.values()]),
        "WEBHOOK_SECRETS": "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
        "GUARD_ALLOW": "127.0.0.1",
    }
    with running(data, catalogue, ("worker",), environment=environment) as system:
        yield system


def key_of(caller: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {API_KEYS[caller][0]}"} if caller else {}


@pytest.fixture(scope="module")
def named(idle: System) -> dict[str, str]:
    """Create the jobs that the test cases need, and return each placeholder's value."""
    requests: dict[str, dict[str, Any]] = {}

    def accept(name: str, model: str = "noop", query: str = "") -> None:
        path = f"/v1/models/{model}/jobs{query}"
        headers = {**key_of("owner"), "content-type": "text/plain", "prefer": "respond-async"}
        headers["idempotency-key"] = f'"{name}"'
        answer = idle.http.post(path, content=name, headers=headers)
        assert answer.status_code == 202, answer.text
        requests[name] = by_hand.wait_for_request(idle, model, name)

    for name in ("queued", "mute", "ready", "cancelled", "raised", "large"):
        accept(name)
    accept("hooked", query=f"?webhook_url={idle.url}/nobody")
    accept("dead", "doomed")
    accept("slow", "tired")
    accept("reporting", "steps")
    names = {name: request["job_id"] for name, request in requests.items()}
    cancelled = idle.http.delete(f"/v1/jobs/{names['cancelled']}", headers=key_of("owner"))
    assert cancelled.status_code == 202
    by_hand.send_reply(requests["raised"], by_hand.make_failure("inference-failed"))
    by_hand.send_reply(requests["large"], by_hand.upload_large_result(idle, names["large"]))
    by_hand.send_reply(requests["hooked"], by_hand.DONE)
    by_hand.send_reply(requests["slow"], by_hand.DONE, held_seconds=1000)
    by_hand.dead_letter_first(idle, "doomed")
    for name in ("cancelled", "raised", "large", "hooked", "dead", "slow"):
        headers = {**key_of("owner"), "prefer": "wait=20"}
        job = idle.http.get(f"/v1/jobs/{names[name]}", headers=headers).json()
        assert job["finished_at"], job
    urls = {f"{name}_reply": request["reply_to"]["url"] for name, request in requests.items()}
    names["gone"] = GONE
    key = base64.b64decode(reply_token_key(idle.data))
    urls["gone_reply"] = ReplyTokens([key], idle.url).url(GONE, datetime.now(UTC), "", "")
    for name in ("queued", "cancelled", "reporting", "gone"):
        urls[f"{name}_progress"] = str(progress_url(urls[f"{name}_reply"]))
    bodies = {
        f"{name}_body": json.dumps(by_hand.make_reply(job_id, by_hand.DONE))
        for name, job_id in names.items()
    }
    return {**names, **urls, **bodies, "letter": by_hand.make_producer_dead_letter(idle, "doomed")}


@pytest.mark.parametrize(
    "row",
    [
        *(pytest.param(row, id=f"key-{row.title}") for row in KEYS),
        *(pytest.param(row, id=f"wait-{row.title}") for row in WAITS),
        *(pytest.param(row, id=f"end-{row.title}") for row in ENDINGS),
        *(pytest.param(row, id=f"reply-{row.title}") for row in REPLIES),
        *(pytest.param(row, id=f"progress-{row.title}") for row in PROGRESS),
    ],
)
def test_responses_without_a_worker(idle: System, named: dict[str, str], row: Row) -> None:
    if row.first is not None:
        headers = {**key_of(row.caller), **row.sent}
        assert idle.http.get(row.first, headers=headers).status_code == 200
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, idle, named, row)
        if row.meanwhile is not None:
            end(idle, row)
        answer = asked.result()
    check(row, answer)


def ask(system: System, named: dict[str, str], row: Row) -> httpx.Response:
    return system.http.request(
        row.method,
        row.path.format(**named),
        content=body_of(row, named),
        headers={**key_of(row.caller), **row.sent},
    )


def body_of(row: Row, named: dict[str, str]) -> bytes | None:
    if row.meanwhile is not None:
        return row.title.encode()
    if row.body is not None and row.body.endswith(b"_body}"):
        return row.body.decode().format(**named).encode()
    return row.body


def end(system: System, row: Row) -> None:
    request = by_hand.wait_for_request(system, row.path.split("/")[3], row.title)
    match row.meanwhile:
        case "cancel":
            path = f"/v1/jobs/{request['job_id']}"
            # The job exists when the request has started it, after up to two seconds.
            until(
                lambda: system.http.delete(path, headers=key_of("owner")).status_code != 404,
                10.0,
                "the job can be cancelled",
            )
        case "dead-letter":
            by_hand.dead_letter_first(system, request["model"])
        case code:
            by_hand.send_reply(request, by_hand.make_failure(str(code)))


@pytest.mark.parametrize(
    ("part", "rows"), [("blobs", BLOBS), ("servicebus", SERVICE_BUS)], ids=["blobs", "servicebus"]
)
def test_responses_during_an_outage(
    idle: System, named: dict[str, str], part: str, rows: tuple[Row, ...]
) -> None:
    before = job_ids(idle)
    with ThreadPoolExecutor(len(rows)) as pool, idle.paused(part):
        begun_at = time.monotonic()
        asked = [pool.submit(ask, idle, named, row) for row in rows]
        answers = [each.result() for each in asked]
        assert time.monotonic() - begun_at < SOON_SECONDS
    for row, answer in zip(rows, answers, strict=True):
        check(row, answer)
    accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
    assert job_ids(idle) - before == accepted, "a refused request has created a job"
    for row, answer in zip(rows, answers, strict=True):
        if "idempotency-key" in row.sent:
            assert answer.status_code == 503
            assert ask(idle, named, row).status_code == 202, "the repeated request was not accepted"


def job_ids(system: System) -> set[str]:
    page = system.http.get("/v1/jobs?limit=100", headers=key_of("owner")).json()
    assert page["next_cursor"] is None
    return {job["id"] for job in page["jobs"]}
