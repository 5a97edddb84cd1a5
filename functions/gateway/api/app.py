"""The FastAPI app: the routes, and one shape for every refusal."""

import logging

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from contract.errors import ContractError
from gateway import problems
from gateway.api.context import traceparent_of
from gateway.api.cors import allow_origins
from gateway.api.gate import Gate
from gateway.api.oip import routes as oip
from gateway.api.openapi.document import describe, operation_id
from gateway.api.responses import problem_response
from gateway.api.routes import (
    dead_letters,
    docs,
    health,
    job_list,
    jobs,
    models,
    progress,
    replies,
    submit,
    uploads,
    webhooks,
)
from gateway.errors import Unavailable
from gateway.problems import Kind, Problem
from gateway.services import Services

RETRY_AFTER_SECONDS = 2

MODULES = (
    submit,
    uploads,
    jobs,
    job_list,
    webhooks,
    replies,
    progress,
    models,
    health,
    dead_letters,
    oip,
    docs,
)

_log = logging.getLogger(__name__)

_BY_STATUS: dict[int, Kind] = {
    400: problems.MALFORMED_REQUEST,
    404: problems.NOT_FOUND,
    405: problems.METHOD_NOT_ALLOWED,
    413: problems.PAYLOAD_TOO_LARGE,
}


def create_app(services: Services) -> FastAPI:
    """The API over these services. Each request's scope brings the durable port."""
    app = FastAPI(
        title="Loosely",
        summary="Synchronous REST over asynchronous queues for deep-learning inference.",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.services = services
    app.state.readiness = health.Readiness()
    for module in MODULES:
        app.include_router(module.router)
    app.add_middleware(Gate, services=services)
    allow_origins(app, services.settings.cors_origins)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(Exception, _on_defect)
    describe(app)
    return app


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, problems.MALFORMED_REQUEST)
    headers = dict(error.headers or {})
    detail = str(error.detail)
    if kind is problems.METHOD_NOT_ALLOWED:
        allowed = _allowed_methods(request)
        headers["Allow"] = ", ".join(allowed)
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=headers)
        detail = f"this address takes {headers['Allow']}"
    elif kind is problems.NOT_FOUND:
        detail = "there is nothing at this address"
    return problem_response(request, Problem(kind, detail, headers=headers))


def _allowed_methods(request: Request) -> list[str]:
    # The router names those of the first route that has the path, and there may be several.
    found: set[str] = set()
    for module in MODULES:
        for route in module.router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return problem_response(
        request, Problem(problems.MALFORMED_REQUEST, f"{where}: {first['msg']}")
    )


async def _on_unavailable(request: Request, error: Exception) -> Response:
    _log.warning(
        "%s %s was refused: %s [%s]",
        *(request.method, request.url.path, error, traceparent_of(request)),
    )
    assert isinstance(error, Unavailable)
    problem = Problem(
        problems.UNAVAILABLE,
        "a service behind the gateway does not answer; nothing was accepted",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
    return problem_response(request, problem)


async def _on_defect(request: Request, error: Exception) -> Response:
    # Raised again by Starlette, and logged with its traceback at the process's edge.
    what = error.code if isinstance(error, ContractError) else type(error).__name__
    _log.error("%s %s: %s [%s]", request.method, request.url.path, what, traceparent_of(request))
    return problem_response(
        request, Problem(problems.INTERNAL_ERROR, "the gateway failed; the logs tell why")
    )
