"""The REST contract as data: a request, and what its answer must be.

`{job}` in a path is a job that succeeded, `{failed}` one that failed, `{unknown}` an id that no
job has. A header's value of None means: it must be there; so does a member's.

The rows of `keys`, `waits`, `endings`, `replies` and `outages` want a system with keys and without
a worker, in whose place the test ends jobs. There {queued} waits for good, {mute} until its row
cancels it, {ready} until its row brings its reply; {cancelled}, {raised}, {dead}, {large} and
{hooked} have ended so. {reporting} is of a model that tells its progress. {…_reply} and
{…_progress} are the URLs that a worker has, {letter} is the dead letter of a producer.
"""

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
    """`code` is the problem's.

    `caller` is whose key goes along where keys are wanted, `first` a path that is looked at before,
    `meanwhile` what becomes of the job while the caller waits: it is cancelled, dead-lettered, or
    fails with this code.
    """

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
    """Headers of a request with a body."""
    fields = {name.replace("_", "-"): value for name, value in others.items()}
    return {"content-type": media_type, **fields}


def encoded(value: Any) -> bytes:
    """A JSON body."""
    return json.dumps(value).encode()


BYTES: Final = typed("application/octet-stream")
JSON: Final = typed("application/json")
TEXT: Final = typed("text/plain")
DONE: Final = {"status": "succeeded"}
CHALLENGE: Final = {"www-authenticate": None}
AGAIN: Final = {"retry-after": None}
