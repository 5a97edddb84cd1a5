"""Send inference requests to /v2, and reply to their jobs as a worker does."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx

from tests.unit.gateway.conftest import RunningGateway


def tensor(*data: Any, datatype: str = "BYTES", **others: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": [len(data)], "data": data, **others}


async def infer(
    gateway: RunningGateway,
    model: str,
    request: dict[str, Any] | bytes,
    outcomes: Sequence[dict[str, Any]],
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """Send an inference request, reply to each of its jobs, and return the response."""
    content = request if isinstance(request, bytes) else json.dumps(request).encode()
    waiting = asyncio.create_task(
        gateway.http.post(f"/v2/models/{model}/infer", content=content, headers=headers)
    )
    await gateway.queues.wait_for(len(outcomes))
    for number, outcome in enumerate(outcomes):
        await gateway.reply(gateway.queues.request(number), **outcome)
    return await waiting


def outputs(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}
