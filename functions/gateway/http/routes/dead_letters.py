"""The routes under /v1/admin/dead-letters. They list, count, redrive and purge dead letters."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import Catalogue
from contract.messages import Json
from gateway import problems
from gateway.dead_letters.bulk import (
    MAX_EXAMINED,
    LetterAction,
    LetterActionResult,
    LetterFilter,
    find_letters,
    list_letters,
    log_redrive,
)
from gateway.dead_letters.store import (
    LETTER_ID,
    DeadLetter,
    letter_blob_of,
    letter_resource,
    read_letter,
)
from gateway.errors import NotRedrivable, UnknownLetter
from gateway.http.openapi.operations import LETTER_ACTION_BODY, problem_responses, query_option
from gateway.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    TextRoute,
    caller_of,
    check_operator,
    durable_of,
    find_versions,
    parse_limit,
    parse_time,
    read_small_json,
)
from gateway.http.responses import json_response
from gateway.jobs.model import job_path
from gateway.keys import Scope
from gateway.problems import HttpProblem, malformed
from gateway.submission.parse import find_model

MAX_PURGED: Final = 500

_FILTERS: Final = ("model", "reason", "dead_lettered_after", "dead_lettered_before")
_ORDER_MEMBERS: Final = frozenset({"action", "count", "filter", "cursor"})
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


class DeadLetterCount(TypedDict):
    """The number of dead letters that match a filter, among those that the request has read."""

    count: Annotated[
        int, Field(description="All matching dead letters. A purge needs this number.")
    ]
    not_redriven: Annotated[
        int,
        Field(
            description="The matching dead letters not yet redriven. A redrive needs this number."
        ),
    ]
    examined: Annotated[
        int, Field(description=f"How many dead letters were read, at most {MAX_EXAMINED}.")
    ]
    next_cursor: Annotated[
        str | None,
        Field(description="Continues the count at the next dead letter; null if there is none."),
    ]


ModelOption = Annotated[str | None, query_option("Only dead letters of this model.")]
ReasonOption = Annotated[
    str | None,
    query_option("Only dead letters with this reason, for example `MaxDeliveryCountExceeded`."),
]
AfterOption = Annotated[
    str | None,
    query_option(
        "Only messages that were dead-lettered at this time or later.", format="date-time"
    ),
]
BeforeOption = Annotated[
    str | None,
    query_option("Only messages that were dead-lettered before this time.", format="date-time"),
]
CursorOption = Annotated[str | None, query_option("The `next_cursor` of the previous response.")]


@router.get(
    "/v1/admin/dead-letters",
    summary="List dead letters",
    response_model=DeadLetters,
    response_description="A page of dead letters",
    responses=problem_responses(400, 404, 503),
)
async def list_dead_letters(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    model: ModelOption = None,
    reason: ReasonOption = None,
    dead_lettered_after: AfterOption = None,
    dead_lettered_before: BeforeOption = None,
    limit: Annotated[
        str | None,
        query_option(f"Letters on a page, from 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent."),
    ] = None,
    cursor: CursorOption = None,
) -> Response:
    """List dead letters, sorted by queue and id. In each queue, the oldest job comes first.

    With a filter, even an empty page can have a `next_cursor`.
    """
    services = check_operator(request, (*_FILTERS, "cursor", "limit"))
    wanted = _make_filter(
        services.catalogue, model, reason, dead_lettered_after, dead_lettered_before
    )
    count = parse_limit(limit)
    page = await find_letters(services.blobs, wanted, _check_cursor(cursor), count)
    letters: DeadLetters = {
        "dead_letters": list(map(letter_resource, page.letters)),
        "next_cursor": page.cursor,
    }
    return json_response(letters, headers=_PRIVATE)


@router.get(
    "/v1/admin/dead-letters/count",
    summary="Count dead letters",
    response_model=DeadLetterCount,
    response_description="The number of matching dead letters",
    responses=problem_responses(400, 404, 503),
)
async def count_dead_letters(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    model: ModelOption = None,
    reason: ReasonOption = None,
    dead_lettered_after: AfterOption = None,
    dead_lettered_before: BeforeOption = None,
    cursor: CursorOption = None,
) -> Response:
    """Count the dead letters that match a filter.

    One request reads up to 500 dead letters. If more dead letters follow, `next_cursor` is the
    `cursor` for the next request.
    """
    services = check_operator(request, (*_FILTERS, "cursor"))
    wanted = _make_filter(
        services.catalogue, model, reason, dead_lettered_after, dead_lettered_before
    )
    page = await find_letters(services.blobs, wanted, _check_cursor(cursor))
    counted: DeadLetterCount = {
        "count": len(page.letters),
        "not_redriven": sum(not each.is_redriven for each in page.letters),
        "examined": page.examined,
        "next_cursor": page.cursor,
    }
    return json_response(counted, headers=_PRIVATE)


@router.post(
    "/v1/admin/dead-letters/actions",
    summary="Redrive or purge all dead letters that match a filter",
    response_model=LetterActionResult,
    response_description="The dead letters were changed",
    responses=problem_responses(400, 404, 409, 413, 503),
    openapi_extra={"requestBody": LETTER_ACTION_BODY},
)
async def change_dead_letters(request: Request) -> Response:
    """Redrive or purge all dead letters that match a filter, if their number equals `count`.

    `GET /v1/admin/dead-letters/count` with the same filter and cursor returns this number. If the
    number has changed, nothing is done, and the status is 409. One request changes up to 500
    letters, and stops after about 15 seconds.
    """
    services = check_operator(request, scopes=(Scope.ADMIN,))
    action, count, given, cursor = _parse_action(await read_small_json(request))
    wanted = _make_filter(services.catalogue, *(_text_member(given, name) for name in _FILTERS))
    if action is LetterAction.REDRIVE:
        wanted = replace(wanted, is_redriven=False)
    page = await find_letters(services.blobs, wanted, _check_cursor(cursor))
    if len(page.letters) != count:
        raise HttpProblem(
            problems.COUNT_CHANGED,
            f"count: {len(page.letters)} dead letters match now, but the request expects "
            f"{count}; count them again",
            count=len(page.letters),
        )
    result = await services.letter_actions.apply(
        durable_of(request), caller_of(request), action, page
    )
    return json_response(result, headers=_PRIVATE)


def _parse_action(value: Json) -> tuple[LetterAction, int, dict[str, Json], str | None]:
    """Return the action, the expected count, the filter and the cursor in a body."""
    if not isinstance(value, dict) or not _ORDER_MEMBERS.issuperset(value):
        raise malformed(
            "the body must be a JSON object with the members action and count, and optionally "
            "filter and cursor"
        )
    action, count, wanted = value.get("action"), value.get("count"), value.get("filter", {})
    if action not in list(LetterAction):
        known = " or ".join(LetterAction)
        raise malformed(f"action: expected {known}")
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise malformed(
            "count: expected the number of matching dead letters, from "
            "GET /v1/admin/dead-letters/count"
        )
    if not isinstance(wanted, dict) or not set(_FILTERS).issuperset(wanted):
        raise malformed(
            f"filter: expected an object with only these members: {', '.join(_FILTERS)}"
        )
    return LetterAction(action), count, wanted, _text_member(value, "cursor")


def _text_member(value: Mapping[str, Json], name: str) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise malformed(f"{name}: expected a string")
    return text


def _make_filter(
    catalogue: Catalogue,
    model: str | None,
    reason: str | None,
    dead_lettered_after: str | None,
    dead_lettered_before: str | None,
) -> LetterFilter:
    """Make a filter from query parameters. Raises HttpProblem if a value is not valid."""
    models = tuple(catalogue.values()) if model is None else find_versions(catalogue, model)
    return LetterFilter(
        models,
        reason,
        parse_time("dead_lettered_after", dead_lettered_after),
        parse_time("dead_lettered_before", dead_lettered_before),
    )


def _check_cursor(cursor: str | None) -> str:
    """Return the cursor, or "" if there is none. Raises HttpProblem if it is not valid."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise malformed("cursor: this value is not valid; use the next_cursor of the previous page")
    return cursor or ""


