"""Serve the Blob REST API over HTTP.

For each ASGI request, the application parses the request, finds the operation, checks the
credentials, checks that all headers are supported, performs the operation, and sends the response.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from emulator.blobs.authorization import Authenticator
from emulator.blobs.content import ContentStream
from emulator.blobs.cors import build_cors_headers
from emulator.blobs.errors import ClientGoneError, ErrorCode, StorageError
from emulator.blobs.operations.context import BlobResponse, OperationContext, build_error_response
from emulator.blobs.operations.service import preflight
from emulator.blobs.request import METADATA_PREFIX, BlobRequest, Receive, Scope, parse_request
from emulator.blobs.routes import check_supported, find_operation
from emulator.blobs.store import AccountStore
from emulator.blobs.times import Clock, format_iso_date, to_microseconds
from emulator.disk import is_disk_error
from emulator.http_server import HttpProtocol, HttpServer
from emulator.program import HttpLimits

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_logger = logging.getLogger(__name__)
_DEFAULT_VERSION = "2021-12-02"
_CLIENT_REQUEST_ID_MAX = 1024


class _Verbatim(bytes):
    """The name of a response header that uvicorn must not change to lower case.

    Azure returns the names of metadata in the case in which the client wrote them.
    """

    def lower(self) -> _Verbatim:
        return self


@dataclass(frozen=True, slots=True)
class BlobApp:
    """The ASGI application that serves one storage account."""

    store: AccountStore
    authenticator: Authenticator
    clock: Clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request and send its response."""
        request_id = str(uuid4())
        now_us = to_microseconds(self.clock())
        try:
            response = await self._respond(scope, receive, now_us)
        except StorageError as error:
            response = build_error_response(error, request_id, format_iso_date(now_us))
        except ClientGoneError:
            response = build_error_response(
                StorageError(ErrorCode.INTERNAL_ERROR), request_id, format_iso_date(now_us)
            )
            response.headers["Connection"] = "close"
        except Exception as error:  # noqa: BLE001 - an error in one request must not stop the server
            response = build_error_response(
                self._unexpected(error, request_id), request_id, format_iso_date(now_us)
            )
        _add_common_headers(response, scope, request_id)
        if self.store.cors_rules:
            self._add_cors_headers(response, scope)
        _logger.debug(
            "%s %s: status %d, request %s",
            scope["method"],
            scope["raw_path"],
            response.status,
            request_id,
        )
        if response.stream is not None:
            await _send_stream(response, response.stream, receive, send)
        else:
            body = b"" if scope["method"] == "HEAD" else response.body
            await send(_start(response))
            await send({"type": "http.response.body", "body": body})

    def _unexpected(self, error: Exception, request_id: str) -> StorageError:
        if is_disk_error(error):
            self.store.disk.note_error(error)
            _logger.warning(
                "request %s failed; the client receives ServerBusy and may retry: %s",
                *(request_id, error),
            )
            return StorageError(ErrorCode.SERVER_BUSY)
        _logger.error(
            "request %s failed; the client receives InternalError and may retry",
            request_id,
            exc_info=error,
        )
        return StorageError(ErrorCode.INTERNAL_ERROR)

    async def _respond(self, scope: Scope, receive: Receive, now_us: int) -> BlobResponse:
        request = parse_request(scope, receive)
        self._check_account(request)
        if request.method == "OPTIONS":
            return preflight(request, self.store)
        operation = find_operation(request)
        grant = self.authenticator.authenticate(request, operation.permission)
        check_supported(request)
        context = OperationContext(request, grant, self.store, now_us, self.authenticator)
        return await operation.handler(context)

    def _add_cors_headers(self, response: BlobResponse, scope: Scope) -> None:
        if scope["method"] == "OPTIONS":
            return
        origins = [value for name, value in scope["headers"] if name.lower() == b"origin"]
        origin = origins[0].decode("latin-1") if origins else None
        response.headers |= build_cors_headers(
            self.store.cors_rules, scope["method"], origin, tuple(response.headers)
        )

    def _check_account(self, request: BlobRequest) -> None:
        if request.account != self.authenticator.account:
            raise StorageError(
                ErrorCode.RESOURCE_NOT_FOUND,
                Reason="The account in the URL is not the account of this service.",
            )


def _add_common_headers(response: BlobResponse, scope: Scope, request_id: str) -> None:
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


def _start(response: BlobResponse) -> MutableMapping[str, Any]:
    headers = [
        (_encoded_name(name), value.encode("latin-1")) for name, value in response.headers.items()
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


async def _send_stream(
    response: BlobResponse, stream: ContentStream, receive: Receive, send: Send
) -> None:
    # uvicorn does not report that a client has disconnected, so watch for it here.
    disconnected = asyncio.create_task(_wait_until_disconnected(receive))
    try:
        await send(_start(response))
        async with contextlib.aclosing(aiter(stream)) as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                if disconnected.done():
                    return
        await send({"type": "http.response.body"})
    finally:
        disconnected.cancel()
        stream.close()


async def _wait_until_disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_HEAD_BYTES_MAX = 512 * 1024
# Longer than clients keep idle connections, so that the server never closes a connection that a
# client is about to use.
_KEEP_ALIVE_SECONDS = 600
_GRACE_SECONDS = 3


class _Protocol(HttpProtocol):
    """An HTTP protocol that does not change the names of metadata headers to lower case.

    Azure keeps the upper and lower case of these names, too.
    """

    max_head_bytes = _HEAD_BYTES_MAX

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if self.headers[-1][0].startswith(b"x-ms-meta-"):
            self.headers[-1] = (name, value)


async def serve(app: BlobApp, listeners: Sequence[socket.socket], limits: HttpLimits) -> None:
    """Serve until SIGTERM or SIGINT, wait at most 3 s for requests, and close the store."""
    server = HttpServer(
        app,
        limits,
        _Protocol,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.handle_exit, number, None)
    app.store.start()
    try:
        await server.serve(sockets=list(listeners))
    finally:
        await app.store.close()
