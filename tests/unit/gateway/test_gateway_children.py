"""Test child jobs: how a running job submits them, finds them again and cancels them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from contract.messages import JobRequest
from contract.names import children_url
from gateway.jobs.children import child_id
from tests.unit.gateway.conftest import (
    STARTED_AT,
    RunningGateway,
    error_body,
    open_gateway,
    write_catalogue,
)

_NOOP = """
[{name}]
description = "Echoes."
implementation = "worker.models.noop"
media_types = ["application/octet-stream", "application/json"]
reports_progress = {progress}
"""


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    """Yield a gateway with the models `parent` and `middle`, which report progress, and `child`."""
    models = [("parent", "true"), ("middle", "true"), ("child", "false")]
    added = [_NOOP.format(name=name, progress=progress) for name, progress in models]
    path = write_catalogue(tmp_path, *added)
    async with open_gateway(catalogue_path=path) as opened:
        yield opened


async def run_child(
    gateway: RunningGateway,
    request: JobRequest,
    key: str = "1",
    model: str = "child",
    body: bytes = b"crop",
    **query: str,
) -> httpx.Response:
    url = children_url(request.reply_url or "")
    return await gateway.http.post(
        f"{url}&{urlencode({'model': model, 'key': key, **query})}",
        content=body,
        headers={"content-type": "application/octet-stream"},
    )


async def start(gateway: RunningGateway, model: str = "parent") -> JobRequest:
    """Submit a job whose worker has sent its first progress report. Return the job's request."""
    await gateway.accept(model=model)
    request = gateway.queues.request()
    report = {"attempt": 1, "sequence": 0, "started_at": STARTED_AT}
    url = (request.reply_url or "").replace("/reply?", "/progress?")
    assert (await gateway.http.put(url, json=report)).status_code == 200
    return request


class TestChild:
    async def test_result_is_returned_to_the_parent(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        first = await run_child(gateway, parent)
        assert (first.status_code, first.json()["status"]) == (202, "queued")
        await gateway.reply(result={"json": {"cat": 0.9}})
        again = await run_child(gateway, parent, body=b"")
        assert again.status_code == 200
        assert again.json()["id"] == first.json()["id"] == child_id(parent.job_id, "1")
        assert again.json()["result"]["json"] == {"cat": 0.9}

    async def test_same_key_is_sent_once(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        sent = len(gateway.queues.sent)
        for key in ("1", "2", "1"):
            assert (await run_child(gateway, parent, key)).status_code == 202
        assert len(gateway.queues.sent) == sent + 2

    async def test_error_is_returned_to_the_parent(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        await run_child(gateway, parent)
        await gateway.reply(error=error_body("invalid-input"))
        answer = (await run_child(gateway, parent)).json()
        assert (answer["status"], answer["error"]["code"]) == ("failed", "invalid-input")

    async def test_names_its_parent_and_has_its_deadline(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        gateway.clock.now += timedelta(seconds=20)
        child = (await run_child(gateway, parent)).json()["id"]
        assert gateway.queues.request().deadline == parent.deadline
        assert (await gateway.job(child))["parent"] == parent.job_id
        assert "parent" not in await gateway.job(parent.job_id)

    async def test_is_refused_without_the_token(self, gateway: RunningGateway) -> None:
        parent, other = await start(gateway), await start(gateway)
        _, _, query = (other.reply_url or "").partition("?")
        url = f"/v1/jobs/{parent.job_id}/children?model=child&key=1&{query}"
        bare = f"/v1/jobs/{parent.job_id}/children"
        for method in ("POST", "DELETE"):
            for each in (url, bare):
                assert (await gateway.http.request(method, each)).status_code == 401

    async def test_is_refused_after_the_parent_has_ended(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        await gateway.reply(parent)
        assert (await run_child(gateway, parent)).status_code == 410

    @pytest.mark.parametrize(
        ("query", "status"),
        [({"model": "absent"}, 404), ({"parameters": "{"}, 400), ({"key": ""}, 400)],
    )
    async def test_request_is_checked(
        self, gateway: RunningGateway, query: dict[str, str], status: int
    ) -> None:
        parent = await start(gateway)
        given: dict[str, Any] = {"model": "child", **query}
        assert (await run_child(gateway, parent, **given)).status_code == status

    async def test_model_of_an_ancestor_is_refused(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        await run_child(gateway, parent, model="middle")
        middle = gateway.queues.request()
        for model in ("middle", "parent"):
            answer = await run_child(gateway, middle, model=model)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
        assert "parent -> middle -> parent" in answer.json()["detail"]
        assert (await run_child(gateway, middle)).status_code == 202


class TestCancellation:
    async def test_of_the_parent_cancels_the_children(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        ended = (await run_child(gateway, parent, "1")).json()["id"]
        await gateway.reply()
        running = (await run_child(gateway, parent, "2", "middle")).json()["id"]
        nested = (await run_child(gateway, gateway.queues.request())).json()["id"]
        assert (await gateway.http.delete(f"/v1/jobs/{parent.job_id}")).status_code == 202
        assert (await gateway.job(ended))["status"] == "succeeded"
        assert (await gateway.job(running))["status"] == "cancelled"
        assert (await gateway.job(nested))["status"] != "succeeded"

    async def test_by_the_worker_cancels_the_children(self, gateway: RunningGateway) -> None:
        parent = await start(gateway)
        child = (await run_child(gateway, parent)).json()["id"]
        answer = await gateway.http.delete(children_url(parent.reply_url or "") or "")
        assert answer.status_code == 200
        assert (await gateway.job(child))["status"] == "cancelled"
        assert (await gateway.job(parent.job_id))["status"] == "running"


async def test_timeline_links_parent_and_children(gateway: RunningGateway) -> None:
    parent = await start(gateway)
    child = (await run_child(gateway, parent)).json()["id"]
    await gateway.reply()
    timeline = (await gateway.http.get(f"/v1/jobs/{parent.job_id}/timeline")).json()
    (shown,) = timeline["children"]
    assert (shown["id"], shown["model"], shown["status"]) == (child, "child", "succeeded")
    assert (await gateway.http.get(shown["link"])).json()["parent"] == parent.job_id
