"""/v1/admin/dead-letters: what workers gave up on: see it, send it again, throw it away."""

import asyncio
import re
from itertools import islice
from operator import itemgetter
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from contract.catalogue import Model
from contract.names import job_path
from gateway import problems
from gateway.access.callers import Scope
from gateway.api.context import durable_of, refuse_unknown_query, require, services_of
from gateway.api.openapi.admin_schemas import (
    LETTER_ID,
    DeadLetter,
    DeadLetters,
    Purged,
    RedrivenLetter,
)
from gateway.api.openapi.operations import responses
from gateway.api.responses import json_response
from gateway.api.routes.models import found_model
from gateway.errors import NotRedrivable, UnknownLetter
from gateway.problems import Problem
from gateway.queueing.letters import PREFIX, blob_of, id_of, read, resource
from gateway.queueing.priority import Priority, queue_of
from gateway.queueing.redrive import redrive
from gateway.services import Services

DEFAULT_LIMIT: Final = 20
MAX_LIMIT: Final = 100
MOST_PURGED: Final = 500

_READS_AT_ONCE: Final = 8
_ID: Final = re.compile(LETTER_ID)
_CURSOR: Final = re.compile(r"[a-z0-9-]{1,70}/[A-Za-z0-9._-]{1,128}")
_PRIVATE: Final = {"Cache-Control": "no-store"}

router = APIRouter(tags=["admin"])

ModelOption = Annotated[str | None, Query(description="Only those of this model.")]


@router.get(
    "/v1/admin/dead-letters",
    summary="List dead letters",
    responses=responses(DeadLetters, {200: "A page of dead letters"}, 400, 404, 503),
    response_model=None,
)
async def list_dead_letters(
    request: Request,
    model: ModelOption = None,
    limit: Annotated[
        str | None, Query(description=f"Letters a page: 1 to {MAX_LIMIT}, else {DEFAULT_LIMIT}.")
    ] = None,
    cursor: Annotated[
        str | None, Query(description="From `next_cursor` of the page before.")
    ] = None,
) -> Response:
    """By queue and id, which for jobs means: the oldest first."""
    services = _admitted(request, ("cursor", "limit", "model"))
    models = services.catalogue.values() if model is None else [found_model(services, model)]
    count = _limit(limit)
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise Problem(problems.MALFORMED_REQUEST, "cursor: expected next_cursor of a page")
    places = await _places(services, list(models), cursor or "", count + 1)
    shown = places[:count]
    gate = asyncio.Semaphore(_READS_AT_ONCE)
    found = await asyncio.gather(*(_resource(services, gate, *place) for place in shown))
    more = len(places) > count
    next_cursor = blob_of(*shown[-1]).removeprefix(PREFIX) if more else None
    letters = [letter for letter in found if letter is not None]
    return json_response({"dead_letters": letters, "next_cursor": next_cursor}, headers=_PRIVATE)


async def _places(
    services: Services, models: list[Model], after: str, count: int
) -> list[tuple[Model, str]]:
    """The first letters after this place, in order: whose each is, and its id."""
    found: list[tuple[Model, str]] = []
    queues = {
        queue_of(model, priority): (model, priority) for model in models for priority in Priority
    }
    last_queue, _, last_name = after.partition("/")
    for queue, (model, priority) in sorted(queues.items(), key=itemgetter(0)):
        if queue < last_queue:
            continue
        prefix = f"{PREFIX}{queue}/"
        async for blob in services.blobs.list(prefix):
            name = blob.name.removeprefix(prefix)
            if (queue, name) > (last_queue, last_name):
                found.append((model, id_of(name, priority)))
            if len(found) == count:
                return found
    return found


async def _resource(
    services: Services, gate: asyncio.Semaphore, model: Model, id_: str
) -> dict[str, Any] | None:
    async with gate:
        note = await services.blobs.read(blob_of(model, id_))
    return None if note is None else resource(read(id_, note.data), model)


@router.delete(
    "/v1/admin/dead-letters",
    summary="Purge a model's dead letters",
    responses=responses(Purged, {200: "They are deleted"}, 400, 404, 503),
    response_model=None,
)
async def purge_dead_letters(request: Request, model: ModelOption = None) -> Response:
    """Delete those of one model, a bounded number at a time: repeat until `is_complete`."""
    services = _admitted(request, ("model",))
    if model is None:
        raise Problem(problems.MALFORMED_REQUEST, "model: is missing; name whose to delete")
    found = found_model(services, model)
    places = await _places(services, [found], "", MOST_PURGED + 1)
    for _, id_ in islice(places, MOST_PURGED):
        await services.blobs.delete(blob_of(found, id_))
    deleted = min(len(places), MOST_PURGED)
    return json_response({"deleted": deleted, "is_complete": deleted == len(places)})


@router.get(
    "/v1/admin/dead-letters/{model}/{letter_id}",
    summary="Look at a dead letter",
    responses=responses(DeadLetter, {200: "The letter"}, 400, 404, 503),
    response_model=None,
)
async def get_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """What is known of it, without its payload."""
    services = _admitted(request)
    found = found_model(services, model)
    note = await services.blobs.read(blob_of(found, _known_id(letter_id)))
    if note is None:
        raise _unknown(letter_id)
    return json_response(resource(read(letter_id, note.data), found), headers=_PRIVATE)


@router.post(
    "/v1/admin/dead-letters/{model}/{letter_id}/redrive",
    summary="Send a dead letter again",
    status_code=202,
    responses=responses(
        RedrivenLetter,
        {200: "It had been sent again before", 202: "It was sent again"},
        *(400, 404, 409, 503),
    ),
    response_model=None,
)
async def redrive_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """Idempotent. A job that ended with its letter stays so; its work goes on as a new job."""
    services = _admitted(request)
    found = found_model(services, model)
    try:
        sent = await redrive(services, durable_of(request), found, _known_id(letter_id))
    except UnknownLetter:
        raise _unknown(letter_id) from None
    except NotRedrivable as error:
        raise Problem(problems.NOT_REDRIVABLE, str(error)) from None
    body = {
        "job_id": sent.job_id,
        "is_new_job": sent.is_new_job,
        "is_repeat": sent.is_repeat,
        "links": {"job": job_path(sent.job_id)} if sent.is_new_job else {},
    }
    return json_response(body, 200 if sent.is_repeat else 202)


@router.delete(
    "/v1/admin/dead-letters/{model}/{letter_id}",
    summary="Purge a dead letter",
    status_code=204,
    responses=responses(DeadLetter, {}, 400, 404, 503) | {204: {"description": "It is gone"}},
    response_model=None,
)
async def purge_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """Delete it. Idempotent."""
    services = _admitted(request)
    found = found_model(services, model)
    await services.blobs.delete(blob_of(found, _known_id(letter_id)))
    return Response(status_code=204)


def _admitted(request: Request, options: tuple[str, ...] = ()) -> Services:
    require(request, Scope.ADMIN)
    refuse_unknown_query(request, options)
    return services_of(request)


def _known_id(letter_id: str) -> str:
    if not _ID.fullmatch(letter_id):
        raise _unknown(letter_id)
    return letter_id


def _unknown(letter_id: str) -> Problem:
    return Problem(
        problems.UNKNOWN_DEAD_LETTER, f"there is no dead letter {letter_id[:100]!r}, or no longer"
    )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT:
        return int(text)
    raise Problem(
        problems.MALFORMED_REQUEST, f"limit: expected a whole number from 1 to {MAX_LIMIT}"
    )
