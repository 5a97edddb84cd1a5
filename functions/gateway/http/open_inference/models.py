"""Convert the input tensors of a request to jobs, and the results of jobs to output tensors.

If a request has only one input tensor, and its datatype is BYTES, each element of the tensor
becomes one job. Otherwise all input tensors together become one job, and the model must accept
JSON: the nested list of the only tensor, or an object with the nested list of each tensor.

A model with named inputs has an input tensor for each of them, and one for the first input. The
elements of the BYTES tensors at the same position belong to one job. A tensor of any other datatype
is, as a whole, one input of one job.

Every model has the output tensor `result`, with one element for each job, and one such tensor for
each named result. A classifier also has the output tensors `labels`, `indices` and `scores`, unless
named results have these names. Each row belongs to one job, with the best label first.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from contract import media
from contract.catalogue import ModelEntry
from contract.messages import Json, PayloadRef
from gateway.http.open_inference.codec import InferenceRequest
from gateway.http.open_inference.tensors import BYTES, Tensor, nested
from gateway.json_text import encode_json, parse_json
from gateway.problems import HttpProblem, invalid_input, malformed
from gateway.submission.parse import (
    NewJob,
    RequestParts,
    SubmittedInput,
    check_media_type,
    check_required_inputs,
    check_size,
    naming_input,
    parse_options,
    parse_priority,
    refuse_unknown_inputs,
)

MAX_ELEMENTS: Final = 64
"""The largest number of jobs that one request may create. The request waits for all its jobs."""

_BASE64: Final = "base64"
# Parameters that the protocol or Triton defines; they are not passed to the model.
_PROTOCOL_PARAMETERS: Final = frozenset(
    {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"}
)
_CLASSIFICATION: Final = "image-classification"
_LABELS: Final = (("labels", BYTES, 2), ("indices", "INT64", 2), ("scores", "FP32", 2))


class OipTensorMetadata(TypedDict):
    """The description of an input or output tensor. A size of -1 in `shape` means any size."""

    name: Annotated[str, Field(examples=["image"])]
    datatype: Annotated[str, Field(examples=["BYTES"])]
    shape: Annotated[list[int], Field(examples=[[-1]])]
    parameters: NotRequired[dict[str, Any] | None]


class OipModel(TypedDict):
    """The description of a model: its name, versions, and input and output tensors."""

    name: Annotated[str, Field(examples=["classifier"])]
    versions: Annotated[list[str], Field(examples=[["1"]])]
    platform: str
    inputs: list[OipTensorMetadata]
    outputs: list[OipTensorMetadata]


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """The result of one job, with those named results that are needed for the response.

    `data` is a reference if the response passes the result on from its blob.
    """

    media_type: str
    data: bytes | PayloadRef = field(repr=False)
    named: Mapping[str, "InferenceResult"] = field(default_factory=dict, repr=False)


def model_metadata(model: ModelEntry) -> OipModel:
    """Return the description of a model and its tensors, in the form that the protocol defines."""
    return {
        "name": model.model_name,
        "versions": list(model.versions) or [model.version],
        "platform": "loosely",
        "inputs": [
            _input_metadata(_first_name(model), model),
            *(
                _input_metadata(name, model.entry_of_input(name), is_optional=each.optional)
                for name, each in model.inputs.items()
            ),
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1] * rank}
            for name, datatype, rank in _outputs(model)
        ],
    }


def _first_name(model: ModelEntry) -> str:
    """Return the name of the tensor for the first input."""
    return "image" if model.max_pixels and "image" not in model.inputs else "input"


def _input_metadata(
    name: str, entry: ModelEntry, *, is_optional: bool = False
) -> OipTensorMetadata:
    """Return the description of an input tensor, which a request may omit if it is optional."""
    parameters: dict[str, Any] = {"content_types": ", ".join(entry.media_types)}
    if is_optional:
        parameters["optional"] = True
    return {"name": name, "datatype": BYTES, "shape": [-1], "parameters": parameters}


def output_names(model: ModelEntry) -> tuple[str, ...]:
    """Return the names of a model's output tensors."""
    return tuple(name for name, _, _ in _outputs(model))


