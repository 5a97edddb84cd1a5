"""HTTP requests to foreign addresses: only to addresses that the SSRF guard has checked.

Built on the standard library's client, which accepts a socket of ours. One time limit covers the
whole request: a peer that sends a byte now and then would outlast a limit for each read.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.guard import AddressGuard, Target
from worker.errors import OutboundFailed

_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class GuardedResponse:
    """A response; `location` is the target of a redirect, as it was written."""

    status: int
    media_type: str
    location: str | None
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one request: the bytes of the response's body, and the time in seconds.

    With 0 bytes, the body is not read.
    """

    bytes: int
    seconds: float


class GuardedHttp:
    """Send requests to addresses that the guard allows. Any thread may call the methods.

    Each request has its own connection. Proxies, cookies and redirects are not used.
    """

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._tls = ssl.create_default_context()

    def check(self, url: str) -> None:
        """Raise ForbiddenAddress if the URL's text shows that it must not be called."""
        self._guard.check_form(url)

    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        limits: Limits,
    ) -> GuardedResponse:
        """Send one request and return the response.

        The body is read up to the limit, and one byte more if it is longer.

        Raises:
            ForbiddenAddress: The guard does not allow this URL.
            OutboundFailed: The server sent no complete response in time.
        """
        target = self._guard.check_form(url)
        ends_at = time.monotonic() + limits.seconds
        connection = _Connection(target, self._guard.resolve(target), self._tls, ends_at)
        watchdog = threading.Timer(limits.seconds, connection.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            # Some servers answer, for example with 410, and close before they have read the body.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target.path, body, dict(headers))
            response = connection.getresponse()
            result = GuardedResponse(
                response.status,
                (response.getheader("content-type") or "").partition(";")[0].strip().lower(),
                response.getheader("location"),
                _read(response, limits.bytes),
            )
        except TimeoutError:
            raise OutboundFailed("did not answer in time") from None
        except ssl.SSLError:
            raise OutboundFailed("has no certificate that can be trusted") from None
        # If the watchdog closed the socket, any of these may be raised.
        except (OSError, http.client.HTTPException, ValueError, AttributeError):
            is_late = time.monotonic() >= ends_at
            raise OutboundFailed(
                "did not answer in time" if is_late else "cannot be read"
            ) from None
        finally:
            watchdog.cancel()
            connection.close()
        # If it was aborted among the headers, it looks like a complete response.
        if time.monotonic() >= ends_at:
            raise OutboundFailed("did not answer in time")
        return result


class _Connection(http.client.HTTPConnection):
    """A connection to checked addresses, with the URL's own host name for TLS and Host."""

    def __init__(
        self, target: Target, addresses: tuple[str, ...], tls: ssl.SSLContext, ends_at: float
    ) -> None:
        super().__init__(target.host, target.port)
        # The base class leaves this port out of the Host header.
        self.default_port = 443 if target.scheme == "https" else 80
        self._target = target
        self._addresses = addresses
        self._context = tls
        self._ends_at = ends_at
        self._open: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the first address that answers."""
        self._open = self.sock = self._connected()
        # As the base class does. Otherwise the body waits until the headers are acknowledged.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._target.scheme == "https":
            # The handshake comes after the assignment, so that `abort` can end it, too.
            self._open = self.sock = self._context.wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock.do_handshake()

    def abort(self) -> None:
        """Close the connection from another thread."""
        # Not `sock`: the base class clears it when the response is the connection's last.
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


def _read(response: http.client.HTTPResponse, limit_bytes: int) -> bytes:
    if not limit_bytes:
        return b""
    pieces, size_bytes = [], 0
    while size_bytes <= limit_bytes and (piece := response.read1(_PIECE_BYTES)):
        pieces.append(piece)
        size_bytes += len(piece)
    data = b"".join(pieces)
    if size_bytes <= limit_bytes and response.length:
        raise http.client.IncompleteRead(data, response.length)
    return data[: limit_bytes + 1]
