"""/v2: the Open Inference Protocol over the same jobs. It knows no job ids, so it always waits."""

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response

from contract.catalogue import Model
from contract.codec import payload_from_json
from contract.fields import Fields
from contract.messages import InlineBytes, InlineJson
from contract.names import job_path
from gateway import problems
from gateway.api.context import body_of, durable_of, services_of
from gateway.api.oip import codec as oip_codec
from gateway.api.oip.models import VERSION, Result, intakes, metadata, output_names, outputs
from gateway.api.oip.openapi import (
    INFER_BODY,
    INFER_PARAMETERS,
    INFER_RESPONSES,
    LIVE_RESPONSES,
    METADATA_RESPONSES,
    MODEL_READY_RESPONSES,
    READY_RESPONSES,
    SERVER_RESPONSES,
)
from gateway.api.oip.tensors import Tensor, unreadable
from gateway.api.prefer import parse
from gateway.api.responses import json_response
from gateway.api.routes.models import found_model
from gateway.api.submitting.checks import check_coding
from gateway.api.submitting.once import REPLAYED, accept_all, key_of
from gateway.errors import MissingPayload
from gateway.idempotency.following import Answered
from gateway.jobs.live import live_at_best
from gateway.jobs.record import is_final
from gateway.jobs.resource import failure, job_resource
from gateway.problems import Problem
from gateway.services import Services
from gateway.settings import MAX_WAIT_SECONDS
from gateway.strict_json import encode

_ENVELOPE_BYTES = 64 * 1024
_UNCACHED = {"Cache-Control": "no-store"}

router = APIRouter(tags=["open inference protocol"])


@router.get("/v2", summary="Look at the server", responses=SERVER_RESPONSES, response_model=None)
async def oip_server(request: Request) -> Response:
    """Name, version, and the extensions of the protocol that it speaks."""
    return json_response(
        {"name": "loosely", "version": request.app.version, "extensions": ["binary_tensor_data"]}
    )


@router.get(
    "/v2/health/live", summary="Is it alive?", responses=LIVE_RESPONSES, response_model=None
)
async def oip_live() -> Response:
    """200 whenever there is an answer at all."""
    return json_response({"live": True})


@router.get(
    "/v2/health/ready",
    summary="Can it take jobs?",
    responses=READY_RESPONSES,
    response_model=None,
)
async def oip_ready(request: Request) -> Response:
    """200 if everything behind the gateway answers, else 503."""
    is_ready = await _is_ready(request)
    return json_response({"ready": is_ready}, 200 if is_ready else 503, _UNCACHED)


@router.get(
    "/v2/models/{model}",
    summary="Look at a model's tensors",
    responses=METADATA_RESPONSES,
    response_model=None,
)
async def oip_model(request: Request, model: str) -> Response:
    """The model's inputs and outputs."""
    return json_response(metadata(found_model(services_of(request), model)))


@router.get(
    "/v2/models/{model}/versions/{version}",
    summary="Look at a version's tensors",
    responses=METADATA_RESPONSES,
    response_model=None,
)
async def oip_model_version(request: Request, model: str, version: str) -> Response:
    """The same: each model has one version, named 1."""
    _check_version(version)
    return await oip_model(request, model)


@router.get(
    "/v2/models/{model}/ready",
    summary="Can the model take jobs?",
    responses=MODEL_READY_RESPONSES,
    response_model=None,
)
async def oip_model_ready(request: Request, model: str) -> Response:
    """200 if the gateway is ready: jobs wait for a worker, so none need be there now."""
    name = found_model(services_of(request), model).name
    is_ready = await _is_ready(request)
    return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503, _UNCACHED)


@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    summary="Can the version take jobs?",
    responses=MODEL_READY_RESPONSES,
    response_model=None,
)
async def oip_model_version_ready(request: Request, model: str, version: str) -> Response:
    """The same: each model has one version, named 1."""
    _check_version(version)
    return await oip_model_ready(request, model)


