"""What the two clients share before any network: their settings, and arguments made steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loosely import __version__
from loosely.credentials import api_key_of_environment
from loosely.endpoint import LOOPBACK, Endpoint, Options, Priority, Terms, parse_url
from loosely.job import Job, Upload
from loosely.operations import POLL_SECONDS, Operations, new_key
from loosely.payload import Payload, Source
from loosely.steps import Steps

DEFAULT_URL: Final = "http://127.0.0.1:7071"
LONGEST_WAIT_SECONDS: Final = 200
CONNECT_TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Submission:
    """One submit, whose idempotency key is the same however often it is sent."""

    source: Source | Upload
    model: str
    media_type: str | None
    options: Options
    key: str

    @classmethod
    def of(  # noqa: PLR0913 - what a submit can say
        cls,
        source: Source | Upload,
        model: str,
        *,
        media_type: str | None,
        parameters: Mapping[str, Any] | None,
        deadline_seconds: int | None,
        webhook_url: str | None,
        priority: Priority | None,
        idempotency_key: str | None,
    ) -> "Submission":
        """Gather the arguments of `submit` and `run`."""
        options = Options(parameters, deadline_seconds, webhook_url, priority)
        return cls(source, model, media_type, options, idempotency_key or new_key())

    def submitted(self, operations: Operations, wait_seconds: int) -> Steps[Job]:
        """Hand it in."""
        if not 0 <= wait_seconds <= LONGEST_WAIT_SECONDS:
            raise ValueError(f"wait_seconds: from 0 to {LONGEST_WAIT_SECONDS}")
        terms = Terms(self.model, self.options, self.key, wait_seconds)
        if isinstance(self.source, Upload):
            return (yield from operations.submit_upload(terms, self.source))
        payload = Payload.of(self.source, self.media_type)
        return (yield from operations.submit(terms, payload))

    def run(self, operations: Operations, wait_seconds: float | None) -> Steps[Job]:
        """Hand it in and wait for its success, however long that takes."""
        first = POLL_SECONDS if wait_seconds is None else min(POLL_SECONDS, int(wait_seconds))
        limited = operations.limited(wait_seconds)
        job = yield from self.submitted(limited, max(0, first))
        return (yield from limited.wait(job, wait_seconds))


def endpoint_of(url: str, api_key: str | None) -> Endpoint:
    """Return the gateway at ``url``, with the environment's key unless one is given."""
    return Endpoint(url, api_key or api_key_of_environment())


def http_settings(url: str) -> dict[str, Any]:
    """Return what both of httpx's clients are made with."""
    return {
        "headers": {"user-agent": f"loosely/{__version__}"},
        "follow_redirects": False,
        # A proxy that the environment names cannot reach this machine's loopback.
        "trust_env": parse_url(url).host not in LOOPBACK,
    }
