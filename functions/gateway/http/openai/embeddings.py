"""The route POST /openai/v1/embeddings.

https://platform.openai.com/docs/api-reference/embeddings
"""

import base64
import struct
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from gateway import problems
from gateway.http.openai.calls import find_call, json_job, read_object, refused, run
from gateway.http.requests import TextRoute, caller_of, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.problems import HttpProblem

OPERATION: Final = "embeddings"

_ENCODINGS: Final = (None, "float", "base64")

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/embeddings")
async def create_embeddings(request: Request) -> Response:
    """Return the embedding vectors of one or several texts.

    The model gets the request's JSON. It returns a vector or a list of vectors, or the object of
    the OpenAI API, which passes unchanged.
    """
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, body = await read_object(request, held)
        call = find_call(request, OPERATION, asked.get("model"))
        if not isinstance(asked.get("input"), str | list) or not asked["input"]:
            raise refused("input", "expected a text or a list of texts, and not an empty one")
        if asked.get("encoding_format") not in _ENCODINGS:
            raise refused("encoding_format", "expected float or base64")
        job = json_job(request, call, body, held)
        del body  # its memory is not needed while the job runs
        result = await run(request, job)
    found = result.json()
    if isinstance(found, dict) and "object" in found:
        return result.response()
    return json_response(_show(asked, found), headers=result.headers)


def _show(asked: dict[str, Any], found: Any) -> dict[str, Any]:
    """Return the response for the vectors of a model."""
    token_count = 0
    if isinstance(found, dict):
        found, token_count = found.get("embeddings"), found.get("prompt_tokens", 0)
    vectors = [found] if _is_vector(found) else found
    if not isinstance(vectors, list) or not vectors or not all(map(_is_vector, vectors)):
        raise HttpProblem(
            problems.INFERENCE_FAILED,
            "the model returned no vectors: it must return a list of numbers, or a list of them",
            retryable=False,
        )
    if (wanted := asked.get("dimensions")) not in {None, len(vectors[0])}:
        raise refused(
            "dimensions", f"the model returns {len(vectors[0])} numbers, and cannot return {wanted}"
        )
    is_base64 = asked.get("encoding_format") == "base64"
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encode(vector) if is_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": asked["model"],
        "usage": {"prompt_tokens": token_count, "total_tokens": token_count},
    }


def _is_vector(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(each, int | float) for each in value)


def _encode(vector: list[float]) -> str:
    """Return a vector as base64 of its numbers, little-endian with 32 bits each."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
