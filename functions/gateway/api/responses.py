"""Responses as plain JSON bytes: nothing here needs a validating serialiser."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response

from gateway.api.context import traceparent_of
from gateway.problems import Problem
from gateway.tracing import trace_id

PROBLEM_MEDIA_TYPE = "application/problem+json"


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON response."""
    return Response(_encode(content), status, headers, media_type="application/json")


def problem_response(request: Request, problem: Problem) -> Response:
    """A refusal as application/problem+json, or as the Open Inference Protocol writes it."""
    if request.url.path == "/v2" or request.url.path.startswith("/v2/"):
        said = {"error": problem.detail}
        if "ran" in problem.extra:
            said["ran"] = problem.extra["ran"]
        return json_response(said, problem.kind.status, problem.headers)
    document: dict[str, Any] = problem.document(request.url.path, trace_id(traceparent_of(request)))
    return Response(
        _encode(document), problem.kind.status, problem.headers, media_type=PROBLEM_MEDIA_TYPE
    )


def _encode(content: object) -> bytes:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A request path can hold half a surrogate: no reason to fail.
    return text.encode("utf-8", "replace")
