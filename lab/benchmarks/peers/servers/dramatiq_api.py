"""A server for dramatiq: FastAPI submits each job, and blocks a thread until the result arrives."""

import base64
from typing import Any

from fastapi import FastAPI

from lab.benchmarks.peers.servers.dramatiq_tasks import classify
from lab.benchmarks.peers.servers.request_body import Picture

_TIMEOUT_MS = 180_000

app = FastAPI()


@app.get("/health")
def health() -> str:
    """Respond with 200, which shows that the server accepts requests."""
    return "ready"


@app.post("/jobs")
def run(picture: Picture) -> dict[str, Any]:
    """Submit a task, and return its result. FastAPI calls this in a thread."""
    message = classify.send(base64.b64encode(picture).decode("ascii"))
    result: dict[str, Any] = message.get_result(block=True, timeout=_TIMEOUT_MS)
    return result
