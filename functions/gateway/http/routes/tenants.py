"""The routes under /v1/admin/tenants. They show tenants, and change their weights and limits."""

from dataclasses import asdict
from typing import Annotated, Final, cast

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from gateway.http.openapi.operations import TENANT_BODY, problem_responses, query_option
from gateway.http.requests import (
    MAX_LIMIT,
    TextRoute,
    caller_of,
    check_operator,
    parse_whole,
    read_small_json,
)
from gateway.http.responses import json_response
from gateway.keys import MAX_NAME_CHARACTERS, OPEN_TENANT, Scope, owner_of
from gateway.problems import malformed
from gateway.shares.limits import Limits
from gateway.shares.tenants import Fields, parse_fields
from gateway.shares.usage import TenantUsage

NO_NAME: Final = "~"
"""Stands in a path for the tenant of a gateway without API keys, whose name is empty."""

_PRIVATE: Final = {"Cache-Control": "no-store"}

router = APIRouter(tags=["admin"], route_class=TextRoute)


class ShownSettings(TypedDict):
    """The weight and the limits that apply to a tenant. A limit that is null does not exist."""

    weight: float
    max_queued: Annotated[
        int | None, Field(description="How many jobs may exist that have not ended.")
    ]
    max_running: Annotated[
        int | None, Field(description="How many jobs may be in a model's queue or run.")
    ]
    gpu_seconds_a_day: Annotated[
        float | None, Field(description="Seconds on devices in a day of UTC.")
    ]


class GivenSettings(TypedDict, total=False):
    """The members that were given for a tenant. The others are those of the tenant `*`."""

    weight: float
    max_queued: int | None
    max_running: int | None
    gpu_seconds_a_day: float | None


class ModelFigures(TypedDict):
    """A tenant's jobs of a model that have not ended, and what its jobs have used.

    The jobs are null while the model's queue is short.
    """

    share: Annotated[float | None, Field(description="Of the model's time now, from 0 to 1.")]
    waiting: Annotated[int | None, Field(description="Held jobs, and jobs in the queue.")]
    held: Annotated[int, Field(description="Jobs in the waiting room.")]
    running: Annotated[int | None, Field(description="Jobs at workers.")]
    gpu_seconds_hour: Annotated[float, Field(description="In the last 60 minutes.")]
    gpu_seconds_day: Annotated[float, Field(description="Since midnight UTC.")]


class ShownTenant(ModelFigures):
    """A tenant, its settings, and the figures of all its models together."""

    tenant: Annotated[
        str,
        Field(
            description="The tenant's name; `*` has the settings for all tenants. Empty without "
            "API keys. The first 16 hexadecimal digits of the name's SHA-256 if it is unknown."
        ),
    ]
    settings: ShownSettings
    given: GivenSettings | None
    models: dict[str, ModelFigures]


class ShownTenants(TypedDict):
    """The tenants that have settings, or have had jobs in the last day."""

    tenants: list[ShownTenant]


class ShownChange(TypedDict):
    """A change of a tenant's settings. Null stands for no settings."""

    id: str
    at: str
    by: Annotated[str, Field(description="The name of the API key.")]
    tenant: str
    before: GivenSettings | None
    after: GivenSettings | None


class ShownChanges(TypedDict):
    """The last changes, the newest first."""

    changes: list[ShownChange]


@router.get(
    "/v1/admin/tenants",
    summary="List tenants",
    response_model=ShownTenants,
    response_description="The tenants, sorted by name",
    responses=problem_responses(400, 503),
)
async def list_tenants(request: Request) -> Response:
    """List the tenants that have settings, or have had jobs in the last day."""
    limits = check_operator(request).limits
    given, usage = await limits.tenants.read_all(), await limits.usage.summarize()
    names = {owner_of(name): name for name in given}
    for owner in usage:
        name = limits.usage.name(owner)
        names.setdefault(owner, owner if name is None else name)
    shown = [
        _show(limits, owner, name, given.get(name), usage.get(owner))
        for owner, name in sorted(names.items(), key=lambda pair: pair[1])
    ]
    return json_response({"tenants": shown}, headers=_PRIVATE)


