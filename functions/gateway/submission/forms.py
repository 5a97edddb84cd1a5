"""Read a form (`multipart/form-data`, RFC 7578) whose body is complete.

The time is at most proportional to the size of the body, even if the body is malicious.
"""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

MAX_PARTS: Final = 10
_MAX_HEADER_BYTES: Final = 8 * 1024
_MAX_BOUNDARY_CHARACTERS: Final = 200

_PARAMETER: Final = re.compile(r';\s*([\w!#$%&*+.^`|~-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')


@dataclass(frozen=True, slots=True)
class FormPart:
    """A part of a form; `file_name` is None if the part is no file."""

    name: str
    file_name: str | None
    media_type: str
    data: bytes = field(repr=False)

    @property
    def is_file(self) -> bool:
        """Whether the part has a file name."""
        return self.file_name is not None


def read_form(content_type: str, body: bytes, max_parts: int = MAX_PARTS) -> list[FormPart]:
    """Return the parts of a form. Raises ValueError if it is malformed or has too many parts."""
    boundary = _parameters(content_type).get("boundary", "")
    if not 1 <= len(boundary) <= _MAX_BOUNDARY_CHARACTERS:
        raise ValueError("the Content-Type has no valid boundary")
    delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
    # The first delimiter may be at the very beginning, without a line break before it.
    position = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _end(body, delimiter, 0)
    parts: list[FormPart] = []
    while body[position : position + 2] != b"--":
        if len(parts) == max_parts:
            raise ValueError(f"the form has more than {max_parts} parts")
        # If a part has no headers, the line break of the delimiter is also their end.
        headers_end = body.find(b"\r\n\r\n", position, position + _MAX_HEADER_BYTES)
        if headers_end < 0:
            raise ValueError(f"the headers of part {len(parts) + 1} are missing or too large")
        start = headers_end + 4
        next_position = _end(body, delimiter, headers_end + 2)
        data = body[start : next_position - len(delimiter)]
        parts.append(_part(len(parts) + 1, body[position:headers_end], data))
        position = next_position
    return parts


def _end(body: bytes, delimiter: bytes, start: int) -> int:
    found = body.find(delimiter, start)
    if found < 0:
        raise ValueError("the form does not end with its boundary")
    return found + len(delimiter)


def _part(number: int, head: bytes, data: bytes) -> FormPart:
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"the headers of part {number} are not UTF-8") from None
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines[1:])
    }
    found = _parameters(headers.get("content-disposition", ""))
    if lines[0].strip() or "name" not in found:
        raise ValueError(f"part {number} of the form has no name")
    file_name = found.get("filename")
    if "filename*" in found:  # RFC 5987: UTF-8''name with percent-encoded bytes
        file_name = unquote(found["filename*"].rpartition("'")[2])
    return FormPart(found["name"], file_name, headers.get("content-type", ""), data)


def _parameters(header: str) -> dict[str, str]:
    """Return the parameters of a header such as `form-data; name="file"`."""
    return {
        name.lower(): re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        for name, value in _PARAMETER.findall(header)
    }
