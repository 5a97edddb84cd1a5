"""Add security schemes, headers, examples and parameters to FastAPI's OpenAPI document."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from contract import media
from contract.catalogue import FIRST_VERSION, Catalogue, ModelEntry
from gateway.dead_letters.store import LETTER_ID
from gateway.http.authentication import is_open
from gateway.http.openapi.examples import BATCH_ID, EXAMPLES, JOB_ID, TRACE_ID
from gateway.http.openapi.operations import problem_responses
from gateway.http.requests import MAX_LIMIT, TextRoute
from gateway.http.responses import PROBLEM_MEDIA_TYPE, JobProblem, OipError, ProblemDetails
from gateway.keys import MAX_NAME_CHARACTERS
from gateway.problems import HttpProblem, kinds_of
from gateway.services import Services
from gateway.telemetry import KEPT_MINUTES

Document = dict[str, Any]

# Operation ids of functions whose names are only clear within their module.
_OPERATION_IDS: Final = {
    "submit": "submit_job",
    "cancel": "cancel_job",
    "reply": "send_reply",
    "wanted": "is_reply_wanted",
    "live": "is_live",
    "ready": "is_ready",
}
_TAGS: Final[Mapping[str, str]] = {
    "jobs": "Submit a job, wait for its result, follow it, list the jobs and cancel one.",
    "batches": "Submit up to 50,000 jobs as one file, and get their results as one file.",
    "uploads": "Send an input that is too large for a submit: first get a link to blob storage.",
    "models": "The models, what they accept, and how long their jobs wait.",
    "open inference protocol": "The same jobs for clients of KServe and Triton.",
    "health": "Whether this gateway is alive and accepts jobs.",
    "workers": "Workers send these requests, with the token of one job.",
    "admin": "Requests of operators: a key with the scope `ops:read` sees, one with `admin` also "
    "changes.",
}
"""The groups of routes and their descriptions. The groups for callers come first."""


def _describe_text(description: str, example: str, **schema: str | int) -> Document:
    return {
        "description": description,
        "schema": {"type": "string", **schema},
        "example": example,
    }


_PATH_PARAMETERS: Final[Mapping[str, Document]] = {
    "job_id": _describe_text("The job's id.", JOB_ID, format="uuid"),
    "batch_id": _describe_text("The batch's id.", BATCH_ID, format="uuid"),
    "model": _describe_text(
        "A name from `/v1/models`. `NAME:VERSION` names one version of a model.", "classifier"
    ),
    "letter_id": _describe_text(
        "The id of a dead letter, which is derived from the message id. It ends with `~low` for a "
        "letter from the low-priority queue.",
        JOB_ID,
        pattern=f"^{LETTER_ID}$",
    ),
    "name": _describe_text(
        "The name of a named result, from `results` of the job.",
        "mask",
        pattern="^[a-z][a-z0-9_]{0,31}$",
    ),
    "tenant": _describe_text(
        "The name of a tenant, `*` for all tenants without own settings, or `~` for the tenant of "
        "a gateway without API keys.",
        "acme",
        minLength=1,
        maxLength=MAX_NAME_CHARACTERS,
    ),
    "version": _describe_text(
        "A version from `versions` of the model.", "1", pattern="^[1-9][0-9]{0,5}$"
    ),
}
_QUERY_PARAMETERS: Final[Mapping[str, Document]] = {
    "limit": {"schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}},
    "minutes": {"schema": {"type": "integer", "minimum": 1, "maximum": KEPT_MINUTES}},
    "redirect": {"schema": {"type": "string", "enum": ["true", "false"]}},
    "upload": {"schema": {"type": "string", "minLength": 1}},
    "webhook_url": {"schema": {"type": "string", "format": "uri", "minLength": 1}},
}
# The schema of options that the routes parse themselves, to return a problem document.
_TEXT: Final[Document] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
_BINARY: Final[Document] = {"schema": {"type": "string", "format": "binary"}}
_SECURITY_SCHEMES: Final[Document] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "jobToken": {
        "type": "apiKey",
        "in": "query",
        "name": "token",
        "description": "A worker's token for one job, which is part of the job's reply URL.",
    },
}
# The empty entry means that a gateway without API keys needs no key.
_KEYS: Final[list[Document]] = [{"bearer": []}, {"apiKey": []}, {}]
_KEY_REFUSALS: Final = (401, 403, 429)


def operation_id(route: APIRoute) -> str:
    """Return the OpenAPI operation id of a route. Client generators use the id as a method name."""
    return _OPERATION_IDS.get(route.name, route.name)


def describe(app: FastAPI) -> None:
    """Let the app return a document with what FastAPI cannot derive from the routes."""

    def openapi() -> Document:
        if app.openapi_schema is None:
            services: Services = app.state.services
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                routes=[
                    route.documented() if isinstance(route, TextRoute) else route
                    for route in app.routes
                ],
            )
            app.openapi_schema = _complete_document(document, services.catalogue)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _complete_document(document: Document, catalogue: Catalogue) -> Document:
    document["servers"] = [{"url": "/", "description": "The gateway that serves this document."}]
    document["tags"] = [
        {"name": name, "description": description} for name, description in _TAGS.items()
    ]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, problem_schemas = TypeAdapter.json_schemas(
        [
            (name, "serialization", TypeAdapter(model))
            for name, model in enumerate((ProblemDetails, JobProblem, OipError))
        ],
        ref_template="#/components/schemas/{model}",
    )
    for name, schema in problem_schemas["$defs"].items():
        schemas.setdefault(name, schema)
    components["securitySchemes"] = _SECURITY_SCHEMES
    components["headers"] = HEADERS
    operations = [
        (path, method.upper(), operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for path, method, operation in operations:
        _complete(path, method, operation)
        if operation["operationId"] == "submit_job":
            _complete_submit(operation, catalogue)
            _add_model_operations(document, path, operation, catalogue)
        elif operation["operationId"] == "purge_dead_letters":
            # FastAPI considers `model` optional. The route itself refuses a request without it.
            operation["parameters"][0]["required"] = True
    return document


def _complete(path: str, method: str, operation: Document) -> None:
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]  # FastAPI's own error document, which is not used
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
        if example := EXAMPLES.get((operation["operationId"], status)):
            response["content"][media.JSON]["example"] = example
        references = {
            name: {"$ref": f"#/components/headers/{name}"}
            for name in headers_of(operation["operationId"], status)
        }
        response["headers"] = {**references, **response.get("headers", {})}


def _complete_parameter(parameter: Document) -> None:
    if parameter["in"] == "path":
        parameter.update(_PATH_PARAMETERS.get(parameter["name"], {}))
    elif parameter["in"] == "query":
        schema = parameter.get("schema", {})
        if schema.get("anyOf") == _TEXT["anyOf"]:
            # A query parameter cannot be null. The description stands beside the schema.
            kept = schema.keys() - {"anyOf", "title", "description"}
            parameter["schema"] = {"type": "string", **{name: schema[name] for name in kept}}
        parameter.update(_QUERY_PARAMETERS.get(parameter["name"], {}))


def _refusal(path: str, status: int) -> Document:
    if not path.startswith("/v2"):
        return problem_responses(status)[status]
    schema = {"$ref": "#/components/schemas/OipError"}
    codes = " or ".join(kind.code for kind in kinds_of(status))
    return {"description": codes, "content": {media.JSON: {"schema": schema}}}


def _examples(path: str, status: int) -> Document:
    instance = path.format(
        job_id=JOB_ID,
        letter_id=JOB_ID,
        batch_id=BATCH_ID,
        model="classifier",
        name="mask",
        tenant="acme",
    )
    return {
        kind.code: {
            "summary": kind.title,
            "value": HttpProblem(kind, kind.advice).document(instance, TRACE_ID),
        }
        for kind in kinds_of(status)
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
    # A link passes the job id in the response to the job routes.
    links = {
        name: {"operationId": name, "parameters": {"job_id": "$response.body#/id"}}
        for name in ("get_job", "get_result", "get_timeline", "cancel_job")
    }
    for status in ("200", "202"):
        operation["responses"][status]["links"] = links


def _add_model_operations(
    document: Document, path: str, submit: Document, catalogue: Catalogue
) -> None:
    """Add an operation for each model: a copy of `submit` with the model's name and schemas.

    OpenAPI 3.1 gives a path without parameters precedence over one with parameters. The gateway
    serves all these paths by one route.
    """
    components = document["components"]
    shared: Document = components.setdefault("responses", {})
    references = {}
    for status, response in submit["responses"].items():
        shared[f"submit_{status}"] = response
        references[status] = {"$ref": f"#/components/responses/submit_{status}"}
    for model in catalogue.values():
        # All versions of a model have the same schemas.
        if model.version != FIRST_VERSION:
            continue
        identifier = model.name.replace("-", "_")
        name = f"{identifier}_parameters"
        components["schemas"][name] = parameters_schema(model)
        schema = {"$ref": f"#/components/schemas/{name}"}
        deadline = {"type": "integer", "minimum": 1, "maximum": model.max_deadline_seconds}
        own: dict[str, Document] = {
            "deadline_seconds": {"schema": deadline},
            "parameters": {"content": {media.JSON: {"schema": schema}}},
        }
        operation = {
            **submit,
            "operationId": f"submit_to_{identifier}",
            "summary": f"Submit a job to {model.name}",
            "description": model.description,
            "parameters": [
                {**parameter, **own.get(parameter["name"], {})}
                for parameter in submit["parameters"]
                if parameter["name"] != "model"
            ],
            "requestBody": {
                **submit["requestBody"],
                "content": _model_content(submit["requestBody"]["content"], model, schema),
            },
            "responses": {
                **references,
                **({"200": _ended_response(submit, model)} if model.results else {}),
            },
        }
        document["paths"][path.format(model=model.name)] = {"post": operation}


def _ended_response(submit: Document, model: ModelEntry) -> Document:
    """Return the response with an ended job of `model`, including its named results."""
    response: Document = submit["responses"]["200"]
    results = {
        name: {
            "allOf": [{"$ref": "#/components/schemas/JobNamedResult"}],
            "description": each.description or f"A result of the type {each.media_type}.",
        }
        for name, each in model.results.items()
    }
    schema = {
        "allOf": [
            response["content"][media.JSON]["schema"],
            {"properties": {"results": {"type": "object", "properties": results}}},
        ]
    }
    # The example of the general operation has no named results.
    return {**response, "content": {media.JSON: {"schema": schema}}}


def parameters_schema(model: ModelEntry) -> Document:
    """Return the JSON Schema of the object of parameters that a job of this model may have."""
    if not model.parameters:
        return {
            "type": "object",
            "description": "The model does not declare its parameters: any are accepted.",
        }
    return {
        "type": "object",
        "properties": {name: dict(schema) for name, schema in model.parameters.items()},
        "additionalProperties": False,
    }


def _model_content(content: Document, model: ModelEntry, schema: Document) -> Document:
    """Return the `content` of the request bodies that the model accepts."""
    found = {media_type: content[media_type] for media_type in model.media_types}
    form, envelope = content["multipart/form-data"], content[media.JSON]
    required = list(model.required_inputs)
    if required:
        found = {}  # a body that is the first input itself cannot contain the other inputs
    files = {
        name: {"type": "string", "format": "binary", "description": each.description}
        for name, each in model.inputs.items()
    }
    found["multipart/form-data"] = _with_properties(form, {**files, "parameters": schema}, required)
    an_input = envelope["schema"]["properties"]["input"]
    inputs = {
        "type": "object",
        "properties": {
            name: {**an_input, "description": each.description or an_input["description"]}
            for name, each in model.inputs.items()
        },
        "required": required,
        "additionalProperties": False,
    }
    nullable = {"anyOf": [schema, {"type": "null"}]}
    # An example of the general operation might not fit this model.
    found[media.JSON] = _with_properties(
        {"schema": envelope["schema"]},
        {
            "inputs": inputs if required else {"anyOf": [inputs, {"type": "null"}]},
            "parameters": nullable,
        },
        ["inputs"] if required else [],
    )
    return found


def _with_properties(
    media_type: Document, properties: Document, required: Sequence[str] = ()
) -> Document:
    schema = media_type["schema"]
    return {
        **media_type,
        "schema": {
            **schema,
            "required": [*schema["required"], *required],
            "properties": {**schema["properties"], **properties},
        },
    }


_TRACE: Final = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
_HEADER_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "Accept-Ranges": ("The units of ranges that can be requested.", "bytes"),
    "Content-Range": ("The range that the response has, and the length.", "bytes 0-99/2000"),
    "Accept-Encoding": ("The supported encodings of the request body.", "identity"),
    "Accept-Post": ("The media types that the model accepts.", "image/jpeg"),
    "Content-Location": ("The URL of the job.", f"/v1/jobs/{JOB_ID}"),
    "ETag": (
        "The ETag of the content, for `If-None-Match` and `If-Match`.",
        '"cBs4MmXxWk8cSSPWQoMT"',
    ),
    "Idempotency-Replayed": (
        "Present if an earlier request with this key created the job.",
        "true",
    ),
    "Link": ("The URL of the next page.", '</v1/jobs?cursor=MDFh>; rel="next"'),
    "Location": ("The URL of the job.", f"/v1/jobs/{JOB_ID}"),
    "Preference-Applied": ("The preferences that were applied.", "wait=10"),
    "RateLimit": ("The number of requests that the API key has left.", '"default";r=50;t=1'),
    "RateLimit-Policy": ("The rate limit of the API key.", '"default";q=100;w=60'),
    "Vary": ("The request headers that the response depends on.", "Prefer"),
    "WWW-Authenticate": ("How to send an API key.", 'Bearer realm="loosely"'),
    "traceresponse": ("The trace context of this request.", _TRACE),
}
HEADERS: Final[Mapping[str, Document]] = {
    "Retry-After": {
        "description": "How many seconds to wait before the next request.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    },
    **{
        name: _describe_text(description, example)
        for name, (description, example) in _HEADER_TEXTS.items()
    },
}

_ANY_STATUS: Final[Mapping[str, tuple[str, ...]]] = {
    "401": ("WWW-Authenticate",),
    "415": ("Accept-Post", "Accept-Encoding"),
    "429": ("Retry-After", "RateLimit", "RateLimit-Policy"),
    "503": ("Retry-After",),
}
_BY_ANSWER: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("submit_job", "200"): (
        *("Content-Location", "Preference-Applied", "Vary", "Idempotency-Replayed"),
    ),
    ("submit_job", "202"): (
        *("Location", "Retry-After", "Preference-Applied", "Vary", "Idempotency-Replayed"),
    ),
    ("create_batch", "202"): ("Location", "Retry-After", "Idempotency-Replayed"),
    ("cancel_batch", "202"): ("Location", "Retry-After"),
    ("list_batches", "200"): ("ETag", "Link"),
    ("list_batches", "304"): ("ETag",),
    ("get_batch", "200"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    ("get_batch", "304"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    **{
        (operation, status): headers
        for operation in ("get_batch_results", "get_batch_errors")
        for status, headers in (
            ("200", ("Accept-Ranges", "ETag", "Location")),
            ("206", ("Accept-Ranges", "Content-Range", "ETag")),
            ("303", ("Location",)),
            ("304", ("ETag",)),
            ("416", ("Content-Range",)),
        )
    },
    ("oip_infer", "200"): ("Idempotency-Replayed",),
    ("oip_infer_version", "200"): ("Idempotency-Replayed",),
    ("list_jobs", "200"): ("ETag", "Link"),
    ("list_jobs", "304"): ("ETag",),
    ("get_job", "200"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    ("get_job", "304"): ("ETag", "Retry-After", "Preference-Applied", "Vary"),
    **{
        (operation, status): headers
        for operation in ("get_result", "get_named_result")
        for status, headers in (
            ("200", ("ETag", "Location")),
            ("202", ("Location", "Retry-After")),
            ("303", ("Location",)),
            ("304", ("ETag",)),
        )
    },
    ("get_timeline", "200"): ("ETag",),
    ("get_timeline", "304"): ("ETag",),
    ("cancel_job", "202"): ("Location", "Retry-After"),
}


def headers_of(operation_id: str, status: str) -> tuple[str, ...]:
    """Return the names of the headers that a response of this operation and status may have."""
    own = _BY_ANSWER.get((operation_id, status), ())
    return (*own, *_ANY_STATUS.get(status, ()), "traceresponse")
