"""A server with FastAPI only: the model runs in the thread pool of the server's process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from lab.benchmarks.peers.job import PeerModel
from lab.benchmarks.peers.servers.request_body import Picture


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = PeerModel.load()
    yield


app = FastAPI(lifespan=_lifespan)


@app.get("/health")
def health() -> str:
    """Respond with 200. The server accepts no connections until the model is loaded."""
    return "ready"


@app.post("/jobs")
def run(picture: Picture) -> dict[str, Any]:
    """Run the model in a thread of FastAPI's pool, and return the result."""
    result: dict[str, Any] = app.state.model(picture)
    return result
