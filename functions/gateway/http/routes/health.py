"""The routes of /v1/health, which show whether this process is alive and ready."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.http.requests import TextRoute, durable_of, services_of
from gateway.http.responses import json_response
from gateway.services import Services

CHECK_SECONDS: Final = 2.0
FRESH_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)

router = APIRouter(tags=["health"], route_class=TextRoute)

_Service = Literal["durable", "queue", "blobs"]


class LiveStatus(TypedDict):
    """The response that shows that the process is alive."""

    status: Literal["live"]


class ReadyStatus(TypedDict):
    """The response that shows whether the gateway is ready, and which services respond."""

    status: Literal["ready", "not ready"]
    checks: dict[_Service, Literal["ok", "no answer"]]


class GatewayReadiness:
    """Checks whether the gateway's services respond and accept changes, at most once a second."""

    def __init__(self) -> None:
        self._checked_at = float("-inf")
        self._answers: dict[_Service, bool] = {}
        self._lock = asyncio.Lock()

    async def answers(self, durable: Durable, services: Services) -> dict[_Service, bool]:
        """Return for each service whether it responds. The result is at most one second old."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._checked_at > FRESH_SECONDS:
                queue = next(iter(services.catalogue.values())).queue
                checks: dict[_Service, Awaitable[object]] = {
                    "durable": durable.check(),
                    "queue": services.queues.check(queue),
                    "blobs": services.payloads.check(),
                }
                answers = await asyncio.gather(*(_answers(*check) for check in checks.items()))
                self._answers = dict(zip(checks, answers, strict=True))
                self._checked_at = loop.time()
        return self._answers


async def _answers(name: str, check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check
    except (Unavailable, TimeoutError) as error:
        _log.warning("the gateway is not ready: the service %s is not available (%r)", name, error)
        return False
    return True


@router.get(
    "/v1/health/live",
    summary="Check that the process is alive",
    response_model=LiveStatus,
    response_description="The process is alive",
)
async def live() -> Response:
    """Return 200 whenever the process can serve requests."""
    status: LiveStatus = {"status": "live"}
    return json_response(status)


@router.get(
    "/v1/health/ready",
    summary="Check that the gateway can accept jobs",
    response_model=ReadyStatus,
    response_description="The gateway can accept jobs",
    responses={
        503: {
            "model": ReadyStatus,
            "description": "A service that the gateway needs does not respond",
        }
    },
)
async def ready(request: Request) -> Response:
    """Return 200 if Durable Functions, a queue and the blob storage respond, otherwise 503.

    The queue is that of the first model in the catalogue.
    """
    readiness: GatewayReadiness = request.app.state.readiness
    answers = await readiness.answers(durable_of(request), services_of(request))
    is_ready = all(answers.values())
    status: ReadyStatus = {
        "status": "ready" if is_ready else "not ready",
        "checks": {name: "ok" if answer else "no answer" for name, answer in answers.items()},
    }
    return json_response(status, 200 if is_ready else 503, {"Cache-Control": "no-store"})
