"""Transcriptions and speech: https://platform.openai.com/docs/api-reference/audio."""

from typing import Final

from contract import media
from contract.catalogue import ModelEntry
from gateway.openai.calls import ApiOperation, CallResult, Members, Shown, no_result, refused

_TRANSCRIPTS: Final = (None, "json", "text", "verbose_json")
_FORMATS: Final = {
    "aac": "audio/aac",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "wav": "audio/wav",
}


def _check_transcription(model: ModelEntry, asked: Members) -> Members:
    kind = asked.get("response_format")
    if kind not in _TRANSCRIPTS:
        raise refused("response_format", f"expected {', '.join(map(str, _TRANSCRIPTS[1:]))}")
    if asked.get("stream"):
        raise refused("stream", "transcriptions are not streamed; omit it")
    given = {k: v for k, v in asked.items() if k not in {"response_format", "stream"}}
    if kind != "verbose_json":
        return given
    if model.result_media_type.startswith("text/"):
        raise refused("response_format", f"{model.name} returns only the text; ask for json")
    return {**given, "response_format": kind}


def _show_transcription(asked: Members, result: CallResult) -> Shown:
    found, kind = result.json(), asked.get("response_format")
    text = found.get("text") if isinstance(found, dict) else found
    if not isinstance(text, str):
        raise no_result(
            'the model returned no transcript: it must return a text, or an object with "text"'
        )
    if kind == "text":
        return text
    if isinstance(found, dict):
        return result
    if kind == "verbose_json":
        raise refused("response_format", "the model returned only the text; ask for json")
    return {"text": text}


def _check_speech(model: ModelEntry, asked: Members) -> Members:
    if not isinstance(asked.get("input"), str) or not asked["input"]:
        raise refused("input", "expected a text, and not an empty one")
    if asked.get("stream_format") not in (None, "audio"):
        raise refused("stream_format", "speech is not streamed; omit it")
    made, wanted = model.result_media_type, asked.get("response_format")
    is_other = not isinstance(wanted, str) or _FORMATS.get(wanted) != made
    if wanted is not None and made != media.OCTET_STREAM and is_other:
        raise refused("response_format", f"{asked['model']} returns only {made}; omit it")
    return asked


def _show_speech(_: Members, result: CallResult) -> Shown:
    if not result.is_a("audio") and result.media_type != media.OCTET_STREAM:
        raise no_result(
            f"the model returned {result.media_type} and no audio: set result_media_type of its "
            "catalogue entry to a type of audio"
        )
    return result


TRANSCRIPTIONS: Final = ApiOperation(
    "audio.transcriptions", _check_transcription, _show_transcription, files=("file",)
)
"""The model gets the recording, and returns a text, or an object with `text`."""

SPEECH: Final = ApiOperation("audio.speech", _check_speech, _show_speech)
"""The model gets the call's JSON, and returns audio."""
