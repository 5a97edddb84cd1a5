"""The REST contract as data. A row is one test case: a request and the response to it.

In a path, the placeholder `{job}` stands for the id of a job that succeeded, `{failed}` for the id
of a job that failed, and `{unknown}` for an unused id. If the expected value of a header or member
is None, the header or member must exist, with any value.

The rows in the modules `keys`, `waits`, `endings`, `replies` and `outages` need a system with API
keys and without a worker. The test acts as the worker. These rows have other placeholders for job
ids, dead letters and URLs:

- {queued} stays queued, {mute} is queued until a row cancels the job, and {ready} is queued until a
  row sends the reply;
- {cancelled} was cancelled, {raised} failed, {dead} was dead-lettered, {large} has a large result,
  and {hooked} has a webhook and succeeded;
- {reporting} belongs to a model that reports progress;
- {…_reply} and {…_progress} are the URLs to which a worker sends;
- {letter} is the dead letter of a producer.
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
    """A request and the response that the contract requires.

    Attributes:
        code: the expected code of the problem document.
        sent: the headers of the request.
        headers: the headers that the response must have.
        members: the members that the JSON body of the response must have.
        is_oip_error: whether the body must be an error of the Open Inference Protocol.
        caller: the caller whose API key is sent, if the system has API keys.
        first: a path that the test requests before it sends this row's request.
        meanwhile: how the job ends while the caller waits: `cancel`, `dead-letter`, or the code
            with which the job fails.
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
    """Return headers: the content type `media_type`, and the headers in `others`.

    In the names of the other headers, underscores are replaced by dashes.
    """
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
