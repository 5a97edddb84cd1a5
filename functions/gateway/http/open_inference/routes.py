"""The routes of the Open Inference Protocol under /v2.

With this protocol, a caller cannot ask for the results later, so each request waits for its jobs.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from typing_extensions import TypedDict

from contract import media
from contract.catalogue import ModelEntry
from contract.messages import (
    Fields,
    InlineBytes,
    InlineJson,
    Payload,
    PayloadRef,
    payload_from_json,
)
from gateway import problems
from gateway.bodies import HeldBytes
from gateway.errors import MissingPayload
from gateway.http.open_inference import codec as oip_codec
from gateway.http.open_inference.codec import OipInference
from gateway.http.open_inference.models import (
    InferenceResult,
    OipModel,
    model_metadata,
    output_names,
    output_tensors,
    read_jobs,
    streamed_names,
)
from gateway.http.open_inference.openapi import (
    INFER_BODY,
    INFER_PARAMETERS,
    INFER_RESPONSES,
    error_responses,
)
from gateway.http.open_inference.tensors import Tensor, size_of
from gateway.http.openapi.operations import Responses
from gateway.http.requests import (
    TextRoute,
    caller_of,
    charge_jobs,
    durable_of,
    idempotency_key_of,
    label_option_of,
    noticing_hang_up,
    parse_prefer,
    read_parts,
    services_of,
)
from gateway.http.responses import json_response
from gateway.http.routes.submit import REPLAYED
from gateway.jobs.model import is_final, job_path, job_resource, problem_of_job, version_of
from gateway.json_text import encode_json
from gateway.problems import HttpProblem, malformed
from gateway.services import Services
from gateway.settings import MAX_WAIT_SECONDS
from gateway.storage.payloads import PayloadStore
from gateway.submission.create import SubmittedJob
from gateway.submission.parse import NewJob, check_coding, find_model, names_version, parse_label

_UNCACHED = {"Cache-Control": "no-store"}

router = APIRouter(tags=["open inference protocol"], route_class=TextRoute)


class OipServer(TypedDict):
    """The name and version of the server, and the extensions that it supports."""

    name: Annotated[str, Field(examples=["loosely"])]
    version: str
    extensions: Annotated[list[str], Field(examples=[["binary_tensor_data"]])]


class OipLive(TypedDict):
    """The response that shows that the process is alive."""

    live: bool


class OipReady(TypedDict):
    """The response that shows whether all services that the gateway needs respond."""

    ready: bool


class OipModelReady(TypedDict):
    """The response that shows whether the gateway can accept jobs for a model."""

    name: str
    ready: bool


_NOT_READY = "A service that the gateway needs does not respond"
_MODEL_READINESS: Responses = {
    503: {"model": OipModelReady, "description": _NOT_READY},
    **error_responses(404),
}


@router.get(
    "/v2",
    summary="Get the server's metadata",
    response_model=OipServer,
    response_description="The server",
)
async def oip_server(request: Request) -> Response:
    """Return the server's name and version, and the protocol extensions that it supports."""
    server: OipServer = {
        "name": "loosely",
        "version": request.app.version,
        "extensions": ["binary_tensor_data"],
    }
    return json_response(server)


@router.get(
    "/v2/health/live",
    summary="Check that the process is alive",
    response_model=OipLive,
    response_description="The process is alive",
)
async def oip_live() -> Response:
    """Return 200 whenever the process can serve requests."""
    return json_response(OipLive(live=True))


@router.get(
    "/v2/health/ready",
    summary="Check that the gateway can accept jobs",
    response_model=OipReady,
    response_description="The gateway can accept jobs",
    responses={503: {"model": OipReady, "description": _NOT_READY}},
)
async def oip_ready(request: Request) -> Response:
    """Return 200 if all services that the gateway needs respond, otherwise 503."""
    is_ready = await _is_ready(request)
    return json_response(OipReady(ready=is_ready), 200 if is_ready else 503, _UNCACHED)


@router.get(
    "/v2/models/{model}",
    summary="Get a model's tensors",
    response_model=OipModel,
    response_description="The model",
    responses=error_responses(404),
)
async def oip_model(request: Request, model: str) -> Response:
    """Return the name, datatype and shape of each input and output tensor of the model."""
    return json_response(model_metadata(find_model(services_of(request).catalogue, model)))


@router.get(
    "/v2/models/{model}/versions/{version}",
    summary="Get the tensors of a model's version",
    response_model=OipModel,
    response_description="The model",
    responses=error_responses(404),
)
async def oip_model_version(request: Request, model: str, version: str) -> Response:
    """Return the name, datatype and shape of each input and output tensor of the model."""
    return await oip_model(request, f"{model}:{version}")


