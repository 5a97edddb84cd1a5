"""The routes under /openai/v1/batches.

https://platform.openai.com/docs/api-reference/batch

A batch here is one of `/v1/batches` whose lines are calls of the OpenAI API. Its id is `batch_` and
the other id without hyphens.
"""

import hashlib
import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from contract.messages import Json, format_time
from contract.queues import LONGEST_BATCH_SECONDS
from gateway import problems
from gateway.batches.create import NewBatch
from gateway.batches.ids import is_batch_id, new_batch_id
from gateway.batches.intake import MAX_LINE_BYTES
from gateway.batches.model import BatchSpec, BatchState, BatchStatus
from gateway.batches.openai_lines import operation_at
from gateway.batches.output_files import output_file
from gateway.http.openai.calls import read_object
from gateway.http.openai.uploads import read_lifetime, refuse_unknown_members
from gateway.http.requests import (
    TextRoute,
    caller_of,
    durable_of,
    idempotency_key_of,
    label_option_of,
    parse_whole,
    refuse_unknown_query,
    services_of,
)
from gateway.http.responses import json_response
from gateway.json_text import parse_json
from gateway.openai.calls import parse_metadata, refused
from gateway.openai.operations import OPERATIONS
from gateway.problems import HttpProblem, invalid_input
from gateway.storage.blobs import Blobs
from gateway.submission.parse import names_version, parse_label
from gateway.telemetry import traceparent_of

PURPOSE: Final = "batch"

_PREFIX: Final = "batch_"
_ID: Final = re.compile(f"{_PREFIX}([0-9a-f]{{32}})")
_MEMBERS: Final = (
    *("completion_window", "endpoint", "input_file_id", "metadata", "output_expires_after"),
)
_WINDOW: Final = re.compile("([1-9][0-9]{0,5})([smhd])")
_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_LONGEST_PAGE: Final = 100
_DEFAULT_PAGE: Final = 20
_PIECE_BYTES: Final = 256 * 1024
_STATUSES: Final = {
    BatchStatus.RUNNING: "in_progress",
    BatchStatus.SUCCEEDED: "completed",
}

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/batches")
async def create_batch(request: Request) -> Response:
    """Create a batch of the lines in a file, which is checked before anything runs."""
    refuse_unknown_query(request)
    services, tenant = services_of(request), caller_of(request).tenant
    key = idempotency_key_of(request)
    with services.bodies.counting(tenant) as held:
        asked, body = await read_object(request, held)
    refuse_unknown_members(asked, _MEMBERS)
    operation = operation_at(asked.get("endpoint"))
    if operation is None:
        known = ", ".join(f"/v1{each.path}" for each in OPERATIONS.values())
        raise refused("endpoint", f"expected one of {known}")
    seconds = _parse_window(asked.get("completion_window"))
    read_lifetime("output_expires_after", asked)
    file_id, now = asked.get("input_file_id"), services.clock()
    blob = await services.files.find_blob(tenant, str(file_id), now)
    if blob is None or (await services.files.find(tenant, str(file_id))).purpose != PURPOSE:
        raise invalid_input(
            f"input_file_id: expected the id of a file with the purpose {PURPOSE}",
            param="input_file_id",
        )
    model = await _first_model(services.blobs, blob)
    spec = BatchSpec(
        new_batch_id(now),
        tenant,
        model,
        format_time(now),
        format_time(now + timedelta(seconds=seconds)),
        blob,
        operation=operation,
        label=parse_label({"label": label_option_of(request)}),
        metadata=parse_metadata(asked.get("metadata")) or {},
        traceparent=traceparent_of(request.scope),
        is_pinned=names_version(model),
        extra={name: asked[name] for name in _MEMBERS if name != "metadata" and name in asked},
    )
    new = NewBatch(spec, None, None, hashlib.sha256(body).hexdigest())
    submitted = await services.batches.submit(durable_of(request), new, key)
    state, _ = await services.batch_store.state(submitted.spec.id)
    return json_response(_show(submitted.spec, state))


def _parse_window(given: Json) -> int:
    """Return the number of seconds of a completion window, such as 24h."""
    found = _WINDOW.fullmatch(given) if isinstance(given, str) else None
    seconds = int(found[1]) * _UNIT_SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= LONGEST_BATCH_SECONDS:
        raise refused(
            "completion_window", "expected 24h, or a time such as 90m, 2h or 7d, up to 7d"
        )
    return seconds


