"""Fetch inputs from URLs, with limits on size and time.

Requests go only to addresses that the SSRF guard has checked. The time limit applies to the whole
request including the DNS look-up, and not to each read, so that a server that sends single bytes
cannot prolong the request forever.
"""

import contextlib
import http.client
import json
import mmap
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urljoin

from contract import media
from contract.catalogue import ModelEntry
from contract.errors import ForbiddenAddress, TooManyLookUps
from contract.guard import AddressGuard, Resolver, Target
from contract.messages import PayloadUrl
from worker.errors import InvalidInput, LookUpsBusy, UnsupportedMediaType
from worker.inputs.decoder_process import Data

LIMIT_SECONDS: Final = 20.0
"""How many seconds a whole download may take, with its DNS look-ups and its redirects."""

MAX_REDIRECTS: Final = 5

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "loosely-worker"}

_PIECE_BYTES = 64 * 1024
LARGE_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GuardedResponse:
    """An HTTP response. A body of more than 1 MiB is in a file that is mapped into memory."""

    status: int
    media_type: str
    location: str | None
    body: bytes | mmap.mmap = field(repr=False)


class UrlFetcher:
    """Downloads inputs from URLs that the SSRF guard allows, and follows redirects.

    Any thread may call the methods. Each request uses a new connection, without proxies or cookies.
    """

    def __init__(
        self,
        guard: AddressGuard,
        resolver: Resolver,
        limit_seconds: float = LIMIT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._guard = guard
        self._resolver = resolver
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._tls = ssl.create_default_context()

    def fetch_url(self, payload: PayloadUrl, model: ModelEntry) -> tuple[Data, str]:
        """Download an input from its URL, and return its bytes and its media type."""
        response = self._follow(payload.url, model)
        if response.status != 200:
            raise InvalidInput(
                f"the server of the input's URL answered with status {response.status}; "
                "expected 200"
            )
        if len(response.body) > model.max_url_bytes:
            raise InvalidInput(
                f"the response from the input's URL is too large; at most {model.max_url_bytes} "
                "bytes are accepted"
            )
        if not response.body:
            raise InvalidInput("the response from the input's URL is empty")
        return response.body, _media_type(payload, response, model)

    def _follow(self, url: str, model: ModelEntry) -> GuardedResponse:
        ends_at = self._clock() + self._limit_seconds
        for _ in range(MAX_REDIRECTS + 1):
            response = self._get(url, model, ends_at - self._clock())
            if response.status not in _REDIRECTS or response.location is None:
                return response
            try:
                # The target is checked like the first URL, in the next iteration.
                url = urljoin(url, response.location)
            except ValueError:
                raise InvalidInput(
                    "the input's URL redirects to a location that is not a valid URL"
                ) from None
        raise InvalidInput(f"the input's URL redirects more than {MAX_REDIRECTS} times")

    def _get(self, url: str, model: ModelEntry, seconds: float) -> GuardedResponse:
        """Send one request. The returned body has at most `max_url_bytes` + 1 bytes."""
        ends_at = time.monotonic() + seconds
        try:
            target = self._guard.check_form(url)
            addresses = self._resolve(target, ends_at, f"inputs of {model.name}")
        except ForbiddenAddress as error:
            raise InvalidInput(f"the input's URL is not allowed: {error}") from None
        connection = _Connection(target, addresses, self._tls, ends_at)
        watchdog = threading.Timer(max(0.0, ends_at - time.monotonic()), connection.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("GET", target.path, None, _HEADERS)
            response = connection.getresponse()
            _check_length(response)
            result = GuardedResponse(
                response.status,
                (response.getheader("content-type") or "").partition(";")[0].strip().lower(),
                response.getheader("location"),
                _read(response, model.max_url_bytes),
            )
        except TimeoutError:
            raise _failed("the server did not answer in time") from None
        except ssl.SSLError:
            raise _failed("the server does not have a trusted certificate") from None
        # If the watchdog closed the socket, any of these may be raised.
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            is_late = time.monotonic() >= ends_at
            raise _failed(
                "the server did not answer in time"
                if is_late
                else "the server could not be reached, or sent an invalid response"
            ) from None
        finally:
            watchdog.cancel()
            connection.close()
        # A response that was aborted while its headers were read looks complete.
        if time.monotonic() >= ends_at:
            raise _failed("the server did not answer in time")
        return result

    def _resolve(self, target: Target, ends_at: float, share: str) -> tuple[str, ...]:
        try:
            return self._guard.resolve(
                target,
                lambda host, port: self._resolver.look_up(
                    host, port, share, ends_at - time.monotonic()
                ),
            )
        except TimeoutError:
            raise _failed("the server did not answer in time") from None
        except TooManyLookUps as error:
            raise LookUpsBusy(str(error)) from None


def _failed(reason: str) -> InvalidInput:
    return InvalidInput(f"the request to the input's URL failed: {reason}")


def _media_type(payload: PayloadUrl, response: GuardedResponse, model: ModelEntry) -> str:
    """Return the media type that the job announces, or the bytes show, or the server announces."""
    found = (
        media.essence(payload.media_type or "")
        or media.sniff(response.body)
        or response.media_type
        or media.OCTET_STREAM
    )
    if found not in model.media_types:
        raise UnsupportedMediaType(
            f"the response from the input's URL has the media type {found[:100]}, which "
            f"{model.name} does not accept; expected {' or '.join(model.media_types)}"
        )
    if not media.agrees(found, response.body) or (
        found == media.JSON and not _may_be_json(response.body)
    ):
        raise UnsupportedMediaType(
            f"the input has the media type {found}, but the content that its URL returned is not "
            "of this type; check the URL, or submit the media type of the content"
        )
    return found


def _may_be_json(data: Data) -> bool:
    """Return whether bytes in memory are valid JSON. Larger data is not parsed here."""
    if not isinstance(data, bytes):
        return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


class _Connection(http.client.HTTPConnection):
    """A connection to a checked address. TLS and the Host header use the host of the URL."""

    def __init__(
        self, target: Target, addresses: tuple[str, ...], tls: ssl.SSLContext, ends_at: float
    ) -> None:
        super().__init__(target.host, target.port)
        # The base class omits the default port from the Host header.
        self.default_port = 443 if target.scheme == "https" else 80
        self._target = target
        self._addresses = addresses
        self._context = tls
        self._ends_at = ends_at
        self._open: socket.socket | None = None

    def connect(self) -> None:
        """Try to connect to each address of the host in turn, or raise OSError."""
        self._open = self.sock = self._connected()
        if self._target.scheme == "https":
            # The handshake follows the assignment, so that `abort` can also end the handshake.
            self._open = self.sock = self._context.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()

    def abort(self) -> None:
        """Shut down the socket, so that the request fails. Another thread may call this method."""
        # Not `sock`, which the base class sets to None after the last response of a connection.
        if self._open is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)

    def _connected(self) -> socket.socket:
        failure: OSError | None = None
        for address in self._addresses:
            left_seconds = self._ends_at - time.monotonic()
            if left_seconds <= 0:
                break
            try:
                return socket.create_connection((address, self._target.port), left_seconds)
            except OSError as error:
                failure = error
        raise failure or TimeoutError


def _check_length(response: http.client.HTTPResponse) -> None:
    """Raise HTTPException if the length of the body is not certain (RFC 9112, section 6.3).

    If a response has two Content-Length headers, http.client uses the first header, but a proxy may
    use the second.
    """
    lengths = response.headers.get_all("content-length", [])
    is_certain = not lengths or (
        len(lengths) == 1
        and lengths[0].strip(" \t").isdecimal()
        and lengths[0].isascii()
        and "transfer-encoding" not in response.headers
    )
    if not is_certain:
        raise http.client.HTTPException(
            "the Content-Length header of the response is repeated, not a number, or combined with "
            "Transfer-Encoding"
        )


def _read(response: http.client.HTTPResponse, limit_bytes: int) -> bytes | mmap.mmap:
    if not limit_bytes:
        return b""
    size_bytes = 0
    with tempfile.SpooledTemporaryFile(LARGE_BODY_BYTES) as file:
        while size_bytes <= limit_bytes and (piece := response.read1(_PIECE_BYTES)):
            file.write(piece)
            size_bytes += len(piece)
        if size_bytes <= limit_bytes and response.length:
            raise http.client.IncompleteRead(b"", response.length)
        size_bytes = min(size_bytes, limit_bytes + 1)
        if size_bytes > LARGE_BODY_BYTES:
            file.flush()
            return mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ)
        file.seek(0)
        return file.read(size_bytes)
