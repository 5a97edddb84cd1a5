"""Decode untrusted images.

`open_image` reads only the header, and computes how much memory the decoding needs. Transparent
images are converted in strips of rows, which limits the memory.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from worker.errors import InvalidInput

# Only these decoders are used, because each further decoder would be more code for untrusted bytes.
_FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

# The errors that Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, struct.error, zlib.error),
    *(TypeError, AttributeError, ArithmeticError, MemoryError),
)
DAMAGED: Final = "the image is damaged or incomplete: it cannot be decoded to its end"

# Each model has its own limit, which is checked below. Pillow's limit would apply to the whole
# process, and only cause a warning up to twice its value.
Image.MAX_IMAGE_PIXELS = None

# Pillow warns about each damaged EXIF entry, with a text of its own: one file of a stranger could
# write megabytes to the log.
warnings.filterwarnings("ignore", module=r"PIL\.")

# The bytes for each pixel were measured with the worst colour mode. They contain the decoder's own
# memory, four bytes for the decoded pixel, and a copy in RGB. The decoder of a JPEG with several
# scans keeps all coefficients. The decoder of a WebP keeps two more images.
_BYTES_PER_PIXEL: Final = {"JPEG": 9, "PNG": 9, "WEBP": 20}
_BYTES_PER_PIXEL_OF_SCANS: Final = 16
_STRIP_ROWS: Final = 64
# While a strip is converted, each of its pixels needs up to this many bytes.
_BYTES_PER_STRIP_PIXEL: Final = 16

# The decoder processes all pixels for each scan of a progressive JPEG. Usual files have ten scans.
_SCAN: Final = b"\xff\xda"
_MAX_SCANS: Final = 100
SMALL_FILE_BYTES: Final = 1024 * 1024
"""The header of a file with at most this size can always be read quickly."""
# An image within these limits is decoded in less than about 0.2 s.
_SMALL_PIXELS: Final = 2_000_000
_SMALL_PIXELS_OF_ALL_SCANS: Final = 20_000_000

_ORIENTATION: Final = 0x0112
_ROTATIONS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image whose header was read. `scan_count` is 1 for other formats than JPEG."""

    picture: Image.Image
    scan_count: int

    @property
    def is_small(self) -> bool:
        """Whether the image is decoded in less than about 0.2 s."""
        pixels = self.picture.width * self.picture.height
        return pixels <= _SMALL_PIXELS and pixels * self.scan_count <= _SMALL_PIXELS_OF_ALL_SCANS

    @property
    def memory_bytes(self) -> int:
        """How many bytes `decode` needs at most."""
        a_pixel = _BYTES_PER_PIXEL[self.picture.format or ""]
        if self.scan_count > 1:
            a_pixel = _BYTES_PER_PIXEL_OF_SCANS
        width, height = self.picture.size
        return width * height * a_pixel + width * _STRIP_ROWS * _BYTES_PER_STRIP_PIXEL

    def decode(self) -> Image.Image:
        """Decode the image to RGB on white, and rotate it upright, or raise InvalidInput."""
        with self.picture as picture:
            return rotated(_to_rgb(picture), orientation_of(picture))


def open_image(data: bytes | mmap, media_type: str, max_pixels: int) -> OpenedImage:
    """Read the header of an image to decode later, or raise InvalidInput. 0 pixels are no limit."""
    if not data:
        raise InvalidInput("the input is empty; expected the bytes of an image")
    expected = _FORMATS.get(media_type)
    formats = [expected] if expected else list(_FORMATS.values())
    file: Any = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        picture = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        raise InvalidInput(f"the input is not an image of type {media_type}") from None
    except _DECODER_ERRORS:
        raise InvalidInput(DAMAGED) from None
    opened = OpenedImage(picture, _scan_count(picture, data))
    width, height = picture.size
    if max_pixels and width * height > max_pixels:
        problem = (
            f"the image has {width} x {height} pixels; at most {max_pixels} pixels are accepted"
        )
    elif opened.scan_count > _MAX_SCANS:
        problem = f"the JPEG has more than {_MAX_SCANS} scans; save it with fewer scans"
    else:
        return opened
    picture.close()
    raise InvalidInput(problem)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        try:
            if (picture.format, picture.mode) == ("JPEG", "RGB"):
                # `convert` would copy all pixels.
                picture.load()
                return picture
            return picture.convert("RGB")
        except _DECODER_ERRORS:
            raise InvalidInput(DAMAGED) from None
    flat = Image.new("RGB", picture.size)
    top = 0
    for strip in decoded_strips(picture):
        flat.paste(strip, (0, top))
        top += strip.height
    return flat


def decoded_strips(picture: Image.Image) -> Iterator[Image.Image]:
    """Decode an image, and yield strips of its rows in RGB on white, or raise InvalidInput."""
    try:
        # This reads the whole file, and raises an error if the file is truncated.
        picture.load()
        for top in range(0, picture.height, _STRIP_ROWS):
            bottom = min(picture.height, top + _STRIP_ROWS)
            yield _flat(picture.crop((0, top, picture.width, bottom)))
    except _DECODER_ERRORS:
        raise InvalidInput(DAMAGED) from None


def orientation_of(picture: Image.Image) -> int | None:
    """Return the EXIF orientation of an opened image, if it has one, or raise InvalidInput."""
    try:
        found = picture.getexif().get(_ORIENTATION)
    except _DECODER_ERRORS:
        raise InvalidInput(DAMAGED) from None
    return found if isinstance(found, int) else None


def rotated(picture: Image.Image, orientation: object) -> Image.Image:
    """Return the image rotated upright. An orientation that is not from 2 to 8 changes nothing."""
    method = _ROTATIONS.get(orientation) if isinstance(orientation, int) else None
    return picture if method is None else picture.transpose(method)


def _flat(picture: Image.Image) -> Image.Image:
    """Return an image in RGB. Transparent areas become white."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layers = picture.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return Image.alpha_composite(white, layers).convert("RGB")


def _scan_count(picture: Image.Image, data: bytes | mmap) -> int:
    """Return the number of scans of a JPEG with its thumbnail's; 1 for other formats."""
    if picture.format != "JPEG":
        return 1
    count, at = 0, data.find(_SCAN)
    while at >= 0 and count <= _MAX_SCANS:
        count, at = count + 1, data.find(_SCAN, at + 2)
    return max(1, count)
