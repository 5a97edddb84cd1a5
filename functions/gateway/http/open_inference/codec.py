"""Read requests and write responses of the Open Inference Protocol v2.

A body contains JSON, and binary tensors may follow in the order of the JSON. The header
`Inference-Header-Content-Length` then contains the size of the JSON in bytes, and the parameter
`binary_data_size` the size of each binary tensor.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from contract import media
from contract.messages import Json, PayloadRef
from gateway.http.open_inference.tensors import (
    BYTES,
    DATATYPES,
    Tensor,
    check_shape,
    from_json,
    pack,
    size_of,
    unpack,
)
from gateway.json_text import MAX_JSON_VALUES, encode_json, parse_json
from gateway.problems import malformed

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
MAX_TENSORS: Final = 64
MAX_NAME_CHARACTERS: Final = 255

_SIZE: Final = "binary_data_size"
# Parameters of two extensions that the gateway does not support: shared memory and classification.
_FOREIGN: Final = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """An inference request.

    `outputs` maps each requested output to whether it must be binary. If it is None, all outputs
    are requested, and `is_binary` applies to them.
    """

    id: str | None
    parameters: dict[str, Json]
    inputs: tuple[Tensor, ...]
    outputs: dict[str, bool] | None
    is_binary: bool = field(default=False)


def read_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """Read an inference request. Raises the problem `malformed-request` if it is not valid."""
    length = _header_length(body, header_length)
    try:
        document = parse_json(body[:length])
    except ValueError as error:
        raise malformed(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise malformed('the body must be a JSON object {"inputs": […], …}')
    parameters = _object("", document, "parameters")
    is_binary = _flag("parameters", parameters, "binary_data_output", default=False)
    return InferenceRequest(
        id=_id(document.get("id")),
        parameters=parameters,
        inputs=_inputs(
            document, memoryview(body)[length:], may_be_none=parameters.get("upload") is not None
        ),
        outputs=_outputs(document, is_binary=is_binary),
        is_binary=is_binary,
    )


def _id(value: Json) -> str | None:
    # The response repeats the id, and UTF-8 cannot encode half of a surrogate pair.
    if value is None or (
        isinstance(value, str)
        and len(value) <= MAX_NAME_CHARACTERS
        and value.encode("utf-8", "replace").decode() == value
    ):
        return value
    raise malformed(
        f"id: expected a string of valid Unicode with at most {MAX_NAME_CHARACTERS} characters"
    )


def _header_length(body: bytes, text: str | None) -> int:
    if text is None:
        return len(body)
    if text.isascii() and text.isdigit() and int(text[:15]) <= len(body):
        return int(text[:15])
    raise malformed(
        f"{HEADER_LENGTH}: expected a number from 0 to {len(body)}, the size of the body in bytes"
    )


def _inputs(
    document: dict[str, Json], rest: memoryview, *, may_be_none: bool
) -> tuple[Tensor, ...]:
    tensors: list[Tensor] = []
    for path, value in _list(document, "inputs"):
        parameters = _object(f"{path}.", value, "parameters")
        size_bytes = parameters.get(_SIZE)
        own = rest[:0]
        if size_bytes is not None:
            if type(size_bytes) is not int or not 0 <= size_bytes <= len(rest):
                raise malformed(
                    f"{path}.parameters.{_SIZE}: expected a whole number from 0 to "
                    f"{len(rest)}, the number of bytes that are left in the body"
                )
            own, rest = rest[:size_bytes], rest[size_bytes:]
        tensors.append(_tensor(path, value, parameters, None if size_bytes is None else own))
        if sum(len(tensor.elements) for tensor in tensors) > MAX_JSON_VALUES:
            raise malformed(
                f"inputs: the tensors have more than {MAX_JSON_VALUES} elements; send a larger "
                "input as one BYTES tensor, or as an upload"
            )
    if not tensors and not may_be_none:
        raise malformed("inputs: expected at least one tensor")
    if rest:
        raise malformed(f"the body has {len(rest)} bytes after its last tensor; remove them")
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise malformed(
                f"inputs: two tensors have the name {tensor.name!r}; give each a different name"
            )
        names.add(tensor.name)
    return tuple(tensors)


def _tensor(
    path: str, value: dict[str, Json], parameters: dict[str, Json], data: memoryview | None
) -> Tensor:
    name, datatype = value.get("name"), value.get("datatype")
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise malformed(
            f"{path}.name: expected a non-empty string of at most {MAX_NAME_CHARACTERS} characters"
        )
    if datatype not in DATATYPES:
        raise malformed(f"{path}.datatype: expected one of {', '.join(DATATYPES)}")
    if (data is None) != ("data" in value):
        raise malformed(f"{path}: expected exactly one of data and parameters.{_SIZE}")
    shape = check_shape(path, value.get("shape"))
    content_type = parameters.get("content_type")
    if content_type is not None and not isinstance(content_type, str):
        raise malformed(f"{path}.parameters.content_type: expected a string")
    if data is None:
        elements = from_json(path, datatype, shape, value["data"])
    else:
        elements = unpack(path, datatype, shape, data)
    return Tensor(name, datatype, shape, elements, content_type)


def _outputs(document: dict[str, Json], *, is_binary: bool) -> dict[str, bool] | None:
    if document.get("outputs") is None:
        return None
    wanted = {}
    for path, value in _list(document, "outputs"):
        name = value.get("name")
        if not isinstance(name, str) or not name:
            raise malformed(f"{path}.name: expected a non-empty string")
        parameters = _object(f"{path}.", value, "parameters")
        wanted[name] = _flag(f"{path}.parameters", parameters, "binary_data", default=is_binary)
    return wanted or None


def _list(document: dict[str, Json], name: str) -> list[tuple[str, dict[str, Json]]]:
    values = document.get(name)
    if not isinstance(values, list) or len(values) > MAX_TENSORS:
        raise malformed(f"{name}: expected a list of up to {MAX_TENSORS} tensors")
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise malformed(f"{name}[{number}]: expected an object")
    return [(f"{name}[{number}]", value) for number, value in enumerate(values)]


def _object(path: str, value: dict[str, Json], name: str) -> dict[str, Json]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise malformed(f"{path}{name}: expected an object")
    for foreign in _FOREIGN:
        if foreign in found:
            raise malformed(f"{path}{name}.{foreign}: this parameter is not supported; remove it")
    return found


def _flag(path: str, parameters: Mapping[str, Json], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"{path}.{name}: expected true or false")
    return value


@with_config(ConfigDict(extra="forbid"))
class OipOutput(TypedDict):
    """An output tensor. `data` is absent if the tensor follows the JSON in binary."""

    name: Annotated[str, Field(examples=["labels"])]
    datatype: Annotated[str, Field(examples=["BYTES"])]
    shape: Annotated[list[int], Field(examples=[[1, 5]])]
    data: NotRequired[Annotated[list[Any] | None, Field(examples=[["Egyptian cat", "tabby"]])]]
    parameters: NotRequired[dict[str, Any] | None]


class OipInference(TypedDict):
    """The JSON part of the response to an inference request."""

    model_name: str
    model_version: Annotated[
        str,
        Field(
            description="The version that ran the jobs. If they ran on several versions, these are "
            "separated by commas.",
            examples=["1"],
        ),
    ]
    id: NotRequired[str | None]
    parameters: Annotated[
        dict[Literal["job_ids"], str],
        Field(description="The ids of the request's jobs, separated by commas."),
    ]
    outputs: list[OipOutput]


def write_response(
    response: OipInference, outputs: Sequence[tuple[Tensor, bool]]
) -> list[bytes | PayloadRef]:
    """Return the parts of a body, the first of which is its JSON, and any reference its content.

    `outputs` says which tensors are binary.
    """
    shown: list[OipOutput] = []
    rest: list[bytes | PayloadRef] = []
    for tensor, is_binary in outputs:
        parameters: dict[str, Json] = {}
        if tensor.content_type is not None:
            parameters["content_type"] = tensor.content_type
        output: OipOutput = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if is_binary:
            parts = pack(tensor)
            rest += parts
            parameters[_SIZE] = sum(map(size_of, parts))
        else:
            output["data"] = _as_json(tensor)
        if parameters:
            output["parameters"] = parameters
        shown.append(output)
    return [encode_json({**response, "outputs": shown}), *rest]


def _as_json(tensor: Tensor) -> list[Json]:
    if tensor.datatype != BYTES:
        return list(tensor.elements)
    is_text = tensor.content_type in (None, media.TEXT, media.JSON)
    return [
        element.decode("utf-8", "replace") if is_text else base64.b64encode(element).decode()
        for element in tensor.elements
    ]
