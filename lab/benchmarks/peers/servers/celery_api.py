"""A server for Celery: FastAPI submits each job as a task, and returns the result.

The route `/jobs` blocks a thread until the result arrives. The route `/polled` asks for the result
every 10 ms, and does not block a thread in the meantime.
"""

import asyncio
from typing import Any

from fastapi import FastAPI

from lab.benchmarks.peers.servers.celery_tasks import classify
from lab.benchmarks.peers.servers.request_body import Picture

_TIMEOUT_SECONDS = 180.0
_POLL_SECONDS = 0.01

app = FastAPI()


@app.get("/health")
def health() -> str:
    """Respond with 200, which shows that the server accepts requests."""
    return "ready"


@app.post("/jobs")
def run(picture: Picture) -> dict[str, Any]:
    """Submit a task, and return its result. FastAPI calls this in a thread."""
    pending = classify.delay(picture)
    result: dict[str, Any] = pending.get(timeout=_TIMEOUT_SECONDS)
    return result


@app.post("/polled")
async def run_polled(picture: Picture) -> dict[str, Any]:
    """Submit a task, and ask for its result every 10 ms. Return the result."""
    pending = await asyncio.to_thread(classify.delay, picture)
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        while not pending.ready():  # noqa: ASYNC110 - Celery has no asynchronous notification
            await asyncio.sleep(_POLL_SECONDS)
    result: dict[str, Any] = pending.get()
    return result
