"""Detect the media type of an input from its first bytes or from its file name."""

from pathlib import PurePath

UNKNOWN = "application/octet-stream"
#: The number of leading bytes of an input that are enough to detect its media type.
SIGNATURE_BYTES = 16

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
# In a RIFF file, the length comes before the type of the content.
_RIFF_FORMS = {b"WEBP": "image/webp", b"WAVE": "audio/wav"}
# `mimetypes` is not used, because its table depends on the machine.
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


def detect_media_type(content: bytes, file_name: str = "") -> str:
    """Return the media type of an input from its first bytes, or else from its file's extension.

    The result is `UNKNOWN` if neither determines the type.
    """
    if content.startswith(b"RIFF") and content[8:12] in _RIFF_FORMS:
        return _RIFF_FORMS[content[8:12]]
    for signature, media_type in _SIGNATURES:
        if content.startswith(signature):
            return media_type
    return _EXTENSIONS.get(PurePath(file_name).suffix.lower(), UNKNOWN)


def file_extension(media_type: str) -> str:
    """Return the usual extension of a file with this media type, for example ``.png``."""
    name = media_type.partition(";")[0].strip().lower()
    if is_json(name):
        return ".json"
    found = next((each for each, kind in _EXTENSIONS.items() if kind == name), None)
    return found or (".txt" if name.startswith("text/") else ".bin")


def is_json(media_type: str) -> bool:
    """Return whether a media type, with or without parameters, is JSON."""
    name = media_type.partition(";")[0].strip().lower()
    return name == "application/json" or name.endswith("+json")
