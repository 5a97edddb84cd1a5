"""The routes under /openai/v1/models: the models that offer operations of the OpenAI API."""

from typing import Any

from fastapi import APIRouter, Request, Response

from contract.catalogue import ModelEntry
from gateway.http.requests import TextRoute, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.submission.parse import find_model

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.get("/openai/v1/models")
async def list_models(request: Request) -> Response:
    """List the models and versions that offer an operation."""
    refuse_unknown_query(request)
    found = [_show(model) for model in services_of(request).catalogue.values() if model.openai]
    return json_response({"object": "list", "data": found})


@router.get("/openai/v1/models/{model}")
async def retrieve_model(request: Request, model: str) -> Response:
    """Return one model or version."""
    return json_response(_show(find_model(services_of(request).catalogue, model)))


def _show(model: ModelEntry) -> dict[str, Any]:
    # A catalogue does not say when a model was made.
    return {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "loosely",
        "operations": list(model.openai),
    }