@router.post(
    "/v2/models/{model}/infer",
    summary="Infer",
    responses=INFER_RESPONSES,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_PARAMETERS},
    response_model=None,
)
async def oip_infer(request: Request, model: str) -> Response:
    """Make a job of each element, wait for all, and answer in their order."""
    services = services_of(request)
    found = found_model(services, model)
    key = key_of(request)
    asked = await _read(request, found)
    _check_outputs(found, asked)
    taken = intakes(found, asked)
    # Without `wait_or`: who asks for no wait at all has nothing here to come back to.
    asked_seconds = parse(request.headers.getlist("prefer")).wait_seconds
    wait_seconds = MAX_WAIT_SECONDS if asked_seconds is None else asked_seconds
    answered = await accept_all(request, found, taken, key, wait_seconds)
    results = await _results(services, answered)
    response = _answer(found, asked, answered, _chosen(asked, outputs(found, results)))
    if any(job.is_replay for job in answered):
        response.headers.update(REPLAYED)
    return response


@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    summary="Infer with a version",
    responses=INFER_RESPONSES,
    openapi_extra={"requestBody": INFER_BODY, "parameters": INFER_PARAMETERS},
    response_model=None,
)
async def oip_infer_version(request: Request, model: str, version: str) -> Response:
    """The same: each model has one version, named 1."""
    _check_version(version)
    return await oip_infer(request, model)


def _check_version(version: str) -> None:
    if version != VERSION:
        raise Problem(problems.UNKNOWN_MODEL, f"there is only version {VERSION}")


async def _is_ready(request: Request) -> bool:
    answers = await request.app.state.readiness.answers(durable_of(request), services_of(request))
    return all(answers.values())


async def _read(request: Request, model: Model) -> oip_codec.InferenceRequest:
    check_coding(request.headers.get("content-encoding", ""))
    body = await body_of(request)
    limit_bytes = model.max_input_bytes * 4 // 3 + _ENVELOPE_BYTES  # base64 makes three bytes four
    if len(body) > limit_bytes:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE, f"a request takes up to {limit_bytes} bytes in all"
        )
    return oip_codec.read(body, request.headers.get(oip_codec.HEADER_LENGTH))


async def _results(services: Services, answered: Sequence[Answered]) -> list[Result]:
    results = []
    for number, job in enumerate(answered):
        try:
            results.append(await _result(services, job))
        except Problem as problem:
            if len(answered) > 1:
                problem.detail = f"element {number}: {problem.detail}"
            raise
    return results


async def _result(services: Services, job: Answered) -> Result:
    known = await live_at_best(services, job.job_id, job.record)
    if not is_final(known):
        raise Problem(
            problems.EXPIRED,
            f"job {job.job_id} has not ended yet; GET {job_path(job.job_id)} follows it",
            ran=known["started_at"] is not None or None,
        )
    if problem := failure(job_resource(job.job_id, known), ran=known.get("ran")):
        problem.detail = f"{problem.detail} (job {job.job_id})"
        raise problem
    payload = payload_from_json(Fields(known["result"]))
    match payload:
        case InlineJson(value):
            data = encode(value)
        case InlineBytes(_, data):
            pass
        case ref:
            try:
                data = await services.payloads.get(ref)
            except MissingPayload:
                raise Problem(problems.UNKNOWN_JOB, "the result is no longer kept") from None
    return Result(payload.media_type, data)


def _check_outputs(model: Model, asked: oip_codec.InferenceRequest) -> None:
    known = output_names(model)
    for name in asked.outputs or ():
        if name not in known:
            raise unreadable(f"outputs: there is no {name[:100]!r}, but {', '.join(known)}")


def _chosen(
    asked: oip_codec.InferenceRequest, found: Sequence[Tensor]
) -> list[tuple[Tensor, bool]]:
    if asked.outputs is None:
        return [(tensor, asked.is_binary) for tensor in found]
    by_name = {tensor.name: tensor for tensor in found}
    if missing := asked.outputs.keys() - by_name:
        detail = f"the model gave no {', '.join(sorted(missing))}; ask for result"
        raise Problem(problems.INFERENCE_FAILED, detail)
    return [(by_name[name], is_binary) for name, is_binary in asked.outputs.items()]


def _answer(
    model: Model,
    asked: oip_codec.InferenceRequest,
    answered: Sequence[Answered],
    chosen: Sequence[tuple[Tensor, bool]],
) -> Response:
    document = {
        "model_name": model.name,
        "model_version": VERSION,
        **({"id": asked.id} if asked.id is not None else {}),
        "parameters": {"job_ids": ",".join(job.job_id for job in answered)},
    }
    body, header_length = oip_codec.write(document, chosen)
    if not any(is_binary for _, is_binary in chosen):
        return Response(body, media_type="application/json")
    return Response(
        body,
        media_type="application/octet-stream",
        headers={oip_codec.HEADER_LENGTH: str(header_length)},
    )
