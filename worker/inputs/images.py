"""Decode images from foreign callers."""

import io
import struct
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

from worker.errors import InvalidInput

# Only these decoders: each further one is more code that foreign bytes reach.
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

# What decoders raise on damaged files.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, zlib.error),
    *(TypeError, AttributeError, ArithmeticError, MemoryError),
)
_DAMAGED = "the picture is damaged or incomplete: it cannot be decoded to its end"

# Each model has its own limit, which is checked below. Pillow's limit is for the whole process, and
# only a warning up to twice its value.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, media_type: str, max_pixels: int) -> Image.Image:
    """Return the image in RGB, rotated by its EXIF orientation.

    `max_pixels` is checked against the size in the header, before anything is decoded.

    Raises:
        InvalidInput: The bytes are not an image of this type, or it is too large.
    """
    if not data:
        raise InvalidInput("the input is empty; send the bytes of a picture")
    expected = _FORMATS.get(media_type)
    formats = [expected] if expected else list(_FORMATS.values())
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise InvalidInput(f"the input is not a picture of type {media_type}") from None
    except _DECODER_ERRORS:
        raise InvalidInput(_DAMAGED) from None
    with picture:
        _check_size(picture.size, max_pixels)
        return _loaded(picture)


def _loaded(picture: Image.Image) -> Image.Image:
    try:
        # Reads the whole file, and raises if it is truncated.
        picture.load()
        return _flat(ImageOps.exif_transpose(picture))
    except _DECODER_ERRORS:
        raise InvalidInput(_DAMAGED) from None


def _flat(picture: Image.Image) -> Image.Image:
    """Return the image in RGB; transparent areas become white, as in a browser."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidInput(
            f"the picture has {width} by {height} pixels; at most {max_pixels} in all are accepted"
        )
