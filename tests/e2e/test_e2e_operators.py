"""Test that an operator can find the jobs of all tenants, and rerun many dead-lettered jobs."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.keys import make_key
from tests.e2e import by_hand
from tests.e2e.system import System, running, until

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(180)]

KEYS = {
    "acme": make_key("acme-app", "acme"),
    "bolt": make_key("bolt-app", "bolt"),
    "watcher": make_key("watcher", "ops", ["ops:read"]),
    "admin": make_key("night shift", "ops", ["admin"]),
}
LETTERS = "/v1/admin/dead-letters"
REASON = "MaxDeliveryCountExceeded"


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    environment = {"API_KEYS": json.dumps([entry for _, entry in KEYS.values()])}
    data = tmp_path_factory.mktemp("operators") / "data"
    with running(data, without=("worker",), environment=environment) as system:
        yield system


def ask(system: System, name: str, path: str, method: str = "GET", **options: Any) -> Any:
    headers = {"authorization": f"Bearer {KEYS[name][0]}"}
    answer = system.http.request(method, path, headers=headers, **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def accept(system: System, name: str, label: str) -> str:
    key = f"Bearer {KEYS[name][0]}"
    return system.accept("noop", label.encode(), "text/plain", f"?label={label}", authorization=key)


def test_twelve_dead_letters_are_redriven(idle: System) -> None:
    ids = {}
    for number in range(12):
        tenant = "bolt" if number % 3 == 0 else "acme"
        ids[accept(idle, tenant, f"night {number}")] = tenant
        by_hand.dead_letter_first(idle, "noop")
    wanted = {"model": "noop", "reason": REASON}

    def counted() -> dict[str, Any] | None:
        count: dict[str, Any] = ask(idle, "watcher", f"{LETTERS}/count", params=wanted)
        return count if count["count"] == 12 else None

    count = until(counted, 20, "twelve dead letters are stored")
    assert count == {"count": 12, "not_redriven": 12, "examined": 12, "next_cursor": None}
    # The operator finds the failed jobs of both tenants, each tenant only its own.
    query = {"code": "dead-lettered", "label": "night*"}

    def failed() -> dict[str, str] | None:
        page = ask(idle, "watcher", "/v1/jobs", params=query)
        found = {job["id"]: job["tenant"] for job in page["jobs"]}
        return found if len(found) == 12 else None

    assert until(failed, 20, "the orchestrations have ended") == ids
    own = ask(idle, "acme", "/v1/jobs", params=query)["jobs"]
    assert {job["id"] for job in own} == {job_id for job_id, name in ids.items() if name == "acme"}

    order = {"action": "redrive", "count": count["not_redriven"], "filter": wanted}
    result = ask(idle, "admin", f"{LETTERS}/actions", "POST", json=order)
    assert {letter["id"] for letter in result["done"]} == set(ids)
    assert (result["refused"], result["next_cursor"]) == ([], None)
    new = {letter["job_id"]: ids[letter["id"]] for letter in result["done"]}
    for number in range(12):
        request = by_hand.wait_for_request(idle, "noop", f"night {number}")
        assert request["job_id"] in new
        by_hand.send_reply(request, by_hand.DONE)
    for job_id, tenant in new.items():
        job = ask(idle, tenant, f"/v1/jobs/{job_id}")
        assert (job["status"], job["label"][:6]) == ("succeeded", "night ")
    assert ask(idle, "watcher", f"{LETTERS}/count", params=wanted)["not_redriven"] == 0

    # The log says who did it, and never contains the key.
    logs = "".join(path.read_text("utf-8", "replace") for path in idle.data.rglob("*.log"))
    assert logs.count("'night shift' redrove the dead letter") == 12
    assert KEYS["admin"][0] not in logs
