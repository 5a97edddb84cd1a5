"""Media types of payloads, and their recognition by the first bytes."""

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
    """Return a media type without parameters, in lower case: `image/jpeg` for `Image/JPEG; q=1`."""
    return content_type.partition(";")[0].strip().lower()


def sniff(data: bytes) -> str | None:
    """Return the media type whose signature the first bytes match; None if no type matches."""
    if data[:4] == b"RIFF":
        return _RIFF_FORMS.get(data[8:12])
    return next((name for start, name in _SIGNATURES if data.startswith(start)), None)


def agrees(announced: str, data: bytes) -> bool:
    """Return whether `data` can have the announced media type.

    If the type has a signature, the bytes must start with it. Bytes announced as text must start
    with no known signature and contain no NUL. All other types are accepted unchecked.
    """
    if announced in _RECOGNISED:
        return sniff(data) == announced
    if announced.startswith("text/"):
        return sniff(data) is None and b"\0" not in data
    return True
