"""The routes under /v1/batches, which create, show, list and cancel batches, and their output."""

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from contract.messages import PayloadRef
from gateway import problems
from gateway.batches.create import MAX_BODY_BYTES, parse_batch
from gateway.batches.ids import is_batch_id
from gateway.batches.intake import JSONL
from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.resource import PATH, BatchResource, batch_path, batch_resource
from gateway.batches.store import errors_blob, results_blob
from gateway.http.openapi.operations import (
    BATCH_BODY,
    IDEMPOTENCY_KEY,
    IF_NONE_MATCH,
    NOT_MODIFIED,
    PREFER,
    RANGE,
    Responses,
    problem_responses,
    query_option,
)
from gateway.http.requests import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    TextRoute,
    body_of,
    caller_of,
    durable_of,
    find_batch,
    idempotency_key_of,
    noticing_hang_up,
    parse_limit,
    parse_prefer,
    parse_time,
    refuse_unknown_query,
    require_scope,
    services_of,
    visible_tenant,
)
from gateway.http.responses import answer_conditionally, check_match, json_response
from gateway.http.routes.jobs import TENANT_OPTION, link_to, parse_label_filter, parse_pair
from gateway.http.routes.submit import REPLAYED
from gateway.jobs.lifecycle import when_caller_gone
from gateway.jobs.listing import id_at
from gateway.jobs.search import JobFilter
from gateway.keys import Scope
from gateway.problems import HttpProblem, malformed
from gateway.services import Services
from gateway.submission.parse import MAX_LABEL_CHARACTERS, check_coding
from gateway.telemetry import traceparent_of

MAX_EXAMINED: Final = 500
"""How many batches are read for one page of a list."""

MAX_DIRECT_BYTES: Final = 1024 * 1024
"""The largest part of an output that the gateway itself returns; a larger one is a link."""

_AT_ONCE: Final = 20
_RETRY_AFTER_SECONDS: Final = 1
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0
_OPTIONS: Final = (
    *("created_after", "created_before", "cursor", "label", "limit", "metadata", "model"),
    *("status", "tenant"),
)
# All ids are before this text.
_LAST: Final = "g"
# The ETag of an output that has no lines yet.
_NOTHING_YET: Final = '"0"'
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)

_log = logging.getLogger(__name__)

router = APIRouter(tags=["batches"], route_class=TextRoute)


class BatchPageLinks(TypedDict):
    """The links of a page of batches. `next` is the path of the next page."""

    next: str | None


class BatchListPage(TypedDict):
    """A page of batches, newest first. Even an empty page can have a next page."""

    batches: list[BatchResource]
    next_cursor: str | None
    links: BatchPageLinks


@router.post(
    "/v1/batches",
    summary="Create a batch",
    status_code=202,
    response_model=BatchResource,
    response_description="The batch was accepted; `Location` contains its URL",
    responses=problem_responses(400, 404, 413, 415, 422, 429, 503),
    openapi_extra={"requestBody": BATCH_BODY, "parameters": [IDEMPOTENCY_KEY]},
)
async def create_batch(request: Request) -> Response:
    """Create a batch: a job for one model from each line of an uploaded file, or of the request.

    The lines of a request are checked at once. Those of a file are checked before the first one
    runs: if any is refused, the status is `failed`, and `errors` lists up to 100 lines.
    """
    refuse_unknown_query(request)
    services, tenant = services_of(request), caller_of(request).tenant
    key = idempotency_key_of(request)
    check_coding(request.headers.get("content-encoding", ""))
    with services.bodies.counting(tenant) as held:
        incoming = body_of(request, held)
        # Azure's host refuses larger bodies if it knows their sizes.
        limit_bytes = min(MAX_BODY_BYTES, services.catalogue.body_limit_bytes)
        incoming.limit(partial(_check_size, limit_bytes))
        body = await incoming.read()
        read = partial(
            parse_batch,
            catalogue=services.catalogue,
            tenant=tenant,
            traceparent=traceparent_of(request.scope),
            now=services.clock(),
        )
        new = await services.bodies.parse(tenant, body, read)
        submitted = await services.batches.submit(durable_of(request), new, key)
    spec = submitted.spec
    state, _ = await services.batches.store.state(spec.id)
    headers = {"Location": batch_path(spec.id), "Retry-After": str(_RETRY_AFTER_SECONDS)}
    if submitted.is_replay:
        headers |= REPLAYED
    return json_response(_show(request, spec, state), 202, headers)


