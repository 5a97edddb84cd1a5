"""Build the HTTP requests that the gateway accepts. This module opens no connections."""

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

import httpx

from loosely.client.media import SIGNATURE_BYTES, detect_media_type
from loosely.client.resources import Upload, UploadTarget

#: The timeout of a request in seconds, in addition to the wait that the request asks for.
ANSWER_TIMEOUT_SECONDS: Final = 30.0
#: Blob storage responds only after it has stored all bytes.
STORE_TIMEOUT_SECONDS: Final = 120.0
#: A larger body is sent to the gateway in chunks, because the host of an Azure Functions app keeps
#: a body with a Content-Length in memory.
LONGEST_UNCHUNKED_BYTES: Final = 1_000_000
LOOPBACK_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_MAX_PORT: Final = 65535
_JSON: Final = "application/json"

Priority = Literal["normal", "low"]
#: What a caller submits: bytes, or the path of a file.
Source: TypeAlias = bytes | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class FileBody:
    """A request body that each attempt reads from a file while it is sent."""

    path: Path
    size_bytes: int


Body: TypeAlias = bytes | FileBody


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request. ``shown_url`` is the part of the URL that error messages may show.

    The gateway may wait for ``wait_seconds``, the client for a connection for ``queue_seconds``.
    """

    method: str
    url: str = field(repr=False)
    shown_url: str
    timeout_seconds: float
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = field(default=None, repr=False)
    wait_seconds: float = 0
    queue_seconds: float | None = None

    @property
    def posted_bytes(self) -> int:
        """The size of the body in bytes; 0 for a request that is not a POST to the gateway."""
        if self.method != "POST":
            return 0
        return self.body.size_bytes if isinstance(self.body, FileBody) else len(self.body or b"")

    @property
    def is_chunked(self) -> bool:
        """Whether the body is sent with ``Transfer-Encoding: chunked``."""
        return self.posted_bytes > LONGEST_UNCHUNKED_BYTES


@dataclass(frozen=True, slots=True)
class Payload:
    """An input, its media type, and its size in bytes."""

    body: Body
    media_type: str
    size_bytes: int


def read_payload(source: Source, media_type: str | None) -> Payload:
    """Return the payload of ``source``, with a detected media type if it is ``None``.

    Only the first bytes of a file are read here. A string is refused: it may be a text or a path.
    """
    if isinstance(source, str):
        raise TypeError(
            "source is a str: pass text.encode() to submit a text, or pathlib.Path(...) to submit "
            "a file"
        )
    if isinstance(source, bytes):
        return Payload(source, media_type or detect_media_type(source), len(source))
    if not isinstance(source, os.PathLike):
        raise TypeError(
            f"source is a {type(source).__name__}: expected bytes, a pathlib.Path or an Upload; to "
            "submit a JSON value, pass json.dumps(source).encode() and "
            'media_type="application/json"'
        )
    path = Path(source)
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        head = b"" if media_type else file.read(SIGNATURE_BYTES)
    return Payload(
        FileBody(path, size_bytes), media_type or detect_media_type(head, path.name), size_bytes
    )


def to_member(given: Payload | Upload) -> dict[str, str]:
    """Return an input as a member of a JSON body."""
    if isinstance(given, Upload):
        return {"upload": given.reference, "media_type": given.media_type}
    encoded = base64.b64encode(_read_body(given.body)).decode()
    return {"base64": encoded, "media_type": given.media_type}


def _read_body(body: Body) -> bytes:
    return body if isinstance(body, bytes) else body.path.read_bytes()


def _wrap_json(body: Body) -> bytes:
    content = _read_body(body)
    try:
        text = content.decode("utf-8-sig")
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the input is not JSON: {error}") from None
    return f'{{"input": {{"json": {text}}}}}'.encode()


@dataclass(frozen=True, slots=True)
class Submission:
    """The model and the options of a new job. The gateway chooses each option that is ``None``."""

    model: str
    idempotency_key: str
    wait_seconds: int
    parameters: Mapping[str, Any] | None = None
    deadline_seconds: int | None = None
    webhook_url: str | None = None
    priority: Priority | None = None
    label: str | None = None
    is_stream: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The headers ``Prefer`` and ``Idempotency-Key``."""
        prefer = f"wait={self.wait_seconds}" if self.wait_seconds > 0 else "respond-async"
        if self.is_stream:
            prefer += ", stream"
        return {"prefer": prefer, "idempotency-key": self.idempotency_key}

    def query(self) -> dict[str, str]:
        """Return the options as query parameters, for a request whose body is the input."""
        parameters = None if self.parameters is None else json.dumps(dict(self.parameters))
        query = {
            "parameters": parameters,
            "deadline_seconds": self.deadline_seconds,
            "webhook_url": self.webhook_url,
            "priority": self.priority,
            "label": self.label,
        }
        return {name: str(value) for name, value in query.items() if value is not None}

    def members(self) -> dict[str, Any]:
        """Return the options as members of the JSON object that is the request's body."""
        members = {
            "parameters": None if self.parameters is None else dict(self.parameters),
            "deadline_seconds": self.deadline_seconds,
            "webhook": None if self.webhook_url is None else {"url": self.webhook_url},
            "priority": self.priority,
            "label": self.label,
        }
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """Builds the requests to one gateway. Each request contains the API key, if there is one."""

    url: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        parse_url(self.url)
        # The error messages must not contain the API key.
        if self.api_key is None:
            return
        if not self.api_key.strip():
            raise ValueError(
                "the API key is blank: pass a key, or None if the gateway needs no key"
            )
        if not self.api_key.isascii():
            raise ValueError("the API key contains characters that are not ASCII")
        if not self.api_key.isprintable():
            raise ValueError("the API key contains control characters")

    @property
    def shown_url(self) -> str:
        """The gateway's URL without slashes at its end. Error messages show this URL."""
        return self.url.rstrip("/")

    def submit(self, submission: Submission, payload: Payload) -> HttpRequest:
        """Return a request that submits a job, with the payload as its body.

        The gateway expects the member ``input`` in every JSON body. Raises ValueError if the
        payload should be JSON and is not.
        """
        is_json = payload.media_type.partition(";")[0].strip().lower() == _JSON
        return self.build(
            *("POST", "models", submission.model, "jobs"),
            headers={**submission.headers, "content-type": payload.media_type},
            params=submission.query(),
            body=_wrap_json(payload.body) if is_json else payload.body,
            wait_seconds=submission.wait_seconds,
        )

    def submit_members(
        self,
        submission: Submission,
        first: Payload | Upload,
        named: Mapping[str, Payload | Upload] | None = None,
    ) -> HttpRequest:
        """Return a request that submits a job, with payloads and uploads in a JSON body."""
        document = {"input": to_member(first), **submission.members()}
        if named:
            document["inputs"] = {name: to_member(each) for name, each in named.items()}
        return self.build(
            *("POST", "models", submission.model, "jobs"),
            headers=submission.headers,
            document=document,
            wait_seconds=submission.wait_seconds,
        )

    def build(  # noqa: PLR0913 - the parts of an HTTP request
        self,
        method: str,
        *segments: str,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | None] | None = None,
        body: Body | None = None,
        document: Mapping[str, Any] | None = None,
        wait_seconds: float = 0,
    ) -> HttpRequest:
        """Return a request to the path of these segments below ``/v1``, without ``None`` params."""
        key = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        kind = {} if document is None else {"content-type": _JSON}
        return HttpRequest(
            method,
            "/".join([self.shown_url, "v1", *(quote(each, safe="") for each in segments)]),
            self.shown_url,
            wait_seconds + ANSWER_TIMEOUT_SECONDS,
            {"accept": f"{_JSON}, */*", **key, **kind, **(headers or {})},
            {name: value for name, value in (params or {}).items() if value is not None},
            body if document is None else json.dumps(document).encode(),
            wait_seconds,
        )