@router.delete(
    "/v1/admin/dead-letters",
    summary="Purge a model's dead letters",
    response_model=Purged,
    response_description="The letters are deleted",
    responses=problem_responses(400, 404, 503),
)
async def purge_dead_letters(request: Request, model: ModelOption = None) -> Response:
    """Delete up to 500 dead letters of one model. Repeat the call until `is_complete` is true."""
    services = check_operator(request, ("model",), (Scope.ADMIN,))
    if model is None:
        raise malformed(
            "model: this parameter is missing; give the name of the model whose dead letters you "
            "want to delete"
        )
    found = find_versions(services.catalogue, model)
    listed = await list_letters(services.blobs, found, "", MAX_PURGED + 1)
    for version, id_ in islice(listed, MAX_PURGED):
        await services.letter_actions.purge(caller_of(request), version, id_)
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
    services = check_operator(request)
    found = find_model(services.catalogue, model)
    blob = await services.blobs.read(letter_blob_of(found, _check_id(letter_id)))
    if blob is None:
        raise _unknown_letter(letter_id)
    letter = read_letter(found, letter_id, blob.data)
    return json_response(letter_resource(letter), headers=_PRIVATE)


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
    services = check_operator(request, scopes=(Scope.ADMIN,))
    found = find_model(services.catalogue, model)
    try:
        redriver, letter = services.letter_actions.redriver, _check_id(letter_id)
        sent = await redriver.redrive(durable_of(request), found, letter)
    except UnknownLetter:
        raise _unknown_letter(letter_id) from None
    except NotRedrivable as error:
        raise HttpProblem(problems.NOT_REDRIVABLE, str(error)) from None
    if not sent.is_repeat:
        log_redrive(caller_of(request), found, letter_id, sent.job_id)
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
    services = check_operator(request, scopes=(Scope.ADMIN,))
    found = find_model(services.catalogue, model)
    await services.letter_actions.purge(caller_of(request), found, _check_id(letter_id))
    return Response(status_code=204)


def _check_id(letter_id: str) -> str:
    if not _ID.fullmatch(letter_id):
        raise _unknown_letter(letter_id)
    return letter_id


def _unknown_letter(letter_id: str) -> HttpProblem:
    return HttpProblem(
        problems.UNKNOWN_DEAD_LETTER,
        f"there is no dead letter {letter_id[:100]!r}, or it has been deleted",
    )
