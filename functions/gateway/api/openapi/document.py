"""The OpenAPI document: what FastAPI makes of the routes, and what it cannot know of them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from contract.catalogue import Catalogue
from gateway.api.access import is_open
from gateway.api.headers import DESCRIPTIONS, headers_of
from gateway.api.oip.openapi import OipError
from gateway.api.openapi.admin_schemas import LETTER_ID
from gateway.api.openapi.operations import PROBLEM_SCHEMAS
from gateway.api.responses import PROBLEM_MEDIA_TYPE
from gateway.api.routes.job_list import MAX_LIMIT
from gateway.problems import KINDS, Kind
from gateway.services import Services

Document = dict[str, Any]

# Where a function is rightly named for its module, and a client's method would say too little.
_OPERATION_IDS: Final = {
    "submit": "submit_job",
    "cancel": "cancel_job",
    "reply": "send_reply",
    "wanted": "is_reply_wanted",
    "live": "is_live",
    "ready": "is_ready",
}
_JOB_ID: Final = "01982f0c-5f0e-7d4a-9a53-0d2c1b3f4a5e"
_PATH_PARAMETERS: Final[Mapping[str, Document]] = {
    "job_id": {
        "description": "The job's id.",
        "schema": {"type": "string", "format": "uuid"},
        "example": _JOB_ID,
    },
    "model": {
        "description": "A name from `/v1/models`.",
        "schema": {"type": "string"},
        "example": "classifier",
    },
    "letter_id": {
        "description": (
            "A dead letter's id: its message's, in what a blob name bears, and `~low` after it for "
            "one of low priority."
        ),
        "schema": {"type": "string", "pattern": f"^{LETTER_ID}$"},
        "example": _JOB_ID,
    },
    "version": {
        "description": "Each model has one version.",
        "schema": {"type": "string", "enum": ["1"]},
    },
}
_QUERY_PARAMETERS: Final[Mapping[str, Document]] = {
    "limit": {"schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}},
    "upload": {"schema": {"type": "string", "minLength": 1}},
    "webhook_url": {"schema": {"type": "string", "format": "uri", "minLength": 1}},
}
# Texts that are read by hand, for the sake of our own problem documents.
_TEXT: Final[Document] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_BINARY: Final[Document] = {"schema": {"type": "string", "format": "binary"}}
_SECURITY_SCHEMES: Final[Document] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "jobToken": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "A worker's, for one job: part of the reply URL that came with it.",
    },
}
# The empty one: where no keys are configured, none is needed.
_KEYS: Final[list[Document]] = [{"bearer": []}, {"apiKey": []}, {}]
_KEY_REFUSALS: Final = (401, 403, 429)


def operation_id(route: APIRoute) -> str:
    """The name of a route's function as a client's method."""
    return _OPERATION_IDS.get(route.name, route.name)


def describe(app: FastAPI) -> None:
    """Complete the app's OpenAPI document when it is first made."""
    make = app.openapi

    def openapi() -> Document:
        if app.openapi_schema is None:
            services: Services = app.state.services
            app.openapi_schema = _completed(make(), services.catalogue)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _completed(document: Document, catalogue: Catalogue) -> Document:
    document["servers"] = [{"url": "/", "description": "Where this document came from."}]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    refusals: tuple[type[BaseModel], ...] = (*PROBLEM_SCHEMAS, OipError)
    _, problem_schemas = models_json_schema(
        [(model, "serialization") for model in refusals],
        ref_template="#/components/schemas/{model}",
    )
    for name, schema in problem_schemas["$defs"].items():
        schemas.setdefault(name, schema)
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["headers"] = DESCRIPTIONS
    for path, method, operation in _operations(document):
        _complete(path, method, operation)
        if operation["operationId"] == "submit_job":
            _complete_submit(operation, catalogue)
        elif operation["operationId"] == "purge_dead_letters":
            # Missing is refused by hand, with a problem of ours.
            operation["parameters"][0]["required"] = True
    return document


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def _complete(path: str, method: str, operation: Document) -> None:
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]  # FastAPI's own shape, which we never answer with
    for parameter in operation.get("parameters", ()):
        _complete_parameter(parameter)
    if not is_open(method, path):
        operation["security"] = _KEYS
        for status in _KEY_REFUSALS:
            responses.setdefault(str(status), _refusal(path, status))
    elif "{job_id}" in path:
        operation["security"] = [{"jobToken": []}]
    for status, response in responses.items():
        problem = response.get("content", {}).get(PROBLEM_MEDIA_TYPE)
        if problem is not None and status.isdigit():
            problem.setdefault("examples", _examples(path, int(status)))
        references = {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in headers_of(operation["operationId"], status)
        }
        if references:
            response["headers"] = {**references, **response.get("headers", {})}


def _complete_parameter(parameter: Document) -> None:
    if parameter["in"] == "path":
        parameter.update(_PATH_PARAMETERS.get(parameter["name"], {}))
    elif parameter["in"] == "query":
        schema = parameter.get("schema", {})
        if schema.get("anyOf") == _TEXT["anyOf"]:
            parameter["schema"] = {"type": "string"}  # a query has no null
        parameter.update(_QUERY_PARAMETERS.get(parameter["name"], {}))


def _refusal(path: str, status: int) -> Document:
    codes = " or ".join(kind.code for kind in _kinds(status))
    if path.startswith("/v2"):
        schema, media_type = "OipError", "application/json"
    else:
        schema, media_type = "ProblemDetails", PROBLEM_MEDIA_TYPE
    reference = {"$ref": f"#/components/schemas/{schema}"}
    return {"description": codes, "content": {media_type: {"schema": reference}}}


def _kinds(status: int) -> list[Kind]:
    return [kind for kind in KINDS.values() if kind.status == status]


def _examples(path: str, status: int) -> Document:
    return {
        kind.code: {
            "summary": kind.title,
            "value": {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status,
                "detail": kind.advice,
                "instance": path.format(job_id=_JOB_ID, letter_id=_JOB_ID, model="classifier"),
                "code": kind.code,
                "retryable": kind.retryable,
                "stage": "accept",
                "attempt": None,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            },
        }
        for kind in _kinds(status)
    }


def _complete_submit(operation: Document, catalogue: Catalogue) -> None:
    content = operation["requestBody"]["content"]
    for model in catalogue.values():
        for media_type in model.media_types:
            content.setdefault(media_type, _BINARY)
    options: Mapping[str, Document] = {
        "deadline_seconds": {
            "schema": {
                "type": "integer",
                "minimum": 1,
                "maximum": max(model.max_deadline_seconds for model in catalogue.values()),
            }
        },
        "parameters": {"content": {"application/json": {"schema": {"type": "object"}}}},
    }
    for parameter in operation["parameters"]:
        if parameter["name"] in options:
            parameter.pop("schema", None)
            parameter.update(options[parameter["name"]])
    # The id in the answer is the one that the job routes take.
    links = {
        name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}}
        for name in ("get_job", "get_result", "cancel_job")
    }
    for status in ("200", "202"):
        operation["responses"][status]["links"] = links
