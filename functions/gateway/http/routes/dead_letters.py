"""The routes under /v1/admin/dead-letters. They list, get, redrive and purge dead letters."""

import asyncio
import re
from itertools import islice
from operator import itemgetter
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import ModelEntry, Priority, queue_of
from contract.names import job_path
from gateway.dead_letters.store import (
    DEAD_LETTERS,
    LETTER_ID,
    DeadLetter,
    letter_blob_of,
    letter_id,
    letter_resource,
    read_letter,
)
from gateway.errors import NotRedrivable, UnknownLetter
from gateway.http import problems
from gateway.http.keys import Scope
from gateway.http.openapi.operations import problem_responses
from gateway.http.problems import HttpProblem
from gateway.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    TextRoute,
    durable_of,
    find_model,
    parse_limit,
    refuse_unknown_query,
    require_scope,
    services_of,
)
from gateway.http.responses import json_response
from gateway.services import Services
from gateway.storage.blobs import Blobs

MAX_PURGED: Final = 500

_READS_AT_ONCE: Final = 8
_ID: Final = re.compile(LETTER_ID)
_CURSOR: Final = re.compile(r"[a-z0-9-]{1,70}/[A-Za-z0-9._-]{1,128}")
_PRIVATE: Final = {"Cache-Control": "no-store"}

router = APIRouter(tags=["admin"], route_class=TextRoute)


class DeadLetters(TypedDict):
    """A page of dead letters."""

    dead_letters: list[DeadLetter]
    next_cursor: str | None


class RedrivenLetter(TypedDict):
    """The result of redriving a dead letter."""

    job_id: Annotated[str, Field(examples=["01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"])]
    is_new_job: Annotated[
        bool,
        Field(
            description="True if the work was sent as a new job of this gateway; false if a "
            "producer's message was sent again with its own job id."
        ),
    ]
    is_repeat: Annotated[
        bool,
        Field(
            description="Whether the letter had been redriven before, so that nothing was sent now."
        ),
    ]
    links: dict[str, str]


class Purged(TypedDict):
    """The result of a purge. `is_complete` is false if the model still has dead letters."""

    deleted: int
    is_complete: bool


ModelOption = Annotated[str | None, Query(description="Only dead letters of this model.")]


@router.get(
    "/v1/admin/dead-letters",
    summary="List dead letters",
    response_model=DeadLetters,
    response_description="A page of dead letters",
    responses=problem_responses(400, 404, 503),
)
async def list_dead_letters(
    request: Request,
    model: ModelOption = None,
    limit: Annotated[
        str | None,
        Query(description=f"Letters on a page, from 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent."),
    ] = None,
    cursor: Annotated[
        str | None, Query(description="The `next_cursor` of the previous page.")
    ] = None,
) -> Response:
    """List dead letters by queue and id. For each queue, the oldest jobs are first."""
    services = _check_request(request, ("cursor", "limit", "model"))
    models = (
        services.catalogue.values() if model is None else [find_model(services.catalogue, model)]
    )
    count = parse_limit(limit)
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise HttpProblem(
            problems.MALFORMED_REQUEST,
            "cursor: this value is not valid; use the next_cursor of the previous page",
        )
    listed = await _list_ids(services.blobs, list(models), cursor or "", count + 1)
    shown = listed[:count]
    slots = asyncio.Semaphore(_READS_AT_ONCE)
    found = await asyncio.gather(
        *(_read_resource(services.blobs, slots, *letter) for letter in shown)
    )
    has_more = len(listed) > count
    next_cursor = letter_blob_of(*shown[-1]).removeprefix(DEAD_LETTERS) if has_more else None
    letters = [letter for letter in found if letter is not None]
    page: DeadLetters = {"dead_letters": letters, "next_cursor": next_cursor}
    return json_response(page, headers=_PRIVATE)


async def _list_ids(
    blobs: Blobs, models: list[ModelEntry], after: str, count: int
) -> list[tuple[ModelEntry, str]]:
    """Return the models and ids of the dead letters that follow the cursor `after`.

    The dead letters are sorted by the name of the queue, then by the name of the blob. At most
    `count` dead letters are returned.
    """
    found: list[tuple[ModelEntry, str]] = []
    queues = {
        queue_of(model, priority): (model, priority) for model in models for priority in Priority
    }
    last_queue, _, last_name = after.partition("/")
    for queue, (model, priority) in sorted(queues.items(), key=itemgetter(0)):
        if queue < last_queue:
            continue
        prefix = f"{DEAD_LETTERS}{queue}/"
        async for blob in blobs.list(prefix):
            name = blob.name.removeprefix(prefix)
            if (queue, name) > (last_queue, last_name):
                found.append((model, letter_id(name, priority)))
            if len(found) == count:
                return found
    return found


