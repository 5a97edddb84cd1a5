"""What a model returns, as the payload of its reply: JSON, a picture or bytes."""

import io
from collections.abc import Callable
from typing import Any, Final

from PIL import Image

from contract import media
from contract.messages import InlineBytes, InlineJson
from worker.errors import InferenceFailed

_FORMATS: Final = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}
# What JPEG and WebP can hold; anything else is made RGB first.
_PLAIN_MODES: Final = ("L", "RGB")

Result = InlineJson | InlineBytes
"""A job's result, before it is known where it is kept."""

Finish = Callable[[], Result]
"""The last step of a job in its model: from an output to the result."""


def written(result: Any, media_type: str) -> Result:
    """The result in this media type, the one of the model's entry; InferenceFailed."""
    if media_type == media.JSON:
        return InlineJson(result)
    if isinstance(result, Image.Image) and media_type in _FORMATS:
        return InlineBytes(media_type, _encoded(result, _FORMATS[media_type]))
    if isinstance(result, str) and media_type.startswith("text/"):
        return InlineBytes(media_type, result.encode("utf-8", "replace"))
    if isinstance(result, bytes | bytearray | memoryview):
        return InlineBytes(media_type, bytes(result))
    raise InferenceFailed(f"the model's result is not {media_type}, as its entry says")


def _encoded(picture: Image.Image, file_format: str) -> bytes:
    file = io.BytesIO()
    fits = file_format == "PNG" or picture.mode in _PLAIN_MODES
    (picture if fits else picture.convert("RGB")).save(file, file_format)
    return file.getvalue()
