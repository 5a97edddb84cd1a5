"""Names of media types, which are recognised by the first bytes of a payload."""

import re
from mmap import mmap
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


_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}")


def is_media_type(text: str) -> bool:
    """Return whether a text is a media type without parameters, for example `image/png`."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def essence(content_type: str) -> str:
    """Return a media type in lower case and without parameters, for example `image/jpeg`."""
    return content_type.partition(";")[0].strip().lower()


def sniff(data: bytes | mmap) -> str | None:
    """Recognise a media type by the first bytes of `data`; return None if no known type matches."""
    if data[:4] == b"RIFF":
        return _RIFF_FORMS.get(data[8:12])
    return next((name for start, name in _SIGNATURES if data[: len(start)] == start), None)


def agrees(announced: str, data: bytes | mmap) -> bool:
    """Return whether `data` can have the media type that the sender announced.

    Data of a type with a signature must begin with it. Text must have neither a signature nor a NUL
    byte. Other types are accepted.
    """
    if announced in _RECOGNISED:
        return sniff(data) == announced
    if announced.startswith("text/"):
        return sniff(data) is None and data.find(b"\0") < 0
    return True
