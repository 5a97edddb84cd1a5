"""Encode what a model returns: first in its media types, then as the bytes of the results."""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from PIL import Image

from contract import media
from contract.catalogue import ModelEntry
from contract.messages import InlineBytes, InlineJson, Json
from contract.results import MAX_RESULT_BYTES
from worker.errors import InferenceFailed, ResultTooLarge
from worker.models import Results

_IMAGE_FORMATS: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
# The modes that JPEG and WebP can store. Images in other modes are converted to RGB.
_PLAIN_MODES: Final = ("L", "RGB")

Result = InlineJson | InlineBytes
"""A result of a job: a JSON value, or bytes with a media type. It is not yet stored as a blob."""


@dataclass(frozen=True, slots=True)
class EncodedResults:
    """The encoded results of a job.

    Attributes:
        first: The result.
        named: The named results by name.
    """

    first: Result
    named: Mapping[str, Result]


def encode_result(result: Any, media_type: str) -> Result:
    """Return a model's result in the encoding of this media type.

    Raises:
        InferenceFailed: A result of this Python type cannot be encoded in this media type.
    """
    if media_type == media.JSON:
        return InlineJson(result)
    if isinstance(result, Image.Image) and media_type in _IMAGE_FORMATS:
        return InlineBytes(media_type, _encode_image(result, _IMAGE_FORMATS[media_type]))
    if isinstance(result, str) and media_type.startswith("text/"):
        return InlineBytes(media_type, result.encode("utf-8", "replace"))
    if isinstance(result, bytes | bytearray | memoryview):
        return InlineBytes(media_type, bytes(result))
    raise InferenceFailed(
        f"the model returned a {type(result).__name__}, which cannot be encoded as {media_type}, "
        "the media type in the model's catalogue entry"
    )


def encode_results(result: Any, model: ModelEntry) -> EncodedResults:
    """Encode the result and the named results that a model has returned.

    The model's catalogue entry contains the media type of each result. If `result` is not a
    `Results` object, the model has returned no named results. An optional named result may be
    missing or None, and is then omitted.

    Raises:
        InferenceFailed: A required named result is missing, a named result is not in the catalogue
            entry, or the Python type of a result cannot be encoded in the media type of the entry.
    """
    first, returned = (result.first, result.named) if isinstance(result, Results) else (result, {})
    for name in returned:
        if name not in model.results:
            raise InferenceFailed(
                f"results.{name}: the model's catalogue entry has no such result; its named "
                f"results are: {', '.join(model.results) or 'none'}"
            )
    named = {}
    for name, each in model.results.items():
        value = returned.get(name)
        if value is None and each.optional:
            continue
        if name not in returned:
            raise InferenceFailed(
                f"results.{name}: the model did not return this result; return "
                f"Results(…, {name}=…), or set optional in the model's catalogue entry"
            )
        with _naming_result(name):
            named[name] = encode_result(value, each.media_type)
    return EncodedResults(encode_result(first, model.result_media_type), named)


@contextlib.contextmanager
def _naming_result(name: str | None) -> Iterator[None]:
    """Add the name of a named result to the text of an error that the `with` block raises.

    `name` is None for the result without a name. Then the errors are not changed.
    """
    try:
        yield
    except (InferenceFailed, ResultTooLarge) as error:
        if name is None:
            raise
        raise type(error)(f"results.{name}: {error}") from None


def _encode_image(image: Image.Image, file_format: str) -> bytes:
    file = io.BytesIO()
    fits = file_format == "PNG" or image.mode in _PLAIN_MODES
    (image if fits else image.convert("RGB")).save(file, file_format)
    return file.getvalue()


def serialize_result(result: Result) -> bytes:
    """Return the bytes of a result. A JSON value is serialized first.

    Raises:
        InferenceFailed: The result cannot be written as JSON.
        ResultTooLarge: The result has more than MAX_RESULT_BYTES bytes.
    """
    try:
        data = result.data if isinstance(result, InlineBytes) else dump_json(result.value)
    except (TypeError, ValueError, RecursionError) as error:
        found = describe_unwritable(result.value) if isinstance(result, InlineJson) else None
        raise InferenceFailed(
            f"the model's result cannot be written as JSON: {found or error}"
        ) from None
    if len(data) > MAX_RESULT_BYTES:
        raise ResultTooLarge(
            f"the result has {len(data)} bytes; at most {MAX_RESULT_BYTES} bytes can be returned"
        )
    return data


def serialize_results(results: EncodedResults) -> dict[str | None, tuple[Result, bytes]]:
    """Return each result with its bytes, by name. The result without a name has the key None.

    Raises:
        InferenceFailed: A result cannot be written as JSON.
        ResultTooLarge: The results have more than MAX_RESULT_BYTES bytes together.
    """
    found: dict[str | None, tuple[Result, bytes]] = {}
    size_bytes = 0
    for name, each in [(None, results.first), *results.named.items()]:
        with _naming_result(name):
            found[name] = each, serialize_result(each)
        size_bytes += len(found[name][1])
        if size_bytes > MAX_RESULT_BYTES:
            raise ResultTooLarge(
                f"the results have more than {MAX_RESULT_BYTES} bytes in total: "
                "return smaller results"
            )
    return found


def dump_json(value: Json) -> bytes:
    """Serialize a value as compact JSON.

    Raises:
        ValueError: The value contains NaN or an infinity.
        TypeError: The value contains an object that JSON cannot represent.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def describe_unwritable(result: Any) -> str | None:
    """Find a value in a model's result that JSON cannot represent, and describe this value.

    Returns:
        A text that says where the value is in the result, and what to return instead; None if JSON
        can represent the whole result.
    """
    pending: list[tuple[str, Any, frozenset[int]]] = [("result", result, frozenset())]
    while pending:
        place, value, parents = pending.pop()
        match value:
            case None | bool() | int() | str():
                continue
            case float():
                if not isfinite(value):
                    return f"{place} is {value}; return a finite number or None"
            case dict() | list() | tuple():
                if id(value) in parents:
                    return f"{place} contains itself; return a copy"
                inner = parents | {id(value)}
                if isinstance(value, dict):
                    for key in value:
                        if not isinstance(key, str | int | float | bool | None):
                            kind = type(key).__name__
                            return f"{place} has a key of type {kind}; use texts as keys"
                    members = [(f"{place}[{key!r:.60}]", each) for key, each in value.items()]
                else:
                    members = [(f"{place}[{index}]", each) for index, each in enumerate(value)]
                pending += [(path, each, inner) for path, each in reversed(members)]
            case _:
                remedy = ".tolist()" if hasattr(value, "tolist") else "a number, text, list or dict"
                verb = "call" if remedy == ".tolist()" else "return"
                return f"{place} is of type {type(value).__name__}; {verb} {remedy}"
    return None