@router.get(
    "/v2/models/{model}/ready",
    summary="Check that a model can accept jobs",
    response_model=OipModelReady,
    response_description="The model can accept jobs",
    responses=_MODEL_READINESS,
)
async def oip_model_ready(request: Request, model: str) -> Response:
    """Return 200 if the gateway is ready, otherwise 503.

    No worker of the model needs to run, because jobs can wait in the queue.
    """
    name = find_model(services_of(request).catalogue, model).model_name
    is_ready = await _is_ready(request)
    return json_response(
        OipModelReady(name=name, ready=is_ready), 200 if is_ready else 503, _UNCACHED
    )


@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    summary="Check that a version of a model can accept jobs",
    response_model=OipModelReady,
    response_description="The model can accept jobs",
    responses=_MODEL_READINESS,
)
async def oip_model_version_ready(request: Request, model: str, version: str) -> Response:
    """Return 200 if the gateway is ready, otherwise 503. An unknown version gets 404."""
    return await oip_model_ready(request, f"{model}:{version}")


@router.post(
    "/v2/models/{model}/infer",
    summary="Run a model",
    response_model=OipInference,
    response_description="All jobs succeeded",
    responses=INFER_RESPONSES,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_PARAMETERS},
)
async def oip_infer(request: Request, model: str) -> Response:
    """Run a model on the tensors of the request, and return the results of all jobs.

    If the request has only one tensor and its datatype is BYTES, each element is one job.
    Otherwise, all tensors together are one job. Each named input of the model has a tensor of its
    own, with one element for each job.
    """
    services, durable = services_of(request), durable_of(request)
    # Parse and validate.
    found = find_model(services.catalogue, model)
    key = idempotency_key_of(request)
    # `respond-async` has no effect, because the protocol cannot ask for the results later.
    given_seconds = parse_prefer(request.headers.getlist("prefer")).wait_seconds
    wait_seconds = MAX_WAIT_SECONDS if given_seconds is None else given_seconds
    with services.bodies.counting(caller_of(request).tenant) as held, noticing_hang_up(request):
        inference, new_jobs = await _read_request(
            request, found, held, is_pinned=names_version(model)
        )
        charge_jobs(request, len(new_jobs))
        if key is None:
            submitted = await services.creator.create(durable, new_jobs, wait_seconds)
        else:
            submitted = await services.idempotency.create_all(durable, key, new_jobs, wait_seconds)
    # Build the response.
    wanted = output_names(found) if inference.outputs is None else tuple(inference.outputs)
    streamed = streamed_names(found, inference)
    results = await _read_results(services, submitted, wanted, streamed)
    outputs = _choose_outputs(found, inference, output_tensors(found, results))
    response = _response(found, inference, submitted, outputs, services.payloads)
    if any(job.is_replay for job in submitted):
        response.headers.update(REPLAYED)
    return response


@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    summary="Run a version of a model",
    response_model=OipInference,
    response_description="All jobs succeeded",
    responses=INFER_RESPONSES,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_PARAMETERS},
)
async def oip_infer_version(request: Request, model: str, version: str) -> Response:
    """Run a version of a model on the tensors of the request, and return the results of all jobs.

    If the request has only one tensor and its datatype is BYTES, each element is one job.
    Otherwise, all tensors together are one job. Each named input of the model has a tensor of its
    own, with one element for each job.
    """
    return await oip_infer(request, f"{model}:{version}")


async def _is_ready(request: Request) -> bool:
    answers = await request.app.state.readiness.answers(durable_of(request), services_of(request))
    return all(answers.values())


async def _read_request(
    request: Request, model: ModelEntry, held: HeldBytes, *, is_pinned: bool
) -> tuple[oip_codec.InferenceRequest, list[NewJob]]:
    """Return the request without its tensors, and its jobs."""
    parts = read_parts(request, {"label": label_option_of(request)}, held, is_pinned=is_pinned)
    label = parse_label(parts.options)
    check_coding(parts.content_encoding)
    parts.body.limit(partial(_check_size, model))

    def parse(body: bytes) -> tuple[oip_codec.InferenceRequest, list[NewJob]]:
        inference = oip_codec.read_request(body, request.headers.get(oip_codec.HEADER_LENGTH))
        _check_outputs(model, inference)
        new_jobs = read_jobs(model, parts, label, inference)
        # The tensors would need memory while the request waits for its jobs.
        return replace(inference, inputs=(), parameters={}), new_jobs

    return await services_of(request).bodies.parse(parts.tenant, await parts.body.read(), parse)


def _check_size(model: ModelEntry, size_bytes: int) -> None:
    if size_bytes > model.max_body_bytes:
        raise HttpProblem(
            problems.PAYLOAD_TOO_LARGE,
            f"the request has more than {model.max_body_bytes} bytes, the most that is allowed",
        )


