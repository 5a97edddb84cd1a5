"""The routes under /v1/ops, and /metrics. They show operators the state of the system."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import Field
from typing_extensions import TypedDict

from gateway.http.openapi.operations import problem_responses, query_option
from gateway.http.requests import TextRoute, caller_of, check_operator, parse_whole
from gateway.http.responses import json_response
from gateway.keys import Scope
from gateway.operations.metrics import render_metrics
from gateway.operations.overview import OpsOverview, OpsSeries
from gateway.telemetry import KEPT_MINUTES

_PRIVATE: Final = {"Cache-Control": "no-store"}
_METRICS: Final[dict[str, Any]] = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("text/plain", "application/openmetrics-text")
}

router = APIRouter(tags=["admin"], route_class=TextRoute)


class OpsCaller(TypedDict):
    """The caller of this request, so that a page can show what the caller may do."""

    name: Annotated[str, Field(description="The name of the API key; empty if no key is needed.")]
    tenant: str
    scopes: Annotated[list[Scope], Field(examples=[["ops:read"]])]


class CallersOverview(OpsOverview):
    """What the system is doing now, and what the caller may do."""

    caller: OpsCaller


@router.get(
    "/v1/ops/overview",
    summary="Show what the system is doing",
    response_model=CallersOverview,
    response_description="Verdicts, queues, workers and failures",
    responses=problem_responses(400),
)
async def get_overview(request: Request) -> Response:
    """Return sentences about the system (verdicts), and the state of all queues and workers.

    The figures are at most a second old. The numbers of messages are up to five seconds older, and
    counts of jobs from other instances of the gateway up to a minute.
    """
    services, caller = check_operator(request), caller_of(request)
    document: CallersOverview = {
        **await services.operations.overview(),
        "caller": {
            "name": caller.name,
            "tenant": caller.tenant,
            "scopes": sorted(caller.scopes),
        },
    }
    return json_response(document, headers=_PRIVATE)


@router.get(
    "/v1/ops/series",
    summary="Show the last hour",
    response_model=OpsSeries,
    response_description="The figures of each minute",
    responses=problem_responses(400),
)
async def get_series(
    request: Request,
    minutes: Annotated[
        str | None,
        query_option(f"How many minutes, from 1 to {KEPT_MINUTES}; {KEPT_MINUTES} if absent."),
    ] = None,
) -> Response:
    """Return the counts of each model's jobs and how long they took, minute by minute.

    The last minute is the current minute.
    """
    services = check_operator(request, ("minutes",))
    count = parse_whole("minutes", minutes, KEPT_MINUTES, KEPT_MINUTES)
    series = await services.operations.series(count)
    return json_response(series, headers=_PRIVATE)


@router.get(
    "/metrics",
    summary="Get the metrics for Prometheus",
    response_class=PlainTextResponse,
    response_description="The metrics in the text format of Prometheus or OpenMetrics",
    responses={200: {"content": _METRICS}, **problem_responses(400, 503)},
)
async def get_metrics(request: Request) -> Response:
    """Return the metrics of all instances of the gateway, and of the queues and workers."""
    services = check_operator(request)
    accept = request.headers.get("accept", "")
    content, media_type = await render_metrics(services.operations, accept)
    return Response(content, headers={**_PRIVATE, "Content-Type": media_type})
