"""Let tests switch faults on and off over HTTP. No service of Azure has these routes."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from emulator.servicebus.broker.errors import ArgumentError
from emulator.servicebus.json_body import read_json
from emulator.servicebus.namespace import Namespace

_CHECKS_PER_IDLE_TIME = 4
_FIELDS = (
    "latency_ms",
    "throttled_share",
    "throttled_seconds",
    "throttled_queue",
    "idle_link_seconds",
)


def fault_routes(namespace: Namespace) -> list[Route]:
    """Return the routes `/$emulator/faults` and `/$emulator/detach`."""
    routes = _FaultRoutes(namespace)
    return [
        Route("/$emulator/faults", routes.get),
        Route("/$emulator/faults", routes.put, methods=["PUT"]),
        Route("/$emulator/detach", routes.detach, methods=["POST"]),
    ]


class _FaultRoutes:
    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._idle_timer: asyncio.TimerHandle | None = None

    async def get(self, _: Request) -> Response:
        """Respond with the current state of all faults as JSON."""
        faults = self._namespace.faults
        until = faults.throttled_until
        return JSONResponse(
            {
                "latency_ms": faults.latency.seconds * 1000,
                "throttled_share": faults.throttled_share,
                "throttled_queue": faults.throttled_queue,
                "throttled_until": None if until is None else until.isoformat(),
                "idle_link_seconds": faults.idle_link_seconds,
            }
        )

    async def put(self, request: Request) -> Response:
        """Set the faults in the body and end all others; respond with them, or with 400."""
        try:
            wanted = await read_json(request, _FIELDS)
            latency_ms = _number(wanted, "latency_ms", 60_000) or 0.0
            share = _number(wanted, "throttled_share", 1) or 0.0
            throttled_seconds = _number(wanted, "throttled_seconds", 86_400)
            throttled_queue = _text(wanted, "throttled_queue")
            idle_seconds = _number(wanted, "idle_link_seconds", 86_400)
        except ArgumentError as error:
            return JSONResponse({"error": str(error)}, 400)
        faults = self._namespace.faults
        faults.latency.seconds = latency_ms / 1000
        faults.throttle(share, throttled_seconds, throttled_queue)
        faults.idle_link_seconds = idle_seconds
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = None
        self._check_idle_links()
        return await self.get(request)

    async def detach(self, request: Request) -> Response:
        """Detach all links or a queue's, as Azure for maintenance; respond with their number."""
        try:
            wanted = await read_json(request, ("queue",))
            queue = _text(wanted, "queue")
        except ArgumentError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"detached": self._namespace.detach_links(queue)})

    def _check_idle_links(self) -> None:
        self._namespace.detach_idle_links()
        seconds = self._namespace.faults.idle_link_seconds
        if seconds is not None:
            pause = max(0.05, seconds / _CHECKS_PER_IDLE_TIME)
            loop = asyncio.get_running_loop()
            self._idle_timer = loop.call_later(pause, self._check_idle_links)


def _text(wanted: dict[str, Any], name: str) -> str | None:
    value = wanted.get(name)
    if not isinstance(value, str | None):
        raise ArgumentError(f"{name}: expected a string, found {value!r:.100}")
    return value


def _number(wanted: dict[str, Any], name: str, most: float) -> float | None:
    value = wanted.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ArgumentError(f"{name}: expected a number from 0 to {most:g}, found {value!r:.100}")
    return float(value)