@router.get(
    "/v1/admin/tenants/audit",
    summary="List changes of tenants",
    response_model=ShownChanges,
    response_description="The changes, the newest first",
    responses=problem_responses(400, 503),
)
async def list_changes(
    request: Request,
    limit: Annotated[
        str | None,
        query_option(f"How many changes, from 1 to {MAX_LIMIT}; {MAX_LIMIT} if absent."),
    ] = None,
) -> Response:
    """List the last changes of the settings of tenants."""
    services = check_operator(request, ("limit",))
    count = parse_whole("limit", limit, MAX_LIMIT, MAX_LIMIT)
    changes = await services.limits.tenants.audit(count)
    return json_response({"changes": changes}, headers=_PRIVATE)


@router.get(
    "/v1/admin/tenants/{tenant}",
    summary="Get a tenant",
    response_model=ShownTenant,
    response_description="The tenant",
    responses=problem_responses(400, 503),
)
async def get_tenant(request: Request, tenant: str) -> Response:
    """Return a tenant, also if it has neither settings nor jobs."""
    limits = check_operator(request).limits
    return await _answer(limits, _parse_name(tenant))


@router.put(
    "/v1/admin/tenants/{tenant}",
    summary="Set the weight and the limits of a tenant",
    response_model=ShownTenant,
    response_description="The tenant was changed",
    responses=problem_responses(400, 413, 503),
    openapi_extra={"requestBody": TENANT_BODY},
)
async def put_tenant(request: Request, tenant: str) -> Response:
    """Replace the settings of a tenant, which apply to new jobs within a few seconds.

    For each member that is absent, the tenant has that of the tenant `*`. A limit that is null does
    not exist. Each change is in the audit log.
    """
    limits, name = check_operator(request, scopes=(Scope.ADMIN,)).limits, _parse_name(tenant)
    try:
        fields = parse_fields(await read_small_json(request))
    except ValueError as error:
        raise malformed(str(error)) from None
    await limits.tenants.change(name, fields, caller_of(request).logged_name)
    return await _answer(limits, name)


@router.delete(
    "/v1/admin/tenants/{tenant}",
    summary="Delete the settings of a tenant",
    status_code=204,
    response_description="The tenant has no settings of its own",
    responses=problem_responses(400, 503),
)
async def delete_tenant(request: Request, tenant: str) -> Response:
    """Delete the settings of a tenant, so that those of the tenant `*` apply."""
    limits = check_operator(request, scopes=(Scope.ADMIN,)).limits
    await limits.tenants.change(_parse_name(tenant), None, caller_of(request).logged_name)
    return Response(status_code=204)


def _parse_name(tenant: str) -> str:
    if tenant == NO_NAME:
        return OPEN_TENANT
    if len(tenant) > MAX_NAME_CHARACTERS or not tenant.isprintable():
        raise malformed(f"tenant: expected 1 to {MAX_NAME_CHARACTERS} printable characters")
    return tenant


async def _answer(limits: Limits, tenant: str) -> Response:
    owner, given = owner_of(tenant), await limits.tenants.read_all()
    usage = await limits.usage.summarize()
    shown = _show(limits, owner, tenant, given.get(tenant), usage.get(owner))
    return json_response(shown, headers=_PRIVATE)


def _show(
    limits: Limits, owner: str, tenant: str, given: Fields | None, usage: TenantUsage | None
) -> ShownTenant:
    used = usage or TenantUsage()
    shown = {
        "tenant": tenant,
        "settings": asdict(limits.tenants.settings_of(owner)),
        "given": given,
        **_figures(used),
        "models": {model: _figures(each) for model, each in sorted(used.models.items())},
    }
    return cast("ShownTenant", shown)


def _figures(used: TenantUsage) -> ModelFigures:
    return {
        "share": None,
        "waiting": None,
        "held": 0,
        "running": None,
        "gpu_seconds_hour": round(used.hour_seconds, 3),
        "gpu_seconds_day": round(used.day_seconds, 3),
    }
