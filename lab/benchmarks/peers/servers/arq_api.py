"""A server for arq: FastAPI submits each job, and asks Redis for the result every 10 ms."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from fastapi import FastAPI

from lab.benchmarks.peers.servers.request_body import Picture

_TIMEOUT_SECONDS = 180.0
_POLL_SECONDS = 0.01


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.redis = await create_pool(RedisSettings.from_dsn(os.environ["PEER_REDIS"]))
    yield


app = FastAPI(lifespan=_lifespan)


@app.get("/health")
async def health() -> str:
    """Respond with 200, which shows that the server accepts requests."""
    return "ready"


@app.post("/jobs")
async def run(picture: Picture) -> dict[str, Any]:
    """Submit a job, and ask Redis for its result every 10 ms. Return the result."""
    job = await app.state.redis.enqueue_job("classify", picture)
    result: dict[str, Any] = await job.result(timeout=_TIMEOUT_SECONDS, poll_delay=_POLL_SECONDS)
    return result
