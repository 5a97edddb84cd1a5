"""/v1/models: list and get the models of the catalogue."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from contract.catalogue import Model
from gateway.http.openapi.operations import MODEL_RESPONSES, MODELS_RESPONSES
from gateway.http.requests import find_model, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.queues.estimates import WaitEstimates

router = APIRouter(tags=["models"])


@router.get(
    "/v1/models", summary="List the models", responses=MODELS_RESPONSES, response_model=None
)
async def list_models(request: Request) -> Response:
    """List all models that take jobs."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = services.catalogue.values()
    models = await asyncio.gather(*(_model_resource(model, services.estimates) for model in found))
    return json_response({"models": models})


@router.get(
    "/v1/models/{model}", summary="Get a model", responses=MODEL_RESPONSES, response_model=None
)
async def get_model(request: Request, model: str) -> Response:
    """Return what a model takes."""
    refuse_unknown_query(request)
    services = services_of(request)
    found = find_model(services.catalogue, model)
    return json_response(await _model_resource(found, services.estimates))


async def _model_resource(model: Model, estimates: WaitEstimates) -> dict[str, Any]:
    path = f"/v1/models/{model.name}"
    wait = await estimates.estimate_wait(model)
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
        "queue_length": wait.length,
        "estimated_wait_seconds": wait.wait_seconds,
        "links": {"self": path, "jobs": f"{path}/jobs"},
    }
