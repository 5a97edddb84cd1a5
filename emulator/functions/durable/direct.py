"""Let the durable SDK in the host's process call the Durable extension without a socket.

The SDK's client sends its requests with one aiohttp session. `install` replaces that session by one
which answers requests to the extension with a call of the management API, and sends all others.
Whoever uses the URL with a client of their own reaches the extension by its port.

Source: azure-functions-durable 1.7, `models/utils/http_utils.py`; the session has the methods of
`aiohttp.ClientSession`, and its responses those of `aiohttp.ClientResponse` that read a body.
"""

import asyncio
import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

from emulator.functions.durable.errors import DurableError
from emulator.functions.durable.management import (
    JSON_CONTENT_TYPE,
    ManagementRequest,
    ManagementResponse,
    describe_error,
    make_request,
)

_log = logging.getLogger(__name__)
_SDK_SESSIONS = "azure.durable_functions.models.utils.http_utils"
_SDK_SESSION = "_client_session"
# URLs that aiohttp sends as they are.
_PLAIN_URL = re.compile(r"[A-Za-z0-9:/_-]+(?:\.[A-Za-z0-9:/_-]+)*(?:\?[A-Za-z0-9=&._~-]*)?")
_OPTIONS = {"json", "data", "headers", "params", "timeout"}

Respond = Callable[[ManagementRequest], Awaitable[ManagementResponse]]


@dataclass(frozen=True, slots=True)
class DurableBinding:
    """The durable client of an app.

    `text` is the JSON that functions receive. Requests to a URL that begins with `rpc_url` may be
    calls of `respond`.
    """

    text: str
    rpc_url: str
    respond: Respond


def install(binding: DurableBinding) -> None:
    """Replace the session of the durable SDK, if the app has imported the SDK."""
    sessions = sys.modules.get(_SDK_SESSIONS)
    if sessions is not None and hasattr(sessions, _SDK_SESSION):
        setattr(sessions, _SDK_SESSION, DirectSession(binding))


class DirectSession:
    """An HTTP session whose requests to the Durable extension are calls."""

    closed = False

    def __init__(self, binding: DurableBinding) -> None:
        url = urlsplit(binding.rpc_url)
        self._origin = f"{url.scheme}://{url.netloc}"
        self._root = url.path.rstrip("/")
        self._prefix = f"{self._origin}{self._root}/"
        self._respond = binding.respond
        self._loop = asyncio.get_running_loop()
        # The extension is no part of the app: its tasks outlive the app's.
        self._context = copy_context()
        self._tasks: set[asyncio.Task[ManagementResponse]] = set()
        self._session: Any = None

    def request(self, method: str, url: Any, **options: Any) -> Any:
        """Send a request; the result can be awaited, or entered with `async with`."""
        text = str(url)
        if not text.startswith(self._prefix) or not _is_direct(options):
            return self._real_session.request(method, url, **options)
        return _PendingResponse(self._call(method.upper(), text, options))

    def get(self, url: Any, **options: Any) -> Any:
        """Send a GET request."""
        return self.request("GET", url, **options)

    def post(self, url: Any, **options: Any) -> Any:
        """Send a POST request."""
        return self.request("POST", url, **options)

    def delete(self, url: Any, **options: Any) -> Any:
        """Send a DELETE request."""
        return self.request("DELETE", url, **options)

    async def close(self) -> None:
        """Close the connections of requests to other servers."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real_session, name)

    @property
    def _real_session(self) -> Any:
        if self._session is None:
            import aiohttp  # noqa: PLC0415 - the durable SDK has imported it

            self._session = aiohttp.ClientSession()
        return self._session

    async def _call(self, method: str, url: str, options: Mapping[str, Any]) -> "DirectResponse":
        url = _normalize(url, options.get("params"))
        headers = {name.lower(): value for name, value in (options.get("headers") or {}).items()}
        body = b""
        if options.get("json") is not None:
            body = json.dumps(options["json"]).encode()
            headers.setdefault("content-type", "application/json")
        elif options.get("data") is not None:
            body, kind = _encode(options["data"])
            headers.setdefault("content-type", kind)
        path, _, query = url[len(self._origin) :].partition("?")
        try:
            request = make_request(
                method, path, query, headers, body, origin=self._origin, root=self._root
            )
        except DurableError as error:
            return DirectResponse(method, url, describe_error(error))
        # As on a connection, the extension completes a request whose client has gone.
        task = self._loop.create_task(self._answer(request), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return DirectResponse(method, url, await asyncio.shield(task))

    async def _answer(self, request: ManagementRequest) -> ManagementResponse:
        try:
            return await self._respond(request)
        except Exception:  # noqa: BLE001 - as the server of the port does
            _log.exception("a request to the Durable extension failed")
            return ManagementResponse(500)


def _is_direct(options: Mapping[str, Any]) -> bool:
    data = options.get("data")
    return options.keys() <= _OPTIONS and (data is None or isinstance(data, str | bytes))


def _encode(data: str | bytes) -> tuple[bytes, str]:
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    return data, "application/octet-stream"


def _normalize(url: str, params: Any) -> str:
    """Return the URL that aiohttp would send."""
    if not params and _PLAIN_URL.fullmatch(url):
        return url
    from yarl import URL  # noqa: PLC0415 - aiohttp has imported it

    sent = URL(url)
    return str(sent.update_query(params) if params else sent)


class _PendingResponse:
    """The response of a request that is sent when it is awaited or entered."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, "DirectResponse"]:
        response: Generator[Any, None, DirectResponse] = self._work.__await__()
        return response

    async def __aenter__(self) -> "DirectResponse":
        response: DirectResponse = await self._work
        return response

    async def __aexit__(self, *_error: object) -> None:
        return


