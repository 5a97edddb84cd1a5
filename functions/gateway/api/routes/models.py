"""/v1/models: the catalogue."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from contract.catalogue import Model
from contract.errors import UnknownModel
from gateway import problems
from gateway.api.context import refuse_unknown_query, services_of
from gateway.api.openapi.operations import MODEL_RESPONSES, MODELS_RESPONSES
from gateway.api.responses import json_response
from gateway.problems import Problem
from gateway.services import Services

router = APIRouter(tags=["models"])


def found_model(services: Services, name: str) -> Model:
    """The model of this name; else the problem unknown-model with the nearest names."""
    try:
        return services.catalogue.model(name)
    except UnknownModel as error:
        raise Problem(problems.UNKNOWN_MODEL, str(error), nearest=list(error.nearest)) from None


@router.get(
    "/v1/models", summary="List the models", responses=MODELS_RESPONSES, response_model=None
)
async def list_models(request: Request) -> Response:
    """All models that take jobs."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = services.catalogue.values()
    models = await asyncio.gather(*(_resource(services, model) for model in found))
    return json_response({"models": models})


@router.get(
    "/v1/models/{model}", summary="Look at a model", responses=MODEL_RESPONSES, response_model=None
)
async def get_model(request: Request, model: str) -> Response:
    """What one model takes."""
    refuse_unknown_query(request)
    services = services_of(request)
    return json_response(await _resource(services, found_model(services, model)))


async def _resource(services: Services, model: Model) -> dict[str, Any]:
    path = f"/v1/models/{model.name}"
    outlook = await services.backlog.outlook(model)
    return {
        "name": model.name,
        "task": model.task,
        "description": model.description,
        "media_types": list(model.media_types),
        "result_media_type": model.result_media_type,
        "limits": {
            "input_bytes": model.max_input_bytes,
            "upload_bytes": model.max_upload_bytes,
            "pixels": model.max_pixels or None,
            "deadline_seconds": model.max_deadline_seconds,
        },
        "defaults": {"deadline_seconds": model.deadline_seconds},
        "queue_length": outlook.length,
        "estimated_wait_seconds": outlook.wait_seconds,
        "links": {"self": path, "jobs": f"{path}/jobs"},
    }