def put_upload(slot: UploadTarget, payload: Payload) -> HttpRequest:
    """Return a request that stores a payload at the upload URL of ``slot``, without the API key."""
    url = parse_url(slot.url)
    headers = {
        "x-ms-blob-type": "BlockBlob",
        "content-type": payload.media_type,
        **{name.lower(): value for name, value in slot.headers.items()},
        "content-length": str(payload.size_bytes),
    }
    return HttpRequest(
        "PUT",
        slot.url,
        f"{url.scheme}://{url.host}",
        STORE_TIMEOUT_SECONDS,
        headers,
        {},
        payload.body,
    )


def fetch_from_store(url: str, headers: Mapping[str, str]) -> HttpRequest:
    """Return a request for the blob at ``url``, a secret of which messages show only the host."""
    parsed = parse_url(url)
    return HttpRequest(
        "GET", url, f"{parsed.scheme}://{parsed.host}", STORE_TIMEOUT_SECONDS, headers
    )


def parse_url(url: str) -> httpx.URL:
    """Parse an http or https URL. Raises ValueError if it is neither."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an http:// or https:// URL: {error}") from None
    is_complete = parsed.scheme in {"http", "https"} and parsed.host
    if not is_complete or (parsed.port or 0) > _MAX_PORT:
        raise ValueError(f"{url!r} is not an http:// or https:// URL")
    return parsed
