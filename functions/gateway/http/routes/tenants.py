"""The routes under /v1/admin/tenants. They show tenants, and change their weights and limits."""

from typing import Annotated, Final

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
from gateway.keys import MAX_NAME_CHARACTERS, OPEN_TENANT, Scope
from gateway.operations.tenants import NO_NAME, GivenSettings, ShownTenant
from gateway.problems import malformed
from gateway.services import Services
from gateway.shares.tenants import parse_fields

_PRIVATE: Final = {"Cache-Control": "no-store"}

router = APIRouter(tags=["admin"], route_class=TextRoute)


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
    tenants = await check_operator(request).operations.tenants()
    shown = [tenant.document() for tenant in tenants]
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
    return await _answer(check_operator(request), _parse_name(tenant))


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
    services, name = check_operator(request, scopes=(Scope.ADMIN,)), _parse_name(tenant)
    try:
        fields = parse_fields(await read_small_json(request))
    except ValueError as error:
        raise malformed(str(error)) from None
    await services.limits.tenants.change(name, fields, caller_of(request).logged_name)
    return await _answer(services, name)


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


async def _answer(services: Services, name: str) -> Response:
    tenant = await services.operations.tenant(name)
    return json_response(tenant.document(), headers=_PRIVATE)
