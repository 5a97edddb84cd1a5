"""The bodies, headers and errors of the Open Inference Protocol's routes in OpenAPI."""

from typing import Any, Final

from gateway.http.open_inference.codec import HEADER_LENGTH, MAX_TENSORS
from gateway.http.open_inference.tensors import DATATYPES, MAX_RANK
from gateway.http.openapi.operations import IDEMPOTENCY_KEY
from gateway.http.responses import OipError

Responses = dict[int | str, dict[str, Any]]

_PICTURE: Final = "base64 of a picture, such as /9j/4AAQSkZJRg…"


_PARAMETERS: Final[dict[str, Any]] = {"type": "object"}
_INPUT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "datatype": {"type": "string", "enum": list(DATATYPES)},
        "shape": {
            "type": "array",
            "maxItems": MAX_RANK,
            "items": {"type": "integer", "minimum": 0},
        },
        "data": {"type": "array", "description": "Nested by the shape, or flat.", "items": {}},
        "parameters": {
            **_PARAMETERS,
            "description": "`binary_data_size` in place of data; `content_type` of BYTES: a media "
            "type, or base64 for text that is.",
        },
    },
}
INFER_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "JSON, or JSON and then tensors in binary.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["inputs"],
                "properties": {
                    "id": {"type": "string"},
                    "parameters": {
                        **_PARAMETERS,
                        "description": (
                            "The model's, and `deadline_seconds`, `priority` (normal or low), "
                            "`binary_data_output`, and `upload`: the id of an upload that is the "
                            "one input; then `inputs` is empty."
                        ),
                    },
                    "inputs": {
                        "type": "array",
                        "maxItems": MAX_TENSORS,
                        "items": _INPUT,
                    },
                    "outputs": {
                        "type": "array",
                        "maxItems": MAX_TENSORS,
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"name": {"type": "string"}, "parameters": _PARAMETERS},
                        },
                    },
                },
            },
            "example": {
                "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_PICTURE]}]
            },
        },
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    },
}
INFER_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "How many bytes of the body are JSON; the rest is tensors in binary.",
        "schema": {"type": "integer", "minimum": 0},
    },
    IDEMPOTENCY_KEY,
]
_ERRORS: Final = {
    400: "The request does not follow the protocol",
    404: "The model or version does not exist",
    409: "A job was cancelled during the wait",
    413: "The payload is too large",
    415: "The model does not take this type",
    422: "The input cannot be used, or the Idempotency-Key belongs to another request",
    500: "The model failed",
    503: "A service does not answer",
    504: "A deadline or the longest wait passed; the text has the id of the job",
}


def error_responses(*statuses: int) -> Responses:
    """Return the responses of an operation that are errors with these statuses."""
    return {status: {"model": OipError, "description": _ERRORS[status]} for status in statuses}


INFER_RESPONSES: Final[Responses] = {
    200: {
        "headers": {
            HEADER_LENGTH: {
                "description": "How many bytes are JSON, if tensors in binary follow.",
                "schema": {"type": "integer"},
            }
        },
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    **error_responses(*_ERRORS),
}