async def _read_resource(
    blobs: Blobs, slots: asyncio.Semaphore, model: ModelEntry, id_: str
) -> DeadLetter | None:
    async with slots:
        blob = await blobs.read(letter_blob_of(model, id_))
    return None if blob is None else letter_resource(read_letter(id_, blob.data), model)


@router.delete(
    "/v1/admin/dead-letters",
    summary="Purge a model's dead letters",
    response_model=Purged,
    response_description="The letters are deleted",
    responses=problem_responses(400, 404, 503),
)
async def purge_dead_letters(request: Request, model: ModelOption = None) -> Response:
    """Delete up to 500 dead letters of one model. Repeat the call until `is_complete` is true."""
    services = _check_request(request, ("model",))
    if model is None:
        raise HttpProblem(
            problems.MALFORMED_REQUEST,
            "model: this parameter is missing; name the model whose dead letters must be deleted",
        )
    found = find_model(services.catalogue, model)
    listed = await _list_ids(services.blobs, [found], "", MAX_PURGED + 1)
    for _, id_ in islice(listed, MAX_PURGED):
        await services.blobs.delete(letter_blob_of(found, id_))
    deleted = min(len(listed), MAX_PURGED)
    purged: Purged = {"deleted": deleted, "is_complete": deleted == len(listed)}
    return json_response(purged)


@router.get(
    "/v1/admin/dead-letters/{model}/{letter_id}",
    summary="Get a dead letter",
    response_model=DeadLetter,
    response_description="The letter",
    responses=problem_responses(400, 404, 503),
)
async def get_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """Return a dead letter without its payload."""
    services = _check_request(request)
    found = find_model(services.catalogue, model)
    blob = await services.blobs.read(letter_blob_of(found, _check_id(letter_id)))
    if blob is None:
        raise _unknown_letter(letter_id)
    return json_response(
        letter_resource(read_letter(letter_id, blob.data), found), headers=_PRIVATE
    )


@router.post(
    "/v1/admin/dead-letters/{model}/{letter_id}/redrive",
    summary="Redrive a dead letter",
    status_code=202,
    response_model=RedrivenLetter,
    response_description="The letter was redriven",
    responses={
        200: {"model": RedrivenLetter, "description": "The letter had been redriven before"},
        **problem_responses(400, 404, 409, 503),
    },
)
async def redrive_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """Send the work of a dead letter again, at most once. The old job stays failed."""
    services = _check_request(request)
    found = find_model(services.catalogue, model)
    try:
        redriver, letter = services.redriver, _check_id(letter_id)
        sent = await redriver.redrive(durable_of(request), found, letter)
    except UnknownLetter:
        raise _unknown_letter(letter_id) from None
    except NotRedrivable as error:
        raise HttpProblem(problems.NOT_REDRIVABLE, str(error)) from None
    body: RedrivenLetter = {
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
    response_model=None,
    response_description="The letter is deleted",
    responses=problem_responses(400, 404, 503),
)
async def purge_dead_letter(request: Request, model: str, letter_id: str) -> Response:
    """Delete a dead letter. A repeated request has no effect."""
    services = _check_request(request)
    found = find_model(services.catalogue, model)
    await services.blobs.delete(letter_blob_of(found, _check_id(letter_id)))
    return Response(status_code=204)


def _check_request(request: Request, options: tuple[str, ...] = ()) -> Services:
    require_scope(request, Scope.ADMIN)
    refuse_unknown_query(request, options)
    return services_of(request)


def _check_id(letter_id: str) -> str:
    if not _ID.fullmatch(letter_id):
        raise _unknown_letter(letter_id)
    return letter_id


def _unknown_letter(letter_id: str) -> HttpProblem:
    return HttpProblem(
        problems.UNKNOWN_DEAD_LETTER,
        f"there is no dead letter {letter_id[:100]!r}, or it has been deleted",
    )
