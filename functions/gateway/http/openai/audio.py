"""The routes POST /openai/v1/audio/transcriptions and /openai/v1/audio/speech.

https://platform.openai.com/docs/api-reference/audio
"""

from typing import Any, Final

from fastapi import APIRouter, Request, Response

from contract import media
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
from gateway.http.openai.images import read_file
from gateway.http.requests import TextRoute, caller_of, refuse_unknown_query, services_of
from gateway.http.responses import json_response
from gateway.problems import HttpProblem
from gateway.submission.parse import SubmittedInput

TRANSCRIPTIONS: Final = "audio.transcriptions"
SPEECH: Final = "audio.speech"

_TRANSCRIPTS: Final = ("json", "text", "verbose_json")
_FORMATS: Final = {
    "aac": "audio/aac",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
}

router = APIRouter(tags=["openai"], route_class=TextRoute, include_in_schema=False)


@router.post("/openai/v1/audio/transcriptions")
async def transcribe(request: Request) -> Response:
    """Return the text of a recording.

    The job's input is the recording, and the other members of the form are its parameters; of
    `response_format`, only `verbose_json`. The model returns a text, or an object with `text`.
    """
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        form = await forms.read_body(request, held)
        call = find_call(request, TRANSCRIPTIONS, form.take_text("model"))
        model, kind = call.model, form.take_text("response_format") or "json"
        if kind not in _TRANSCRIPTS:
            raise refused("response_format", f"expected {', '.join(_TRANSCRIPTS)}")
        file = form.take_file("file")
        parameters = form.take_parameters()
        if parameters.pop("stream", False):
            raise refused("stream", "transcriptions are not streamed; omit it")
        if kind == "verbose_json":
            if model.result_media_type.startswith("text/"):
                raise refused(
                    "response_format", f"{model.name} returns only the text; ask for json"
                )
            parameters["response_format"] = kind
        inputs: dict[str | None, SubmittedInput] = {None: read_file(model, None, file)}
        job = new_job(request, call, inputs, parameters, held)
        del form, file, inputs  # their memory is not needed while the job runs
        result = await run(request, job)
    return _show_transcript(kind, result)


def _show_transcript(kind: str, result: CallResult) -> Response:
    found: Any = result.json()
    text = found.get("text") if isinstance(found, dict) else found
    if not isinstance(text, str):
        raise HttpProblem(
            problems.INFERENCE_FAILED,
            'the model returned no transcript: it must return a text, or an object with "text"',
            retryable=False,
        )
    if kind == "text":
        return Response(text, media_type="text/plain; charset=utf-8", headers=result.headers)
    if isinstance(found, dict):
        return result.response()
    if kind == "verbose_json":
        raise refused("response_format", "the model returned only the text; ask for json")
    return json_response({"text": text}, headers=result.headers)


@router.post("/openai/v1/audio/speech")
async def speak(request: Request) -> Response:
    """Return a text as speech. The model gets the request's JSON, and returns audio."""
    refuse_unknown_query(request)
    with services_of(request).bodies.counting(caller_of(request).tenant) as held:
        asked, body = await read_object(request, held)
        call = find_call(request, SPEECH, asked.get("model"))
        if not isinstance(asked.get("input"), str) or not asked["input"]:
            raise refused("input", "expected a text, and not an empty one")
        if asked.get("stream_format") not in {None, "audio"}:
            raise refused("stream_format", "speech is not streamed; omit it")
        made, wanted = call.model.result_media_type, asked.get("response_format")
        if wanted is not None and made != media.OCTET_STREAM and _FORMATS.get(wanted) != made:
            raise refused("response_format", f"{call.name} returns only {made}; omit it")
        job = json_job(request, call, body, held)
        del body  # its memory is not needed while the job runs
        result = await run(request, job)
    if not result.is_a("audio") and result.media_type != media.OCTET_STREAM:
        raise HttpProblem(
            problems.INFERENCE_FAILED,
            f"the model returned {result.media_type} and no audio: set result_media_type of its "
            "catalogue entry to a type of audio",
            retryable=False,
        )
    return result.response()