def _outputs(model: ModelEntry) -> tuple[tuple[str, str, int], ...]:
    """Return the name, datatype and rank of each output tensor of a model."""
    named = [(name, BYTES, 1) for name in model.results]
    return (*(_LABELS if _has_labels(model) else ()), ("result", BYTES, 1), *named)


def streamed_names(model: ModelEntry, request: InferenceRequest) -> set[str]:
    """Return the names of the results whose content is only in binary tensors of the response."""
    names = {*model.results} if _has_labels(model) else {"result", *model.results}
    if request.outputs is None:
        return names if request.is_binary else set()
    return {name for name in names if request.outputs.get(name)}


def _has_labels(model: ModelEntry) -> bool:
    """Return whether the model has the output tensors of a classifier."""
    is_free = model.results.keys().isdisjoint(name for name, _, _ in _LABELS)
    return model.task == _CLASSIFICATION and is_free


def read_jobs(
    model: ModelEntry, parts: RequestParts, label: str | None, request: InferenceRequest
) -> list[NewJob]:
    """Return the jobs of an inference request. Raises HttpProblem if the model cannot run it."""
    given = {
        name: value
        for name, value in request.parameters.items()
        if name not in _PROTOCOL_PARAMETERS
    }
    upload = given.pop("upload", None)
    options = {"deadline_seconds": given.pop("deadline_seconds", None), "parameters": given}
    parameters, deadline_seconds = parse_options(model, options)
    # Triton's clients send a number as the priority, which is ignored.
    chosen = request.parameters.get("priority")
    priority = parse_priority({"priority": chosen} if isinstance(chosen, str) else {})
    named = [tensor for tensor in request.inputs if tensor.name in model.inputs]
    first = [tensor for tensor in request.inputs if tensor.name not in model.inputs]
    check_required_inputs(model, [tensor.name for tensor in named])
    if upload is not None:
        if not isinstance(upload, str):
            raise malformed("parameters.upload: expected the id of an upload as a string")
        if first:
            raise malformed(
                "inputs: expected only the tensors of named inputs, because parameters.upload "
                "replaces the first input"
            )
        firsts = [SubmittedInput("", upload=upload)]
    else:
        firsts = _first_inputs(model, first)
    columns = {tensor.name: _named_input(model, tensor, len(firsts)) for tensor in named}
    return [
        NewJob(
            model,
            parts.tenant,
            parts.traceparent,
            {None: found, **{name: column[number] for name, column in columns.items()}},
            parameters,
            deadline_seconds,
            priority=priority,
            label=label,
            is_pinned=parts.is_pinned,
            held=parts.body.held,
        )
        for number, found in enumerate(firsts)
    ]


def _first_inputs(model: ModelEntry, tensors: Sequence[Tensor]) -> list[SubmittedInput]:
    """Return the first input of each job. `tensors` are the tensors that are not named inputs."""
    if model.inputs and len(tensors) != 1:
        # An unknown name is probably a misspelt named input.
        name = _first_name(model)
        others = [tensor.name for tensor in tensors if tensor.name != name]
        if len(others) < len(tensors):
            refuse_unknown_inputs(model, others)
        raise malformed(
            f"inputs: expected exactly one tensor for the first input (named {name!r}), found "
            f"{len(tensors)}; every other tensor must have the name of a named input: "
            f"{', '.join(model.inputs)}"
        )
    if tensors[0].datatype != BYTES or len(tensors) > 1:
        return [SubmittedInput(media.JSON, _array_payload(model, tensors, "inputs: "))]
    return _elements(model, tensors[0], f"{tensors[0].name}: ")


def _named_input(model: ModelEntry, tensor: Tensor, job_count: int) -> list[SubmittedInput]:
    """Return the inputs in the tensor of a named input, one for each of `job_count` jobs."""
    entry = model.entry_of_input(tensor.name)
    with naming_input(tensor.name):
        if tensor.datatype != BYTES:
            found = [SubmittedInput(media.JSON, _array_payload(entry, [tensor], ""))]
        else:
            found = _elements(entry, tensor, "")
        if len(found) != job_count:
            raise malformed(
                f"the tensor has {len(found)} elements, but the first input has {job_count}; send "
                "one element for each element of the first input (a numeric tensor counts as one "
                "element)"
            )
    return found


