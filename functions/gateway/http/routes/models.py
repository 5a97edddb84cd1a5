"""The routes under /v1/models. They list and get the models of the catalogue."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from contract.catalogue import ModelEntry
from gateway.http.openapi.operations import problem_responses
from gateway.http.requests import TextRoute, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.queues.estimates import WaitEstimates
from gateway.submission.parse import find_model

router = APIRouter(tags=["models"], route_class=TextRoute)


class InputLimits(TypedDict):
    """The limits of a named input. `pixels` is null if the input is not a picture."""

    input_bytes: int
    upload_bytes: int
    pixels: int | None


class ModelLimits(InputLimits):
    """The limits of a model's jobs. `pixels` is null if the input is not a picture."""

    deadline_seconds: int


class InputDescription(TypedDict):
    """The description of a named input of a model."""

    description: str
    media_types: list[str]
    required: bool
    limits: InputLimits


class ResultDescription(TypedDict):
    """The description of a named result of a model. `required` says that each job has it."""

    description: str
    media_type: str
    required: bool


class ModelDefaults(TypedDict):
    """The default values of options, for a submission that does not contain them."""

    deadline_seconds: int


class ModelParameters(TypedDict):
    """The parameters of a model's jobs, as a JSON Schema."""

    type: Literal["object"]
    properties: dict[str, Any]


class ModelLinks(TypedDict):
    """The paths of a model, and of the route that submits jobs to it."""

    self: str
    jobs: str


class ModelDescription(TypedDict):
    """The description of one model of the catalogue, or of one of its versions.

    Each version of a model has its own description. The name of the model is also the name of
    version 1. For a job that is submitted to this name, the gateway chooses a version by the
    percentages in `versions`.
    """

    name: Annotated[str, Field(examples=["classifier"])]
    version: Annotated[str, Field(examples=["1"])]
    versions: Annotated[
        dict[str, int],
        Field(
            description="The versions of the model, and how many of 100 new jobs each one gets.",
            examples=[{"1": 95, "2": 5}],
        ),
    ]
    task: str
    description: str
    media_types: list[str]
    result_media_type: Annotated[
        str,
        Field(
            description="The media type of a result. Only JSON is part of the job resource.",
            examples=["image/png"],
        ),
    ]
    results: Annotated[
        dict[str, ResultDescription],
        Field(description="The named results, which the model has in addition to its result."),
    ]
    limits: ModelLimits
    defaults: ModelDefaults
    parameters: Annotated[
        ModelParameters | None,
        Field(description="Null if the model does not declare its parameters."),
    ]
    inputs: Annotated[
        dict[str, InputDescription],
        Field(description="The named inputs, which the model has in addition to its input."),
    ]
    streams: Annotated[
        bool,
        Field(description="Whether jobs have a stream even if the request does not ask for one."),
    ]
    openai: Annotated[
        list[str],
        Field(
            description="The operations of the OpenAI API that the model offers.",
            examples=[["chat.completions"]],
        ),
    ]
    queue_length: Annotated[
        int | None,
        Field(
            description="The number of queued and running jobs of both priorities; null if unknown."
        ),
    ]
    estimated_wait_seconds: Annotated[
        float | None,
        Field(
            description="How many seconds a new job of normal priority would take; null if unknown."
        ),
    ]
    links: ModelLinks


class Models(TypedDict):
    """All models for which the gateway accepts jobs."""

    models: list[ModelDescription]


@router.get(
    "/v1/models",
    summary="List the models",
    response_model=Models,
    response_description="All models",
    responses=problem_responses(400),
)
async def list_models(request: Request) -> Response:
    """List all models and their versions, with their limits and estimated waits."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = services.catalogue.values()
    models = await asyncio.gather(*(_model_resource(model, services.estimates) for model in found))
    listed: Models = {"models": list(models)}
    return json_response(listed)


@router.get(
    "/v1/models/{model}",
    summary="Get a model",
    response_model=ModelDescription,
    response_description="The model",
    responses=problem_responses(400, 404),
)
async def get_model(request: Request, model: str) -> Response:
    """Return a model or a version, such as `classifier:2`, with its limits and estimated wait."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = find_model(services.catalogue, model)
    return json_response(await _model_resource(found, services.estimates))


async def _model_resource(model: ModelEntry, estimates: WaitEstimates) -> ModelDescription:
    path = f"/v1/models/{model.name}"
    wait = await estimates.estimate_wait(model)
    return {
        "name": model.name,
        "version": model.version,
        "versions": dict(model.versions) or {model.version: 100},
        "task": model.task,
        "description": model.description,
        "media_types": list(model.media_types),
        "result_media_type": model.result_media_type,
        "results": {
            name: {
                "description": each.description,
                "media_type": each.media_type,
                "required": not each.optional,
            }
            for name, each in model.results.items()
        },
        "limits": {
            "input_bytes": model.max_input_bytes,
            "upload_bytes": model.max_upload_bytes,
            "pixels": model.max_pixels or None,
            "deadline_seconds": model.max_deadline_seconds,
        },
        "defaults": {"deadline_seconds": model.deadline_seconds},
        "parameters": (
            {"type": "object", "properties": {**model.parameters}} if model.parameters else None
        ),
        "inputs": {
            name: {
                "description": each.description,
                "media_types": list(each.media_types),
                "required": not each.optional,
                "limits": {
                    "input_bytes": each.max_input_bytes,
                    "upload_bytes": each.max_upload_bytes,
                    "pixels": each.max_pixels or None,
                },
            }
            for name, each in model.inputs.items()
        },
        "streams": model.streams,
        "openai": list(model.openai),
        "queue_length": wait.length,
        "estimated_wait_seconds": wait.wait_seconds,
        "links": {"self": path, "jobs": f"{path}/jobs"},
    }