async def _read_results(
    services: Services,
    submitted: Sequence[SubmittedJob],
    wanted: Collection[str],
    streamed: Collection[str],
) -> list[InferenceResult]:
    """Return the results of all jobs. Of the named results, only those in `wanted` are read.

    Large results in `streamed` are not read, but must exist.
    """
    results = []
    for number, job in enumerate(submitted):
        try:
            results.append(await _read_result(services, job, wanted, streamed))
        except HttpProblem as problem:
            if len(submitted) > 1:
                problem.detail = f"element {number}: {problem.detail}"
            raise
    return results


async def _read_result(
    services: Services, job: SubmittedJob, wanted: Collection[str], streamed: Collection[str]
) -> InferenceResult:
    """Return the result of a job, with the named results in `wanted`."""
    record = await services.progress.add_to_if_available(job.job_id, job.record)
    if not is_final(record):
        raise HttpProblem(
            problems.EXPIRED,
            f"job {job.job_id} has not ended yet; its status is at {job_path(job.job_id)}",
            ran=record["started_at"] is not None or None,
        )
    if problem := problem_of_job(job_resource(job.job_id, record), has_run=record.get("ran")):
        problem.detail = f"{problem.detail} (job {job.job_id})"
        raise problem
    first = payload_from_json(Fields(record["result"]))
    named = {
        name: payload_from_json(Fields(value))
        for name, value in record.get("results", {}).items()
        if name in wanted
    }
    found = {
        name: InferenceResult(
            each.media_type, await _read_payload(services, each, is_streamed=name in streamed)
        )
        for name, each in {"result": first, **named}.items()
    }
    return replace(found.pop("result"), named=found)


async def _read_payload(
    services: Services, payload: Payload, *, is_streamed: bool
) -> bytes | PayloadRef:
    """Return the bytes of a result, or its reference if it is large and passed on later.

    Raises HttpProblem if the result has been deleted.
    """
    match payload:
        case InlineJson(value):
            return encode_json(value)
        case InlineBytes(_, data):
            return data
        case PayloadRef():
            if is_streamed and await services.blobs.look(payload.blob):
                return payload
            try:
                return await services.payloads.get(payload)
            except MissingPayload:
                raise HttpProblem(
                    problems.UNKNOWN_JOB,
                    "the result no longer exists, because its retention has ended",
                ) from None


def _check_outputs(model: ModelEntry, inference: oip_codec.InferenceRequest) -> None:
    known = output_names(model)
    for name in inference.outputs or ():
        if name not in known:
            raise malformed(
                f"outputs: unknown output {name[:100]!r}; expected one of {', '.join(known)}"
            )


def _choose_outputs(
    model: ModelEntry, inference: oip_codec.InferenceRequest, found: Sequence[Tensor]
) -> list[tuple[Tensor, bool]]:
    """Return the requested tensors, except missing optional ones, and whether each is binary."""
    if inference.outputs is None:
        return [(tensor, inference.is_binary) for tensor in found]
    by_name = {tensor.name: tensor for tensor in found}
    optional = {name for name, each in model.results.items() if each.optional}
    if missing := inference.outputs.keys() - by_name - optional:
        detail = f"the model did not return {', '.join(sorted(missing))}; request the output result"
        raise HttpProblem(problems.INFERENCE_FAILED, detail)
    return [
        (by_name[name], is_binary)
        for name, is_binary in inference.outputs.items()
        if name in by_name
    ]


def _response(
    model: ModelEntry,
    inference: oip_codec.InferenceRequest,
    submitted: Sequence[SubmittedJob],
    chosen: Sequence[tuple[Tensor, bool]],
    payloads: PayloadStore,
) -> Response:
    document: OipInference = {
        "model_name": model.model_name,
        "model_version": ",".join(sorted({version_of(job.record) for job in submitted}, key=int)),
        "parameters": {"job_ids": ",".join(job.job_id for job in submitted)},
        "outputs": [],
    }
    if inference.id is not None:
        document["id"] = inference.id
    parts = oip_codec.write_response(document, chosen)
    if not any(is_binary for _, is_binary in chosen):
        return Response(parts[0], media_type="application/json")
    headers = {
        oip_codec.HEADER_LENGTH: str(size_of(parts[0])),
        "Content-Length": str(sum(map(size_of, parts))),
    }
    return StreamingResponse(_pass_on(parts, payloads), 200, headers, media.OCTET_STREAM)


async def _pass_on(
    parts: Sequence[bytes | PayloadRef], payloads: PayloadStore
) -> AsyncIterator[bytes]:
    """Yield the parts of a body, and the content of each reference from its blob."""
    for part in parts:
        if isinstance(part, PayloadRef):
            async for piece in payloads.get_pieces(part):
                yield piece
        else:
            yield part
