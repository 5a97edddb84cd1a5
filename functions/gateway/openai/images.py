"""Images: https://platform.openai.com/docs/api-reference/images."""

import base64
from typing import Final

from contract.catalogue import ModelEntry
from gateway.openai.calls import ApiOperation, CallResult, Members, Shown, no_result, refused

_FORMATS: Final = (None, "b64_json", "url")


def _check(model: ModelEntry, asked: Members) -> Members:
    if not isinstance(asked.get("prompt"), str) or not asked["prompt"]:
        raise refused("prompt", "expected a text, and not an empty one")
    if asked.get("response_format") not in _FORMATS:
        raise refused("response_format", "expected b64_json or url")
    if asked.get("stream"):
        raise refused("stream", "images are not streamed; follow the job's events for previews")
    if model.result_media_type.startswith("image/") and asked.get("n") not in (None, 1):
        raise refused("n", f"{model.name} makes one image in each job; send several requests")
    return asked


def _show(asked: Members, result: CallResult) -> Shown:
    """Return the image or the images of a model, or unchanged the object of the API."""
    is_image = result.is_a("image")
    found = [base64.b64encode(result.data).decode()] if is_image else result.json()
    if isinstance(found, dict) and "data" in found:
        return result
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise no_result(
            "the model returned no images: it must return an image, or a list of images in base64"
        )
    member = asked.get("response_format") or "b64_json"
    if member == "url":
        kind = result.media_type if is_image else "image/png"
        found = [f"data:{kind};base64,{each}" for each in found]
    return {"created": result.created, "data": [{member: each} for each in found]}


GENERATIONS: Final = ApiOperation("images.generations", _check, _show)
"""The model gets the call's JSON, and returns an image, or a list of images in base64."""

EDITS: Final = ApiOperation(
    "images.edits", _check, _show, files=("image", "mask"), takes_several=True
)
"""The job's input is the image; its named inputs are `mask`, and `image_2` and so on."""
