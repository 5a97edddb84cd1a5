"""What a caller hands in: bytes, or a file that is read while it is sent."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from loosely.media import media_type_of
from loosely.steps import Body, FileBody

#: Bytes, or the path of a file.
Source: TypeAlias = bytes | os.PathLike[str]

_SIGNATURE_BYTES = 16


@dataclass(frozen=True, slots=True)
class Payload:
    """A body with its media type and size."""

    body: Body
    media_type: str
    size_bytes: int

    @classmethod
    def of(cls, source: Source, media_type: str | None) -> "Payload":
        """Look at a source; the media type is found from its first bytes unless given.

        Raises:
            OSError: the file cannot be read.
        """
        if isinstance(source, bytes):
            return cls(source, media_type or media_type_of(source), len(source))
        path = Path(source)
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            head = b"" if media_type else file.read(_SIGNATURE_BYTES)
        return cls(
            FileBody(path, size_bytes), media_type or media_type_of(head, path.name), size_bytes
        )
