"""Create the FastAPI app with its routes, middleware, error handlers and CORS rules."""

import logging
import re
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from contract.errors import ContractError
from gateway import problems
from gateway.errors import Unavailable
from gateway.http.authentication import AuthenticationMiddleware
from gateway.http.open_inference import routes as open_inference
from gateway.http.openai import batches as openai_batches
from gateway.http.openai import files as openai_files
from gateway.http.openai import models as openai_models
from gateway.http.openai import operations as openai_operations
from gateway.http.openai import responses as openai_responses
from gateway.http.openai import uploads as openai_uploads
from gateway.http.openapi.document import describe, operation_id
from gateway.http.responses import CompressionMiddleware, problem_response
from gateway.http.routes import (
    batches,
    dead_letters,
    health,
    jobs,
    models,
    operations,
    pages,
    submit,
    tenants,
    uploads,
    webhooks,
    workers,
)
from gateway.problems import HttpProblem, ProblemKind, malformed
from gateway.services import Services
from gateway.telemetry import traceparent_of

UNAVAILABLE_RETRY_AFTER_SECONDS: Final = 2

MODULES: Final = (
    submit,
    workers,
    uploads,
    jobs,
    batches,
    webhooks,
    models,
    health,
    dead_letters,
    tenants,
    operations,
    open_inference,
    openai_operations,
    openai_files,
    openai_models,
    openai_responses,
    openai_batches,
    openai_uploads,
    pages,
)

_log = logging.getLogger(__name__)

_BY_STATUS: Final[dict[int, ProblemKind]] = {
    400: problems.MALFORMED_REQUEST,
    404: problems.NOT_FOUND,
    405: problems.METHOD_NOT_ALLOWED,
    413: problems.PAYLOAD_TOO_LARGE,
}


def create_app(services: Services) -> FastAPI:
    """Create the FastAPI app. Each request's ASGI scope must have a client under `durable`."""
    app = FastAPI(
        title="Loosely",
        summary="Synchronous REST over asynchronous queues for deep-learning inference.",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.state.readiness = health.GatewayReadiness()
    for module in MODULES:
        # Without `include_router`, no request passes a second router.
        for route in module.router.routes:
            if isinstance(route, APIRoute):
                route.unique_id = operation_id(route)
        app.router.routes += module.router.routes
    app.add_middleware(CompressionMiddleware)
    app.add_middleware(
        AuthenticationMiddleware,
        settings=services.settings,
        tracing=services.tracing,
        clock=services.clock,
    )
    if services.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=services.settings.cors_origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_REQUEST_HEADERS,
            expose_headers=_CORS_RESPONSE_HEADERS,
            max_age=_PREFLIGHT_SECONDS,
        )
    app.add_exception_handler(HttpProblem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(ClientDisconnect, _on_hang_up)
    app.add_exception_handler(Exception, _on_defect)
    describe(app)
    return app


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpProblem)
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
        detail = f"this path supports only the methods {headers['Allow']}"
    elif kind is problems.NOT_FOUND:
        detail = "the API has no resource at this path" + _hint(request.url.path)
    return problem_response(request, HttpProblem(kind, detail, headers=headers))


# The paths of other services, which their clients call after a change of the base URL: those of
# Replicate and Cog, also with the name of a model or a deployment, those of fal, and OpenAI's.
_JOB_PATHS: Final = re.compile(
    r"(?:/v1)?(?:/(?:models|deployments)/[^/]+/[^/]+)?/predictions(?:/.*)?"
    r"|/fal-ai/.+|/[^/]+/.+/requests/[^/]+(?:/(?:status|cancel|stream))*"
)
_OPENAI_PATHS: Final = re.compile(
    r"(?:/v1)?/(?:chat/completions|completions|responses|embeddings|images/[^/]+|audio/[^/]+|files)"
    r"(?:/.*)?"
)


def _hint(path: str) -> str:
    """Return which route is ours, if a client of another service calls this path."""
    if _JOB_PATHS.fullmatch(path):
        return (
            "; a prediction or a request to fal is a job here: POST /v1/models/{model}/jobs starts "
            "one, GET /v1/jobs/{id} returns it, DELETE /v1/jobs/{id} cancels it"
        )
    if _OPENAI_PATHS.fullmatch(path):
        return "; the OpenAI API is under /openai/v1: set this as the path of the base URL"
    return ""


def _allowed_methods(request: Request) -> list[str]:
    # Several routes can match a path, but the router lists only the methods of the first.
    found: set[str] = set()
    for module in MODULES:
        for route in module.router.routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                found |= getattr(route, "methods", None) or set()
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    location = ".".join(str(part) for part in first["loc"])
    return problem_response(request, malformed(f"{location}: {first['msg']}"))


async def _on_unavailable(request: Request, error: Exception) -> Response:
    _log.warning(
        "the request %.20r %.500r was refused: %s [traceparent %s]",
        *(request.method, request.url.path, error, traceparent_of(request.scope)),
    )
    assert isinstance(error, Unavailable)
    problem = HttpProblem(
        problems.UNAVAILABLE,
        "a service that the gateway needs does not respond; the request was not accepted",
        headers={"Retry-After": str(UNAVAILABLE_RETRY_AFTER_SECONDS)},
    )
    return problem_response(request, problem)


async def _on_hang_up(request: Request, error: Exception) -> Response:
    # Nobody gets this response. The status is that of access logs for such requests.
    return Response(status_code=499)


async def _on_defect(request: Request, error: Exception) -> Response:
    # Starlette raises the error again, and `web_extension` logs it with its traceback.
    what = error.code if isinstance(error, ContractError) else type(error).__name__
    _log.error(
        "the request %.20r %.500r failed: %s [traceparent %s]",
        request.method,
        request.url.path,
        what,
        traceparent_of(request.scope),
    )
    return problem_response(
        request,
        HttpProblem(
            problems.INTERNAL_ERROR, "the gateway failed; the log of the gateway contains the cause"
        ),
    )


_CORS_METHODS: Final = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_CORS_REQUEST_HEADERS: Final = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Loosely-Label",
    "Prefer",
    "Range",
    "X-Api-Key",
    "traceparent",
    "tracestate",
    # What OpenAI's client for browsers sends.
    "OpenAI-Organization",
    "OpenAI-Project",
    *(
        f"x-stainless-{name}"
        for name in (
            *("arch", "helper-method", "lang", "os", "package-version", "retry-count", "runtime"),
            *("runtime-version", "timeout"),
        )
    ),
)
_CORS_RESPONSE_HEADERS: Final = (
    "Accept-Ranges",
    "Allow",
    "Content-Location",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "traceresponse",
    "x-loosely-job",
    "x-should-retry",
)
_PREFLIGHT_SECONDS: Final = 600
