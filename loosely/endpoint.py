"""The requests that the gateway understands."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

import httpx

from loosely.job import Slot, Upload
from loosely.steps import Body, FileBody, Request

#: What an answer may take beyond the wait that was asked for.
ANSWER_TIMEOUT_SECONDS: Final = 30.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
#: The store answers once it has all bytes on its disk.
STORE_TIMEOUT_SECONDS: Final = 120.0
_HIGHEST_PORT: Final = 65535
_JSON: Final = "application/json"


Priority = Literal["normal", "low"]


@dataclass(frozen=True, slots=True)
class Options:
    """What a submit may say besides the payload; ``None`` leaves it to the gateway."""

    parameters: Mapping[str, Any] | None = None
    deadline_seconds: int | None = None
    webhook_url: str | None = None
    priority: Priority | None = None

    def members(self) -> dict[str, Any]:
        """The options that were given, as members of a JSON submit."""
        given: dict[str, Any] = {}
        if self.parameters is not None:
            given["parameters"] = dict(self.parameters)
        if self.deadline_seconds is not None:
            given["deadline_seconds"] = self.deadline_seconds
        if self.webhook_url is not None:
            given["webhook"] = {"url": self.webhook_url}
        if self.priority is not None:
            given["priority"] = self.priority
        return given

    def query(self) -> dict[str, str]:
        """The same as query parameters."""
        given: dict[str, str] = {}
        if self.parameters is not None:
            given["parameters"] = json.dumps(dict(self.parameters))
        if self.deadline_seconds is not None:
            given["deadline_seconds"] = str(self.deadline_seconds)
        if self.webhook_url is not None:
            given["webhook_url"] = self.webhook_url
        if self.priority is not None:
            given["priority"] = self.priority
        return given


@dataclass(frozen=True, slots=True)
class Terms:
    """How a payload is submitted. ``key`` is the same however often it is sent."""

    model: str
    options: Options
    key: str
    wait_seconds: int

    @property
    def path(self) -> str:
        """Where it is submitted."""
        return f"/v1/models/{quote(self.model, safe='')}/jobs"

    @property
    def headers(self) -> dict[str, str]:
        """What the request says of itself."""
        prefer = f"wait={self.wait_seconds}" if self.wait_seconds > 0 else "respond-async"
        return {"prefer": prefer, "idempotency-key": self.key}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One gateway, and the key that it knows the caller by.

    Raises:
        ValueError: ``url`` is not an http or https URL, or the key cannot be sent.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parse_url(self.url)
        if self.api_key is not None and not self.api_key.isascii():
            raise ValueError("the API key has characters that no key has")
        if self.api_key is not None and not (self.api_key.isprintable() and self.api_key.strip()):
            raise ValueError("the API key is empty, or has characters that no key has")

    def submit(self, terms: Terms, body: Body, media_type: str) -> Request:
        """Submit a payload as it is."""
        return self._request(
            "POST",
            terms.path,
            headers={**terms.headers, "content-type": media_type},
            params=terms.options.query(),
            body=body,
            wait_seconds=terms.wait_seconds,
        )

    def submit_upload(self, terms: Terms, upload: Upload) -> Request:
        """Submit what was uploaded before."""
        source = {"upload": upload.reference, "media_type": upload.media_type}
        return self._request(
            "POST",
            terms.path,
            headers={**terms.headers, "content-type": _JSON},
            body=json.dumps({"input": source, **terms.options.members()}).encode(),
            wait_seconds=terms.wait_seconds,
        )

    def job(self, job_id: str, wait_seconds: int = 0) -> Request:
        """Ask for a job, or wait for its end."""
        headers = {"prefer": f"wait={wait_seconds}"} if wait_seconds > 0 else {}
        return self._request("GET", job_path(job_id), headers=headers, wait_seconds=wait_seconds)

    def cancel(self, job_id: str) -> Request:
        """Cancel a job."""
        return self._request("DELETE", job_path(job_id))

    def result(self, job_id: str) -> Request:
        """Ask for a result alone."""
        return self._request("GET", f"{job_path(job_id)}/result", headers={"accept": "*/*"})

    def events(self, job_id: str, after: str) -> Request:
        """Ask for a job's events, from after the one with the id ``after``."""
        headers = {"accept": "text/event-stream"}
        if after.isascii() and after.isprintable() and after:  # else it is no id of the gateway
            headers["last-event-id"] = after
        return self._request("GET", f"{job_path(job_id)}/events", headers=headers)

    def models(self) -> Request:
        """Ask for the catalogue."""
        return self._request("GET", "/v1/models")

    def model(self, name: str) -> Request:
        """Ask for one model."""
        return self._request("GET", f"/v1/models/{quote(name, safe='')}")

    def jobs(self, filters: Mapping[str, str | None], cursor: str | None) -> Request:
        """Ask for a page of the caller's jobs."""
        params = {name: value for name, value in filters.items() if value is not None}
        return self._request(
            "GET", "/v1/jobs", params={**params, **({"cursor": cursor} if cursor else {})}
        )

    def slot(self, model: str, media_type: str) -> Request:
        """Ask for a place to put an input of this type."""
        document = {"model": model, "media_type": media_type}
        return self._request(
            "POST",
            "/v1/uploads",
            headers={"content-type": _JSON},
            body=json.dumps(document).encode(),
        )

    def dead_letters(
        self, method: str, *steps: str, params: Mapping[str, str] | None = None
    ) -> Request:
        """Ask for, or change, what workers gave up on; ``steps`` lead on from the list of it."""
        path = "".join(f"/{quote(step, safe='')}" for step in steps)
        return self._request(method, f"/v1/admin/dead-letters{path}", params=params)

    def _request(  # noqa: PLR0913 - the parts of an HTTP request
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        wait_seconds: float = 0,
    ) -> Request:
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return Request(
            method,
            self.url.rstrip("/") + path,
            self.url.rstrip("/"),
            wait_seconds + ANSWER_TIMEOUT_SECONDS,
            {"accept": f"{_JSON}, */*", **key, **(headers or {})},
            params or {},
            body,
        )


def put(slot: Slot, media_type: str, body: Body) -> Request:
    """Put an upload's bytes into their slot. The gateway's key is not for the store."""
    size_bytes = body.size_bytes if isinstance(body, FileBody) else len(body)
    url = parse_url(slot.url)
    defaults = {"x-ms-blob-type": "BlockBlob", "content-type": media_type}
    headers = {**defaults, **{name.lower(): value for name, value in slot.headers.items()}}
    return Request(
        "PUT",
        slot.url,
        f"{url.scheme}://{url.host}",
        STORE_TIMEOUT_SECONDS,
        {**headers, "content-length": str(size_bytes)},
        {},
        body,
    )


def fetch(url: str) -> Request:
    """Get what lies at a link, which is a secret: only where it leads to may be shown.

    Raises:
        ValueError: ``url`` is none.
    """
    address = parse_url(url)
    return Request("GET", url, f"{address.scheme}://{address.host}", STORE_TIMEOUT_SECONDS)


def job_path(job_id: str) -> str:
    """Return the path of a job."""
    # Built from the id and not taken from `Location`: what the caller named as the gateway
    # is where its requests go, whatever address the gateway believes itself to have.
    return f"/v1/jobs/{quote(job_id, safe='')}"


def parse_url(url: str) -> httpx.URL:
    """Return ``url`` in its parts.

    Raises:
        ValueError: it is not an http or https URL.
    """
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an http:// or https:// URL: {error}") from None
    is_whole = address.scheme in {"http", "https"} and address.host
    if not is_whole or (address.port or 0) > _HIGHEST_PORT:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    return address
