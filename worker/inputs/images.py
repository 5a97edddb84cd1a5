"""Decode untrusted images."""

import io
import struct
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

from worker.errors import InvalidInput

# Only these decoders are used, because each further decoder would be more code for untrusted bytes.
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

# The errors that Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, zlib.error),
    *(TypeError, AttributeError, ArithmeticError, MemoryError),
)
_DAMAGED = "the image is damaged or incomplete: it cannot be decoded to its end"

# Each model has its own limit, which is checked below. Pillow's limit would apply to the whole
# process, and only cause a warning up to twice its value.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, media_type: str, max_pixels: int) -> Image.Image:
    """Decode an image to RGB, and rotate it according to its EXIF orientation.

    Args:
        data: The bytes of the file.
        media_type: The expected media type.
        max_pixels: The largest number of pixels that is accepted. The size in the image's header is
            checked before the pixels are decoded.

    Raises:
        InvalidInput: The bytes are not an image of this type, or the image is too large.
    """
    if not data:
        raise InvalidInput("the input is empty; expected the bytes of an image")
    expected = _FORMATS.get(media_type)
    formats = [expected] if expected else list(_FORMATS.values())
    try:
        picture = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError:
        raise InvalidInput(f"the input is not an image of type {media_type}") from None
    except _DECODER_ERRORS:
        raise InvalidInput(_DAMAGED) from None
    with picture:
        _check_size(picture.size, max_pixels)
        return _loaded(picture)


def _loaded(picture: Image.Image) -> Image.Image:
    try:
        # This reads the whole file, and raises an error if the file is truncated.
        picture.load()
        return _flat(ImageOps.exif_transpose(picture))
    except _DECODER_ERRORS:
        raise InvalidInput(_DAMAGED) from None


def _flat(picture: Image.Image) -> Image.Image:
    """Convert an image to RGB. Transparent areas become white, as in a browser."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidInput(
            f"the image has {width} x {height} pixels; at most {max_pixels} pixels are accepted"
        )
