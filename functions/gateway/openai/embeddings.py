"""Embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

import base64
import struct
from typing import Any, Final

from contract.catalogue import ModelEntry
from gateway.openai.calls import ApiOperation, CallResult, Members, Shown, no_result, refused

_ENCODINGS: Final = (None, "float", "base64")


def _check(_: ModelEntry, asked: Members) -> Members:
    if not isinstance(asked.get("input"), str | list) or not asked["input"]:
        raise refused("input", "expected a text or a list of texts, and not an empty one")
    if asked.get("encoding_format") not in _ENCODINGS:
        raise refused("encoding_format", "expected float or base64")
    return asked


def _show(asked: Members, result: CallResult) -> Shown:
    """Return the vectors of a model, or unchanged the object of the API."""
    found: Any = result.json()
    token_count = 0
    if isinstance(found, dict):
        if "object" in found:
            return result
        found, token_count = found.get("embeddings"), found.get("prompt_tokens", 0)
    vectors = [found] if _is_vector(found) else found
    if not isinstance(vectors, list) or not vectors or not all(map(_is_vector, vectors)):
        raise no_result(
            "the model returned no vectors: it must return a list of numbers, or a list of them"
        )
    if (wanted := asked.get("dimensions")) not in (None, len(vectors[0])):
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
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except OverflowError:
        raise no_result("the model returned a number that 32 bits cannot hold") from None


EMBEDDINGS: Final = ApiOperation("embeddings", _check, _show)
"""The model gets the call's JSON, and returns a vector or a list of vectors."""
