"""The checks of a submit, each with its own problem."""

from collections.abc import Mapping
from typing import Final

from contract import media
from contract.catalogue import Model
from contract.fields import Json
from gateway import problems
from gateway.api.submitting.dimensions import dimensions
from gateway.errors import UnreadableImage
from gateway.problems import Problem
from gateway.queueing.priority import Priority
from gateway.strict_json import encode, parse

MAX_PARAMETERS_BYTES: Final = 16 * 1024


def check_coding(content_encoding: str) -> None:
    """Refuse a body that is compressed or the like: what looks whole would be another input."""
    if content_encoding.strip().lower() not in {"", "identity"}:
        raise Problem(
            problems.UNSUPPORTED_MEDIA_TYPE,
            "no Content-Encoding is taken",
            headers={"Accept-Encoding": "identity"},
        )


def check_size(model: Model, size_bytes: int, allowance_bytes: int = 0) -> None:
    """Refuse what is over the model's limit; the allowance is for what is around the payload."""
    if size_bytes > model.max_input_bytes + allowance_bytes:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE,
            f"{model.name} takes up to {model.max_input_bytes} bytes in a request; "
            f"POST /v1/uploads takes up to {model.max_upload_bytes}",
            limit_bytes=model.max_input_bytes,
        )


def check_upload_size(model: Model, size_bytes: int) -> None:
    """Refuse an upload that is over the model's limit for uploads."""
    if size_bytes > model.max_upload_bytes:
        raise Problem(
            problems.PAYLOAD_TOO_LARGE,
            f"{model.name} takes uploads of up to {model.max_upload_bytes} bytes",
            limit_bytes=model.max_upload_bytes,
        )


def checked_media_type(
    model: Model, announced: str | None, data: bytes, *, is_whole: bool = True
) -> str:
    """The payload's media type, announced or else seen, once it fits the model and the bytes.

    Of a payload that is not here as a whole, `data` is the beginning.
    """
    if not data:
        raise Problem(problems.INVALID_INPUT, "the payload is empty")
    media_type = announced or media.OCTET_STREAM
    if media_type == media.OCTET_STREAM and media_type not in model.media_types:
        # What browsers and curl call anything that they do not know: it announces nothing.
        media_type = media.sniff(data) or media_type
    check_accepted(model, media_type)
    is_readable = media_type != media.JSON or not is_whole or _is_json(data)
    if not media.agrees(media_type, data) or not is_readable:
        raise _unsupported(model, f"the bytes are not {media_type}")
    _check_pixels(model, media_type, data, is_whole=is_whole)
    return media_type


def check_accepted(model: Model, media_type: str) -> None:
    """Refuse a media type that the model does not take."""
    if media_type not in model.media_types:
        raise _unsupported(model, f"{model.name} does not take {media_type[:100]!r}")


def _is_json(data: bytes) -> bool:
    try:
        parse(data)
    except ValueError:
        return False
    return True


def _unsupported(model: Model, what: str) -> Problem:
    accepted = list(model.media_types)
    return Problem(
        problems.UNSUPPORTED_MEDIA_TYPE,
        f"{what}; accepted are {', '.join(accepted)}",
        headers={"Accept-Post": ", ".join(accepted)},
        accepted=accepted,
    )


def _check_pixels(model: Model, media_type: str, data: bytes, *, is_whole: bool) -> None:
    if not model.max_pixels:
        return
    try:
        size = dimensions(media_type, data)
    except UnreadableImage as error:
        if not is_whole:
            return  # the header may come later; the worker reads it before it decodes
        raise Problem(problems.INVALID_INPUT, str(error)) from None
    if size is not None and size[0] * size[1] > model.max_pixels:
        raise Problem(
            problems.INVALID_INPUT,
            f"the picture has {size[0]} by {size[1]} pixels, {model.name} takes up to "
            f"{model.max_pixels} in all",
            limit_pixels=model.max_pixels,
        )


def check_options(model: Model, options: Mapping[str, Json]) -> tuple[dict[str, Json], int]:
    """Parameters and deadline, from JSON or, as texts, from a query or form."""
    return _parameters(options.get("parameters")), _deadline(model, options.get("deadline_seconds"))


def checked_webhook_url(options: Mapping[str, Json]) -> str | None:
    """The URL that is told of the job's end, if any; where it leads is not looked at here."""
    url = options.get("webhook_url")
    if url is not None and not isinstance(url, str):
        raise Problem(problems.MALFORMED_REQUEST, "webhook.url: expected a text")
    return url


def checked_priority(options: Mapping[str, Json]) -> Priority:
    """How urgent the job is."""
    given = options.get("priority")
    try:
        return Priority.NORMAL if given is None else Priority(given)
    except ValueError:
        known = " or ".join(Priority)
        raise Problem(problems.MALFORMED_REQUEST, f"priority: expected {known}") from None


def _parameters(given: Json) -> dict[str, Json]:
    if given is None:
        return {}
    try:
        value = parse(given) if isinstance(given, str) else given
        size_bytes = len(encode(value))
    except ValueError as error:
        raise Problem(problems.MALFORMED_REQUEST, f"parameters: {error}") from None
    if not isinstance(value, dict):
        raise Problem(problems.MALFORMED_REQUEST, "parameters: expected a JSON object")
    if size_bytes > MAX_PARAMETERS_BYTES:
        raise Problem(
            problems.MALFORMED_REQUEST, f"parameters: more than {MAX_PARAMETERS_BYTES} bytes"
        )
    return value


def _deadline(model: Model, given: Json) -> int:
    if given is None:
        return model.deadline_seconds
    if isinstance(given, str) and given.isascii() and given.isdigit():
        given = int(given.lstrip("0")[:9] or "0")
    longest = model.max_deadline_seconds
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= longest:
        raise Problem(
            problems.MALFORMED_REQUEST,
            f"deadline_seconds: expected a whole number from 1 to {longest}",
        )
    return given
