"""Pictures from bytes that a stranger sent: decoded in full, or refused with a sentence."""

import io
import struct
import zlib

from PIL import Image, ImageOps, UnidentifiedImageError

from worker.errors import InvalidInput

# A list of decoders, since each further one is code that strangers' bytes reach.
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

# Decoders raise whatever they stumble over.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, zlib.error),
    *(TypeError, AttributeError, ArithmeticError, MemoryError),
)
_DAMAGED = "the picture is damaged or incomplete: it cannot be decoded to its end"

# The limit is the model's own, and is checked below; Pillow's is one for the whole process, and
# between one and two times its value it only warns.
Image.MAX_IMAGE_PIXELS = None


def decode(data: bytes, media_type: str, max_pixels: int) -> Image.Image:
    """The picture in RGB, turned as its EXIF orientation says; InvalidInput where it is none.

    `max_pixels` is held against the size that the header announces, before anything is decoded.
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
        # Reads all of it, and raises where the bytes end too early.
        picture.load()
        return _flat(ImageOps.exif_transpose(picture))
    except _DECODER_ERRORS:
        raise InvalidInput(_DAMAGED) from None


def _flat(picture: Image.Image) -> Image.Image:
    """In RGB; what is transparent becomes white, as a browser would show it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidInput(
            f"the picture has {width} by {height} pixels; at most {max_pixels} in all are taken"
        )
