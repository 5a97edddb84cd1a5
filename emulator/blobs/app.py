"""The ASGI application: from an HTTP request to an operation, and from its outcome to an answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from emulator.blobs.auth import Authenticator
from emulator.blobs.errors import ClientGoneError, ErrorCode, StorageError
from emulator.blobs.operations.context import Context
from emulator.blobs.request import METADATA_PREFIX, Receive, Request, Scope, parse_request
from emulator.blobs.response import Response, error_response
from emulator.blobs.routes import check_supported, find_operation
from emulator.blobs.store import Store
from emulator.blobs.streams import ContentStream
from emulator.blobs.times import Clock, iso_date, to_microseconds

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_logger = logging.getLogger(__name__)
_DEFAULT_VERSION = "2021-12-02"
_CLIENT_REQUEST_ID_MAX = 1024


class _Verbatim(bytes):
    """The name of a metadata header, whose case is the caller's: uvicorn lower-cases names."""

    def lower(self) -> _Verbatim:
        return self


@dataclass(frozen=True, slots=True)
class BlobApp:
    """Serves one account from one store."""

    store: Store
    authenticator: Authenticator
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = str(uuid4())
        now_us = to_microseconds(self.clock())
        try:
            response = await self._respond(scope, receive, now_us)
        except StorageError as error:
            response = error_response(error, request_id, iso_date(now_us))
        except ClientGoneError:
            response = error_response(
                StorageError(ErrorCode.INTERNAL_ERROR), request_id, iso_date(now_us)
            )
            response.headers["Connection"] = "close"
        except Exception:  # the edge of the process: whatever failed, the server goes on
            _logger.exception("request %s failed; the client is told to retry it", request_id)
            response = error_response(
                StorageError(ErrorCode.INTERNAL_ERROR), request_id, iso_date(now_us)
            )
        _add_common_headers(response, scope, request_id)
        _logger.debug(
            "%s %s %d %s", scope["method"], scope["raw_path"], response.status, request_id
        )
        if response.stream is not None:
            await _send_stream(response, response.stream, receive, send)
        else:
            body = b"" if scope["method"] == "HEAD" else response.body
            await send(_start(response))
            await send({"type": "http.response.body", "body": body})

    async def _respond(self, scope: Scope, receive: Receive, now_us: int) -> Response:
        request = parse_request(scope, receive)
        self._check_account(request)
        operation = find_operation(request)
        grant = self.authenticator.authenticate(request, operation.permission)
        check_supported(request)
        return await operation.handler(Context(request, grant, self.store, now_us))

    def _check_account(self, request: Request) -> None:
        if request.account != self.authenticator.account:
            raise StorageError(ErrorCode.RESOURCE_NOT_FOUND, Reason="The account does not exist.")


def _add_common_headers(response: Response, scope: Scope, request_id: str) -> None:
    headers = response.headers
    headers["x-ms-request-id"] = request_id
    headers["x-ms-version"] = _DEFAULT_VERSION
    for name, value in scope["headers"]:
        if name == b"x-ms-version" and len(value) == len(_DEFAULT_VERSION):
            headers["x-ms-version"] = value.decode("latin-1")
        elif name == b"x-ms-client-request-id" and len(value) <= _CLIENT_REQUEST_ID_MAX:
            headers["x-ms-client-request-id"] = value.decode("latin-1")


def _encoded_name(name: str) -> bytes:
    encoded = name.encode("latin-1")
    return _Verbatim(encoded) if name.startswith(METADATA_PREFIX) else encoded


def _start(response: Response) -> MutableMapping[str, Any]:
    headers = [
        (_encoded_name(name), value.encode("latin-1")) for name, value in response.headers.items()
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


async def _send_stream(
    response: Response, stream: ContentStream, receive: Receive, send: Send
) -> None:
    # To a client that has gone, uvicorn sends nothing and says nothing.
    gone = asyncio.create_task(_wait_until_gone(receive))
    try:
        await send(_start(response))
        async with contextlib.aclosing(aiter(stream)) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if gone.done():
                    return
        await send({"type": "http.response.body"})
    finally:
        gone.cancel()
        stream.close()


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
