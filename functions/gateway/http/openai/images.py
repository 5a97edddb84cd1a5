"""The routes POST /openai/v1/images/generations and /openai/v1/images/edits.

https://platform.openai.com/docs/api-reference/images
"""

import base64
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contract.catalogue import ModelEntry
from contract.media import essence, sniff
from gateway import problems
from gateway.http.openai import forms
from gateway.http.openai.calls import (
    CallResult,
    find_call,
    json_job,
    new_job,
    read_object,
    refused,
    run,
)
from gateway.http.requests import TextRoute, caller_of, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.problems import HttpProblem
from gateway.submission.forms import FormPart
from gateway.submission.parse import (
    SubmittedInput,
    check_media_type,
    check_size,
    refuse_unknown_inputs,
)

GENERATIONS: Final = "images.generations"
EDITS: Final = "images.edits"

_FORMATS: Final = (None, "b64_json", "url")

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/images/generations")
async def generate_images(request: Request) -> Response:
    """Return images for a prompt.

    The model gets the request's JSON. It returns an image, a list of images in base64, or the
    object of the OpenAI API, which passes unchanged.
    """
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, body = await read_object(request, held)
        call = find_call(request, GENERATIONS, asked.get("model"))
        _check(call.model, asked)
        job = json_job(request, call, body, held)
        del body  # its memory is not needed while the job runs
        result = await run(request, job)
    return _show(request, asked, result)


@router.post("/openai/v1/images/edits")
async def edit_images(request: Request) -> Response:
    """Return images that a model makes of an image.

    The job's input is the image. Its named inputs are `mask`, and `image_2` and so on for further
    images. The other members of the form are the parameters.
    """
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        form = await forms.read_body(request, held)
        call = find_call(request, EDITS, form.take_text("model"))
        first, *others = form.take_files("image")
        files: dict[str | None, FormPart] = {None: first}
        files |= {f"image_{number}": each for number, each in enumerate(others, 2)}
        if "mask" in form.names():
            files["mask"] = form.take_file("mask")
        asked = form.take_parameters()
        _check(call.model, asked)
        inputs = {each: read_file(call.model, each, file) for each, file in files.items()}
        job = new_job(request, call, inputs, asked, held)
        del form, first, others, files, inputs  # their memory is not needed while the job runs
        result = await run(request, job)
    return _show(request, asked, result)


def read_file(model: ModelEntry, name: str | None, file: FormPart) -> SubmittedInput:
    """Return the file of a form as an input with this name. Raises HttpProblem if it is invalid."""
    if name is not None:
        refuse_unknown_inputs(model, [name])
    entry = model.entry_of_input(name)
    check_size(entry, len(file.data))
    announced = essence(file.media_type)
    if announced not in entry.media_types:  # clients guess it from the file's name
        announced = sniff(file.data) or announced
    media_type = check_media_type(entry, announced or None, file.data)
    return SubmittedInput(media_type, file.data)


def _check(model: ModelEntry, asked: dict[str, Any]) -> None:
    if not isinstance(asked.get("prompt"), str) or not asked["prompt"]:
        raise refused("prompt", "expected a text, and not an empty one")
    if asked.get("response_format") not in _FORMATS:
        raise refused("response_format", "expected b64_json or url")
    if asked.get("stream"):
        raise refused("stream", "images are not streamed; follow the job's events for previews")
    if _returns_image(model) and asked.get("n") not in {None, 1}:
        raise refused("n", f"{model.name} makes one image in each job; send several requests")


def _returns_image(model: ModelEntry) -> bool:
    return model.result_media_type.startswith("image/")


def _show(request: Request, asked: dict[str, Any], result: CallResult) -> Response:
    """Return the response for the image or the images of a model."""
    found = [_encode(result)] if result.is_a("image") else result.json()
    if isinstance(found, dict) and "data" in found:
        return result.response()
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise HttpProblem(
            problems.INFERENCE_FAILED,
            "the model returned no images: it must return an image, or a list of images in base64",
            retryable=False,
        )
    member = asked.get("response_format") or "b64_json"
    if member == "url":
        kind = result.media_type if result.is_a("image") else "image/png"
        found = [f"data:{kind};base64,{each}" for each in found]
    images = {
        "created": int(services_of(request).clock().timestamp()),
        "data": [{member: each} for each in found],
    }
    return json_response(images, headers=result.headers)


def _encode(result: CallResult) -> str:
    return base64.b64encode(result.data).decode()
