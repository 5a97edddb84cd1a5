"""Which media type some bytes are: by what they begin with, else by the file's name."""

from pathlib import PurePath

UNKNOWN = "application/octet-stream"

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
)
# RIFF files name their content after their length.
_RIFF_FORMS = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
# The standard library's table depends on the machine it runs on.
_EXTENSIONS = {
    ".bmp": "image/bmp",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".txt": "text/plain",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}


def media_type_of(content: bytes, name: str = "") -> str:
    """Return the media type of ``content``, which came from a file called ``name``."""
    if content.startswith(b"RIFF") and content[8:12] in _RIFF_FORMS:
        return _RIFF_FORMS[content[8:12]]
    for signature, media_type in _SIGNATURES:
        if content.startswith(signature):
            return media_type
    return _EXTENSIONS.get(PurePath(name).suffix.lower(), UNKNOWN)