def _elements(model: ModelEntry, tensor: Tensor, prefix: str) -> list[SubmittedInput]:
    """Return the inputs in a BYTES tensor. `prefix` names the tensor in a problem."""
    if not 1 <= len(tensor.elements) <= MAX_ELEMENTS:
        raise malformed(
            f"{prefix}a request can have 1 to {MAX_ELEMENTS} elements, because each is a job for "
            f"which the request waits; found {len(tensor.elements)}: send several requests"
        )
    inputs = []
    for number, element in enumerate(tensor.elements):
        try:
            inputs.append(_element(model, tensor, element, prefix))
        except HttpProblem as problem:
            if len(tensor.elements) > 1:
                problem.detail = f"element {number}: {problem.detail}"
            raise
    return inputs


def _element(
    model: ModelEntry, tensor: Tensor, element: str | bytes, prefix: str
) -> SubmittedInput:
    announced = media.essence(tensor.content_type or "")
    if isinstance(element, str):
        # In JSON, an element that is not text is written in base64.
        is_text = announced != _BASE64 and (media.TEXT in model.media_types)
        data = _decoded(prefix, element, is_text=is_text)
        kind = media.TEXT if is_text else None
    else:
        data, kind = element, None
    kind = announced if "/" in announced else kind
    check_size(model, len(data))
    return SubmittedInput(check_media_type(model, kind, data), data)


def _decoded(prefix: str, text: str, *, is_text: bool) -> bytes:
    try:
        return text.encode() if is_text else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        expected = "valid Unicode text" if is_text else "valid base64"
        raise malformed(f"{prefix}an element is not {expected}") from None


def _array_payload(model: ModelEntry, inputs: Sequence[Tensor], prefix: str) -> bytes:
    if media.JSON not in model.media_types:
        raise malformed(f"{prefix}expected exactly one tensor, with the datatype {BYTES}")
    if any(isinstance(element, bytes) for tensor in inputs for element in tensor.elements):
        raise malformed(
            f"{prefix}if a request has several tensors, the data of a {BYTES} tensor must be JSON, "
            "not binary"
        )
    values = {tensor.name: nested(tensor) for tensor in inputs}
    try:
        data = encode_json(values if len(values) > 1 else values[inputs[0].name])
    except ValueError:
        raise invalid_input(
            "an input contains a number that is not finite, or a string that is not valid Unicode"
        ) from None
    check_size(model, len(data))
    return data


def output_tensors(model: ModelEntry, results: Sequence[InferenceResult]) -> list[Tensor]:
    """Return the tensors of all results; named results and labels only if all jobs have them."""
    found = [_result_tensor("result", results)]
    for name in model.results:
        named = [result.named[name] for result in results if name in result.named]
        if len(named) == len(results):
            found.append(_result_tensor(name, named))
    if not _has_labels(model):
        return found
    rows = [_labels(result) for result in results]
    width = len(rows[0])
    if not width or any(len(row) != width for row in rows):
        return found
    labels = [label for row in rows for label in row]
    shape = (len(rows), width)
    return [
        Tensor("labels", BYTES, shape, [label["label"].encode() for label in labels]),
        Tensor("indices", "INT64", shape, [label["index"] for label in labels]),
        Tensor("scores", "FP32", shape, [label["score"] for label in labels]),
        *found,
    ]


def _result_tensor(name: str, results: Sequence[InferenceResult]) -> Tensor:
    """Return the tensor with one element for each job: the bytes of the job's result."""
    kinds = {result.media_type for result in results}
    kind = kinds.pop() if len(kinds) == 1 else media.OCTET_STREAM
    return Tensor(name, BYTES, (len(results),), [result.data for result in results], kind)


def _labels(result: InferenceResult) -> list[dict[str, Any]]:
    """Return the labels in a classifier's result; an empty list if they cannot be read."""
    if result.media_type != media.JSON or isinstance(result.data, PayloadRef):
        return []
    try:
        value = parse_json(result.data)
    except ValueError:
        return []
    labels = value.get("labels") if isinstance(value, dict) else None
    if isinstance(labels, list) and all(_is_label(row) for row in labels):
        return labels
    return []


def _is_label(row: Json) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("label"), str)
        and type(row.get("index")) is int
        and abs(row["index"]) < 2**63
        and type(row.get("score")) in (int, float)
        and abs(row["score"]) < 2**127
    )
