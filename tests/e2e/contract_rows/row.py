"""The class of the REST contract's test cases. A `Row` is a request and the expected response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PICTURE: Final = (Path(__file__).parents[3] / "examples" / "chelsea.jpg").read_bytes()
SUBMIT: Final = "/v1/models/noop/jobs"
CLASSIFY: Final = "/v1/models/classifier/jobs"


@dataclass(frozen=True, slots=True)
class Row:
    """A test case: a request, and the response that the REST contract requires."""

    title: str
    method: str
    path: str
    status: int
    code: str | None = None
    sent: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    is_oip_error: bool = False
    caller: str | None = "owner"
    first: str | None = None
    meanwhile: str | None = None


def typed(media_type: str, **others: str) -> dict[str, str]:
    """Return the header Content-Type with the value `media_type`, and the headers in `others`."""
    fields = {name.replace("_", "-"): value for name, value in others.items()}
    return {"content-type": media_type, **fields}


def encoded(value: Any) -> bytes:
    """Return a value as the JSON body of a request."""
    return json.dumps(value).encode()


BYTES: Final = typed("application/octet-stream")
JSON: Final = typed("application/json")
TEXT: Final = typed("text/plain")
DONE: Final = {"status": "succeeded"}
CHALLENGE: Final = {"www-authenticate": None}
AGAIN: Final = {"retry-after": None}
