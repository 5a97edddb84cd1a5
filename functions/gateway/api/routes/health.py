"""/v1/health: is this process alive, and do the three services behind it answer."""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final

from fastapi import APIRouter, Request, Response

from gateway.api.context import durable_of, services_of
from gateway.api.openapi.operations import LIVE_RESPONSES, READY_RESPONSES
from gateway.api.responses import json_response
from gateway.durable import Durable
from gateway.errors import Unavailable
from gateway.services import Services

CHECK_SECONDS: Final = 2.0
FRESH_SECONDS: Final = 1.0

# No instance has it, so that the store has to look, and says so.
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"

_log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])


class Readiness:
    """The last look at the services, good for a second: probes come from many sides."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")
        self._answers: dict[str, bool] = {}
        self._lock = asyncio.Lock()

    async def answers(self, durable: Durable, services: Services) -> dict[str, bool]:
        """Which services answer."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() - self._looked_at > FRESH_SECONDS:
                queue = next(iter(services.catalogue.values())).queue
                durable_answers, queue_answers, blobs_answer = await asyncio.gather(
                    _answers("durable", durable.status(_NOBODY)),
                    _answers("queue", services.queues.check(queue)),
                    _answers("blobs", services.payloads.check()),
                )
                self._answers = {
                    "durable": durable_answers,
                    "queue": queue_answers,
                    "blobs": blobs_answer,
                }
                self._looked_at = loop.time()
        return self._answers


async def _answers(name: str, check: Awaitable[object]) -> bool:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check
    except (Unavailable, TimeoutError) as error:
        _log.warning("not ready: %s does not answer (%r)", name, error)
        return False
    return True


@router.get(
    "/v1/health/live", summary="Is it alive?", responses=LIVE_RESPONSES, response_model=None
)
async def live() -> Response:
    """200 whenever there is an answer at all."""
    return json_response({"status": "live"})


@router.get(
    "/v1/health/ready",
    summary="Can it take jobs?",
    responses=READY_RESPONSES,
    response_model=None,
)
async def ready(request: Request) -> Response:
    """200 if the durable store, the queue and blob storage answer, else 503 with which do not."""
    readiness: Readiness = request.app.state.readiness
    answers = await readiness.answers(durable_of(request), services_of(request))
    is_ready = all(answers.values())
    checks = {name: "ok" if answer else "no answer" for name, answer in answers.items()}
    return json_response(
        {"status": "ready" if is_ready else "not ready", "checks": checks},
        200 if is_ready else 503,
        {"Cache-Control": "no-store"},
    )
