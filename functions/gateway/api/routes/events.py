"""GET /v1/jobs/{id}/events: a job's life as it happens, where the host can stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from gateway import problems
from gateway.api.context import durable_of, owned, refuse_unknown_query, services_of
from gateway.api.openapi.operations import EVENTS_RESPONSES, LAST_EVENT_ID
from gateway.durable import Durable
from gateway.errors import Unavailable, UnknownInstance
from gateway.jobs.events import HEARTBEAT, RECONNECT_SECONDS, Place, event
from gateway.jobs.jobs import Jobs
from gateway.jobs.live import reports
from gateway.jobs.progress import NOTHING, ProgressStore, seen
from gateway.jobs.record import Record
from gateway.jobs.resource import job_resource
from gateway.jobs.waiting import Waiter
from gateway.problems import Problem
from gateway.services import Services

HEARTBEAT_SECONDS: Final = 15.0
"""Azure's front door cuts what has been silent for 230 s; other proxies are less patient."""

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0

_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

router = APIRouter(tags=["jobs"])


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job",
    responses=EVENTS_RESPONSES,
    openapi_extra={"parameters": [LAST_EVENT_ID]},
    response_model=None,
)
async def get_events(request: Request, job_id: str) -> Response:
    """Server-sent events from now, or from after `Last-Event-ID`, until the job has ended."""
    refuse_unknown_query(request)
    found = await owned(request, job_id)
    if not request.scope.get("gateway.streams", True):
        raise Problem(
            problems.STREAMING_UNAVAILABLE,
            "this host sends whole answers only; GET the job with `Prefer: wait=200` instead",
        )
    last = Place.parse(request.headers.get("last-event-id", ""))
    if last is not None and last.is_final:
        return Response(status_code=204)  # which tells an EventSource not to come again
    story = _Story(services_of(request), durable_of(request), job_id, found)
    return StreamingResponse(story.told(last), headers=_HEADERS, media_type="text/event-stream")


class _Story:
    """One job, followed for one reader."""

    def __init__(self, services: Services, durable: Durable, job_id: str, found: Record) -> None:
        self._services = services
        self._jobs = Jobs(durable, services)
        self._job_id = job_id
        self._store = ProgressStore(services.blobs) if reports(services, found["model"]) else None

    async def told(self, last: Place | None) -> AsyncIterator[bytes]:
        """Events and heartbeats, until the job has ended."""
        yield b"retry: %d\n\n" % (RECONNECT_SECONDS * 1000)
        with self._services.waiters.waiting(self._job_id) as waiter:
            async for chunk in self._changes(last, waiter):
                yield chunk

    async def _changes(self, last: Place | None, waiter: Waiter) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        pause_seconds, spoke_at = _FIRST_PAUSE_SECONDS, loop.time()
        while True:
            try:
                looked = await self._look()
            except UnknownInstance:
                return  # it ended so long ago that it is no longer kept
            if looked is not None and (last is None or looked[0] > last):
                place, job = looked
                yield event(last, place, job)
                last, spoke_at, pause_seconds = place, loop.time(), _FIRST_PAUSE_SECONDS
                if place.is_final:
                    return
            elif loop.time() - spoke_at >= HEARTBEAT_SECONDS:
                yield HEARTBEAT
                spoke_at = loop.time()
            await waiter.pause(max(pause_seconds, waiter.shortest_pause_seconds))
            pause_seconds = min(pause_seconds * 2, _LONGEST_PAUSE_SECONDS)

    async def _look(self) -> tuple[Place, dict[str, Any]] | None:
        """The job as it is; None where that cannot be told now: the reader waits on.

        Raises UnknownInstance where there is no such job any more.
        """
        try:
            found = await self._jobs.find(self._job_id)
            if found is None:
                raise UnknownInstance(self._job_id)
            progress = await self._store.read(self._job_id) if self._store else NOTHING
        except Unavailable:
            return None
        record = seen(found, progress)
        return Place.of(record, progress), job_resource(self._job_id, record)
