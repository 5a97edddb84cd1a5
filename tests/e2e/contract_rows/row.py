"""The class of the REST contract's test cases. A `Row` is a request and the expected response.

Placeholders in a path: {job} is the id of a job that succeeded, {failed} of one that failed, and
{unknown} an unused id. An expected header or member that is None must exist with any value.

The modules `keys`, `waits`, `endings`, `replies` and `outages` need a system with API keys and
without a worker; the test acts as the worker. Their placeholders for the ids of jobs:

- {queued}: stays in its queue; {mute}: until a test case cancels it; {ready}: until it is answered;
- {cancelled}, {raised} and {dead}: was cancelled, failed or was dead-lettered;
- {large}: has a large result; {hooked}: has a webhook, and succeeded;
- {reporting}: is of a model that reports progress.

{queued_reply} and {queued_progress} are the URLs for the reply and the progress of {queued}, and so
on. {letter} is the id of a dead letter whose request was queued without the gateway.
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
    """A test case: a request, and the response that the REST contract requires.

    `sent` are the request's headers, `caller` the one whose API key is sent, and `first` a path to
    request before. `headers` and `members` are those that the response must have. `meanwhile` says
    how to end the job that the request waits for: `cancel`, `dead-letter`, or an error's code.
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
    fields = {name.replace("_", "-"): value for name, value in others.items()}
    return {"content-type": media_type, **fields}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


BYTES: Final = typed("application/octet-stream")
JSON: Final = typed("application/json")
TEXT: Final = typed("text/plain")
DONE: Final = {"status": "succeeded"}
CHALLENGE: Final = {"www-authenticate": None}
AGAIN: Final = {"retry-after": None}
