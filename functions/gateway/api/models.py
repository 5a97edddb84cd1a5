"""/v1/models: the catalogue."""

from typing import Any

from fastapi import APIRouter, Request, Response

from contract.catalogue import Model
from contract.errors import UnknownModel
from gateway import problems
from gateway.api.context import refuse_unknown_query, services_of
from gateway.api.openapi import MODEL_RESPONSES, MODELS_RESPONSES
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
    models = [_resource(model) for model in services_of(request).catalogue.values()]
    return json_response({"models": models})


@router.get(
    "/v1/models/{model}", summary="Look at a model", responses=MODEL_RESPONSES, response_model=None
)
async def get_model(request: Request, model: str) -> Response:
    """What one model takes."""
    refuse_unknown_query(request)
    return json_response(_resource(found_model(services_of(request), model)))


def _resource(model: Model) -> dict[str, Any]:
    path = f"/v1/models/{model.name}"
    return {
        "name": model.name,
        "task": model.task,
        "description": model.description,
        "media_types": list(model.media_types),
        "limits": {
            "input_bytes": model.max_input_bytes,
            "pixels": model.max_pixels or None,
            "deadline_seconds": model.max_deadline_seconds,
        },
        "defaults": {"deadline_seconds": model.deadline_seconds},
        "queue": {"length": None, "eta_seconds": None},
        "links": {"self": path, "jobs": f"{path}/jobs"},
    }
