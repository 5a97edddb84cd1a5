"""What bytes are, by their first few: media types from signatures."""

from typing import Final

OCTET_STREAM: Final = "application/octet-stream"
JSON: Final = "application/json"
TEXT: Final = "text/plain"
NPY: Final = "application/x-npy"

_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\x93NUMPY", NPY),
)
_RIFF_FORMS: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
_RECOGNISED: Final = frozenset(name for _, name in _SIGNATURES) | frozenset(_RIFF_FORMS.values())


def essence(content_type: str) -> str:
    """A media type without parameters, in lower case: `Image/JPEG; q=1` is `image/jpeg`."""
    return content_type.partition(";")[0].strip().lower()


def sniff(data: bytes) -> str | None:
    """The media type that the first bytes show, or None."""
    if data[:4] == b"RIFF":
        return _RIFF_FORMS.get(data[8:12])
    return next((name for start, name in _SIGNATURES if data.startswith(start)), None)


def agrees(announced: str, data: bytes) -> bool:
    """Whether the bytes can be what was announced.

    A type with a signature must show it. Text must not look like one of those, nor hold NUL.
    Nothing is known of other types, so they pass.
    """
    if announced in _RECOGNISED:
        return sniff(data) == announced
    if announced.startswith("text/"):
        return sniff(data) is None and b"\0" not in data
    return True
