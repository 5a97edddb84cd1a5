"""Test that `Client`, whose methods block, has the same operations as `AsyncClient`."""

import asyncio
from itertools import islice

import pytest

from loosely import Client
from loosely.client.clients import block
from loosely.client.operations import ClientOperations
from tests.unit.loosely.scripted_gateway import (
    SUCCEEDED,
    ScriptedGateway,
    job_document,
    json_response,
)

PAGE = {"jobs": [SUCCEEDED, job_document("queued")], "next_cursor": "more"}


def test_works_inside_running_event_loop(gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, PAGE)]

    async def list_in_loop() -> list[str]:
        with Client(gateway.url) as client:
            return [job.status for job in islice(client.jobs(), 3)]

    assert asyncio.run(list_in_loop()) == ["succeeded", "queued", "succeeded"]


def test_stopped_iteration_fetches_no_page(gateway: ScriptedGateway) -> None:
    gateway.responses = [json_response(200, PAGE)]
    with Client(gateway.url) as client:
        jobs = client.jobs()
        next(jobs)
        del jobs
    assert len(gateway.requests) == 1


def test_operation_that_suspends_is_refused() -> None:
    async def suspend(_: ClientOperations) -> None:
        await asyncio.sleep(0)

    with Client() as client, pytest.raises(RuntimeError, match="no event loop; use AsyncClient"):
        block(suspend)(client)