class DirectResponse:
    """A response of the Durable extension, with the methods of `aiohttp.ClientResponse`."""

    closed = True

    def __init__(self, method: str, url: str, response: ManagementResponse) -> None:
        self.method = method
        self.status = response.status
        self._url = url
        self._text = response.body
        self._headers = response.headers

    @property
    def ok(self) -> bool:
        """Whether the status is less than 400."""
        return self.status < HTTPStatus.BAD_REQUEST

    @property
    def reason(self) -> str:
        """The phrase of the status."""
        return HTTPStatus(self.status).phrase

    @property
    def url(self) -> Any:
        """The URL of the request, as a `yarl.URL`."""
        from yarl import URL  # noqa: PLC0415 - aiohttp has imported it

        return URL(self._url, encoded=True)

    real_url = url

    @property
    def content_type(self) -> str:
        """The media type of the body."""
        return JSON_CONTENT_TYPE.partition(";")[0] if self._text else "application/octet-stream"

    @property
    def charset(self) -> str | None:
        """The encoding of the body."""
        return "utf-8" if self._text else None

    @property
    def headers(self) -> Any:
        """The headers, whose names match in any case."""
        from multidict import CIMultiDict, CIMultiDictProxy  # noqa: PLC0415 - as yarl

        headers = CIMultiDict(self._headers)
        headers["Content-Length"] = str(len(self._text.encode()))
        if self._text:
            headers["Content-Type"] = JSON_CONTENT_TYPE
        return CIMultiDictProxy(headers)

    async def read(self) -> bytes:
        """Return the body."""
        return self._text.encode()

    async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
        """Return the body as text."""
        return self._text.encode().decode(encoding or "utf-8", errors)

    async def json(
        self,
        *,
        encoding: str | None = None,
        loads: Callable[[str], Any] = json.loads,
        content_type: str | None = "application/json",
    ) -> Any:
        """Return the value of the body, or None if it is empty; aiohttp's error for other types."""
        if content_type and content_type != self.content_type:
            from aiohttp import ContentTypeError  # noqa: PLC0415 - the SDK has imported it

            raise ContentTypeError(
                self._request_info,
                (),
                status=self.status,
                message=f"Attempt to decode JSON with unexpected mimetype: {self.content_type}",
                headers=self.headers,
            )
        text = (self._text if encoding is None else await self.text(encoding)).strip()
        return loads(text) if text else None

    def raise_for_status(self) -> None:
        """Raise aiohttp's ClientResponseError if the status is 400 or more."""
        if self.ok:
            return
        from aiohttp import ClientResponseError  # noqa: PLC0415 - the SDK has imported it

        raise ClientResponseError(
            self._request_info, (), status=self.status, message=self.reason, headers=self.headers
        )

    def release(self) -> None:
        """Do nothing: no connection is held."""

    close = release

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        return

    @property
    def _request_info(self) -> Any:
        from aiohttp import RequestInfo  # noqa: PLC0415 - the SDK has imported it
        from multidict import CIMultiDict, CIMultiDictProxy  # noqa: PLC0415 - as yarl

        empty: Any = CIMultiDictProxy(CIMultiDict())
        return RequestInfo(self.url, self.method, empty, self.url)
