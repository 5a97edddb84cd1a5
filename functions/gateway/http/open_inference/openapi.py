"""The schemas and responses of the Open Inference Protocol's routes in OpenAPI."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.http.open_inference.codec import HEADER_LENGTH, MAX_TENSORS
from gateway.http.open_inference.tensors import DATATYPES, MAX_RANK
from gateway.http.openapi.operations import IDEMPOTENCY_KEY

Responses = dict[int | str, dict[str, Any]]

_PICTURE: Final = "base64 of a picture, such as /9j/4AAQSkZJRg…"


class OipError(BaseModel):
    """An error in the protocol's own form."""

    error: str = Field(examples=["there is no model 'clasifier'; did you mean classifier?"])
    ran: bool | None = Field(
        default=None,
        description="With 504: whether a job reached a worker; null if unknown.",
    )


class OipServer(BaseModel):
    """The server, and the extensions that it supports."""

    name: str = Field(examples=["loosely"])
    version: str
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class OipLive(BaseModel):
    """The process is alive."""

    live: bool


class OipReady(BaseModel):
    """Whether the services behind the gateway answer."""

    ready: bool


class OipModelReady(BaseModel):
    """Whether a model can take jobs."""

    name: str
    ready: bool


class OipTensorMetadata(BaseModel):
    """An input or output of a model. A size of -1 means any size."""

    name: str = Field(examples=["image"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(examples=[[-1]])
    parameters: dict[str, Any] | None = None


class OipModel(BaseModel):
    """A model's tensors."""

    name: str = Field(examples=["classifier"])
    versions: list[str] = Field(examples=[["1"]])
    platform: str
    inputs: list[OipTensorMetadata]
    outputs: list[OipTensorMetadata]


class OipOutput(BaseModel):
    """An output; `data` is absent if it follows in binary."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(examples=["labels"])
    datatype: str = Field(examples=["BYTES"])
    shape: list[int] = Field(examples=[[1, 5]])
    data: list[Any] | None = Field(default=None, examples=[["Egyptian cat", "tabby"]])
    parameters: dict[str, Any] | None = None


class OipInference(BaseModel):
    """The response to an inference."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[Literal["job_ids"], str] = Field(description="The jobs behind it.")
    outputs: list[OipOutput]


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


def _responses(model: type[BaseModel], statuses: dict[int, str], *errors: int) -> Responses:
    found: Responses = {
        status: {"model": model, "description": text} for status, text in statuses.items()
    }
    for status in errors:
        found[status] = {"model": OipError, "description": _ERRORS[status]}
    return found


_ERRORS: Final = {
    400: "The request is not what the protocol says",
    404: "There is no such model or version",
    409: "A job was cancelled meanwhile",
    413: "The payload is too large",
    415: "The bytes are not what the model takes",
    422: "The input cannot be used, or the Idempotency-Key belongs to another request",
    500: "The model failed",
    503: "A service is down",
    504: "A deadline passed, or the longest wait; the text names the job",
}
SERVER_RESPONSES: Final = _responses(OipServer, {200: "The server"})
LIVE_RESPONSES: Final = _responses(OipLive, {200: "It answers"})
READY_RESPONSES: Final = _responses(OipReady, {200: "It takes jobs", 503: "A service is down"})
METADATA_RESPONSES: Final = _responses(OipModel, {200: "The model"}, 404)
MODEL_READY_RESPONSES: Final = _responses(
    OipModelReady, {200: "It takes jobs", 503: "A service is down"}, 404
)
INFER_RESPONSES: Final = _responses(OipInference, {200: "All jobs succeeded"}, *_ERRORS)
INFER_RESPONSES[200] |= {
    "headers": {
        HEADER_LENGTH: {
            "description": "How many bytes are JSON, where tensors in binary follow.",
            "schema": {"type": "integer"},
        }
    },
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
