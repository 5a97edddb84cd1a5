"""Convert the input tensors of a request to jobs, and the results of jobs to output tensors.

If a request has only one input tensor, and its datatype is BYTES, each element of the tensor
becomes one job. Otherwise all input tensors together become one job, and the model must accept
JSON. If there is one tensor, the input of this job is the tensor as a nested list. If there are
several tensors, the input is an object that contains the nested list of each tensor under the name
of the tensor.

Every model has the output tensor `result`. Each element of `result` is the result of one job. Each
named result of a model is an output tensor of its own, with the same form. A classifier also has
the output tensors `labels`, `indices` and `scores`, unless named results have these names. Each row
of these tensors belongs to one job. In each row, the best label is first.
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
from contract.messages import Json
from gateway.http import problems
from gateway.http.open_inference.codec import InferenceRequest
from gateway.http.open_inference.tensors import BYTES, Tensor, nested, unreadable
from gateway.http.problems import HttpProblem
from gateway.http.requests import encode_json, parse_json
from gateway.submission.parse import (
    JobSubmission,
    check_media_type,
    check_required_inputs,
    check_size,
    parse_options,
    parse_priority,
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
    """The result of one job, and the media type of the result.

    `named` contains the named results of the job that the response needs.
    """

    media_type: str
    data: bytes = field(repr=False)
    named: Mapping[str, "InferenceResult"] = field(default_factory=dict, repr=False)


def model_metadata(model: ModelEntry) -> OipModel:
    """Return the description of a model and its tensors, in the form that the protocol defines."""
    return {
        "name": model.model_name,
        "versions": list(model.versions) or [model.version],
        "platform": "loosely",
        "inputs": [
            {
                "name": "image" if model.max_pixels else "input",
                "datatype": BYTES,
                "shape": [-1],
                "parameters": {"content_types": ", ".join(model.media_types)},
            }
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1] * rank}
            for name, datatype, rank in _outputs(model)
        ],
    }


def output_names(model: ModelEntry) -> tuple[str, ...]:
    """Return the names of a model's output tensors."""
    return tuple(name for name, _, _ in _outputs(model))


def _outputs(model: ModelEntry) -> tuple[tuple[str, str, int], ...]:
    """Return the name, datatype and rank of each output tensor of a model."""
    named = [(name, BYTES, 1) for name in model.results]
    return (*(_LABELS if _has_labels(model) else ()), ("result", BYTES, 1), *named)


def _has_labels(model: ModelEntry) -> bool:
    """Return whether the model has the output tensors of a classifier."""
    is_free = model.results.keys().isdisjoint(name for name, _, _ in _LABELS)
    return model.task == _CLASSIFICATION and is_free


def read_submissions(model: ModelEntry, request: InferenceRequest) -> list[JobSubmission]:
    """Return the submissions of all jobs that an inference request creates.

    Raises HttpProblem if the request is not valid for the model.
    """
    check_required_inputs(model, ())
    given = {
        name: value
        for name, value in request.parameters.items()
        if name not in _PROTOCOL_PARAMETERS
    }
    upload = given.pop("upload", None)
    options = {"deadline_seconds": given.pop("deadline_seconds", None), "parameters": given}
    parameters, deadline_seconds = parse_options(model, options)
    # Triton's clients send a number as the priority, which is ignored.
    named = request.parameters.get("priority")
    priority = parse_priority({"priority": named} if isinstance(named, str) else {})
    if upload is not None:
        if not isinstance(upload, str) or request.inputs:
            raise unreadable(
                "parameters.upload: expected the id of an upload as a string, and an empty list of "
                "inputs"
            )
        return [
            JobSubmission("", b"", parameters, deadline_seconds, upload=upload, priority=priority)
        ]
    return [
        JobSubmission(media_type, data, parameters, deadline_seconds, priority=priority)
        for media_type, data in _payloads(model, request.inputs)
    ]


def _payloads(model: ModelEntry, inputs: Sequence[Tensor]) -> list[tuple[str, bytes]]:
    first = inputs[0]
    if first.datatype != BYTES or len(inputs) > 1:
        return [(media.JSON, _array_payload(model, inputs))]
    if not 1 <= len(first.elements) <= MAX_ELEMENTS:
        raise unreadable(
            f"{first.name}: expected 1 to {MAX_ELEMENTS} elements, found {len(first.elements)}"
        )
    payloads = []
    for number, element in enumerate(first.elements):
        try:
            payloads.append(_payload(model, first, element))
        except HttpProblem as problem:
            if len(first.elements) > 1:
                problem.detail = f"element {number}: {problem.detail}"
            raise
    return payloads


def _payload(model: ModelEntry, tensor: Tensor, element: str | bytes) -> tuple[str, bytes]:
    announced = media.essence(tensor.content_type or "")
    if isinstance(element, str):
        # In JSON, an element that is not text is written in base64.
        is_text = announced != _BASE64 and (media.TEXT in model.media_types)
        data = _decoded(tensor, element, is_text=is_text)
        kind = media.TEXT if is_text else None
    else:
        data, kind = element, None
    kind = announced if "/" in announced else kind
    check_size(model, len(data))
    return check_media_type(model, kind, data), data


def _decoded(tensor: Tensor, text: str, *, is_text: bool) -> bytes:
    try:
        return text.encode() if is_text else base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        expected = "Unicode text" if is_text else "base64"
        raise unreadable(f"{tensor.name}: expected an element that is {expected}") from None


def _array_payload(model: ModelEntry, inputs: Sequence[Tensor]) -> bytes:
    if media.JSON not in model.media_types:
        raise unreadable(f"inputs: {model.name} accepts only one tensor of datatype {BYTES}")
    if any(isinstance(element, bytes) for tensor in inputs for element in tensor.elements):
        raise unreadable(
            f"inputs: if a request has several tensors, the data of a {BYTES} tensor must be JSON, "
            "not binary"
        )
    values = {tensor.name: nested(tensor) for tensor in inputs}
    try:
        data = encode_json(values if len(values) > 1 else values[inputs[0].name])
    except ValueError:
        raise HttpProblem(
            problems.INVALID_INPUT,
            "an input contains a number that is not finite, or a string that is not valid Unicode",
        ) from None
    check_size(model, len(data))
    return data


def output_tensors(model: ModelEntry, results: Sequence[InferenceResult]) -> list[Tensor]:
    """Return the output tensors that contain the results of all jobs.

    The tensor `result` is followed by one tensor for each named result that all jobs have. A
    classifier also has the tensors `labels`, `indices` and `scores`, in front of `result`, if all
    results have the same number of labels.
    """
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
    if result.media_type != media.JSON:
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
