"""The class of the REST contract's test cases. A `Row` is a request and the expected response.

The tests replace placeholders in a path. `{job}` is the id of a job that succeeded, `{failed}` the
id of a job that failed, and `{unknown}` an unused id. If the expected value of a header or member
is None, the header or member must exist, but it may have any value.

The test cases in the modules `keys`, `waits`, `endings`, `replies` and `outages` need a system with
API keys and without a worker. The test acts as the worker. In these modules, the placeholders for
the ids of jobs are:

- {queued}: a job that stays in its queue;
- {mute}: a job that stays in its queue until a test case cancels it;
- {ready}: a job that stays in its queue until a test case sends the worker's reply;
- {cancelled}, {raised} and {dead}: a job that was cancelled, failed or was dead-lettered;
- {large}: a job with a large result;
- {hooked}: a job with a webhook, which succeeded;
- {reporting}: a job of a model that reports progress.

{…_reply} and {…_progress}, for example {queued_reply}, are the URLs to which a worker sends the
job's reply and its progress. {letter} is the id of a dead letter whose request was put on a queue
without the gateway.
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

    Attributes:
        code: the expected code of the problem document.
        sent: the headers of the request.
        headers: the headers that the response must have.
        members: the members that the JSON body of the response must have.
        is_oip_error: whether the body must be an error of the Open Inference Protocol.
        caller: the caller whose API key is sent, if the system has API keys.
        first: a path that the test requests before it sends the request.
        meanwhile: how the test ends the job that the request waits for: `cancel`,
            `dead-letter`, or the code of the error with which the job fails.
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
    """Return the header Content-Type with the value `media_type`, and the headers in `others`.

    In the names in `others`, an underscore stands for a dash.
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
