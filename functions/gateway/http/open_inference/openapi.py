"""OpenAPI descriptions of the bodies, headers and errors of the Open Inference Protocol."""

from typing import Any, Final

from gateway.http.open_inference.codec import HEADER_LENGTH, MAX_TENSORS
from gateway.http.open_inference.tensors import DATATYPES, MAX_RANK
from gateway.http.openapi.operations import (
    BINARY,
    IDEMPOTENCY_KEY,
    LABEL,
    LABEL_IN_HEADER,
    Responses,
    Schema,
    describe_object,
    describe_parameter,
)
from gateway.http.responses import OipError

_PICTURE: Final = "a picture in base64, for example /9j/4AAQSkZJRg…"


_PARAMETERS: Final[Schema] = {"type": "object"}
_INPUT: Final = describe_object(
    ["name", "datatype", "shape"],
    name={"type": "string", "minLength": 1},
    datatype={"type": "string", "enum": list(DATATYPES)},
    shape={"type": "array", "maxItems": MAX_RANK, "items": {"type": "integer", "minimum": 0}},
    data={
        "type": "array",
        "description": "The elements, as nested lists of this shape or as one flat list. Each "
        "element of a BYTES tensor is a job; there can be at most 64.",
        "items": {},
    },
    parameters={
        **_PARAMETERS,
        "description": "`binary_data_size` is the size in bytes of a binary tensor, without "
        "`data`. `content_type` is the media type of the elements of a BYTES tensor, or `base64` "
        "for elements in base64.",
    },
)
_REQUEST: Final = describe_object(
    ["inputs"],
    id={"type": "string"},
    parameters={
        **_PARAMETERS,
        "description": "The model's parameters, and `deadline_seconds`, `priority` (normal or low) "
        "and `binary_data_output`. `upload` is the id of an upload that is the first input; "
        "`inputs` then contains only named inputs.",
    },
    inputs={
        "type": "array",
        "description": "The tensors with the first input and with each named input of the model.",
        "maxItems": MAX_TENSORS,
        "items": _INPUT,
    },
    outputs={
        "type": "array",
        "maxItems": MAX_TENSORS,
        "items": describe_object(["name"], name={"type": "string"}, parameters=_PARAMETERS),
    },
)
INFER_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "JSON, optionally followed by binary tensors.",
    "content": {
        "application/json": {
            "schema": _REQUEST,
            "example": {
                "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [_PICTURE]}]
            },
        },
        "application/octet-stream": BINARY,
    },
}
INFER_PARAMETERS: Final = [
    describe_parameter(
        HEADER_LENGTH,
        "header",
        "The number of bytes of JSON in the body; binary tensors follow.",
        {"type": "integer", "minimum": 0},
    ),
    IDEMPOTENCY_KEY,
    LABEL,
    LABEL_IN_HEADER,
]
_ERRORS: Final = {
    400: "The request does not follow the protocol",
    404: "The model or version does not exist",
    409: "A job was cancelled while the request waited for its result",
    413: "The payload is too large",
    415: "The model does not accept this media type",
    422: "The input cannot be used, or the Idempotency-Key belongs to another request",
    500: "The model failed",
    503: "A service that the gateway needs does not respond",
    504: "A job did not end before its deadline or while the request waited; `error` has its id",
}


def error_responses(*statuses: int) -> Responses:
    """Return the OpenAPI descriptions of the error responses with these HTTP statuses."""
    return {status: {"model": OipError, "description": _ERRORS[status]} for status in statuses}


INFER_RESPONSES: Final[Responses] = {
    200: {
        "headers": {
            HEADER_LENGTH: {
                "description": "The number of bytes of JSON, if binary tensors follow.",
                "schema": {"type": "integer"},
            }
        },
        "content": {"application/octet-stream": BINARY},
    },
    **error_responses(*_ERRORS),
}
