"""Send requests to one gateway, and repeat those that fail temporarily."""

import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from random import random
from typing import Final
from urllib.parse import urljoin

from loosely.client.errors import (
    GatewayUnreachable,
    LooselyError,
    PayloadTooLarge,
    UnexpectedAnswer,
)
from loosely.client.requests import (
    HttpRequest,
    Payload,
    RequestBuilder,
    fetch_from_store,
    put_upload,
)
from loosely.client.resources import Upload, UploadTarget
from loosely.client.responses import HttpResponse, read_as, read_error
from loosely.client.retry import Retry
from loosely.client.transport import Transport

#: The error code with which blob storage refuses to overwrite an upload that it has stored.
_IS_STORED: Final = "UnauthorizedBlobOverwrite"
REDIRECTS: Final = frozenset({302, 303, 307})
#: Extra seconds in which a response that was sent at the last moment can arrive.
_GRACE_SECONDS: Final = 2.0


class RequestSender:
    """Sends the requests of operations to one gateway, and to its blob storage."""

    def __init__(
        self,
        requests: RequestBuilder,
        transport: Transport,
        retry: Retry,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random,
    ) -> None:
        self._requests = requests
        self._transport = transport
        self._retry = retry
        self._clock = clock
        self._draw = draw
        self._has_connected = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """The gateway's URL."""
        return self._requests.shown_url

    async def _send(
        self,
        request: HttpRequest,
        expected: Collection[int],
        give_up_at: float = math.inf,
        send: Callable[[HttpRequest], Awaitable[HttpResponse]] | None = None,
    ) -> HttpResponse:
        """Send a request, repeat it as the retry policy allows, and return the response.

        Every request may be repeated: all attempts to submit a job have the same idempotency key.
        Raises the error of the last attempt if the status is not ``expected``.
        """
        failures, failing_since, first_asked_at = 0, 0.0, self._clock()
        while True:
            error: LooselyError
            asked_at = self._clock()
            limited = self._limit_timeout(request, give_up_at)
            try:
                response = await (send or self._transport.send)(limited)
            except GatewayUnreachable as unreachable:
                error, is_sent = unreachable, unreachable.is_sent
            else:
                self._has_connected = True
                if response.status in expected:
                    return response
                error, is_sent = read_error(response, request.posted_bytes), True
            now = self._clock()
            if is_sent:
                self._has_connected = True
                # The gateway waited for the job until it was restarted: this is a new failure.
                if request.wait_seconds and 1 <= now - asked_at < limited.timeout_seconds:
                    failures = 0
            failures += 1
            failing_since = failing_since if failures > 1 else now
            pause_seconds = self._retry.pause_seconds(
                error, failures, now - failing_since, self._draw
            )
            limit_at = give_up_at
            if not self._has_connected:
                limit_at = min(give_up_at, first_asked_at + self._retry.connect_seconds)
            if pause_seconds is None or now + pause_seconds > limit_at:
                raise error
            await self._transport.sleep(pause_seconds)

    async def _store(
        self, payload: Payload, document: Mapping[str, str], give_up_at: float = math.inf
    ) -> Upload:
        """Request an upload URL with ``document``, store the payload, and return the upload."""
        asked = self._requests.build("POST", "uploads", document=document)
        response = await self._send(asked, (201,), give_up_at)
        slot = read_as(response, UploadTarget.from_document, "an upload target")
        if slot.max_bytes is not None and payload.size_bytes > slot.max_bytes:
            raise PayloadTooLarge.over(slot.max_bytes, payload.size_bytes)
        try:
            request = put_upload(slot, payload)
        except ValueError:
            raise UnexpectedAnswer(
                response.shown_url, response.status, "the upload URL in the response is invalid"
            ) from None
        reason = "a stored upload was expected"
        response = await self._send_to_store(request, (200, 201, 403), reason, give_up_at)
        # The URL permits only to create the blob. So the blob exists if the response to an earlier
        # attempt was lost.
        if response.status == 403 and response.headers.get("x-ms-error-code") != _IS_STORED:
            raise UnexpectedAnswer(request.shown_url, response.status, reason)
        return Upload(slot.reference, payload.media_type, payload.size_bytes, slot.document)

    async def _send_to_store(
        self,
        request: HttpRequest,
        expected: Collection[int],
        reason: str,
        give_up_at: float = math.inf,
    ) -> HttpResponse:
        """Send a request to blob storage. For any other status, raise UnexpectedAnswer."""
        try:
            return await self._send(request, expected, give_up_at)
        except UnexpectedAnswer as error:
            raise UnexpectedAnswer(request.shown_url, error.status, reason) from None

    async def _fetch_stored(
        self,
        redirect: HttpResponse,
        headers: Mapping[str, str] | None = None,
        expected: Collection[int] = (200,),
    ) -> HttpResponse:
        """Return the content in blob storage to which the gateway's response redirects."""
        try:
            url = urljoin(redirect.url, redirect.headers.get("location", ""))
            request = fetch_from_store(url, headers or {})
        except ValueError:
            raise UnexpectedAnswer(
                redirect.shown_url, redirect.status, "the Location header is not a URL"
            ) from None
        return await self._send_to_store(request, expected, "a stored result was expected")

    def _give_up_at(self, wait_seconds: float | None) -> float:
        return math.inf if wait_seconds is None else self._clock() + wait_seconds

    def _limit_timeout(self, request: HttpRequest, give_up_at: float) -> HttpRequest:
        """Return the request with timeouts that end soon after ``give_up_at``."""
        left_seconds = max(1.0, give_up_at - self._clock())
        if left_seconds == math.inf:
            return request
        timeout_seconds = min(request.timeout_seconds, left_seconds + _GRACE_SECONDS)
        return replace(request, timeout_seconds=timeout_seconds, queue_seconds=left_seconds)
