"""Fixtures with the real API, whose queues, blobs and orchestrations are in memory."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from contract.catalogue import DEFAULT_PATH, Catalogue
from contract.guard import Resolver
from contract.messages import JobRequest
from contract.settings import AzureEndpoint, BrokerEndpoint, BrokerKind
from gateway.http.app import create_app
from gateway.reply_tokens import ReplyTokens
from gateway.services import Services
from gateway.settings import GatewaySettings
from gateway.storage.payloads import PayloadStore
from gateway.telemetry import GatewayTracing
from tests.unit.gateway.api_keys import SETTING
from tests.unit.gateway.memory import (
    ManualClock,
    MemoryBlobs,
    MemoryDurable,
    MemoryLinks,
    MemoryPayloads,
    MemoryQueues,
    MemoryReceiver,
)

KEY = bytes(range(32))
STARTED_AT = "2026-03-01T12:00:01.000Z"
FINISHED_AT = "2026-03-01T12:00:02.000Z"


ENVIRON = {
    "SERVICE_BUS": "Endpoint=sb://localhost;SharedAccessKey=hidden",
    "PAYLOAD_STORAGE": "AccountName=a;AccountKey=hidden",
    "GATEWAY_BASE_URL": "http://127.0.0.1:7071/",
    "REPLY_TOKEN_KEYS": base64.b64encode(bytes(32)).decode(),
}


@dataclass
class RunningGateway:
    """A running gateway, and the in-memory services that it uses."""

    http: httpx.AsyncClient
    services: Services
    durable: MemoryDurable
    queues: MemoryQueues
    payloads: MemoryPayloads
    clock: ManualClock
    blobs: MemoryBlobs
    app: ASGIApp

    async def accept(self, data: bytes = b"x", model: str = "noop", **query: Any) -> str:
        """Submit a job with these query parameters, without waiting; return its id."""
        headers = {"content-type": "application/octet-stream"}
        answer = await self.submit(model, content=data, params=query, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def submit(self, model: str = "noop", **request: Any) -> httpx.Response:
        """Send a request that submits a job, with the header `Prefer: respond-async`."""
        headers = {"prefer": "respond-async", **request.pop("headers", {})}
        return await self.http.post(f"/v1/models/{model}/jobs", headers=headers, **request)

    async def begin(self, **request: Any) -> tuple["asyncio.Task[httpx.Response]", JobRequest]:
        """Submit a job whose caller waits; return the task of its response, and its request."""
        number = len(self.queues.sent)
        headers = {"content-type": "application/octet-stream", **request.pop("headers", {})}
        posting = self.http.post("/v1/models/noop/jobs", content=b"x", headers=headers, **request)
        response = asyncio.create_task(posting)
        await self.queues.wait_for(number + 1)
        return response, self.queues.request(number)

    async def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a response with status 200."""
        answer = await self.http.get(path, params=query or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def job(self, job_id: str) -> Any:
        return await self.get(f"/v1/jobs/{job_id}")

    async def reply(self, request: JobRequest | None = None, **outcome: Any) -> httpx.Response:
        """Reply to a request, or the last one, with `result` or `error`, or else a small result."""
        request = request or self.queues.request()
        assert request.reply_url is not None
        body = reply_body(request.job_id, **(outcome or {"result": {"json": {"n": 1}}}))
        return await self.http.post(request.reply_url, json=body)


def reply_body(job_id: str, **outcome: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "job_id": job_id,
        "started_at": STARTED_AT,
        "finished_at": FINISHED_AT,
        "timing": {"queued_ms": 4, "inference_ms": 21.5, "batch_size": 2},
        "attempt": 1,
        **outcome,
    }


def error_body(code: str, *, retryable: bool = False) -> dict[str, Any]:
    return {"code": code, "message": "it did not work", "stage": "run", "retryable": retryable}


def write_catalogue(folder: Path, *entries: str) -> Path:
    """Write the shipped catalogue, whose last model is noop, with further entries."""
    path = folder / "models.toml"
    path.write_text("\n".join([DEFAULT_PATH.read_text("utf-8"), *entries]), "utf-8")
    return path


def write_progress_catalogue(folder: Path) -> Path:
    return write_catalogue(folder, "reports_progress = true\n")


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with open_gateway() as opened:
        yield opened


@pytest.fixture
async def closed() -> AsyncIterator[RunningGateway]:
    """Yield a gateway that needs one of the API keys in `api_keys.KEYS`."""
    async with open_gateway(api_keys=SETTING) as opened:
        yield opened


@asynccontextmanager
async def open_gateway(
    tracing: GatewayTracing | None = None,
    resolver: Resolver | None = None,
    payloads: PayloadStore | None = None,
    start_delay_seconds: float = 0,
    beside: RunningGateway | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    """Open a gateway with these and the required settings, and payloads in memory.

    Each job is accepted at once, unless `start_delay_seconds` is given. The gateway is another
    instance of the app of the gateway `beside`.
    """
    clock, queues, memory = ManualClock(), MemoryQueues(), MemoryPayloads()
    blobs = MemoryBlobs(memory, clock)
    if beside is not None:
        clock, queues, memory = beside.clock, beside.queues, beside.payloads
        blobs = beside.blobs
    base_url = "http://gateway.test"
    services = Services(
        settings=GatewaySettings(
            broker=BrokerEndpoint(BrokerKind.SERVICE_BUS),
            payload_storage=AzureEndpoint(address="unused"),
            gateway_base_url=base_url,
            reply_token_keys=(KEY,),
            **settings,
        ),
        catalogue=Catalogue.load(settings.get("catalogue_path", DEFAULT_PATH)),
        queues=queues,
        payloads=payloads or memory,
        blobs=blobs,
        links=MemoryLinks(),
        tokens=ReplyTokens((KEY,), base_url),
        webhooks=MemoryReceiver(),
        clock=clock,
        tracing=tracing or GatewayTracing(),
        resolver=resolver or Resolver(),
        start_delay_seconds=start_delay_seconds,
    )
    durable = MemoryDurable(
        clock,
        services.creator.enqueue,
        services.conclude.run,
    )
    if beside is not None:
        durable = beside.durable
    api = create_app(services)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await api({**scope, "durable": durable}, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=base_url) as http:
        yield RunningGateway(http, services, durable, queues, memory, clock, blobs, api)