def _check_size(limit_bytes: int, size_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE,
            f"the body has more than {limit_bytes} bytes, the most that is allowed; send the "
            'lines as a file (POST /v1/uploads with {"purpose": "batch"})',
            limit_bytes=limit_bytes,
        )


@router.get(
    "/v1/batches/{batch_id}",
    summary="Get a batch",
    response_model=BatchResource,
    response_description="The batch, in any status",
    responses={**problem_responses(400, 404, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [PREFER, IF_NONE_MATCH]},
)
async def get_batch(
    request: Request, batch_id: str, tenant: Annotated[str | None, TENANT_OPTION] = None
) -> Response:
    """Return a batch. With `Prefer: wait=N`, first wait up to N seconds for its end."""
    refuse_unknown_query(request, ("tenant",))
    preference = parse_prefer(request.headers.getlist("prefer"))
    spec, state = await _find(request, batch_id, visible_tenant(request, tenant))
    if (wait_seconds := preference.wait_seconds or 0) and not state.status.is_final:
        with noticing_hang_up(request):
            state = await _wait_for_end(services_of(request), batch_id, state, wait_seconds)
    response = _batch_response(request, spec, state)
    if applied := preference.applied(answered_async=False):
        response.headers["Preference-Applied"] = applied
    return answer_conditionally(request, response)


async def _wait_for_end(
    services: Services, batch_id: str, state: BatchState, limit_seconds: float
) -> BatchState:
    """Read the state of a batch until it has ended, or the time is over, or the caller is gone."""
    loop, gone = asyncio.get_running_loop(), when_caller_gone()
    ends_at, pause_seconds = loop.time() + limit_seconds, _FIRST_PAUSE_SECONDS
    while not state.status.is_final and not gone.done():
        if (left_seconds := ends_at - loop.time()) <= 0:
            break
        await asyncio.wait([gone], timeout=min(pause_seconds, left_seconds))
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        state, _ = await services.batches.store.state(batch_id)
    return state


def _batch_response(request: Request, spec: BatchSpec, state: BatchState) -> Response:
    headers = {"Vary": "Prefer"}
    if not state.status.is_final:
        headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return json_response(_show(request, spec, state), headers=headers)


def _show(request: Request, spec: BatchSpec, state: BatchState) -> BatchResource:
    """Return what the caller may see of a batch: operators also see its tenant."""
    batch = batch_resource(spec, state)
    if caller_of(request).is_operator and spec.tenant:
        batch["tenant"] = spec.tenant
    return batch


async def _find(
    request: Request, batch_id: str, tenant: str | None
) -> tuple[BatchSpec, BatchState]:
    """Return a batch of this tenant, or of any if None. Raises the problem `unknown-batch`."""
    spec = await find_batch(request, batch_id, tenant)
    return spec, await services_of(request).batch_store.shown_state(batch_id)


@router.delete(
    "/v1/batches/{batch_id}",
    summary="Cancel a batch",
    response_model=BatchResource,
    response_description="The batch had already ended",
    responses={
        202: {"model": BatchResource, "description": "The batch is being cancelled"},
        **problem_responses(400, 404, 412, 503),
    },
)
async def cancel_batch(
    request: Request,
    batch_id: str,
    tenant: Annotated[
        str | None,
        query_option(
            "The tenant of the batch, or `*` for any tenant. It needs the scope `admin`. "
            "If absent: the key's own tenant."
        ),
    ] = None,
) -> Response:
    """Cancel a batch if it has not ended. Its results until then are kept."""
    refuse_unknown_query(request, ("tenant",))
    caller = caller_of(request)
    if tenant is None:
        require_scope(request, Scope.JOBS_WRITE)
        visible: str | None = caller.tenant
    else:
        require_scope(request, Scope.ADMIN)
        visible = visible_tenant(request, tenant)
    spec, state = await _find(request, batch_id, visible)
    if "if-match" in request.headers:
        check_match(request, _batch_response(request, spec, state))
    if state.status.is_final:
        return json_response(_show(request, spec, state))
    await services_of(request).batches.cancel(durable_of(request), batch_id)
    if spec.tenant != caller.tenant:
        _log.info(
            "caller %.100r cancelled the batch %s of the tenant %.100r",
            *(caller.logged_name, batch_id, spec.tenant),
        )
    batch = _show(request, spec, state)
    batch["status"] = BatchStatus.CANCELLING
    headers = {"Location": batch_path(batch_id), "Retry-After": str(_RETRY_AFTER_SECONDS)}
    return json_response(batch, 202, headers)


@router.get(
    "/v1/batches",
    summary="List or search batches",
    response_model=BatchListPage,
    response_description="A page of batches; `Link` contains the URL of the next page",
    responses={**problem_responses(400, 412, 503), **NOT_MODIFIED},
    openapi_extra={"parameters": [IF_NONE_MATCH]},
)
async def list_batches(  # noqa: PLR0913, PLR0917 - each query parameter is a parameter
    request: Request,
    model: Annotated[
        str | None,
        query_option("Only batches whose request named this model, such as `classifier`."),
    ] = None,
    status: Annotated[
        str | None, query_option("Only batches in this status.", enum=list(BatchStatus))
    ] = None,
    label: Annotated[
        str | None,
        query_option(
            "Only batches with this label. A `*` at the end stands for any further text.",
            minLength=1,
            maxLength=MAX_LABEL_CHARACTERS + 1,
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        query_option(
            "Only batches with this `NAME=VALUE` in their metadata. A `*` at the end stands for "
            "any further text."
        ),
    ] = None,
    created_after: Annotated[
        str | None,
        query_option("Only batches that were created at this time or later.", format="date-time"),
    ] = None,
    created_before: Annotated[
        str | None,
        query_option("Only batches that were created before this time.", format="date-time"),
    ] = None,
    tenant: Annotated[str | None, TENANT_OPTION] = None,
    limit: Annotated[
        str | None,
        query_option(f"Batches on a page, from 1 to {MAX_LIMIT}; {DEFAULT_LIMIT} if absent."),
    ] = None,
    cursor: Annotated[str | None, query_option("The `next_cursor` of the previous page.")] = None,
) -> Response:
    """List batches, newest first. Even an empty page can have a `next_cursor`."""
    refuse_unknown_query(request, _OPTIONS)
    if status is not None and status not in set(BatchStatus):
        raise malformed(f"status: expected one of {', '.join(BatchStatus)}")
    if cursor is not None and not is_batch_id(cursor):
        raise malformed("cursor: this value is not valid; use the next_cursor of the previous page")
    texts = JobFilter(label=parse_label_filter(label), metadata=parse_pair(metadata))
    wanted = partial(_is_wanted, texts=texts, model=model, status=status)
    limit_count, visible = parse_limit(limit), visible_tenant(request, tenant)
    since = parse_time("created_after", created_after)
    until = parse_time("created_before", created_before)
    above = id_at(since) if since else ""
    below = min(cursor or _LAST, id_at(until) if until else _LAST)
    services = services_of(request)
    # As in a search for jobs, a tenant reads one page at a time.
    async with services.search.locks.setdefault(caller_of(request).tenant, asyncio.Lock()):
        ids = await services.batches.store.ids(visible)
        ids = [each for each in ids if above <= each < below]
        batches, next_cursor = await _read_page(request, visible, ids, limit_count, wanted)
    given = {name: value for name, value in request.query_params.items() if name != "cursor"}
    following = next_cursor and f"{PATH}?{urlencode({**given, 'cursor': next_cursor})}"
    page: BatchListPage = {
        "batches": batches,
        "next_cursor": next_cursor,
        "links": {"next": following},
    }
    headers = {"Link": f'<{following}>; rel="next"'} if following else {}
    return answer_conditionally(request, json_response(page, headers=headers))


def _is_wanted(
    batch: BatchResource, *, texts: JobFilter, model: str | None, status: str | None
) -> bool:
    names = {batch["model"], f"{batch['model']}:{batch['version']}"}
    is_found = status in {None, batch["status"]} and model in {None, *names}
    return is_found and texts.matches_texts(batch)


async def _read_page(
    request: Request,
    tenant: str | None,
    ids: list[str],
    count: int,
    wanted: Callable[[BatchResource], bool],
) -> tuple[list[BatchResource], str | None]:
    """Return the first of these batches that are wanted, and the next cursor."""
    examined = ids[:MAX_EXAMINED]
    found: list[BatchResource] = []
    for start in range(0, len(examined), _AT_ONCE):
        some = examined[start : start + _AT_ONCE]
        read = await asyncio.gather(
            *(_find(request, batch_id, tenant) for batch_id in some), return_exceptions=True
        )
        for batch_id, each in zip(some, read, strict=True):
            if isinstance(each, HttpProblem):
                continue  # it was deleted a moment ago
            if isinstance(each, BaseException):
                raise each
            if wanted(batch := _show(request, *each)):
                found.append(batch)
            if len(found) == count:
                return found, batch_id if batch_id != ids[-1] else None
    return found, examined[-1] if len(ids) > len(examined) else None


_REDIRECT_OPTION: Final = query_option(
    "`false`: instead of 303, the status is 200, `Location` has the URL, and the body has `url`, "
    "`media_type`, `size_bytes` and `expires_at`. Default: `true`."
)


def _output_responses() -> Responses:
    content = {JSONL: {"schema": {"type": "string"}}}
    return {
        200: {
            "description": "The lines until now; with `redirect=false`, the link to a large part "
            "as JSON",
            "content": {**content, "application/json": {}},
        },
        206: {"description": "The requested range of the lines", "content": content},
        303: {
            "description": "The part is large; `Location` is a URL that is valid for 15 minutes, "
            "to be requested with the same `Range`"
        },
        **problem_responses(400, 404, 412, 416, 503),
        **NOT_MODIFIED,
    }


@router.get(
    "/v1/batches/{batch_id}/results",
    summary="Get the results of a batch",
    response_model=None,
    responses=_output_responses(),
    openapi_extra={"parameters": [RANGE, IF_NONE_MATCH]},
)
async def get_batch_results(
    request: Request, batch_id: str, redirect: Annotated[str | None, _REDIRECT_OPTION] = None
) -> Response:
    """Return the results of a batch as JSONL, in the order of its lines.

    The file grows while the batch runs: what it has does not change. With `Range: bytes=N-`, only
    what follows the first N bytes is returned.
    """
    return await _read_output(request, batch_id, "results", redirect)


@router.get(
    "/v1/batches/{batch_id}/errors",
    summary="Get the errors of a batch",
    response_model=None,
    responses=_output_responses(),
    openapi_extra={"parameters": [RANGE, IF_NONE_MATCH]},
)
async def get_batch_errors(
    request: Request, batch_id: str, redirect: Annotated[str | None, _REDIRECT_OPTION] = None
) -> Response:
    """Return the lines of a batch that have no result as JSONL, in order, with the reasons.

    The file grows as that of the results does.
    """
    return await _read_output(request, batch_id, "errors", redirect)


async def _read_output(
    request: Request, batch_id: str, name: str, redirect: str | None
) -> Response:
    refuse_unknown_query(request, ("redirect",))
    if redirect not in {None, "true", "false"}:
        raise malformed("redirect: expected true or false")
    await _find(request, batch_id, caller_of(request).tenant)
    services = services_of(request)
    blob = results_blob(batch_id) if name == "results" else errors_blob(batch_id)
    about = await services.blobs.look(blob)
    size_bytes, tag = (about.size_bytes, about.etag) if about else (0, _NOTHING_YET)
    wanted = _parse_range(request, size_bytes, tag)
    start, end = wanted or (0, size_bytes)
    if end - start > MAX_DIRECT_BYTES:
        return await link_to(
            request,
            PayloadRef(JSONL, blob, size_bytes, None),
            f"{batch_id}-{name}.jsonl",
            redirects=redirect != "false",
        )
    data = await services.blobs.read_from(blob, start, end - start) if end > start else b""
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{batch_id}-{name}.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    response = Response(data, 206 if wanted else 200, headers, JSONL)
    return answer_conditionally(request, response, tag=tag)


def _parse_range(request: Request, size_bytes: int, tag: str) -> tuple[int, int] | None:
    """Return the start and end of the only range (RFC 9110, 14.2); None for the whole content."""
    found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if found is None or not any(found.groups()) or request.headers.get("if-range", tag) != tag:
        return None
    first, last = found.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= size_bytes or start == end:
        raise HttpProblem(
            problems.RANGE_NOT_SATISFIABLE,
            f"the file has {size_bytes} bytes now",
            headers={"Content-Range": f"bytes */{size_bytes}"},
        )
    return start, end