async def _first_model(blobs: Blobs, blob: str) -> str:
    """Return the model that the first line of a file names; an empty text if it names none."""
    head = b""
    while b"\n" not in head.lstrip() and len(head) < MAX_LINE_BYTES:
        piece = await blobs.read_from(blob, len(head), _PIECE_BYTES)
        head += piece
        if not piece:
            break
    try:
        line = parse_json(head.lstrip().partition(b"\n")[0])
    except ValueError:
        return ""
    body = line.get("body") if isinstance(line, dict) else None
    model = body.get("model") if isinstance(body, dict) else None
    return model[:100] if isinstance(model, str) else ""


@router.get("/openai/v1/batches")
async def list_batches(
    request: Request, after: str | None = None, limit: str | None = None
) -> Response:
    """Return a page of batches, the newest first."""
    refuse_unknown_query(request, ("after", "limit"))
    count = min(parse_whole("limit", limit, _DEFAULT_PAGE, 10_000), _LONGEST_PAGE)
    store = services_of(request).batch_store
    ids = await store.ids(caller_of(request).tenant, is_openai=True)
    if after is not None:
        ids = [each for each in ids if each < _uuid(after)]
    specs = [await store.spec(each) for each in ids[:count]]
    found = [_show(each, (await store.state(each.id))[0]) for each in specs if each is not None]
    page = {
        "object": "list",
        "data": found,
        "first_id": found[0]["id"] if found else None,
        "last_id": found[-1]["id"] if found else None,
        "has_more": len(ids) > count,
    }
    return json_response(page)


@router.get("/openai/v1/batches/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """Return a batch."""
    refuse_unknown_query(request)
    return json_response(_show(*await _find(request, batch_id)))


@router.post("/openai/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Cancel a batch unless it has ended, and return it. It keeps what it has."""
    refuse_unknown_query(request)
    spec, state = await _find(request, batch_id)
    if not state.status.is_final:
        await services_of(request).batches.cancel(durable_of(request), spec.id)
        state = replace(state, status=BatchStatus.CANCELLING)
    return json_response(_show(spec, state))


async def _find(request: Request, batch_id: str) -> tuple[BatchSpec, BatchState]:
    """Return a batch of the caller. Raises the problem `not-found`."""
    store, known = services_of(request).batch_store, _uuid(batch_id)
    spec = await store.spec(known) if is_batch_id(known) else None
    if spec is None or spec.operation is None or spec.tenant != caller_of(request).tenant:
        raise HttpProblem(
            problems.NOT_FOUND, f"there is no batch {batch_id[:100]!r}, or it has been deleted"
        )
    state, _ = await store.state(spec.id)
    if not state.status.is_final and await store.is_cancelled(spec.id):
        state = replace(state, status=BatchStatus.CANCELLING)
    return spec, state


def _uuid(batch_id: str) -> str:
    """Return the id of a batch without OpenAI's prefix; an empty text if it is none."""
    found = _ID.fullmatch(batch_id)
    return str(UUID(found[1])) if found else ""


def _show(spec: BatchSpec, state: BatchState) -> dict[str, Any]:
    """Return a batch as the API shows it. Its output may be read while it grows."""
    status = _STATUSES.get(state.status, state.status.value)
    if state.status is BatchStatus.RUNNING and state.ended == state.total:
        status = "finalizing"
    finished_at, updated_at = _seconds(state.finished_at), _seconds(state.updated_at)
    created_at = _seconds(spec.created_at)
    is_cancelled = state.status in {BatchStatus.CANCELLING, BatchStatus.CANCELLED}
    ended: dict[str, int | None] = {
        f"{each}_at": None for each in ("completed", "failed", "expired", "cancelled")
    }
    if state.status.is_final:
        ended[f"{status}_at"] = finished_at
    problems_found = [
        {"code": each.code, "line": each.line or None, "message": each.message, "param": None}
        for each in state.problems
    ]
    return {
        "id": _PREFIX + spec.id.replace("-", ""),
        "object": "batch",
        "endpoint": spec.extra["endpoint"],
        "model": spec.model,
        "errors": {"object": "list", "data": problems_found} if problems_found else None,
        "input_file_id": spec.extra["input_file_id"],
        "completion_window": spec.extra["completion_window"],
        "status": status,
        "output_file_id": output_file(spec.id, "output") if state.results_bytes else None,
        "error_file_id": output_file(spec.id, "errors") if state.errors_bytes else None,
        "created_at": created_at,
        "in_progress_at": _seconds(state.started_at),
        "expires_at": _seconds(spec.deadline),
        "finalizing_at": finished_at if status == "completed" else None,
        "cancelling_at": (finished_at or updated_at or created_at) if is_cancelled else None,
        **ended,
        "request_counts": {
            "total": state.total,
            "completed": state.succeeded,
            "failed": state.failed + state.expired + state.cancelled,
        },
        "metadata": spec.metadata or None,
    }


def _seconds(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp())
